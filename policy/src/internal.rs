use std::net::IpAddr;

use crate::Cidr;

/// Private networks (RFC 1918, RFC 6598, RFC 4193) and whatever embeds an IPv4 address (RFC 6052, RFC 8215,
/// RFC 3056, RFC 4380).
pub const INTERNAL: [&str; 10] = [
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

/// Whether a name that only a wildcard lists must not lead to an address: whoever may make names below it is
/// not always whoever owns it.
#[must_use]
pub fn is_internal(address: IpAddr) -> bool {
    let address = address.to_canonical();
    INTERNAL.iter().any(|block| Cidr::canonical(block).is_ok_and(|block| block.contains(address)))
}
