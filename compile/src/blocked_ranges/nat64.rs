use std::fmt;
use std::net::Ipv6Addr;
use std::str::FromStr;

use ipnet::{Ipv4Net, Ipv6Net};

/// The lengths that RFC 6052 §2.2 defines.
const LENGTHS: [u8; 6] = [32, 40, 48, 56, 64, 96];
/// Bits 64 to 71 of a translated address, which RFC 6052 §2.2 keeps at zero.
const RESERVED: u128 = 0xff << 56;

/// A prefix below which a NAT64 translator embeds IPv4 addresses in the layout of RFC 6052 §2.2.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Nat64Prefix(Ipv6Net);

/// The error for a text that is not a [`Nat64Prefix`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Nat64PrefixError {
    /// The text is not a block of IPv6 addresses.
    #[error("`{0}` is not a NAT64 prefix: write it as `2001:db8:64::/96`")]
    Form(String),
    /// The length is not one that translators use.
    #[error("`{0}`: a NAT64 prefix has a length of 32, 40, 48, 56, 64 or 96 (RFC 6052)")]
    Length(String),
    /// Bits are set beyond the length, or in the octet that stays zero.
    #[error("`{0}`: a NAT64 prefix has no bits set beyond its length, and none in bits 64 to 71 (RFC 6052)")]
    Bits(String),
}

impl Nat64Prefix {
    /// The well-known prefix, `64:ff9b::/96`.
    pub(super) const WELL_KNOWN: Self =
        Self(Ipv6Net::new_assert(Ipv6Addr::new(0x64, 0xff9b, 0, 0, 0, 0, 0, 0), 96));

    /// The prefix as a block.
    #[must_use]
    pub fn net(self) -> Ipv6Net {
        self.0
    }

    /// The blocks that hold every translation of an address in `block`. A translator may ignore bits 64 to 71,
    /// so where they fall inside the embedded address, any value of them counts.
    pub(super) fn embed(self, block: Ipv4Net) -> Vec<Ipv6Net> {
        let (prefix, length) = (self.0.network().to_bits(), self.0.prefix_len());
        let (address, bits) = (block.network().to_bits(), block.prefix_len());
        if length == 96 {
            return build_net(prefix | u128::from(address), bits.saturating_add(96)).into_iter().collect();
        }
        // The bits of the IPv4 address before the reserved octet, and those after it.
        let before = 64_u8.saturating_sub(length).min(32);
        let after = 32_u8.saturating_sub(before);
        let high = u128::from(address.checked_shr(after.into()).unwrap_or(0)) << 64;
        if bits <= before {
            return build_net(prefix | high, length.saturating_add(bits)).into_iter().collect();
        }
        let low = u128::from(address & u32::MAX.checked_shr(before.into()).unwrap_or(0));
        let low = low.checked_shl(56_u8.saturating_sub(after).into()).unwrap_or(0);
        // Every value of the octet with a bit set, by its first set bit.
        let other_octets = (0..8_u8).filter_map(|zeroes| {
            let bit = 1_u128.checked_shl(63_u8.saturating_sub(zeroes).into())?;
            build_net(prefix | high | bit, zeroes.saturating_add(65))
        });
        build_net(prefix | high | low, length.saturating_add(8).saturating_add(bits))
            .into_iter()
            .chain(other_octets)
            .collect()
    }
}

fn build_net(bits: u128, length: u8) -> Option<Ipv6Net> {
    Ipv6Net::new(Ipv6Addr::from_bits(bits), length).ok()
}

impl FromStr for Nat64Prefix {
    type Err = Nat64PrefixError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let net: Ipv6Net = text.parse().map_err(|_| Nat64PrefixError::Form(text.to_owned()))?;
        if !LENGTHS.contains(&net.prefix_len()) {
            return Err(Nat64PrefixError::Length(text.to_owned()));
        }
        if net.addr() != net.network() || net.network().to_bits() & RESERVED != 0 {
            return Err(Nat64PrefixError::Bits(text.to_owned()));
        }
        Ok(Self(net))
    }
}

impl fmt::Display for Nat64Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn embedded(prefix: &str, block: &str) -> Vec<String> {
        let prefix: Nat64Prefix = prefix.parse().expect("a prefix");
        prefix.embed(block.parse().expect("a block")).iter().map(ToString::to_string).collect()
    }

    /// The table of RFC 6052 §2.4.
    #[test]
    fn addresses_are_embedded_as_in_rfc_6052() {
        for (prefix, expected) in [
            ("2001:db8::/32", "2001:db8:c000:221::/64"),
            ("2001:db8:100::/40", "2001:db8:1c0:2:21::/80"),
            ("2001:db8:122::/48", "2001:db8:122:c000:2:2100::/88"),
            ("2001:db8:122:300::/56", "2001:db8:122:3c0:0:221::/96"),
            ("2001:db8:122:344::/64", "2001:db8:122:344:c0:2:2100:0/104"),
            ("2001:db8:122:344::/96", "2001:db8:122:344::c000:221/128"),
            ("64:ff9b::/96", "64:ff9b::c000:221/128"),
        ] {
            assert_eq!(embedded(prefix, "192.0.2.33/32").first().map(String::as_str), Some(expected));
        }
    }

    #[test]
    fn embedded_blocks_cover_every_reserved_octet() {
        assert_eq!(embedded("2001:db8::/32", "127.0.0.0/8"), ["2001:db8:7f00::/40"]);
        assert_eq!(embedded("2001:db8:122::/48", "169.254.0.0/16"), ["2001:db8:122:a9fe::/64"]);
        let spans = embedded("2001:db8:122:300::/56", "169.254.0.0/16");
        assert_eq!(spans.first().map(String::as_str), Some("2001:db8:122:3a9:fe::/80"));
        // Together: the octet is not zero.
        assert_eq!(spans.get(1).map(String::as_str), Some("2001:db8:122:3a9:8000::/65"));
        assert_eq!(spans.last().map(String::as_str), Some("2001:db8:122:3a9:100::/72"));
        assert_eq!(spans.len(), 9);
    }

    #[test]
    fn invalid_prefixes_are_refused() {
        for (text, expected) in [
            ("64:ff9b:1:fffe::/96", Ok(())),
            ("2001:db8::/32", Ok(())),
            ("10.0.0.0/8", Err("is not a NAT64 prefix")),
            ("64:ff9b::", Err("is not a NAT64 prefix")),
            ("64:ff9b::/97", Err("length of 32, 40")),
            ("::/0", Err("length of 32, 40")),
            ("64:ff9b::1/96", Err("no bits set beyond")),
            ("2001:db8:0:0:100::/96", Err("none in bits 64 to 71")),
        ] {
            match (text.parse::<Nat64Prefix>(), expected) {
                (Ok(prefix), Ok(())) => assert_eq!(prefix.to_string(), text),
                (Err(error), Err(part)) => assert!(error.to_string().contains(part), "{text}: {error}"),
                (found, _) => panic!("{text}: {found:?}"),
            }
        }
    }
}
