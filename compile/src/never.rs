//! Where a name must never lead, whoever controls it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use egress_policy::{Cidr, HostMatch};

/// The sidecar itself, its link, the clouds' metadata, and what is no address of one host (RFC 6890).
/// `ipAddresses` in a rule can list them on purpose.
const IPV4: [(Ipv4Addr, u8); 8] = [
    (Ipv4Addr::UNSPECIFIED, 8),
    (Ipv4Addr::new(127, 0, 0, 0), 8),
    (Ipv4Addr::new(169, 254, 0, 0), 16),
    (Ipv4Addr::new(100, 100, 100, 200), 32),
    (Ipv4Addr::new(168, 63, 129, 16), 32),
    (Ipv4Addr::new(192, 0, 0, 192), 32),
    (Ipv4Addr::new(224, 0, 0, 0), 4),
    (Ipv4Addr::BROADCAST, 32),
];

/// The same for IPv6: `::/96` holds unspecified, loopback and the IPv4-compatible addresses, and IPv4-mapped
/// ones have no place in an answer.
const IPV6: [(Ipv6Addr, u8); 6] = [
    (Ipv6Addr::UNSPECIFIED, 96),
    (Ipv6Addr::new(0, 0, 0, 0, 0, 0xffff, 0, 0), 96),
    (Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0), 10),
    (Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254), 128),
    (Ipv6Addr::new(0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254), 128),
    (Ipv6Addr::new(0xff00, 0, 0, 0, 0, 0, 0, 0), 8),
];

/// What only a wildcard lists must not lead inside either: whoever may make names below it is not always
/// whoever owns it. Private networks (RFC 1918, RFC 6598, RFC 4193) and whatever embeds an IPv4 address
/// (RFC 6052, RFC 8215, RFC 3056, RFC 4380).
const INSIDE: [&str; 10] = [
    "10.0.0.0/8",
    "172.16.0.0/12",
    "192.168.0.0/16",
    "100.64.0.0/10",
    "fc00::/7",
    "fec0::/10",
    "64:ff9b::/96",
    "64:ff9b:1::/48",
    "2002::/16",
    "2001::/32",
];

/// The addresses that are dropped from the answers of name servers.
#[must_use]
pub fn never(names: HostMatch, more: &[Cidr]) -> Vec<(IpAddr, u8)> {
    let mut ranges: Vec<(IpAddr, u8)> = Vec::new();
    for (address, length) in IPV4 {
        ranges.push((address.into(), length));
        // The same address behind a translator (RFC 6052) or a tunnel (RFC 3056).
        let [a, b, c, d] = address.octets();
        let (high, low) = (u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d]));
        ranges.push((Ipv6Addr::new(0x64, 0xff9b, 0, 0, 0, 0, high, low).into(), 96 + length));
        ranges.push((Ipv6Addr::new(0x2002, high, low, 0, 0, 0, 0, 0).into(), 16 + length));
    }
    ranges.extend(IPV6.map(|(address, length)| (address.into(), length)));
    if names == HostMatch::Wildcard {
        let split = |block: &str| {
            let (address, length) = block.split_once('/')?;
            Some((address.parse().ok()?, length.parse().ok()?))
        };
        ranges.extend(INSIDE.into_iter().filter_map(split));
    }
    ranges.extend(more.iter().map(|block| (block.net().addr(), block.net().prefix_len())));
    ranges
}

/// Whether an answer of a name server is dropped.
#[must_use]
pub fn is_dropped(names: HostMatch, more: &[Cidr], address: IpAddr) -> bool {
    never(names, more).iter().any(|range| holds(*range, address).unwrap_or(true))
}

/// As Envoy compares: a mapped address is an IPv6 address there.
fn holds((network, length): (IpAddr, u8), address: IpAddr) -> Option<bool> {
    let bits = |address: IpAddr| match address {
        IpAddr::V4(v4) => (u128::from(v4.to_bits()), 32_u32),
        IpAddr::V6(v6) => (v6.to_bits(), 128),
    };
    let (network, width) = bits(network);
    let (address, other) = bits(address);
    let differ = network ^ address;
    Some(width == other && differ.checked_shr(width.checked_sub(length.into())?).unwrap_or(0) == 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_dropped(names: HostMatch, address: &str) -> bool {
        let more = ["198.18.0.0/15".parse().expect("a block")];
        super::is_dropped(names, &more, address.parse().expect("an address"))
    }

    #[test]
    fn where_names_lead() {
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
            ("fe80::1", true, true),
            ("ff02::1", true, true),
            ("fd00:ec2::254", true, true),
            ("64:ff9b::7f00:1", true, true),
            ("64:ff9b::a9fe:a9fe", true, true),
            ("2002:7f00:1::", true, true),
            ("64:ff9b::cb00:710a", false, true),
            ("2002:cb00:710a::1", false, true),
            ("2001::1", false, true),
            ("10.0.0.1", false, true),
            ("172.31.0.1", false, true),
            ("192.168.1.1", false, true),
            ("100.64.0.1", false, true),
            ("fd12::1", false, true),
        ] {
            assert_eq!(is_dropped(HostMatch::Exact, address), exact, "{address}");
            assert_eq!(is_dropped(HostMatch::Wildcard, address), wildcard, "{address} by wildcard");
        }
    }
}
