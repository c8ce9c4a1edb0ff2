//! An address that represents all those that nothing lists.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::{Cidr, Document};

/// The first address of the search.
pub(super) const SEARCH_START: IpAddr = IpAddr::V4(Ipv4Addr::UNSPECIFIED);

/// Collects the blocks that rules and mesh list for a port.
pub(super) fn listed_blocks(document: &Document, port: u16) -> Vec<Cidr> {
    let rules = document.rules.iter().filter(|rule| rule.port.get() == port);
    let blocks = rules.flat_map(|rule| rule.addresses.iter().flat_map(|blocks| blocks.iter()).copied());
    let services = document.in_mesh.iter().filter(|service| service.ports.iter().any(|p| p.get() == port));
    let addresses = services.flat_map(|service| service.addresses.iter().map(|a| Cidr::host(a.get())));
    blocks.chain(addresses).collect()
}

/// Finds the first address outside all blocks: of IPv4, else of IPv6.
pub(super) fn first_unlisted(blocks: &[Cidr]) -> Option<IpAddr> {
    let v4 = find_gap(blocks, true).and_then(|bits| u32::try_from(bits).ok()).map(Ipv4Addr::from_bits);
    v4.map(IpAddr::V4).or_else(|| find_gap(blocks, false).map(|bits| IpAddr::V6(Ipv6Addr::from_bits(bits))))
}

/// Collects an address of every part of the address space for which a rule may decide differently. Addresses of services
/// of the mesh are left out: a workload connects to them on purpose.
pub(super) fn each_part(document: &Document, port: u16, blocks: &[Cidr]) -> Vec<IpAddr> {
    let next_after = |address: IpAddr| match address {
        IpAddr::V4(v4) => v4.to_bits().checked_add(1).map(|bits| IpAddr::V4(Ipv4Addr::from_bits(bits))),
        IpAddr::V6(v6) => v6.to_bits().checked_add(1).map(|bits| IpAddr::V6(Ipv6Addr::from_bits(bits))),
    };
    let ends = blocks.iter().filter_map(|block| next_after(block.net().broadcast()));
    let mut parts: BTreeSet<IpAddr> = blocks.iter().map(|block| block.net().network()).chain(ends).collect();
    for service in document.in_mesh.iter().filter(|service| service.ports.iter().any(|p| p.get() == port)) {
        for address in &service.addresses {
            parts.remove(&address.get());
        }
    }
    parts.into_iter().collect()
}

fn find_gap(blocks: &[Cidr], v4: bool) -> Option<u128> {
    let bits = |address: IpAddr| match address {
        IpAddr::V4(v4) => u128::from(v4.to_bits()),
        IpAddr::V6(v6) => v6.to_bits(),
    };
    let nets = blocks.iter().map(|block| block.net()).filter(|net| net.addr().is_ipv4() == v4);
    let mut ranges: Vec<(u128, u128)> =
        nets.map(|net| (bits(net.network()), bits(net.broadcast()))).collect();
    ranges.sort_unstable();
    let mut next = 0_u128;
    for (first, last) in ranges {
        if first > next {
            break;
        }
        if last >= next {
            next = last.checked_add(1)?;
        }
    }
    (!v4 || next <= u128::from(u32::MAX)).then_some(next)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_unlisted_address_is_found() {
        for (blocks, expected) in [
            (&[][..], Some("0.0.0.0")),
            (&["10.0.0.0/8"], Some("0.0.0.0")),
            (&["0.0.0.0/8", "1.0.0.0/8", "0.0.0.0/32"], Some("2.0.0.0")),
            (&["0.0.0.0/0"], Some("::")),
            (&["0.0.0.0/1", "128.0.0.0/1", "::/1"], Some("8000::")),
            (&["0.0.0.0/0", "::/0"], None),
        ] {
            let blocks: Vec<Cidr> = blocks.iter().map(|block| block.parse().expect("a block")).collect();
            assert_eq!(first_unlisted(&blocks).map(|a| a.to_string()).as_deref(), expected, "{blocks:?}");
        }
    }
}
