//! May this leave, why, and what would have to be different: what `osm-egress explain` and the playground say.
//!
//! The verdict is the engine's ([`egress_policy::explain`]); here it is put beside the objects that it comes
//! from, the proxies that it is for, and what was probably meant.

pub mod call;
mod envoy;
pub mod evidence;
pub mod expected;
pub mod form;
mod hints;
pub mod proxies;
mod text;

use std::net::IpAddr;

use egress_policy::explain::{Explainer, Explanation, Question, RuleEvaluation, Stage, Verdict};
use egress_policy::{Cidr, Destination, HostMatch, Identity, Mode, PolicyError, ReasonCode};
use serde::Serialize;

use self::call::Call;
use self::evidence::{Evidence, Place};
use self::proxies::Proxies;
use crate::blocked_ranges::BlockedRanges;
use crate::manifest::Problem;
use crate::{Condition, cluster};

/// What is asked.
#[derive(Debug, Clone)]
pub struct Ask {
    /// By whom.
    pub identity: Identity,
    /// What it does.
    pub call: Call,
    /// The addresses that it may dial; none: they are not known.
    pub addresses: Vec<IpAddr>,
    /// Whether this machine's resolver said so; then names lead there too.
    pub resolved: bool,
    /// The port of the outbound listener.
    pub listener_port: u16,
    /// Where names must not lead.
    pub blocked: BlockedRanges,
}

/// Why there is no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ExplainError {
    /// The document that is asked is another's.
    #[error("the document is {whose}'s, not {asked}'s")]
    Others {
        /// Whose it is.
        whose: Identity,
        /// Who was asked about.
        asked: Identity,
    },
    /// The document cannot be used.
    #[error(transparent)]
    Policy(#[from] PolicyError),
}

/// The answer.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    /// Who asks: `namespace/service-account`.
    pub identity: String,
    /// What is asked, in a line.
    pub connection: String,
    /// The address that is dialled, where it is known.
    pub address: Option<IpAddr>,
    /// Whether it may leave.
    pub verdict: Verdict,
    /// The reason code; `null`: it counts as HTTP and is none, and Envoy refuses it itself.
    pub reason: Option<ReasonCode>,
    /// What that means.
    pub meaning: &'static str,
    /// What decided.
    pub stage: Stage,
    /// In audit mode, the reason for which it would be refused.
    pub would_refuse: Option<ReasonCode>,
    /// What happens to what no rule allows.
    pub mode: Mode,
    /// The version of the document that was asked.
    pub document: String,
    /// The policy that decided, or came nearest; or the service of the mesh.
    pub policy: Option<String>,
    /// The part of it.
    pub rule: Option<String>,
    /// Where that stands.
    #[serde(flatten)]
    pub place: Option<Place>,
    /// Where the connection goes, if it may.
    pub goes_to: Option<GoesTo>,
    /// Where the address is not known: the rules that allow some.
    pub allowed_at: Vec<AllowedAt>,
    /// Each rule, the nearest first.
    pub rules: Vec<PlacedRuling>,
    /// The policies that name this identity and are not accepted as a whole.
    pub not_accepted: Vec<Condition>,
    /// What cannot be read.
    pub unreadable: Vec<Problem>,
    /// What was probably meant.
    pub hints: Vec<String>,
    /// What there is to know besides.
    pub notes: Vec<String>,
    /// Who has this document, where that was asked.
    pub proxies: Option<Proxies>,
}

/// The answer, and in words what each rule of it lacks: for pages that show both.
#[derive(Debug, Clone, Serialize)]
pub struct InWords {
    report: Report,
    rules: Vec<RuleInWords>,
}

#[derive(Debug, Clone, Serialize)]
struct RuleInWords {
    mismatches: Vec<String>,
    /// It has little in common with what is asked.
    unrelated: bool,
}

impl From<Report> for InWords {
    fn from(report: Report) -> Self {
        let in_words = |PlacedRuling { ruling, .. }: &PlacedRuling| RuleInWords {
            mismatches: ruling.mismatches.iter().map(ToString::to_string).collect(),
            unrelated: ruling.is_unrelated(),
        };
        Self { rules: report.rules.iter().map(in_words).collect(), report }
    }
}

/// Where an allowed connection goes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct GoesTo {
    /// How that is found.
    pub how: How,
    /// The name that the sidecar resolves.
    pub host: Option<String>,
    /// The port.
    pub port: u16,
    /// Envoy's cluster.
    pub cluster: String,
}

/// How the address of an allowed connection is found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum How {
    /// It is the one that was dialled.
    Dialled,
    /// The sidecar resolves the name.
    Resolved,
    /// It is the one that was dialled, by global egress.
    Passthrough,
}

/// A rule that allows some addresses.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct AllowedAt {
    /// Its policy.
    pub policy: String,
    /// The part of it.
    pub rule: String,
    /// Its blocks of addresses.
    pub addresses: Vec<String>,
}

/// A rule, and where it stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PlacedRuling {
    /// The rule.
    #[serde(flatten)]
    pub ruling: RuleEvaluation,
    /// Where it stands.
    #[serde(flatten)]
    pub place: Option<Place>,
}

impl Report {
    /// Whether it may leave.
    #[must_use]
    pub fn is_allowed(&self) -> bool {
        self.verdict == Verdict::Allow
    }

    /// The report as JSON.
    #[must_use]
    pub fn to_json(&self) -> serde_json::Value {
        serde_json::json!(self)
    }
}

/// Answers.
///
/// # Errors
/// When the document is another's, or does not compile.
pub fn explain(evidence: &Evidence, ask: &Ask) -> Result<Report, ExplainError> {
    let document = evidence.document(&ask.identity)?;
    let explainer = Explainer::new(document.as_ref().clone())?;
    let answer = |address: Option<IpAddr>| {
        ask.call.with_traffic(|traffic| {
            let (port, listener_port) = (ask.call.port, ask.listener_port);
            explainer.explain(&Question { address, port, listener_port, traffic })
        })
    };
    let address = ask.addresses.first().copied();
    let explanation = answer(address);
    let mut notes = ask.call.notes.clone();
    for other in ask.addresses.iter().skip(1) {
        let else_where = answer(Some(*other));
        if (else_where.verdict, else_where.reason) != (explanation.verdict, explanation.reason) {
            notes.push(format!("at {other} the answer is {}", in_short(&else_where)));
        }
    }
    notes.extend(about(ask, &explanation, document.mode));
    let forbidden = forbidden(ask, &explanation);
    notes.extend(forbidden.iter().map(|address| {
        format!("a name must not lead to {address}: the sidecar drops that answer (`address-forbidden`)")
    }));
    let leads_nowhere = ask.resolved && !forbidden.is_empty() && forbidden.len() == ask.addresses.len();
    notes.extend(evidence.notes(&ask.identity));

    let Explanation { stage, would_refuse, rule, .. } = explanation.clone();
    let (verdict, reason) = if leads_nowhere {
        (Verdict::Deny, Some(ReasonCode::AddressForbidden))
    } else {
        (explanation.verdict, explanation.reason)
    };
    let (policy, rule) = rule.map(|id| (id.policy, id.name)).unzip();
    let places = evidence.places();
    let place = policy.as_ref().zip(rule.as_ref()).and_then(|(policy, rule)| places.of(policy, rule));
    let not_accepted = evidence.not_accepted(&ask.identity);
    let hints = hints::hints(ask, &explanation, evidence);
    let unknown = address.is_none() && !explanation.rules.iter().any(RuleEvaluation::allows);
    let allowed_at = explanation
        .rules
        .iter()
        .filter(|rule| unknown && rule.mismatches_only_address())
        .map(|rule| allowed_at(rule, &document))
        .collect();
    Ok(Report {
        identity: ask.identity.to_string(),
        connection: ask.call.text.clone(),
        address,
        verdict,
        reason,
        meaning: reason.map_or(NOT_HTTP, |reason| reason.meaning().trim()),
        stage,
        would_refuse,
        mode: document.mode,
        document: document.version.clone(),
        policy,
        rule,
        place,
        goes_to: if verdict == Verdict::Allow { goes_to(&explanation, ask.call.port) } else { None },
        allowed_at,
        rules: explanation
            .rules
            .into_iter()
            .map(|ruling| PlacedRuling { place: places.of(&ruling.policy, &ruling.rule), ruling })
            .collect(),
        not_accepted,
        unreadable: evidence.unreadable(),
        hints,
        notes,
        proxies: None,
    })
}

const NOT_HTTP: &str =
    "The port is for HTTP, and this is no request that Envoy's parser takes: it answers 400 itself.";

/// The verdict and its reason.
fn in_short(explanation: &Explanation) -> String {
    let verdict = match explanation.verdict {
        Verdict::Allow => "allowed",
        Verdict::Deny => "denied",
    };
    match explanation.reason {
        Some(reason) => format!("{verdict} ({reason})"),
        None => verdict.to_owned(),
    }
}

fn goes_to(explanation: &Explanation, port: u16) -> Option<GoesTo> {
    let own = explanation.cluster.clone();
    let (how, host, shared) = match explanation.destination.as_ref()? {
        Destination::Original => (How::Dialled, None, cluster::ORIGINAL_DST),
        Destination::Resolved(host, HostMatch::Exact) => (How::Resolved, Some(host), cluster::DNS),
        Destination::Resolved(host, HostMatch::Wildcard) => {
            (How::Resolved, Some(host), cluster::DNS_WILDCARD)
        }
        Destination::Passthrough => (How::Passthrough, None, cluster::PASSTHROUGH),
    };
    let cluster = own.unwrap_or_else(|| shared.to_owned());
    Some(GoesTo { how, host: host.map(ToString::to_string), port, cluster })
}

/// What there is to know about an answer.
fn about(ask: &Ask, explanation: &Explanation, mode: Mode) -> Vec<String> {
    let mut notes = Vec::new();
    if ask.resolved {
        notes.push(
            "addresses are this machine's answers: the workload's name server may give others".to_owned(),
        );
    }
    match &explanation.destination {
        Some(Destination::Resolved(name, matched)) => {
            let inside = match matched {
                HostMatch::Exact => "",
                HostMatch::Wildcard => ", and for a name that only a wildcard lists, private networks",
            };
            notes.push(format!(
                "the sidecar resolves `{name}` itself, whatever address was dialled, and drops answers such as \
                 loopback, link-local and metadata addresses{inside}"
            ));
        }
        Some(Destination::Original | Destination::Passthrough)
            if ask.call.visible_name().is_some() && ask.call.name.is_some() =>
        {
            notes.push("it goes to the address that was dialled: the name does not choose it".to_owned());
        }
        Some(Destination::Original | Destination::Passthrough) | None => {}
    }
    if ask.addresses.is_empty() && explanation.address_matters {
        notes.push(
            "the dialled address is not known: this is the answer for one that no rule and no service of the \
             mesh lists (`address` says which it is; on the command line `--resolve` asks for it)"
                .to_owned(),
        );
    }
    if ask.addresses.iter().any(IpAddr::is_loopback) {
        notes.push("connections to loopback are not intercepted: nothing decides about them".to_owned());
    }
    if mode == Mode::Passthrough && explanation.verdict == Verdict::Allow {
        notes.push("global egress is on for this identity: its policies are not looked at".to_owned());
    }
    notes
}

/// The addresses of an allowed name to which a name must not lead.
fn forbidden(ask: &Ask, explanation: &Explanation) -> Vec<IpAddr> {
    match &explanation.destination {
        Some(Destination::Resolved(_, matched)) => {
            let is_blocked = |address: &IpAddr| ask.blocked.contain(*matched, *address);
            ask.addresses.iter().copied().filter(is_blocked).collect()
        }
        Some(Destination::Original | Destination::Passthrough) | None => Vec::new(),
    }
}

fn allowed_at(ruling: &RuleEvaluation, document: &egress_policy::Document) -> AllowedAt {
    let rules = document.rules.iter();
    let same = rules.filter(|rule| rule.policy == ruling.policy && rule.name == ruling.rule);
    let mut addresses: Vec<String> = same
        .flat_map(|rule| rule.addresses.iter().flat_map(|blocks| blocks.iter()))
        .map(Cidr::to_string)
        .collect();
    addresses.dedup();
    AllowedAt { policy: ruling.policy.clone(), rule: ruling.rule.clone(), addresses }
}
