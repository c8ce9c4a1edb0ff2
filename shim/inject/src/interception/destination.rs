//! Destinations that an interception redirects.

use std::net::SocketAddr;

use super::Interception;

impl Interception {
    /// Returns true if the rules redirect connections of the workload to this destination, unless they leave by an excluded
    /// interface.
    #[must_use]
    pub fn redirects(&self, destination: SocketAddr) -> bool {
        let (address, port) = (destination.ip(), destination.port());
        let is_in = |blocks: &[ipnet::IpNet]| blocks.iter().any(|block| block.contains(&address));
        !address.is_loopback()
            && !is_in(&self.exclude_blocks)
            && !self.exclude_ports.contains(&port)
            && (self.include_blocks.is_empty() || is_in(&self.include_blocks))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exclusions_and_inclusions_decide_what_is_redirected() {
        let blocks = |text: &[&str]| text.iter().map(|block| block.parse().expect("a block")).collect();
        let lists = |exclude: &[&str], include: &[&str]| Interception {
            exclude_blocks: blocks(exclude),
            include_blocks: blocks(include),
            exclude_ports: vec![5432],
            ..Interception::default()
        };
        for (interception, destination, expected) in [
            (lists(&[], &[]), "192.0.2.1:80", true),
            (lists(&[], &[]), "127.0.0.1:80", false),
            (lists(&[], &[]), "[2001:db8::1]:80", true),
            (lists(&[], &[]), "192.0.2.1:5432", false),
            (lists(&["192.0.2.0/24"], &[]), "192.0.2.1:80", false),
            (lists(&["192.0.2.0/24"], &[]), "192.0.3.1:80", true),
            (lists(&[], &["10.0.0.0/8"]), "192.0.2.1:80", false),
            (lists(&[], &["10.0.0.0/8"]), "10.0.2.1:80", true),
            (lists(&["10.0.0.0/16"], &["10.0.0.0/8"]), "10.0.2.1:80", false),
            (lists(&[], &["10.0.0.0/8"]), "[2001:db8::1]:80", false),
        ] {
            let found = interception.redirects(destination.parse().expect("an address"));
            assert_eq!(found, expected, "{destination} {interception:?}");
        }
    }
}
