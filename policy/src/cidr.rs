use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use ipnet::{IpNet, Ipv4Net};
use serde::{Deserialize, Serialize};

/// A block of addresses without host bits. IPv4-mapped IPv6 blocks are IPv4 blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Cidr(IpNet);

/// A reason why a text is not a [`Cidr`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CidrError {
    /// The text is not `address/length` with a valid address and a length in range.
    #[error(
        "`{0}` is not an address block: write `a.b.c.d/n` with n up to 32, or `x:y::z/n` with n up to 128"
    )]
    Form(String),
    /// Bits after the prefix are set.
    #[error("`{0}` has bits set behind its prefix: write them as 0")]
    HostBits(String),
}

impl Cidr {
    /// Reads a block of a manifest: bits after the prefix are cleared, as Envoy does.
    ///
    /// ```
    /// # fn main() -> Result<(), egress_policy::CidrError> {
    /// let block = egress_policy::Cidr::canonical("10.1.2.3/8")?;
    /// assert_eq!(block.to_string(), "10.0.0.0/8");
    /// assert!(block.contains("10.200.0.1".parse().expect("an address")));
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// When the text is not `address/length`.
    pub fn canonical(text: &str) -> Result<Self, CidrError> {
        // Not `ipnet`'s own parser: it reads `010.0.0.1`, which others take for octal.
        let net = text
            .split_once('/')
            .filter(|(_, length)| length.bytes().all(|b| b.is_ascii_digit()))
            .and_then(|(address, length)| IpNet::new(address.parse().ok()?, length.parse().ok()?).ok())
            .ok_or_else(|| CidrError::Form(text.to_owned()))?;
        let mapped = match net {
            IpNet::V6(v6) => v6
                .addr()
                .to_ipv4_mapped()
                .zip(v6.prefix_len().checked_sub(96))
                .and_then(|(addr, length)| Ipv4Net::new(addr, length).ok()),
            IpNet::V4(_) => None,
        };
        Ok(Self(mapped.map_or(net, IpNet::V4).trunc()))
    }

    /// Makes the block of this one address.
    #[must_use]
    pub fn host(address: IpAddr) -> Self {
        Self(IpNet::from(address.to_canonical()))
    }

    /// The block as a type of `ipnet`.
    #[must_use]
    pub fn net(self) -> IpNet {
        self.0
    }

    /// Returns whether the address lies in the block. IPv4-mapped addresses count as IPv4.
    #[must_use]
    pub fn contains(self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        let length = self.0.prefix_len();
        address.is_ipv4() == self.0.addr().is_ipv4()
            && network(address, length) == network(self.0.addr(), length)
    }
}

/// Returns the first `length` bits of an address, as a number.
pub(crate) fn network(address: IpAddr, length: u8) -> u128 {
    let (bits, width) = match address {
        IpAddr::V4(v4) => (u128::from(v4.to_bits()), 32_u32),
        IpAddr::V6(v6) => (v6.to_bits(), 128),
    };
    // A shift by the whole width (length 0) leaves nothing.
    bits.checked_shr(width.saturating_sub(u32::from(length))).unwrap_or(0)
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for Cidr {
    type Err = CidrError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let cidr = Self::canonical(text)?;
        let address = text.split('/').next().and_then(|address| address.parse().ok());
        if address == Some(cidr.0.addr()) { Ok(cidr) } else { Err(CidrError::HostBits(text.to_owned())) }
    }
}

impl TryFrom<String> for Cidr {
    type Error = CidrError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<Cidr> for String {
    fn from(cidr: Cidr) -> Self {
        cidr.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_are_read_into_one_spelling() {
        for (text, expected) in [
            ("10.0.0.0/8", Some("10.0.0.0/8")),
            ("10.1.2.3/8", Some("10.0.0.0/8")),
            ("1.1.1.1/32", Some("1.1.1.1/32")),
            ("0.0.0.0/0", Some("0.0.0.0/0")),
            ("2001:db8::1/64", Some("2001:db8::/64")),
            ("::ffff:10.0.0.1/104", Some("10.0.0.0/8")),
            ("999.1.1.1/32", None),
            ("1.1.1.1/33", None),
            ("1.1.1.1", None),
            ("1.1.1/24", None),
            ("01.1.1.1/32", None),
            ("", None),
            ("/8", None),
            ("fe80::1%eth0/64", None),
        ] {
            assert_eq!(Cidr::canonical(text).ok().map(|c| c.to_string()).as_deref(), expected, "{text}");
        }
    }

    #[test]
    fn host_bits_are_refused_in_a_document() {
        let error = "10.1.2.3/8".parse::<Cidr>().expect_err("host bits");
        assert_eq!(error.to_string(), "`10.1.2.3/8` has bits set behind its prefix: write them as 0");
    }

    #[test]
    fn mapped_addresses_are_ipv4() {
        let block: Cidr = "10.0.0.0/8".parse().expect("valid");
        assert!(block.contains("::ffff:10.1.1.1".parse().expect("valid")));
        assert!(!block.contains("::10.1.1.1".parse().expect("valid")));
    }
}
