//! The explanation of a verdict: why a connection is allowed or refused, and the mismatches of each rule.
//!
//! The verdict is the engine's own: the same functions decide, in the order in which the data plane calls them. The
//! mismatches of a rule are found by evaluating the rule alone, so that near misses can be named.
//!
//! INVARIANT(mismatches): the rules without a mismatch are exactly those that would allow the connection alone.

mod mismatch;
mod near_host;
mod rule_evaluation;
mod unlisted_address;

use std::net::{IpAddr, SocketAddr};

use serde::{Serialize, Serializer};

use crate::client_hello::{HelloError, Progress, Reader};
use crate::{
    Cidr, ConnectionOutcome, ConnectionStart, Decision, Destination, Document, Policy, PolicyError, Protocol,
    ReasonCode, Request, Rule, RuleId, StartOutcome,
};

pub use crate::Verdict;

pub use self::mismatch::{Mismatch, RouteEvaluation, RouteMismatch};
pub use self::near_host::{NearHost, Nearness};

/// A connection to explain, as far as it is known.
#[derive(Debug, Clone, Copy)]
pub struct Question<'a> {
    /// The address of the original destination; `None`: not known. Then the explanation is for one that no rule lists.
    pub address: Option<IpAddr>,
    /// The port of the original destination.
    pub port: u16,
    /// The port of the outbound listener: a connection to it was not intercepted.
    pub listener_port: u16,
    /// The first bytes that the workload sends.
    pub traffic: Traffic<'a>,
}

/// The first bytes that a workload sends.
#[derive(Debug, Clone, Copy)]
pub enum Traffic<'a> {
    /// A TLS ClientHello.
    Tls {
        /// The server name.
        server_name: Option<&'a str>,
        /// It carries an encrypted one.
        encrypted: bool,
    },
    /// Something that begins like TLS and is not: [`ReasonCode::TlsMalformed`] or `TlsOversize`.
    BrokenTls(ReasonCode),
    /// A plaintext HTTP request.
    Http(&'a Request<'a>),
    /// A request that the proxy itself refuses before any policy decides, and the reason.
    Rejected(ReasonCode),
    /// Other bytes.
    Other,
    /// Nothing: the workload waits for the server.
    Silence,
}

/// The stage of a connection at which the decision was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Stage {
    /// Port and address.
    Connection,
    /// The first bytes.
    FirstBytes,
    /// The HTTP request.
    Request,
}

/// The explanation of a verdict.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Explanation {
    /// The verdict.
    pub verdict: Verdict,
    /// The stage that decided.
    pub stage: Stage,
    /// The reason code; `None`: the connection is treated as HTTP, and Envoy itself refuses bytes that are not.
    pub reason: Option<ReasonCode>,
    /// In audit mode, the reason of the refusal that is not enforced.
    pub would_refuse: Option<ReasonCode>,
    /// The rule, or the service of the mesh, that decided or nearly allowed it.
    pub rule: Option<RuleId>,
    /// The destination, if it is allowed.
    pub destination: Option<Destination>,
    /// The cluster of the rule, if it has one of its own.
    pub cluster: Option<String>,
    /// The address that was evaluated: the original destination, or one that represents those that no rule lists.
    pub address: IpAddr,
    /// The verdict could differ for another address: a rule of the port, or the mesh, lists some.
    pub address_matters: bool,
    /// Each rule of the document, the one nearest to allowing the connection first.
    pub rules: Vec<RuleEvaluation>,
}

/// The evaluation of one rule for one connection.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct RuleEvaluation {
    /// The Egress object: `namespace/name`.
    pub policy: String,
    /// The part of that object: `spec.ports[0]`.
    pub rule: String,
    /// Its port.
    pub port: u16,
    /// Its protocol.
    pub protocol: Protocol,
    /// The reasons why it does not allow the connection; none: it does.
    pub mismatches: Vec<Mismatch>,
    /// It has something in common with the connection.
    #[serde(skip)]
    related: bool,
}

impl RuleEvaluation {
    /// Returns whether the rule allows the connection.
    #[must_use]
    pub fn allows(&self) -> bool {
        self.mismatches.is_empty()
    }

    /// Returns whether the rule would allow it with another original destination.
    #[must_use]
    pub fn mismatches_only_address(&self) -> bool {
        matches!(*self.mismatches, [Mismatch::Address { .. }])
    }

    /// The distance from allowing the connection.
    #[must_use]
    pub fn distance(&self) -> u32 {
        let base = if self.related { 0 } else { mismatch::UNRELATED };
        self.mismatches.iter().map(Mismatch::distance).fold(base, u32::saturating_add)
    }

    /// Returns whether the rule concerns another kind of connection.
    #[must_use]
    pub fn is_unrelated(&self) -> bool {
        self.distance() >= mismatch::UNRELATED
    }
}

/// A document, compiled to explain verdicts.
///
/// ```
/// use egress_policy::explain::{Explainer, Question, Traffic, Verdict};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let explainer = Explainer::new(egress_policy::Document::from_json(
///     r#"{
///         "apiVersion": "egress-policy/v1", "version": "7", "mode": "enforce",
///         "identity": {"namespace": "shop", "serviceAccount": "cart"},
///         "rules": [{"policy": "shop/cart", "name": "spec.ports[0]", "port": 443, "protocol": "https", "hosts": ["api.example.com"]}]
///     }"#,
/// )?)?;
/// let traffic = Traffic::Tls { server_name: Some("example.com"), encrypted: false };
/// let explanation = explainer.explain(&Question { address: None, port: 443, listener_port: 15001, traffic });
/// assert_eq!(explanation.verdict, Verdict::Deny);
/// assert_eq!(explanation.rules[0].mismatches[0].to_string(), "does not list `example.com`: it lists `api.example.com`, a name below it");
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Explainer {
    document: Document,
    policy: Policy,
}

impl Explainer {
    /// Compiles a document.
    ///
    /// # Errors
    /// When a pattern in it does not compile.
    pub fn new(document: Document) -> Result<Self, PolicyError> {
        let policy = Policy::new(document.clone())?;
        Ok(Self { document, policy })
    }

    /// The document.
    #[must_use]
    pub fn document(&self) -> &Document {
        &self.document
    }

    /// Explains the verdict, with the mismatches of each rule.
    #[must_use]
    pub fn explain(&self, question: &Question<'_>) -> Explanation {
        let mut answer = self.answer(question);
        let skipped = answer.reason.and_then(mismatch_of_all);
        let rules = self.document.rules.iter();
        answer.rules =
            rules.map(|rule| evaluate_rule(rule, question, answer.address, skipped.clone())).collect();
        // A stable sort: of rules at the same distance, the first of the document stays the first.
        answer.rules.sort_by_key(RuleEvaluation::distance);
        answer
    }

    /// Explains the verdict without mismatches, which take long to find where there are many names.
    #[must_use]
    pub fn answer(&self, question: &Question<'_>) -> Explanation {
        let blocks = unlisted_address::listed_blocks(&self.document, question.port);
        let address = match question.address {
            Some(address) => address.to_canonical(),
            None => self.representative_address(question, &blocks),
        };
        let (stage, decision) = self.decide(question, address);
        let permit = match &decision {
            Some(Decision::Allow(permit)) => Some(permit),
            Some(Decision::Deny(_)) | None => None,
        };
        Explanation {
            verdict: decision.as_ref().map_or(Verdict::Deny, Decision::verdict),
            stage,
            reason: decision.as_ref().map(Decision::reason),
            would_refuse: decision.as_ref().and_then(Decision::would_refuse),
            rule: decision.as_ref().and_then(Decision::rule).cloned(),
            destination: permit.map(|permit| permit.to.clone()),
            cluster: permit.and_then(|permit| permit.cluster).map(str::to_owned),
            address,
            address_matters: !blocks.is_empty(),
            rules: Vec::new(),
        }
    }

    /// Decides as the data plane does. Returns no decision for bytes that are treated as HTTP and are not.
    fn decide(&self, question: &Question<'_>, address: IpAddr) -> (Stage, Option<Decision<'_>>) {
        let to = SocketAddr::new(address, question.port);
        if question.port == question.listener_port {
            return (Stage::Connection, Some(Decision::Deny(ReasonCode::NotIntercepted.into())));
        }
        if let ConnectionOutcome::Decided(decision) = self.policy.decide_connection(to) {
            return (Stage::Connection, Some(decision));
        }
        // The engine expects names in lower case, as the reader of ClientHellos returns them.
        let name = match question.traffic {
            Traffic::Tls { server_name, .. } => server_name.map(str::to_ascii_lowercase),
            Traffic::BrokenTls(_)
            | Traffic::Http(_)
            | Traffic::Rejected(_)
            | Traffic::Other
            | Traffic::Silence => None,
        };
        let start = match question.traffic {
            Traffic::Tls { server_name: _, encrypted } => {
                ConnectionStart::Tls { server_name: name.as_deref(), encrypted }
            }
            Traffic::BrokenTls(reason) => ConnectionStart::BrokenTls(reason),
            Traffic::Http(_) | Traffic::Rejected(_) | Traffic::Other => ConnectionStart::NotTls,
            Traffic::Silence => ConnectionStart::TimedOut,
        };
        match (self.policy.decide_start(to, start), question.traffic) {
            (StartOutcome::Decided(decision), _) => (Stage::FirstBytes, Some(decision)),
            (StartOutcome::EachRequest, Traffic::Http(request)) => {
                (Stage::Request, Some(self.policy.decide_request(to, request)))
            }
            (StartOutcome::EachRequest, Traffic::Rejected(reason)) => {
                (Stage::Request, Some(Decision::Deny(reason.into())))
            }
            (
                StartOutcome::EachRequest,
                Traffic::Tls { .. } | Traffic::BrokenTls(_) | Traffic::Other | Traffic::Silence,
            ) => (Stage::Request, None),
        }
    }

    /// Finds an address for a question that names none: one that nothing lists. Where everything is listed, one that is
    /// refused, if there is any.
    fn representative_address(&self, question: &Question<'_>, blocks: &[Cidr]) -> IpAddr {
        unlisted_address::first_unlisted(blocks).unwrap_or_else(|| {
            let allowed = |address: IpAddr| {
                matches!(self.decide(question, address), (_, Some(decision)) if decision.is_allowed())
            };
            let parts = unlisted_address::each_part(&self.document, question.port, blocks);
            let refused = parts.iter().find(|address| !allowed(**address));
            refused.or(parts.first()).copied().unwrap_or(unlisted_address::SEARCH_START)
        })
    }
}

/// Returns the mismatch that all rules share where the decision was made without them.
fn mismatch_of_all(reason: ReasonCode) -> Option<Mismatch> {
    match reason {
        ReasonCode::NotIntercepted => Some(Mismatch::Interception),
        ReasonCode::InMesh | ReasonCode::InMeshDenied => Some(Mismatch::Egress),
        ReasonCode::Rule
        | ReasonCode::Passthrough
        | ReasonCode::Audit
        | ReasonCode::NoPolicy
        | ReasonCode::NoRule
        | ReasonCode::TlsRequired
        | ReasonCode::TlsMalformed
        | ReasonCode::TlsOversize
        | ReasonCode::FirstBytesTimeout
        | ReasonCode::TooManyPending
        | ReasonCode::SniAbsent
        | ReasonCode::SniNotAllowed
        | ReasonCode::EchRefused
        | ReasonCode::AuthorityAbsent
        | ReasonCode::AuthorityMalformed
        | ReasonCode::AuthorityPortMismatch
        | ReasonCode::HostNotAllowed
        | ReasonCode::RouteNotAllowed
        | ReasonCode::EncodedSlash
        | ReasonCode::PathRefused
        | ReasonCode::RequestMalformed
        | ReasonCode::HeadersTooLarge
        | ReasonCode::ConnectRefused
        | ReasonCode::UpgradeRefused
        | ReasonCode::AddressForbidden
        | ReasonCode::NameNotFound
        | ReasonCode::DnsFailed
        | ReasonCode::NameUnresolved
        | ReasonCode::SelfIntercepted
        | ReasonCode::PolicyInvalid
        | ReasonCode::Revoked => None,
    }
}

fn evaluate_rule(
    rule: &Rule,
    question: &Question<'_>,
    address: IpAddr,
    skipped: Option<Mismatch>,
) -> RuleEvaluation {
    let Rule { policy, name, port, protocol, .. } = rule;
    let mut mismatches: Vec<Mismatch> = skipped.into_iter().collect();
    mismatches.extend(rule_evaluation::find_mismatches(rule, question, address));
    let related = port.get() == question.port || rule_evaluation::has_in_common(rule, question);
    RuleEvaluation {
        policy: policy.clone(),
        rule: name.clone(),
        port: port.get(),
        protocol: *protocol,
        mismatches,
        related,
    }
}

/// The first bytes of a connection, as the filter reads them when no more follow.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FirstBytes {
    /// A TLS ClientHello.
    Tls {
        /// The server name.
        server_name: Option<Box<str>>,
        /// It carries an encrypted one.
        encrypted: bool,
    },
    /// Something that begins like TLS and is not, and the reason.
    BrokenTls(HelloError),
    /// Anything else.
    NotTls,
}

impl FirstBytes {
    /// Reads bytes.
    #[must_use]
    pub fn read(bytes: &[u8]) -> Self {
        match Reader::default().feed(bytes) {
            Progress::Hello(hello) => {
                Self::Tls { server_name: hello.server_name, encrypted: hello.encrypted }
            }
            Progress::NotTls => Self::NotTls,
            Progress::Malformed(error) => Self::BrokenTls(error),
            Progress::More => Self::BrokenTls(HelloError::Malformed("the connection ended")),
        }
    }

    /// The traffic that these bytes are.
    #[must_use]
    pub fn traffic(&self) -> Traffic<'_> {
        match self {
            Self::Tls { server_name, encrypted } => {
                Traffic::Tls { server_name: server_name.as_deref(), encrypted: *encrypted }
            }
            Self::BrokenTls(HelloError::Oversize) => Traffic::BrokenTls(ReasonCode::TlsOversize),
            Self::BrokenTls(HelloError::Malformed(_)) => Traffic::BrokenTls(ReasonCode::TlsMalformed),
            Self::NotTls => Traffic::Other,
        }
    }
}

impl Serialize for ReasonCode {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}
