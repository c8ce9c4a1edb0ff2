//! Addresses that a resolved name never leads to, whoever controls its name server.

mod nat64;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use egress_policy::{Cidr, HostMatch};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};

pub use nat64::{Nat64Prefix, Nat64PrefixError};

/// IPv4 addresses of the sidecar itself, of its link, of cloud metadata services, and addresses that belong to
/// no single host (RFC 6890). A rule can list them on purpose in `ipAddresses`.
const IPV4: [Ipv4Net; 8] = [
    v4([0, 0, 0, 0], 8),
    v4([127, 0, 0, 0], 8),
    v4([169, 254, 0, 0], 16),
    v4([100, 100, 100, 200], 32),
    v4([168, 63, 129, 16], 32),
    v4([192, 0, 0, 192], 32),
    v4([224, 0, 0, 0], 4),
    v4([255, 255, 255, 255], 32),
];

/// IPv6 addresses of the same kinds. `::/96` holds unspecified, loopback and IPv4-compatible addresses.
/// IPv4-mapped (RFC 4291) and IPv4-translated addresses (RFC 7915) have no place in an answer.
const IPV6: [Ipv6Net; 7] = [
    v6([0, 0, 0, 0, 0, 0, 0, 0], 96),
    v6([0, 0, 0, 0, 0, 0xffff, 0, 0], 96),
    v6([0, 0, 0, 0, 0xffff, 0, 0, 0], 96),
    v6([0xfe80, 0, 0, 0, 0, 0, 0, 0], 10),
    v6([0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254], 128),
    v6([0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254], 128),
    v6([0xff00, 0, 0, 0, 0, 0, 0, 0], 8),
];

/// Private networks (RFC 1918, RFC 6598), and addresses that the internet does not route and some clusters give
/// to pods (RFC 1112 §4). Names that only a wildcard lists must not lead there, because names below a domain
/// are not always made by the owner of the domain.
const PRIVATE_IPV4: [Ipv4Net; 5] = [
    v4([10, 0, 0, 0], 8),
    v4([172, 16, 0, 0], 12),
    v4([192, 168, 0, 0], 16),
    v4([100, 64, 0, 0], 10),
    v4([240, 0, 0, 0], 4),
];

/// Private networks of IPv6 (RFC 4193, RFC 3879), and tunnels (RFC 3056, RFC 4380).
const PRIVATE_IPV6: [Ipv6Net; 4] = [
    v6([0xfc00, 0, 0, 0, 0, 0, 0, 0], 7),
    v6([0xfec0, 0, 0, 0, 0, 0, 0, 0], 10),
    SIX_TO_FOUR,
    v6([0x2001, 0, 0, 0, 0, 0, 0, 0], 32),
];

/// The tunnel addresses that embed IPv4 addresses (RFC 3056).
const SIX_TO_FOUR: Ipv6Net = v6([0x2002, 0, 0, 0, 0, 0, 0, 0], 16);

/// Prefixes of NAT64 translators in one network (RFC 8215). Only the network's owner knows the length of the
/// prefix: the same address may stand for one IPv4 address below the whole block, and for another below some
/// `/96` of it. So all of the block is blocked except the configured prefixes.
const LOCAL_NAT64: Ipv6Net = v6([0x64, 0xff9b, 1, 0, 0, 0, 0, 0], 48);

const fn v4(octets: [u8; 4], length: u8) -> Ipv4Net {
    let [a, b, c, d] = octets;
    Ipv4Net::new_assert(Ipv4Addr::new(a, b, c, d), length)
}

const fn v6(segments: [u16; 8], length: u8) -> Ipv6Net {
    let [a, b, c, d, e, f, g, h] = segments;
    Ipv6Net::new_assert(Ipv6Addr::new(a, b, c, d, e, f, g, h), length)
}

/// The blocked ranges of a mesh: the built-in ranges, and those that an administrator adds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BlockedRanges {
    /// Additional blocks, for all names.
    pub never_resolve_to: Vec<Cidr>,
    /// Additional NAT64 prefixes, besides the well-known one. An address below such a prefix is judged by the
    /// IPv4 address that it embeds.
    pub nat64_prefixes: Vec<Nat64Prefix>,
}

impl BlockedRanges {
    /// The addresses that the sidecar drops from DNS answers: as few blocks as possible, in order.
    #[must_use]
    pub fn ranges(&self, names: HostMatch) -> Vec<IpNet> {
        let mut ipv4 = IPV4.to_vec();
        let mut ipv6 = IPV6.to_vec();
        if names == HostMatch::Wildcard {
            ipv4.extend(PRIVATE_IPV4);
            ipv6.extend(PRIVATE_IPV6);
        }
        for block in &self.never_resolve_to {
            match block.net() {
                IpNet::V4(block) => ipv4.push(block),
                IpNet::V6(block) => ipv6.push(block),
            }
        }
        for block in &ipv4 {
            ipv6.extend(self.translators().flat_map(|prefix| prefix.embed(*block)));
            ipv6.extend(embed_in_6to4(*block));
        }
        ipv6.extend(self.local_nat64());
        let ipv4 = Ipv4Net::aggregate(&ipv4).into_iter().map(IpNet::V4);
        ipv4.chain(Ipv6Net::aggregate(&ipv6).into_iter().map(IpNet::V6)).collect()
    }

    /// Returns true if the sidecar drops this address from DNS answers. As in Envoy, an IPv4-mapped address is
    /// an IPv6 address.
    #[must_use]
    pub fn contains(&self, names: HostMatch, address: IpAddr) -> bool {
        self.ranges(names).iter().any(|range| range.contains(&address))
    }

    fn translators(&self) -> impl Iterator<Item = Nat64Prefix> {
        std::iter::once(Nat64Prefix::WELL_KNOWN).chain(self.nat64_prefixes.iter().copied())
    }

    /// The part of [`LOCAL_NAT64`] below no configured prefix.
    fn local_nat64(&self) -> Vec<Ipv6Net> {
        let mut left = vec![LOCAL_NAT64];
        for prefix in &self.nat64_prefixes {
            left = left.into_iter().flat_map(|block| subtract(block, prefix.net())).collect();
        }
        left
    }
}

/// The part of a block outside another block.
fn subtract(block: Ipv6Net, other: Ipv6Net) -> Vec<Ipv6Net> {
    if other.contains(&block) {
        return Vec::new();
    }
    if !block.contains(&other) {
        return vec![block];
    }
    // Halves: one is outside, the other is halved again.
    let halves = block.subnets(block.prefix_len().saturating_add(1)).into_iter().flatten();
    halves.flat_map(|half| subtract(half, other)).collect()
}

fn embed_in_6to4(block: Ipv4Net) -> Option<Ipv6Net> {
    let bits = SIX_TO_FOUR.network().to_bits() | u128::from(block.network().to_bits()) << 80;
    Ipv6Net::new(Ipv6Addr::from_bits(bits), SIX_TO_FOUR.prefix_len().saturating_add(block.prefix_len())).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ranges(nat64: &[&str]) -> BlockedRanges {
        BlockedRanges {
            never_resolve_to: vec!["198.18.0.0/15".parse().expect("a block")],
            nat64_prefixes: nat64.iter().map(|text| text.parse().expect("a prefix")).collect(),
        }
    }

    #[test]
    fn names_never_lead_to_blocked_ranges() {
        let ranges = ranges(&[]);
        for (address, exact, wildcard) in [
            ("203.0.113.10", false, false),
            ("2001:db8::1", false, false),
            ("127.0.0.1", true, true),
            ("0.0.0.0", true, true),
            ("169.254.169.254", true, true),
            ("100.100.100.200", true, true),
            ("224.0.0.1", true, true),
            ("255.255.255.255", true, true),
            ("198.18.0.1", true, true),
            ("::", true, true),
            ("::1", true, true),
            ("::7f00:1", true, true),
            ("::ffff:203.0.113.10", true, true),
            ("::ffff:0:127.0.0.1", true, true),
            ("::ffff:0:203.0.113.10", true, true),
            ("::fffe:0:127.0.0.1", false, false),
            ("fe80::1", true, true),
            ("ff02::1", true, true),
            ("fd00:ec2::254", true, true),
            // Behind the well-known translator: as the address itself.
            ("64:ff9b::7f00:1", true, true),
            ("64:ff9b::a9fe:a9fe", true, true),
            ("64:ff9b::c612:1", true, true),
            ("64:ff9b::a00:1", false, true),
            ("64:ff9b::6440:1", false, true),
            ("64:ff9b::cb00:710a", false, false),
            // Behind a translator of the network, wherever it embeds.
            ("64:ff9b:1::7f00:1", true, true),
            ("64:ff9b:1:7f00:0:100::", true, true),
            ("64:ff9b:1:cb00:71:a00::", true, true),
            ("64:ff9b:1:fffe::cb00:710a", true, true),
            ("64:ff9b:2::1", false, false),
            ("2002:7f00:1::", true, true),
            ("2002:c612:1::", true, true),
            ("2002:cb00:710a::1", false, true),
            ("2001::1", false, true),
            ("10.0.0.1", false, true),
            ("172.31.0.1", false, true),
            ("192.168.1.1", false, true),
            ("100.64.0.1", false, true),
            ("240.0.0.1", false, true),
            ("254.1.2.3", false, true),
            ("64:ff9b::f000:1", false, true),
            ("fd12::1", false, true),
        ] {
            let parsed = address.parse().expect("an address");
            assert_eq!(ranges.contains(HostMatch::Exact, parsed), exact, "{address}");
            assert_eq!(ranges.contains(HostMatch::Wildcard, parsed), wildcard, "{address} by wildcard");
        }
    }

    /// A public address behind a translator that is named counts, and one inside does not.
    #[test]
    fn configured_translators_are_judged_by_the_embedded_address() {
        for (prefix, public, private, metadata) in [
            ("2001:db8::/32", "2001:db8:cb00:710a::", "2001:db8:a00:1::", "2001:db8:a9fe:a9fe::"),
            ("2001:db8:100::/40", "2001:db8:1cb:71:a::", "2001:db8:10a:0:1::", "2001:db8:1a9:fea9:fe::"),
            (
                "2001:db8:122::/48",
                "2001:db8:122:cb00:71:a00::",
                "2001:db8:122:a00:0:100::",
                "2001:db8:122:a9fe:a9:fe00::",
            ),
            (
                "2001:db8:122:300::/56",
                "2001:db8:122:3cb:0:710a::",
                "2001:db8:122:30a:0:1::",
                "2001:db8:122:3a9:fe:a9fe::",
            ),
            (
                "2001:db8:122:344::/64",
                "2001:db8:122:344:cb:71:a00:0",
                "2001:db8:122:344:a:0:100:0",
                "2001:db8:122:344:a9:fea9:fe00:0",
            ),
            (
                "2001:db8:122:344::/96",
                "2001:db8:122:344::cb00:710a",
                "2001:db8:122:344::a00:1",
                "2001:db8:122:344::a9fe:a9fe",
            ),
            (
                "64:ff9b:1:fffe::/96",
                "64:ff9b:1:fffe::cb00:710a",
                "64:ff9b:1:fffe::a00:1",
                "64:ff9b:1:fffe::a9fe:a9fe",
            ),
            (
                "64:ff9b:1::/48",
                "64:ff9b:1:cb00:71:a00::",
                "64:ff9b:1:a00:0:100::",
                "64:ff9b:1:a9fe:a9:fe00::",
            ),
        ] {
            let ranges = ranges(&[prefix]);
            for (address, exact, wildcard) in
                [(public, false, false), (private, false, true), (metadata, true, true)]
            {
                let parsed = address.parse().expect("an address");
                assert_eq!(ranges.contains(HostMatch::Exact, parsed), exact, "{prefix} {address}");
                assert_eq!(ranges.contains(HostMatch::Wildcard, parsed), wildcard, "{prefix} {address}");
            }
        }
        // The rest of the block of such prefixes stays closed, and so do odd octets where they are inside.
        let ranges = ranges(&["64:ff9b:1:fffe::/96", "2001:db8:122:300::/56"]);
        for address in ["64:ff9b:1::cb00:710a", "64:ff9b:1:ffff::1", "2001:db8:122:3a9:fffe:a9fe::"] {
            assert!(ranges.contains(HostMatch::Exact, address.parse().expect("an address")), "{address}");
        }
    }

    /// The translation of an address is blocked exactly where the address is.
    #[test]
    fn a_translated_address_is_blocked_like_the_address() {
        let ranges = ranges(&["2001:db8:122:300::/56"]);
        let lists = [HostMatch::Exact, HostMatch::Wildcard].map(|names| ranges.ranges(names));
        let mut seed = 1_u32;
        for _ in 0..20_000 {
            seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let address = Ipv4Addr::from_bits(seed);
            for prefix in ranges.translators() {
                let one = prefix.embed(Ipv4Net::from(address));
                let embedded = one.first().expect("a block").network();
                for list in &lists {
                    let is_blocked = |address: IpAddr| list.iter().any(|range| range.contains(&address));
                    assert_eq!(
                        is_blocked(embedded.into()),
                        is_blocked(address.into()),
                        "{embedded} {address}"
                    );
                }
            }
        }
    }
}
