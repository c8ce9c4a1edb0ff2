//! Destinations that prove interception: addresses that the rules redirect and nobody else answers at.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use egress_inject::interception::{Family, Interception};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};

/// First port that is tried unless it is excluded.
const FIRST_PORT: u16 = 80;
/// Addresses of a block that are tried before it is given up.
const MAX_PER_BLOCK: usize = 16;

/// Routes by which connections leave.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Routes {
    /// Blocks, and the interfaces that they leave by.
    routes: Vec<(IpNet, String)>,
    /// This machine's own addresses, which no rule redirects.
    own: Vec<IpAddr>,
}

impl Routes {
    /// Reads the routes of a family from the kernel. They are empty if it does not show them.
    pub(super) fn read(family: Family) -> Self {
        let text = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
        let routes = match family {
            Family::V4 => text("/proc/net/route").lines().filter_map(parse_ipv4).collect(),
            Family::V6 => text("/proc/net/ipv6_route").lines().filter_map(parse_ipv6).collect(),
        };
        let addresses = nix::ifaddrs::getifaddrs().into_iter().flatten().filter_map(|entry| {
            let address = entry.address?;
            let v4 = address.as_sockaddr_in().map(|address| IpAddr::V4(address.ip()));
            v4.or_else(|| address.as_sockaddr_in6().map(|address| IpAddr::V6(address.ip())))
        });
        Self { routes, own: addresses.collect() }
    }
}

/// Parses a line of `/proc/net/route`.
fn parse_ipv4(line: &str) -> Option<(IpNet, String)> {
    let fields: Vec<&str> = line.split_whitespace().collect();
    // The kernel prints addresses as numbers of this machine's byte order.
    let address = |place: usize| {
        let number = u32::from_str_radix(fields.get(place)?, 16).ok()?;
        Some(Ipv4Addr::from(number.to_ne_bytes()))
    };
    let block = Ipv4Net::with_netmask(address(1)?, address(7)?).ok()?;
    let interface = *fields.first()?;
    (interface != "lo").then(|| (block.into(), interface.to_owned()))
}

/// Parses a line of `/proc/net/ipv6_route`.
fn parse_ipv6(line: &str) -> Option<(IpNet, String)> {
    let fields: Vec<&str> = line.split_whitespace().collect();
    let address = u128::from_str_radix(fields.first()?, 16).ok()?;
    let length = u8::from_str_radix(fields.get(1)?, 16).ok()?;
    let block = Ipv6Net::new(Ipv6Addr::from(address), length).ok()?;
    let interface = *fields.get(9)?;
    let is_local = block.network().is_multicast() || block.network().is_unicast_link_local();
    (interface != "lo" && !is_local).then(|| (block.into(), interface.to_owned()))
}

/// Addresses for documentation, which nobody has.
fn documentation(family: Family) -> Vec<IpAddr> {
    match family {
        Family::V4 => [[192, 0, 2, 1], [198, 51, 100, 1], [203, 0, 113, 1]].map(IpAddr::from).to_vec(),
        Family::V6 => vec![Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1).into()],
    }
}

/// Finds destinations that the rules redirect, the best first.
pub(super) fn find_destinations(
    family: Family,
    interception: &Interception,
    routes: &Routes,
) -> Vec<SocketAddr> {
    let Some(port) = (FIRST_PORT..=u16::MAX).find(|port| !interception.exclude_ports.contains(port)) else {
        return Vec::new();
    };
    let of_family =
        |block: &&IpNet| matches!((block, family), (IpNet::V4(_), Family::V4) | (IpNet::V6(_), Family::V6));
    let far = || {
        let included = interception.include_blocks.iter().filter(of_family);
        documentation(family).into_iter().chain(included.flat_map(|block| first_addresses(*block)))
    };
    let mut addresses: Vec<IpAddr> = Vec::new();
    // Far ones first: an excluded interface does not concern them if the default route is another's.
    let leaving = routes.routes.iter().filter(|(_, interface)| !is_excluded(interception, interface));
    if routes.routes.is_empty() || leaving.clone().any(|(block, _)| block.prefix_len() == 0) {
        addresses.extend(far());
    }
    for (block, _) in leaving.filter(|(block, _)| block.prefix_len() > 0) {
        let included = interception.include_blocks.iter().filter(|included| block.contains(*included));
        addresses.extend(
            first_addresses(*block).into_iter().chain(included.flat_map(|block| first_addresses(*block))),
        );
    }
    addresses
        .into_iter()
        .filter(|address| !routes.own.contains(address))
        .map(|address| SocketAddr::new(address, port))
        .filter(|destination| interception.redirects(*destination))
        .collect()
}

/// Tests an interface for exclusion; a `+` at the end of a name stands for any continuation.
fn is_excluded(interception: &Interception, interface: &str) -> bool {
    interception.exclude_interfaces.iter().any(|name| match name.strip_suffix('+') {
        Some(beginning) => interface.starts_with(beginning),
        None => interface == name,
    })
}

/// The first addresses of a block.
fn first_addresses(block: IpNet) -> Vec<IpAddr> {
    block.hosts().take(MAX_PER_BLOCK).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROUTES: &str = "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT\n\
        eth0\t00000000\t01F4F40A\t0003\t0\t0\t0\t00000000\t0\t0\t0\n\
        eth0\t00F4F40A\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0\n\
        lo\t0000007F\t00000000\t0001\t0\t0\t0\t000000FF\t0\t0\t0\n";
    const ROUTES6: &str = "fd000000000000000000000000000000 40 00000000000000000000000000000000 00 00000000000000000000000000000000 00000100 00000001 00000000 00000001     eth0\n\
        fe800000000000000000000000000000 40 00000000000000000000000000000000 00 00000000000000000000000000000000 00000100 00000001 00000000 00000001     eth0\n\
        00000000000000000000000000000000 00 00000000000000000000000000000000 00 00000000000000000000000000000000 ffffffff 00000001 00000000 00200200       lo\n\
        ff000000000000000000000000000000 08 00000000000000000000000000000000 00 00000000000000000000000000000000 00000100 00000001 00000000 00000001     eth0\n";

    fn net(text: &str) -> IpNet {
        text.parse().expect("a block")
    }

    #[test]
    fn routes_are_read_without_loopback_and_link_local_ones() {
        let four: Vec<_> = ROUTES.lines().filter_map(parse_ipv4).collect();
        assert_eq!(
            four,
            [(net("0.0.0.0/0"), "eth0".to_owned()), (net("10.244.244.0/24"), "eth0".to_owned())]
        );
        let six: Vec<_> = ROUTES6.lines().filter_map(parse_ipv6).collect();
        assert_eq!(six, [(net("fd00::/64"), "eth0".to_owned())]);
    }

    #[test]
    fn destinations_are_those_that_the_rules_redirect() {
        let routes = |blocks: &[(&str, &str)], own: &[&str]| Routes {
            routes: blocks.iter().map(|(block, interface)| (net(block), (*interface).to_owned())).collect(),
            own: own.iter().map(|address| address.parse().expect("an address")).collect(),
        };
        let default = [("0.0.0.0/0", "eth0")];
        let lists = |exclude: &[&str], include: &[&str]| Interception {
            exclude_blocks: exclude.iter().map(|block| net(block)).collect(),
            include_blocks: include.iter().map(|block| net(block)).collect(),
            ..Interception::default()
        };
        let tun = Interception { exclude_interfaces: vec!["tun+".to_owned()], ..Interception::default() };
        let ports = Interception { exclude_ports: vec![80, 81], ..Interception::default() };
        for (interception, routes, expected) in [
            (lists(&[], &[]), routes(&default, &[]), Some("192.0.2.1:80")),
            (lists(&[], &[]), routes(&[], &[]), Some("192.0.2.1:80")),
            (ports, routes(&default, &[]), Some("192.0.2.1:82")),
            (lists(&["192.0.2.0/24"], &[]), routes(&default, &[]), Some("198.51.100.1:80")),
            (lists(&[], &["10.0.0.0/8"]), routes(&default, &[]), Some("10.0.0.1:80")),
            (lists(&["10.0.0.1/32"], &["10.0.0.0/8"]), routes(&default, &["10.0.0.2"]), Some("10.0.0.3:80")),
            (lists(&["0.0.0.0/0"], &[]), routes(&default, &[]), None),
            (lists(&[], &["2000::/3"]), routes(&default, &[]), None),
            // Without a default route, something near.
            (lists(&[], &[]), routes(&[("10.1.0.0/16", "eth0")], &["10.1.0.1"]), Some("10.1.0.2:80")),
            (
                tun.clone(),
                routes(&[("0.0.0.0/0", "tun0"), ("10.1.0.0/16", "eth0")], &[]),
                Some("10.1.0.1:80"),
            ),
            (tun, routes(&[("0.0.0.0/0", "tun0")], &[]), None),
        ] {
            let found = find_destinations(Family::V4, &interception, &routes);
            assert_eq!(
                found.first().map(ToString::to_string).as_deref(),
                expected,
                "{interception:?} {routes:?}"
            );
        }
    }
}
