//! The compiled policy of one identity, and its three questions.
//!
//! A connection is asked about as the data plane learns more: first with port and address alone
//! ([`Policy::connection`]), then with its first bytes ([`Policy::opening`]), then, for plaintext
//! HTTP, with each request ([`Policy::request`]).

mod index;
mod routes;

use std::net::{IpAddr, SocketAddr};

use rustc_hash::FxHashMap;

use self::index::{Names, PortIndex};
use self::routes::Routes;
pub use self::routes::{Headers, Request};
use crate::authority::{Authority, AuthorityHost};
use crate::decision::{Decision, Destination, Grant, Permit, Refusal, RuleId};
use crate::{Cidr, Document, Host, Identity, Mode, PatternError, ReasonCode};

/// The compiled policy of one identity.
#[derive(Debug)]
pub struct Policy {
    identity: Identity,
    version: String,
    mode: Mode,
    rules: Vec<CompiledRule>,
    ports: FxHashMap<u16, PortIndex>,
}

#[derive(Debug)]
struct CompiledRule {
    id: RuleId,
    /// `None`: any address.
    addresses: Option<Box<[Cidr]>>,
    /// `None`: any request.
    routes: Option<Routes>,
}

/// What a policy says of a connection before any byte of it was read.
#[derive(Debug, PartialEq, Eq)]
#[must_use]
pub enum OnConnection<'p> {
    /// Port and address decide.
    Decided(Decision<'p>),
    /// The first bytes decide.
    NeedFirstBytes,
}

/// The first bytes of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Opening<'a> {
    /// A TLS ClientHello.
    Tls {
        /// The server name, in lower case.
        server_name: Option<&'a str>,
        /// Whether the real hello, and with it the real name, may be encrypted.
        encrypted: bool,
    },
    /// Something that begins like TLS and is not: [`ReasonCode::TlsMalformed`] or `TlsOversize`.
    BrokenTls(ReasonCode),
    /// Anything else.
    NotTls,
}

/// What a policy says of a connection's first bytes.
#[derive(Debug, PartialEq, Eq)]
#[must_use]
pub enum OnOpening<'p> {
    /// They decide.
    Decided(Decision<'p>),
    /// It is for HTTP: each request is decided for itself.
    EachRequest,
}

/// Why a document cannot be compiled.
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
        let Document { api_version: _, identity, version, mode, rules } = document;
        let mut policy = Self {
            identity,
            version,
            mode,
            rules: Vec::with_capacity(rules.len()),
            ports: FxHashMap::default(),
        };
        for (number, rule) in (0_u32..).zip(rules) {
            let crate::Rule { policy: origin, name, port, protocol, addresses, hosts, routes } = rule;
            let compiled_routes =
                routes.as_deref().map(Routes::new).transpose().map_err(|(route, cause)| PolicyError {
                    policy: origin.clone(),
                    rule: name.clone(),
                    route,
                    cause,
                })?;
            policy.ports.entry(port.get()).or_default().add(
                number,
                protocol,
                addresses.as_deref(),
                hosts.as_deref(),
                compiled_routes.is_some(),
            );
            policy.rules.push(CompiledRule {
                id: RuleId { policy: origin, name },
                addresses: addresses.map(Vec::into_boxed_slice),
                routes: compiled_routes,
            });
        }
        Ok(policy)
    }

    /// Whose policy this is.
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

    /// Decides by the dialled address and port, where they are enough.
    pub fn connection(&self, to: SocketAddr) -> OnConnection<'_> {
        let address = to.ip().to_canonical();
        if let Some(passthrough) = self.passthrough() {
            return OnConnection::Decided(passthrough);
        }
        let Some(port) = self.ports.get(&to.port()) else {
            let reason = if self.rules.is_empty() { ReasonCode::NoPolicy } else { ReasonCode::NoRule };
            return OnConnection::Decided(self.refuse(reason.into()));
        };
        match port.any_bytes.find(address) {
            Some(rule) => OnConnection::Decided(self.allow(rule, Destination::Dialled)),
            None if port.wants_first_bytes(address) => OnConnection::NeedFirstBytes,
            None => OnConnection::Decided(self.refuse(ReasonCode::NoRule.into())),
        }
    }

    /// Decides by the first bytes, for a connection that [`Policy::connection`] left open.
    pub fn opening(&self, to: SocketAddr, opening: Opening<'_>) -> OnOpening<'_> {
        let address = to.ip().to_canonical();
        if let Some(passthrough) = self.passthrough() {
            return OnOpening::Decided(passthrough);
        }
        let Some(port) = self.ports.get(&to.port()) else {
            return OnOpening::Decided(self.refuse(ReasonCode::NoRule.into()));
        };
        let decision = match opening {
            Opening::NotTls if port.http.reaches(address) => return OnOpening::EachRequest,
            Opening::NotTls if port.tls.reaches(address) => self.refuse(ReasonCode::TlsRequired.into()),
            Opening::NotTls => self.refuse(ReasonCode::NoRule.into()),
            Opening::BrokenTls(reason) => self.refuse(reason.into()),
            Opening::Tls { server_name, encrypted } => self.tls(&port.tls, address, server_name, encrypted),
        };
        OnOpening::Decided(decision)
    }

    fn tls(
        &self,
        names: &Names,
        address: IpAddr,
        server_name: Option<&str>,
        encrypted: bool,
    ) -> Decision<'_> {
        if !names.reaches(address) {
            return self.refuse(ReasonCode::NoRule.into());
        }
        if let Some(rule) = names.any_name.find(address) {
            return self.allow(rule, Destination::Dialled);
        }
        if encrypted {
            return self.refuse(ReasonCode::EchRefused.into());
        }
        let Some(name) = server_name else {
            return self.refuse(ReasonCode::SniAbsent.into());
        };
        let Ok(host) = Host::canonical(name) else {
            return self.refuse(ReasonCode::TlsMalformed.into());
        };
        let mut resolved = None;
        let mut named = None;
        for grants in names.of(&host) {
            if let Some(rule) = grants.at(address) {
                return self.allow(rule, Destination::Dialled);
            }
            resolved = least(resolved, grants.anywhere);
            named = least(named, grants.first());
        }
        match (resolved, named) {
            (Some(rule), _) => self.allow(rule, Destination::Resolved(host)),
            (None, Some(rule)) => self.refuse(Refusal { reason: ReasonCode::NoRule, rule: self.id(rule) }),
            (None, None) => self.refuse(ReasonCode::SniNotAllowed.into()),
        }
    }

    /// Decides one HTTP request of a connection to `to`.
    pub fn request(&self, to: SocketAddr, request: &Request<'_>) -> Decision<'_> {
        let address = to.ip().to_canonical();
        if let Some(passthrough) = self.passthrough() {
            return passthrough;
        }
        if request.method == "CONNECT" {
            return self.refuse(ReasonCode::ConnectRefused.into());
        }
        let Some(authority) = request.authority.filter(|text| !text.is_empty()) else {
            return self.refuse(ReasonCode::AuthorityAbsent.into());
        };
        let Some(authority) = Authority::parse(authority) else {
            return self.refuse(ReasonCode::AuthorityMalformed.into());
        };
        if authority.port.is_some_and(|port| port != to.port()) {
            return self.refuse(ReasonCode::AuthorityPortMismatch.into());
        }
        let Some(names) =
            self.ports.get(&to.port()).map(|port| &port.http).filter(|names| names.reaches(address))
        else {
            return self.refuse(ReasonCode::NoRule.into());
        };
        match authority.host {
            AuthorityHost::Name(host) => self.request_by_name(names, address, host, request),
            AuthorityHost::Address(host) => self.request_by_address(names, address, host, request),
        }
    }

    fn request_by_name(
        &self,
        names: &Names,
        address: IpAddr,
        host: Host,
        request: &Request<'_>,
    ) -> Decision<'_> {
        let mut resolved = None;
        let mut named = None;
        for grants in std::iter::once(&names.any_name).chain(names.of(&host)) {
            let by_name = !std::ptr::eq(grants, &names.any_name);
            if let Some(rule) = grants.at(address) {
                return self.allow(rule, Destination::Dialled);
            }
            if by_name {
                resolved = least(resolved, grants.anywhere);
            } else if let Some(rule) = grants.anywhere {
                return self.allow(rule, Destination::Dialled);
            }
            named = least(named, grants.first());
            for &number in &grants.routed {
                let Some(rule) = self.rules.get(number as usize) else { continue };
                if !rule.routes.as_ref().is_some_and(|routes| routes.match_any(host.as_str(), request)) {
                    continue;
                }
                match &rule.addresses {
                    Some(blocks) if blocks.iter().any(|block| block.contains(address)) => {
                        return self.allow(number, Destination::Dialled);
                    }
                    Some(_) => {}
                    None if by_name => resolved = least(resolved, Some(number)),
                    None => return self.allow(number, Destination::Dialled),
                }
            }
        }
        match (resolved, named) {
            (Some(rule), _) => self.allow(rule, Destination::Resolved(host)),
            (None, Some(rule)) => self.refuse(self.near_miss(rule, address)),
            (None, None) => self.refuse(ReasonCode::HostNotAllowed.into()),
        }
    }

    /// A request for a bare address: only rules without names allow it, and only where it was dialled.
    fn request_by_address(
        &self,
        names: &Names,
        address: IpAddr,
        host: IpAddr,
        request: &Request<'_>,
    ) -> Decision<'_> {
        let grants = &names.any_name;
        if host != address {
            return self.refuse(ReasonCode::HostNotAllowed.into());
        }
        if let Some(rule) = grants.find(address) {
            return self.allow(rule, Destination::Dialled);
        }
        let text = request.authority.unwrap_or_default();
        let routed = grants.routed.iter().copied().find(|&number| {
            self.rules.get(number as usize).is_some_and(|rule| {
                rule.routes.as_ref().is_some_and(|routes| routes.match_any(text, request))
                    && rule.addresses.as_ref().is_none_or(|blocks| blocks.iter().any(|b| b.contains(address)))
            })
        });
        match (routed, grants.first()) {
            (Some(rule), _) => self.allow(rule, Destination::Dialled),
            (None, Some(rule)) => self.refuse(self.near_miss(rule, address)),
            (None, None) => self.refuse(ReasonCode::HostNotAllowed.into()),
        }
    }

    /// What a rule lacked that names the host and still did not allow the request.
    fn near_miss(&self, number: u32, address: IpAddr) -> Refusal<'_> {
        let reaches = self.rules.get(number as usize).is_some_and(|rule| {
            rule.addresses.as_ref().is_none_or(|blocks| blocks.iter().any(|block| block.contains(address)))
        });
        let reason = if reaches { ReasonCode::RouteNotAllowed } else { ReasonCode::NoRule };
        Refusal { reason, rule: self.id(number) }
    }

    fn passthrough(&self) -> Option<Decision<'_>> {
        (self.mode == Mode::Passthrough)
            .then_some(Decision::Allow(Permit { by: Grant::Passthrough, to: Destination::Passthrough }))
    }

    fn allow(&self, number: u32, to: Destination) -> Decision<'_> {
        match self.id(number) {
            Some(rule) => Decision::Allow(Permit { by: Grant::Rule(rule), to }),
            // The index only holds numbers of rules; were it otherwise, nothing may get out by it.
            None => Decision::Deny(ReasonCode::PolicyInvalid.into()),
        }
    }

    /// Refuses, or in audit mode lets through what would have been refused.
    fn refuse<'p>(&'p self, refusal: Refusal<'p>) -> Decision<'p> {
        match self.mode {
            Mode::Audit => Decision::Allow(Permit { by: Grant::Audit(refusal), to: Destination::Dialled }),
            Mode::Enforce | Mode::Passthrough => Decision::Deny(refusal),
        }
    }

    fn id(&self, number: u32) -> Option<&RuleId> {
        self.rules.get(number as usize).map(|rule| &rule.id)
    }
}

fn least(a: Option<u32>, b: Option<u32>) -> Option<u32> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (one, None) | (None, one) => one,
    }
}
