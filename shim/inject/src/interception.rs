//! Interception: which TCP connections that begin in a network namespace go to its sidecar.
//!
//! [`Interception`] is a model of Open Service Mesh's nat rules, for IPv4 and IPv6: pure, and rendered
//! as iptables-restore reads it. [`apply`] puts it in force, or takes it away, by iptables' own tools.

mod listener;
mod interface;
mod rules;
mod iptables_save;
mod tools;

use std::fmt;

use ipnet::IpNet;

pub use listener::listening_uids;
pub use interface::{interface, unique};
pub use rules::{CHAINS, Rule};
pub use tools::{Backend, Change, apply};

/// The uid of Envoy, as in Open Service Mesh.
pub const PROXY_UID: u32 = 1500;
/// The port of the outbound listener.
pub const OUTBOUND_PORT: u16 = 15001;
/// The port of Open Service Mesh's inbound listener. Nothing listens there unless somebody else does.
pub const INBOUND_PORT: u16 = 15003;

/// What is intercepted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interception {
    /// The port of the sidecar that takes what goes out.
    pub outbound_port: u16,
    /// The uid of the sidecar, whose own connections go out.
    pub proxy_uid: u32,
    /// Network interfaces that are left out.
    pub exclude_interfaces: Vec<String>,
    /// Blocks of addresses that are left out.
    pub exclude_blocks: Vec<IpNet>,
    /// Ports that are left out.
    pub exclude_ports: Vec<u16>,
    /// The only blocks of addresses that are not left out; none for all.
    pub include_blocks: Vec<IpNet>,
    /// What comes in, where somebody listens for that.
    pub inbound: Option<Inbound>,
}

/// What is intercepted of what comes in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Inbound {
    /// The port of the sidecar that takes it.
    pub port: u16,
    /// Ports that are left out.
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

/// A family of addresses; each has rules of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// Both.
    pub const ALL: [Self; 2] = [Self::V4, Self::V6];

    const fn loopback(self) -> &'static str {
        match self {
            Self::V4 => "127.0.0.1/32",
            Self::V6 => "::1/128",
        }
    }

    const fn has(self, block: &IpNet) -> bool {
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
