//! The client of a connection.

use std::net::SocketAddr;

use egress_transport::connections::ConnectionInfo;

/// Client of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Address.
    pub address: SocketAddr,
    /// True if it is on this machine or in this pod, so that nobody can listen in between.
    pub is_local: bool,
}

impl Peer {
    fn new(address: SocketAddr, own: Option<SocketAddr>) -> Self {
        let ip = address.ip().to_canonical();
        Self { address, is_local: ip.is_loopback() || own.is_some_and(|own| own.ip().to_canonical() == ip) }
    }
}

impl From<&ConnectionInfo> for Peer {
    fn from(info: &ConnectionInfo) -> Self {
        Self::new(info.peer, info.local)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_and_own_addresses_are_local() {
        for (peer, own, expected) in [
            ("127.0.0.1:1", "127.0.0.1:15129", true),
            ("[::1]:1", "[::1]:15129", true),
            ("[::ffff:127.0.0.1]:1", "[::ffff:127.0.0.1]:15129", true),
            ("10.0.0.7:1", "10.0.0.7:15129", true),
            ("[::ffff:10.0.0.7]:1", "10.0.0.7:15129", true),
            ("10.0.0.8:1", "10.0.0.7:15129", false),
            ("[2001:db8::1]:1", "[2001:db8::2]:15129", false),
        ] {
            let (address, own) = (peer.parse().expect("valid"), own.parse().ok());
            assert_eq!(Peer::new(address, own).is_local, expected, "{peer}");
        }
        assert!(!Peer::new("10.0.0.8:1".parse().expect("valid"), None).is_local);
    }
}
