//! Flows: the destinations of each workload, collected from the access logs of its sidecars.
//!
//! Data moves one way: [`access_log`] turns a log entry into an [`Observation`], the [`table::FlowTable`] groups
//! observations into [`Flow`]s, the [`database::FlowDatabase`] stores them on disk, and [`suggest`] and [`simulate`]
//! read them.

pub mod access_log;
pub mod database;
mod decision_record;
pub mod simulate;
pub mod suggest;
pub mod table;
#[cfg(test)]
mod tests;
pub mod text;

use std::net::{IpAddr, SocketAddr};

use egress_core::sanitize;
use egress_policy::Protocol;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

pub use self::decision_record::{DecisionRecord, Verdict};

/// The server name that the filter logs for a ClientHello without one.
const ABSENT_SERVER_NAME: &str = "-";
/// The longest server name or authority that is stored, in bytes: a host name and a port.
const MAX_NAME_BYTES: usize = 260;
/// The longest path that is stored, in bytes.
const MAX_PATH_BYTES: usize = 128;
/// The longest method or upgrade that is stored, in bytes; registered ones are shorter.
const MAX_TOKEN_BYTES: usize = 32;

/// One connection or request, as an access log reports it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Observation {
    /// The decision.
    pub decision: DecisionRecord,
    /// The original destination.
    pub original_destination: SocketAddr,
    /// The protocol, as far as the first bytes showed it.
    pub protocol: Protocol,
    /// The server name or authority.
    pub name: Option<String>,
    /// The HTTP request.
    pub request: Option<RequestSample>,
}

/// An example of the requests of a flow.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RequestSample {
    /// The method.
    pub method: String,
    /// The path without its query, which may hold secrets.
    pub path: String,
    /// The requested upgrade.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub upgrade: Option<String>,
    /// The number of such requests; 0 if an older version, which did not count them, stored the flow.
    #[serde(default)]
    pub count: u64,
}

/// All connections or requests of one workload to one destination with the same decision.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Flow {
    /// The identity of the workload: `namespace/service-account`.
    pub identity: String,
    /// The server name or authority; `null` if the connection showed none.
    pub name: Option<String>,
    /// The dialled addresses, or some of them.
    pub addresses: Vec<IpAddr>,
    /// The dialled port.
    pub port: u16,
    /// The protocol, as far as the first bytes showed it.
    pub protocol: Protocol,
    /// The decision.
    #[serde(flatten)]
    pub decision: DecisionRecord,
    /// The number of connections or requests.
    pub count: u64,
    /// The time of the first one, by the control plane's clock.
    pub first_seen: Timestamp,
    /// The time of the last one.
    pub last_seen: Timestamp,
    /// The node ids of the proxies that reported it, or some of them.
    pub nodes: Vec<String>,
    /// The distinct requests, or some of them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub requests: Vec<RequestSample>,
    /// True if there were more distinct requests than are listed.
    #[serde(default)]
    pub more_requests: bool,
    /// The number of the last change of this flow; it grows with every change of any flow.
    pub sequence: u64,
}

impl Observation {
    /// Builds the observation of a connection.
    fn from_connection(
        decision: DecisionRecord,
        original_destination: SocketAddr,
        resolved: Option<&str>,
        server_name: Option<&str>,
    ) -> Self {
        let is_broken_tls = ["tls-malformed", "tls-oversize"].contains(&decision.enforced_reason());
        let is_tls = resolved.is_some() || server_name.is_some() || is_broken_tls;
        let name = resolved.or(server_name.filter(|name| *name != ABSENT_SERVER_NAME));
        Self {
            protocol: if is_tls { Protocol::Https } else { Protocol::Tcp },
            name: name.map(|name| sanitize::text(name, MAX_NAME_BYTES)),
            request: None,
            decision,
            original_destination,
        }
    }

    /// Builds the observation of a request. `denied_reason` is the reason code in the response; Envoy sets it also on
    /// requests that it refuses before the filter runs. Returns `None` if there is neither a decision nor a known reason.
    fn from_request(
        decision: Option<DecisionRecord>,
        original_destination: SocketAddr,
        authority: &str,
        (method, path, upgrade): (&str, &str, Option<&str>),
        denied_reason: Option<&str>,
    ) -> Option<Self> {
        let decision = match denied_reason {
            Some(reason) => DecisionRecord::denied_by_envoy(reason, decision)?,
            None => decision?,
        };
        let path = path.split(['?', '#']).next().unwrap_or_default();
        Some(Self {
            protocol: Protocol::Http,
            name: Some(authority)
                .filter(|name| !name.is_empty())
                .map(|name| sanitize::text(name, MAX_NAME_BYTES)),
            request: Some(RequestSample {
                method: sanitize::text(method, MAX_TOKEN_BYTES),
                path: sanitize::text(path, MAX_PATH_BYTES),
                upgrade: upgrade
                    .filter(|text| !text.is_empty())
                    .map(|text| sanitize::text(text, MAX_TOKEN_BYTES)),
                count: 1,
            }),
            decision,
            original_destination,
        })
    }
}

impl Flow {
    /// The destination as text: `https://name:port`.
    #[must_use]
    pub fn destination(&self) -> String {
        let (host, requested_port) = match (&self.name, self.addresses.first()) {
            // An authority may name a port other than the dialled one.
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
        let destination = format!("{}://{host}:{}", protocol_name(self.protocol), self.port);
        match requested_port {
            Some(port) => format!("{destination} (asked for port {port})"),
            None => destination,
        }
    }
}

/// The name of a protocol in manifests.
fn protocol_name(protocol: Protocol) -> &'static str {
    match protocol {
        Protocol::Tcp => "tcp",
        Protocol::Https => "https",
        Protocol::Http => "http",
    }
}
