//! The compiled policy of one identity, and its three decisions.
//!
//! A connection is decided as the data plane learns more: first by port and address alone
//! ([`Policy::decide_connection`]), then by its first bytes ([`Policy::decide_start`]), then, for plaintext HTTP, each
//! request by itself ([`Policy::decide_request`]).

mod decide;
mod index;
mod routes;

use std::net::IpAddr;
use std::sync::Arc;

use rustc_hash::FxHashMap;

use self::index::{IndexedRule, PortIndex};
use self::routes::Routes;
#[cfg(feature = "explain")]
pub(crate) use self::routes::all_match;
pub use self::routes::{Headers, Request};
use crate::decision::{Decision, RuleId};
use crate::{Cidr, Document, EncryptedHello, Identity, InMesh, Mode, PatternError, ReasonCode, Upgrade};

/// The compiled policy of one identity.
///
/// ```
/// use egress_policy::{ConnectionOutcome, ConnectionStart, Document, Policy, StartOutcome};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let policy = Policy::new(Document::from_json(
///     r#"{
///         "apiVersion": "egress-policy/v1", "version": "7", "mode": "enforce",
///         "identity": {"namespace": "shop", "serviceAccount": "cart"},
///         "rules": [{"policy": "shop/cart", "name": "spec.ports[0]", "port": 443, "protocol": "https", "hosts": ["api.example.com"]}]
///     }"#,
/// )?)?;
/// let to = "203.0.113.1:443".parse()?;
/// // Port and address do not decide: the rule names a host.
/// assert_eq!(policy.decide_connection(to), ConnectionOutcome::NeedFirstBytes);
/// let hello = ConnectionStart::Tls { server_name: Some("api.example.com"), encrypted: false };
/// let StartOutcome::Decided(decision) = policy.decide_start(to, hello) else { panic!("not HTTP") };
/// assert!(decision.is_allowed());
/// let other = ConnectionStart::Tls { server_name: Some("example.net"), encrypted: false };
/// let StartOutcome::Decided(decision) = policy.decide_start(to, other) else { panic!("not HTTP") };
/// assert_eq!(decision.reason().as_str(), "sni-not-allowed");
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Policy {
    identity: Identity,
    version: String,
    mode: Mode,
    rules: Vec<CompiledRule>,
    ports: FxHashMap<u16, PortIndex>,
    /// The clusters of those rules that name one, by their numbers. Few do, and a rule should fit into few
    /// cache lines.
    clusters: Vec<(u32, String)>,
    services: Vec<Service>,
    /// Numbers of services, by address and port.
    in_mesh: FxHashMap<(IpAddr, u16), u32>,
}

#[derive(Debug)]
struct CompiledRule {
    id: RuleId,
    /// Absent: any address.
    addresses: Option<Arc<[Cidr]>>,
    /// Absent: any request.
    routes: Option<Routes>,
}

/// A service of the mesh.
#[derive(Debug)]
struct Service {
    id: RuleId,
    allowed: bool,
}

/// The outcome for a connection before any byte of it was read.
#[derive(Debug, PartialEq, Eq)]
#[must_use]
pub enum ConnectionOutcome<'p> {
    /// Port and address decide.
    Decided(Decision<'p>),
    /// The first bytes decide.
    NeedFirstBytes,
}

/// The start of a connection: its first bytes, or why there are none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ConnectionStart<'a> {
    /// A TLS ClientHello.
    Tls {
        /// The server name, in lower case.
        server_name: Option<&'a str>,
        /// The real hello, and with it the real name, may be encrypted.
        encrypted: bool,
    },
    /// Something that begins like TLS and is not: [`ReasonCode::TlsMalformed`] or `TlsOversize`.
    BrokenTls(ReasonCode),
    /// Anything else.
    NotTls,
    /// The first bytes did not come in time.
    TimedOut,
    /// The first bytes had not come when too many connections waited.
    Evicted,
}

/// The outcome for a connection by its first bytes.
#[derive(Debug, PartialEq, Eq)]
#[must_use]
pub enum StartOutcome<'p> {
    /// The first bytes decide.
    Decided(Decision<'p>),
    /// The connection carries HTTP: each request is decided for itself.
    EachRequest,
}

/// A reason why a document cannot be compiled.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("rule `{policy}` `{rule}`, route `{route}`: {cause}")]
pub struct PolicyError {
    policy: String,
    rule: String,
    route: String,
    #[source]
    cause: PatternError,
}

impl Policy {
    /// Compiles a document. Where several rules allow something, the first one is named.
    ///
    /// # Errors
    /// When a pattern in it does not compile.
    pub fn new(document: Document) -> Result<Self, PolicyError> {
        let Document { api_version: _, identity, version, mode, rules, in_mesh } = document;
        let mut policy = Self {
            identity,
            version,
            mode,
            rules: Vec::with_capacity(rules.len()),
            ports: FxHashMap::default(),
            clusters: Vec::new(),
            services: Vec::with_capacity(in_mesh.len()),
            in_mesh: FxHashMap::default(),
        };
        for rule in rules {
            policy.add(Arc::unwrap_or_clone(rule))?;
        }
        for service in in_mesh.iter() {
            policy.add_service(service);
        }
        Ok(policy)
    }

    fn add(&mut self, rule: crate::Rule) -> Result<(), PolicyError> {
        let crate::Rule {
            policy,
            name,
            port,
            protocol,
            addresses,
            hosts,
            routes,
            upgrades,
            encrypted_hello,
            cluster,
        } = rule;
        let routes = match routes.as_deref().map(Routes::new).transpose() {
            Ok(routes) => routes,
            Err((route, cause)) => return Err(PolicyError { policy, rule: name, route, cause }),
        };
        // A document of four thousand million rules does not fit into a VM.
        let number = u32::try_from(self.rules.len()).unwrap_or(u32::MAX);
        let entry = IndexedRule {
            number,
            addresses: addresses.as_deref(),
            hosts: hosts.as_deref(),
            routed: routes.is_some(),
        };
        self.ports.entry(port.get()).or_default().add(
            protocol,
            encrypted_hello == EncryptedHello::AllowOuter,
            upgrades.contains(&Upgrade::Websocket),
            entry,
        );
        self.rules.push(CompiledRule { id: RuleId { policy, name }, addresses, routes });
        if let Some(cluster) = cluster {
            self.clusters.push((number, cluster));
        }
        Ok(())
    }

    /// Adds a service. Of two services with the same address and port, one that is refused counts.
    fn add_service(&mut self, service: &InMesh) {
        let InMesh { service, addresses, ports, allowed } = service;
        let number = u32::try_from(self.services.len()).unwrap_or(u32::MAX);
        for address in addresses {
            for port in ports {
                let key = (address.get(), port.get());
                if !allowed || !self.in_mesh.contains_key(&key) {
                    self.in_mesh.insert(key, number);
                }
            }
        }
        let id = RuleId { policy: service.clone(), name: "Service".to_owned() };
        self.services.push(Service { id, allowed: *allowed });
    }

    /// The identity that this policy governs.
    #[must_use]
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// The document's version.
    #[must_use]
    pub fn version(&self) -> &str {
        &self.version
    }

    /// The mode.
    #[must_use]
    pub fn mode(&self) -> Mode {
        self.mode
    }
}
