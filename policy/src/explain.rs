//! Why a connection is allowed or refused, and what each rule of the document lacked.
//!
//! The verdict is the engine's own: the same functions are asked, in the order in which the data plane asks
//! them. What a rule lacks is found by looking at the rule alone, so that near misses can be named.
//!
//! INVARIANT(lacks): the rules that lack nothing are exactly those that would allow it alone.

mod anywhere;
mod lack;
mod near;
mod rule;

use std::net::{IpAddr, SocketAddr};

use serde::{Serialize, Serializer};

use crate::client_hello::{HelloError, Progress, Reader};
use crate::{
    Cidr, Decision, Destination, Document, ConnectionOutcome, StartOutcome, ConnectionStart, Policy, PolicyError, Protocol,
    ReasonCode, Request, Rule, RuleId,
};

pub use self::lack::{Mismatch, RouteEvaluation, RouteMismatch};
pub use self::near::{NearHost, Nearness};

/// A connection, as far as it is known.
#[derive(Debug, Clone, Copy)]
pub struct Question<'a> {
    /// The address that is dialled; `None`: not known. Then the answer is about one that no rule lists.
    pub address: Option<IpAddr>,
    /// The port that is dialled.
    pub port: u16,
    /// The port of the outbound listener: a connection to it was not intercepted.
    pub listener_port: u16,
    /// What the workload sends.
    pub traffic: Traffic<'a>,
}

/// What a workload sends first.
#[derive(Debug, Clone, Copy)]
pub enum Traffic<'a> {
    /// A TLS ClientHello.
    Tls {
        /// The server name.
        server_name: Option<&'a str>,
        /// Whether it carries an encrypted one.
        encrypted: bool,
    },
    /// What begins like TLS and is not: [`ReasonCode::TlsMalformed`] or `TlsOversize`.
    BrokenTls(ReasonCode),
    /// A plaintext HTTP request.
    Http(&'a Request<'a>),
    /// One that the proxy itself refuses before any policy is asked, and why.
    Rejected(ReasonCode),
    /// Bytes that are neither.
    Other,
    /// Nothing: it waits for the server.
    Silence,
}

/// Whether it may leave.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// It may.
    Allow,
    /// It may not.
    Deny,
}

/// What decided, of what the data plane learns one after the other.
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

/// The answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Explanation {
    /// Whether it may leave.
    pub verdict: Verdict,
    /// What decided.
    pub stage: Stage,
    /// The reason code; `None`: the connection counts as HTTP, and Envoy itself refuses what is none.
    pub reason: Option<ReasonCode>,
    /// In audit mode, the refusal that is not acted on.
    pub would_refuse: Option<ReasonCode>,
    /// The rule, or the service of the mesh, that decided or came nearest.
    pub rule: Option<RuleId>,
    /// Where it goes, if it may.
    pub destination: Option<Destination>,
    /// The cluster of the rule, where it has one of its own.
    pub cluster: Option<String>,
    /// The address that was asked about: the one dialled, or one that stands for those that no rule lists.
    pub address: IpAddr,
    /// Whether another address could have another answer: a rule of the port, or the mesh, lists some.
    pub address_matters: bool,
    /// Each rule of the document, the nearest first.
    pub rules: Vec<RuleEvaluation>,
}

/// What became of a rule.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct RuleEvaluation {
    /// The Egress object: `namespace/name`.
    pub policy: String,
    /// The part of it: `spec.ports[0]`.
    pub rule: String,
    /// Its port.
    pub port: u16,
    /// Its protocol.
    pub protocol: Protocol,
    /// What it lacks; nothing: it allows the connection.
    pub mismatches: Vec<Mismatch>,
    /// Whether it has anything in common with the connection.
    #[serde(skip)]
    related: bool,
}

impl RuleEvaluation {
    /// Whether the rule allows the connection.
    #[must_use]
    pub fn allows(&self) -> bool {
        self.mismatches.is_empty()
    }

    /// Whether it would, if another address were dialled.
    #[must_use]
    pub fn mismatches_only_address(&self) -> bool {
        matches!(*self.mismatches, [Mismatch::Address { .. }])
    }

    /// How far it is from allowing the connection.
    #[must_use]
    pub fn distance(&self) -> u32 {
        let more = if self.related { 0 } else { lack::UNRELATED };
        self.mismatches.iter().map(Mismatch::distance).fold(more, u32::saturating_add)
    }

    /// Whether it is about something else.
    #[must_use]
    pub fn is_unrelated(&self) -> bool {
        self.distance() >= lack::UNRELATED
    }
}

/// A document that answers questions.
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

    /// Answers.
    #[must_use]
    pub fn explain(&self, question: &Question<'_>) -> Explanation {
        let mut answer = self.answer(question);
        let beyond = answer.reason.and_then(beyond_rules);
        let rulings = self.document.rules.iter();
        answer.rules = rulings.map(|rule| ruling(rule, question, answer.address, beyond.clone())).collect();
        // Stable: of rules that are equally near, the first of the document stays the first.
        answer.rules.sort_by_key(RuleEvaluation::distance);
        answer
    }

    /// Answers without a look at what rules lack, which takes long where there are many names.
    #[must_use]
    pub fn answer(&self, question: &Question<'_>) -> Explanation {
        let blocks = anywhere::listed(&self.document, question.port);
        let address = match question.address {
            Some(address) => address.to_canonical(),
            None => self.anywhere(question, &blocks),
        };
        let (stage, decision) = self.decide(question, address);
        let permit = match &decision {
            Some(Decision::Allow(permit)) => Some(permit),
            Some(Decision::Deny(_)) | None => None,
        };
        Explanation {
            verdict: if permit.is_some() { Verdict::Allow } else { Verdict::Deny },
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

    /// Asks the engine as the data plane does. No decision: what counts as HTTP is none.
    fn decide(&self, question: &Question<'_>, address: IpAddr) -> (Stage, Option<Decision<'_>>) {
        let to = SocketAddr::new(address, question.port);
        if question.port == question.listener_port {
            return (Stage::Connection, Some(Decision::Deny(ReasonCode::NotIntercepted.into())));
        }
        if let ConnectionOutcome::Decided(decision) = self.policy.decide_connection(to) {
            return (Stage::Connection, Some(decision));
        }
        // The engine gets names in lower case, as the reader of ClientHellos gives them.
        let name = match question.traffic {
            Traffic::Tls { server_name, .. } => server_name.map(str::to_ascii_lowercase),
            Traffic::BrokenTls(_)
            | Traffic::Http(_)
            | Traffic::Rejected(_)
            | Traffic::Other
            | Traffic::Silence => None,
        };
        let opening = match question.traffic {
            Traffic::Tls { server_name: _, encrypted } => {
                ConnectionStart::Tls { server_name: name.as_deref(), encrypted }
            }
            Traffic::BrokenTls(reason) => ConnectionStart::BrokenTls(reason),
            Traffic::Http(_) | Traffic::Rejected(_) | Traffic::Other => ConnectionStart::NotTls,
            Traffic::Silence => ConnectionStart::TimedOut,
        };
        match (self.policy.decide_start(to, opening), question.traffic) {
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

    /// An address for a question that names none: one that nothing lists. Where everything is listed, one
    /// for which the answer is no, if there is any.
    fn anywhere(&self, question: &Question<'_>, blocks: &[Cidr]) -> IpAddr {
        anywhere::unlisted(blocks).unwrap_or_else(|| {
            let allowed = |address: IpAddr| {
                matches!(self.decide(question, address), (_, Some(decision)) if decision.is_allowed())
            };
            let parts = anywhere::each_part(&self.document, question.port, blocks);
            let refused = parts.iter().find(|address| !allowed(**address));
            refused.or(parts.first()).copied().unwrap_or(anywhere::FIRST)
        })
    }
}

/// What every rule lacks where none is looked at, and the connection is not let through for want of rules.
fn beyond_rules(reason: ReasonCode) -> Option<Mismatch> {
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

fn ruling(rule: &Rule, question: &Question<'_>, address: IpAddr, beyond: Option<Mismatch>) -> RuleEvaluation {
    let Rule { policy, name, port, protocol, .. } = rule;
    let mut lacks: Vec<Mismatch> = beyond.into_iter().collect();
    lacks.extend(rule::lacks(rule, question, address));
    let related = port.get() == question.port || rule::has_in_common(rule, question);
    RuleEvaluation {
        policy: policy.clone(),
        rule: name.clone(),
        port: port.get(),
        protocol: *protocol,
        lacks,
        related,
    }
}

/// The first bytes of a connection, read as the filter reads them when no more come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FirstBytes {
    /// A TLS ClientHello.
    Tls {
        /// The server name.
        server_name: Option<Box<str>>,
        /// Whether it carries an encrypted one.
        encrypted: bool,
    },
    /// What begins like TLS and is not, and why.
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

    /// The same as traffic.
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
