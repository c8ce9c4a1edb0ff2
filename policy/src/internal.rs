use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{Ipv4Net, Ipv6Net};

/// Private networks (RFC 1918, RFC 6598).
pub const INTERNAL_IPV4: [Ipv4Net; 4] =
    [v4([10, 0, 0, 0], 8), v4([172, 16, 0, 0], 12), v4([192, 168, 0, 0], 16), v4([100, 64, 0, 0], 10)];

/// The same for IPv6 (RFC 4193, RFC 3879), and tunnels (RFC 3056, RFC 4380).
pub const INTERNAL_IPV6: [Ipv6Net; 4] = [
    v6([0xfc00, 0, 0, 0, 0, 0, 0, 0], 7),
    v6([0xfec0, 0, 0, 0, 0, 0, 0, 0], 10),
    v6([0x2002, 0, 0, 0, 0, 0, 0, 0], 16),
    v6([0x2001, 0, 0, 0, 0, 0, 0, 0], 32),
];

/// The well-known prefix of translators (RFC 6052), below which an address counts as the IPv4 address in it.
const NAT64: Ipv6Net = v6([0x64, 0xff9b, 0, 0, 0, 0, 0, 0], 96);

/// Prefixes of translators in one network (RFC 8215).
const LOCAL_NAT64: Ipv6Net = v6([0x64, 0xff9b, 1, 0, 0, 0, 0, 0], 48);

const fn v4(octets: [u8; 4], length: u8) -> Ipv4Net {
    let [a, b, c, d] = octets;
    Ipv4Net::new_assert(Ipv4Addr::new(a, b, c, d), length)
}

const fn v6(segments: [u16; 8], length: u8) -> Ipv6Net {
    let [a, b, c, d, e, f, g, h] = segments;
    Ipv6Net::new_assert(Ipv6Addr::new(a, b, c, d, e, f, g, h), length)
}

/// Whether a name that only a wildcard lists must not lead to an address: whoever may make names below it is
/// not always whoever owns it. Of the prefixes of translators that an administrator names nothing is known here:
/// below [RFC 8215](https://www.rfc-editor.org/rfc/rfc8215)'s block all addresses are internal.
#[must_use]
pub fn is_internal(address: IpAddr) -> bool {
    match address.to_canonical() {
        IpAddr::V4(address) => INTERNAL_IPV4.iter().any(|block| block.contains(&address)),
        IpAddr::V6(address) if NAT64.contains(&address) => {
            let [.., a, b, c, d] = address.octets();
            is_internal(Ipv4Addr::new(a, b, c, d).into())
        }
        IpAddr::V6(address) => {
            LOCAL_NAT64.contains(&address) || INTERNAL_IPV6.iter().any(|block| block.contains(&address))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::is_internal;

    #[test]
    fn addresses() {
        for (address, internal) in [
            ("10.1.2.3", true),
            ("::ffff:10.1.2.3", true),
            ("172.32.0.1", false),
            ("100.127.0.1", true),
            ("93.184.216.34", false),
            ("fd00::1", true),
            ("2001:db8::1", false),
            ("2001:0:1::1", true),
            ("64:ff9b::a00:1", true),
            ("64:ff9b::5db8:d822", false),
            ("64:ff9b:1::5db8:d822", true),
        ] {
            assert_eq!(is_internal(address.parse().expect("an address")), internal, "{address}");
        }
    }
}
