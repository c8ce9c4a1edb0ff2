//! What workloads talk to: remembered from the access logs of their sidecars, and what follows from it.
//!
//! Data flows one way: a log entry ([`entry`], [`mod@line`]) is an [`Observation`]; a [`memory::Memory`] makes
//! [`Flow`]s of them, and a [`store::Store`] keeps these; [`suggest`] and [`simulate`] read flows.

mod decided;
pub mod entry;
pub mod line;
pub mod memory;
pub mod simulate;
pub mod store;
pub mod suggest;
#[cfg(test)]
mod tests;
pub mod text;

use std::net::{IpAddr, SocketAddr};

use egress_core::sanitize;
use egress_policy::Protocol;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

pub use self::decided::{Decided, Verdict};

/// The server name of a ClientHello that has none, as the filter writes it.
const NO_NAME: &str = "-";
/// The longest server name or authority that is remembered: a host name and a port.
const LONGEST_NAME: usize = 260;
/// The longest path.
const LONGEST_PATH: usize = 128;

/// One connection or request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Observation {
    /// What was decided.
    pub decided: Decided,
    /// The address that was dialled.
    pub to: SocketAddr,
    /// What was seen of it.
    pub protocol: Protocol,
    /// The server name, or the authority.
    pub name: Option<String>,
    /// The request.
    pub request: Option<Sample>,
}

/// One request of those that a flow had.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sample {
    /// Its method.
    pub method: String,
    /// Its path, without what follows a `?`: that may be secret.
    pub path: String,
    /// The upgrade that it asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub upgrade: Option<String>,
    /// How often it was seen; 0 where that was not counted.
    #[serde(default)]
    pub count: u64,
}

/// What a workload did with one destination, and what became of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Flow {
    /// By whom: `namespace/service-account`.
    pub identity: String,
    /// The server name or authority; `null` where none was seen.
    pub name: Option<String>,
    /// The addresses that were dialled, or some of them.
    pub addresses: Vec<IpAddr>,
    /// The port that was dialled.
    pub port: u16,
    /// What was seen of it.
    pub protocol: Protocol,
    /// What was decided.
    #[serde(flatten)]
    pub decided: Decided,
    /// How often.
    pub count: u64,
    /// When first, by this machine's clock.
    pub first_seen: Timestamp,
    /// When last.
    pub last_seen: Timestamp,
    /// The node ids of the proxies that saw it, or some of them.
    pub nodes: Vec<String>,
    /// The requests, or some of them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub requests: Vec<Sample>,
    /// Whether there were others.
    #[serde(default)]
    pub more_requests: bool,
    /// Grows with every change of any flow.
    pub sequence: u64,
}

impl Observation {
    /// Puts together what a log says of a connection; `None` where nothing was decided.
    fn connection(
        decision: &str,
        to: SocketAddr,
        resolved: Option<&str>,
        server_name: Option<&str>,
    ) -> Option<Self> {
        let decided = Decided::read(decision)?;
        let says_tls = ["tls-malformed", "tls-oversize"].contains(&decided.refusal());
        let is_tls = resolved.is_some() || server_name.is_some() || says_tls;
        let name = resolved.or(server_name.filter(|name| *name != NO_NAME));
        Some(Self {
            protocol: if is_tls { Protocol::Https } else { Protocol::Tcp },
            name: name.map(|name| sanitize::text(name, LONGEST_NAME)),
            request: None,
            decided,
            to,
        })
    }

    /// The same of a request. `refused` is what Envoy told the workload, also where it refused by itself.
    fn request(
        decision: Option<&str>,
        to: SocketAddr,
        authority: &str,
        (method, path, upgrade): (&str, &str, Option<&str>),
        refused: Option<&str>,
    ) -> Option<Self> {
        let decided = decision.and_then(Decided::read);
        let decided = match refused {
            Some(reason) => Decided::refused(reason, decided)?,
            None => decided?,
        };
        let path = path.split(['?', '#']).next().unwrap_or_default();
        Some(Self {
            protocol: Protocol::Http,
            name: Some(authority)
                .filter(|name| !name.is_empty())
                .map(|name| sanitize::text(name, LONGEST_NAME)),
            request: Some(Sample {
                method: sanitize::text(method, 32),
                path: sanitize::text(path, LONGEST_PATH),
                upgrade: upgrade.filter(|text| !text.is_empty()).map(|text| sanitize::text(text, 32)),
                count: 1,
            }),
            decided,
            to,
        })
    }
}

impl Flow {
    /// The destination in a few words: `https://name:port`.
    #[must_use]
    pub fn destination(&self) -> String {
        let (host, said) = match (&self.name, self.addresses.first()) {
            // An authority may say a port, and not the one that was dialled.
            (Some(name), _) if self.protocol == Protocol::Http => match name.rsplit_once(':') {
                Some((host, "")) => (host.to_owned(), None),
                Some((host, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => {
                    (host.to_owned(), Some(port).filter(|port| port.parse() != Ok(self.port)))
                }
                Some(_) | None => (name.clone(), None),
            },
            (Some(name), _) => (name.clone(), None),
            (None, Some(IpAddr::V6(address))) => (format!("[{address}]"), None),
            (None, Some(address)) => (address.to_string(), None),
            (None, None) => ("-".to_owned(), None),
        };
        let destination = format!("{}://{host}:{}", protocol(self.protocol), self.port);
        match said {
            Some(port) => format!("{destination} (asked for port {port})"),
            None => destination,
        }
    }
}

/// How a protocol is written in manifests.
fn protocol(protocol: Protocol) -> &'static str {
    match protocol {
        Protocol::Tcp => "tcp",
        Protocol::Https => "https",
        Protocol::Http => "http",
    }
}
