//! Interception: redirects TCP connections that begin in a network namespace to its sidecar.
//!
//! [`Interception`] is a pure model of Open Service Mesh's nat rules for IPv4 and IPv6, rendered as input of
//! iptables-restore. [`apply_rules`] installs or removes the rules with iptables' own tools.

mod arguments;
mod destination;
mod interface;
mod iptables_save;
mod listener;
mod rule_spec;
mod rules;
mod tools;

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

pub(crate) use arguments::render_arguments;
pub use arguments::{InterceptionArgs, parse_arguments};
pub use interface::{deduplicate, parse_interface};
pub use listener::listening_uids;
pub use rule_spec::{Condition, RuleSpec, Target};
pub use rules::{CHAINS, OUTPUT, PREROUTING, Rule};
pub use tools::{Backend, FamilyChange, apply_rules};

/// Uid of Envoy, as in Open Service Mesh.
pub const PROXY_UID: u32 = 1500;
/// Port of the outbound listener.
pub const OUTBOUND_PORT: u16 = 15001;
/// Port of Open Service Mesh's inbound listener. osm-egress has no such listener.
pub const INBOUND_PORT: u16 = 15003;

/// Settings of the interception in a network namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interception {
    /// The sidecar's port for outbound connections.
    pub outbound_port: u16,
    /// The sidecar's uid, whose own connections are not redirected.
    pub proxy_uid: u32,
    /// Excluded network interfaces.
    pub exclude_interfaces: Vec<String>,
    /// Excluded address blocks.
    pub exclude_blocks: Vec<IpNet>,
    /// Excluded ports.
    pub exclude_ports: Vec<u16>,
    /// Address blocks to which interception is limited; empty for all.
    pub include_blocks: Vec<IpNet>,
    /// Inbound interception, for an Envoy with an inbound listener.
    pub inbound: Option<Inbound>,
}

/// Settings of inbound interception.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Inbound {
    /// The sidecar's port for inbound connections.
    pub port: u16,
    /// Excluded ports.
    pub exclude_ports: Vec<u16>,
}

impl Default for Interception {
    fn default() -> Self {
        Self {
            outbound_port: OUTBOUND_PORT,
            proxy_uid: PROXY_UID,
            exclude_interfaces: Vec::new(),
            exclude_blocks: Vec::new(),
            exclude_ports: Vec::new(),
            include_blocks: Vec::new(),
            inbound: None,
        }
    }
}

/// An address family; each has its own rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// Both families.
    pub const ALL: [Self; 2] = [Self::V4, Self::V6];

    fn loopback(self) -> IpNet {
        match self {
            Self::V4 => IpAddr::V4(Ipv4Addr::LOCALHOST).into(),
            Self::V6 => IpAddr::V6(Ipv6Addr::LOCALHOST).into(),
        }
    }

    const fn contains(self, block: &IpNet) -> bool {
        matches!((self, block), (Self::V4, IpNet::V4(_)) | (Self::V6, IpNet::V6(_)))
    }
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
        })
    }
}

#[cfg(test)]
mod tests;
