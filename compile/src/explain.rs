//! Explains the verdict on one connection: `osm-egress explain` and the playground.
//!
//! The verdict is the engine's ([`egress_policy::explain`]). This module adds the objects that it follows from,
//! the proxies that it applies to, and hints.

mod hints;
mod http_request;
pub mod policy_source;
pub mod probe;
pub mod probe_form;
pub mod proxies;
pub mod test_case;
mod text;

use std::net::IpAddr;

use egress_policy::explain::{Explainer, Explanation, Question, RuleEvaluation, Stage, Verdict};
use egress_policy::{Cidr, Destination, HostMatch, Identity, Mode, PolicyError, ReasonCode};
use serde::Serialize;

use self::policy_source::{PolicySource, SourceLocation};
use self::probe::Probe;
use self::proxies::Proxies;
use crate::blocked_ranges::BlockedRanges;
use crate::manifest::Diagnostic;
use crate::{ObjectStatus, cluster};

/// The connection to explain.
#[derive(Debug, Clone)]
pub struct ExplainRequest {
    /// The identity of the workload.
    pub identity: Identity,
    /// The connection or request of the workload.
    pub probe: Probe,
    /// The addresses that it may dial; empty if they are unknown.
    pub addresses: Vec<IpAddr>,
    /// True if this machine's resolver returned the addresses; the name then resolves to them.
    pub resolved: bool,
    /// The port of the outbound listener.
    pub listener_port: u16,
    /// The addresses that a name may not resolve to.
    pub blocked: BlockedRanges,
}

/// The error if there is no report.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ExplainError {
    /// The policy document belongs to another identity.
    #[error("the document belongs to {owner}, not to {requested}")]
    WrongIdentity {
        /// The identity of the document.
        owner: Identity,
        /// The identity in the request.
        requested: Identity,
    },
    /// The document is invalid.
    #[error(transparent)]
    Policy(#[from] PolicyError),
}

/// The report about one connection.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    /// The identity: `namespace/service-account`.
    pub identity: String,
    /// The connection, in one line.
    pub connection: String,
    /// The original destination address, if known.
    pub address: Option<IpAddr>,
    /// The verdict.
    pub verdict: Verdict,
    /// The reason code. `null`: the port expects HTTP, and Envoy itself rejects what was sent.
    pub reason: Option<ReasonCode>,
    /// The meaning of the reason code.
    pub meaning: &'static str,
    /// The stage at which the decision was made.
    pub stage: Stage,
    /// The reason code of the refusal in enforce mode, if the mode is audit.
    pub would_refuse: Option<ReasonCode>,
    /// The mode of the identity.
    pub mode: Mode,
    /// The version of the policy document.
    pub document: String,
    /// The policy that decided or is nearest, or the service of the mesh.
    pub policy: Option<String>,
    /// The rule in that policy.
    pub rule: Option<String>,
    /// The location of that rule.
    #[serde(flatten)]
    pub location: Option<SourceLocation>,
    /// The route of an allowed connection.
    pub route: Option<Route>,
    /// The rules that allow some addresses, if the address is unknown.
    pub allowed_at: Vec<AddressGrant>,
    /// The evaluation of each rule, the nearest first.
    pub rules: Vec<RuleReport>,
    /// The policies for this identity that were not accepted as a whole.
    pub not_accepted: Vec<ObjectStatus>,
    /// Diagnostics about files that cannot be read.
    pub unreadable: Vec<Diagnostic>,
    /// Suggestions of what was probably meant.
    pub hints: Vec<String>,
    /// Further notes.
    pub notes: Vec<String>,
    /// The proxies with this document, if a control plane was asked.
    pub proxies: Option<Proxies>,
}

/// A report, and the mismatches of each rule as text, for web pages that show both.
#[derive(Debug, Clone, Serialize)]
pub struct ReportText {
    report: Report,
    rules: Vec<RuleText>,
}

#[derive(Debug, Clone, Serialize)]
struct RuleText {
    mismatches: Vec<String>,
    /// True if the rule has little in common with the connection.
    unrelated: bool,
}

impl From<Report> for ReportText {
    fn from(report: Report) -> Self {
        let rule_text = |RuleReport { evaluation, .. }: &RuleReport| RuleText {
            mismatches: evaluation.mismatches.iter().map(ToString::to_string).collect(),
            unrelated: evaluation.is_unrelated(),
        };
        Self { rules: report.rules.iter().map(rule_text).collect(), report }
    }
}

/// The route of an allowed connection.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Route {
    /// The source of the destination address.
    pub address_source: AddressSource,
    /// The name that the sidecar resolves.
    pub host: Option<String>,
    /// The port.
    pub port: u16,
    /// Envoy's cluster.
    pub cluster: String,
}

/// The source of the destination address of an allowed connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum AddressSource {
    /// The original destination.
    Dialled,
    /// The sidecar resolves the name.
    Resolved,
    /// The original destination, by global egress.
    Passthrough,
}

/// The addresses that a rule allows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct AddressGrant {
    /// The policy.
    pub policy: String,
    /// The rule in that policy.
    pub rule: String,
    /// The address blocks.
    pub addresses: Vec<String>,
}

/// The evaluation of a rule, and its location.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RuleReport {
    /// The evaluation.
    #[serde(flatten)]
    pub evaluation: RuleEvaluation,
    /// The location.
    #[serde(flatten)]
    pub location: Option<SourceLocation>,
}

impl Report {
    /// Returns true if the connection is allowed.
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

/// Explains the verdict on a connection.
///
/// # Errors
/// Fails if the document belongs to another identity, or does not compile.
pub fn explain(source: &PolicySource, request: &ExplainRequest) -> Result<Report, ExplainError> {
    let document = source.document(&request.identity)?;
    let explainer = Explainer::new(document.as_ref().clone())?;
    let evaluate = |address: Option<IpAddr>| {
        request.probe.with_traffic(|traffic| {
            let (port, listener_port) = (request.probe.port, request.listener_port);
            explainer.explain(&Question { address, port, listener_port, traffic })
        })
    };
    let address = request.addresses.first().copied();
    let explanation = evaluate(address);
    let mut notes = request.probe.notes.clone();
    for other in request.addresses.iter().skip(1) {
        let other_explanation = evaluate(Some(*other));
        if (other_explanation.verdict, other_explanation.reason) != (explanation.verdict, explanation.reason)
        {
            notes.push(format!("for {other} the verdict is {}", format_verdict(&other_explanation)));
        }
    }
    notes.extend(collect_notes(request, &explanation, document.mode));
    let forbidden = forbidden_addresses(request, &explanation);
    notes.extend(forbidden.iter().map(|address| {
        format!("a name may not resolve to {address}: the sidecar drops that answer (`address-forbidden`)")
    }));
    let resolves_nowhere =
        request.resolved && !forbidden.is_empty() && forbidden.len() == request.addresses.len();
    notes.extend(source.notes(&request.identity));

    let Explanation { stage, would_refuse, rule, .. } = explanation.clone();
    let (verdict, reason) = if resolves_nowhere {
        (Verdict::Deny, Some(ReasonCode::AddressForbidden))
    } else {
        (explanation.verdict, explanation.reason)
    };
    let (policy, rule) = rule.map(|id| (id.policy, id.name)).unzip();
    let locations = source.locations();
    let location = policy.as_ref().zip(rule.as_ref()).and_then(|(policy, rule)| locations.find(policy, rule));
    let not_accepted = source.not_accepted(&request.identity);
    let hints = hints::collect_hints(request, &explanation, source);
    let unknown = address.is_none() && !explanation.rules.iter().any(RuleEvaluation::allows);
    let allowed_at = explanation
        .rules
        .iter()
        .filter(|rule| unknown && rule.mismatches_only_address())
        .map(|rule| address_grant(rule, &document))
        .collect();
    Ok(Report {
        identity: request.identity.to_string(),
        connection: request.probe.text.clone(),
        address,
        verdict,
        reason,
        meaning: reason.map_or(REJECTED_BY_ENVOY, |reason| reason.meaning().trim()),
        stage,
        would_refuse,
        mode: document.mode,
        document: document.version.clone(),
        policy,
        rule,
        location,
        route: if verdict == Verdict::Allow { find_route(&explanation, request.probe.port) } else { None },
        allowed_at,
        rules: explanation
            .rules
            .into_iter()
            .map(|evaluation| RuleReport {
                location: locations.find(&evaluation.policy, &evaluation.rule),
                evaluation,
            })
            .collect(),
        not_accepted,
        unreadable: source.unreadable(),
        hints,
        notes,
        proxies: None,
    })
}

const REJECTED_BY_ENVOY: &str =
    "The port expects HTTP, and Envoy's parser rejects this request with status 400.";

/// Formats the verdict and its reason.
fn format_verdict(explanation: &Explanation) -> String {
    let verdict = match explanation.verdict {
        Verdict::Allow => "allowed",
        Verdict::Deny => "denied",
    };
    match explanation.reason {
        Some(reason) => format!("{verdict} ({reason})"),
        None => verdict.to_owned(),
    }
}

fn find_route(explanation: &Explanation, port: u16) -> Option<Route> {
    let own = explanation.cluster.clone();
    let (address_source, host, shared) = match explanation.destination.as_ref()? {
        Destination::Original => (AddressSource::Dialled, None, cluster::ORIGINAL_DST),
        Destination::Resolved(host, HostMatch::Exact) => (AddressSource::Resolved, Some(host), cluster::DNS),
        Destination::Resolved(host, HostMatch::Wildcard) => {
            (AddressSource::Resolved, Some(host), cluster::DNS_WILDCARD)
        }
        Destination::Passthrough => (AddressSource::Passthrough, None, cluster::PASSTHROUGH),
    };
    let cluster = own.unwrap_or_else(|| shared.to_owned());
    Some(Route { address_source, host: host.map(ToString::to_string), port, cluster })
}

/// Collects notes about an explanation.
fn collect_notes(request: &ExplainRequest, explanation: &Explanation, mode: Mode) -> Vec<String> {
    let mut notes = Vec::new();
    if request.resolved {
        notes.push(
            "the addresses come from this machine's resolver; the workload's name server may return others"
                .to_owned(),
        );
    }
    match &explanation.destination {
        Some(Destination::Resolved(name, matched)) => {
            let inside = match matched {
                HostMatch::Exact => "",
                HostMatch::Wildcard => ", and, for a name that only a wildcard lists, private networks",
            };
            notes.push(format!(
                "the sidecar resolves `{name}` itself, whatever address was dialled, and drops answers such as \
                 loopback, link-local and metadata addresses{inside}"
            ));
        }
        Some(Destination::Original | Destination::Passthrough)
            if request.probe.visible_name().is_some() && request.probe.name.is_some() =>
        {
            notes.push("the connection goes to the dialled address; the name does not choose it".to_owned());
        }
        Some(Destination::Original | Destination::Passthrough) | None => {}
    }
    if request.addresses.is_empty() && explanation.address_matters {
        notes.push(
            "the dialled address is unknown: this verdict is for an address that no rule and no service of the \
             mesh lists (set `address`, or use `--resolve` on the command line)"
                .to_owned(),
        );
    }
    if request.addresses.iter().any(IpAddr::is_loopback) {
        notes.push("connections to loopback are not intercepted, so no policy applies to them".to_owned());
    }
    if mode == Mode::Passthrough && explanation.verdict == Verdict::Allow {
        notes.push("global egress is on for this identity, so its policies are ignored".to_owned());
    }
    notes
}

/// Lists the addresses that an allowed name may not resolve to.
fn forbidden_addresses(request: &ExplainRequest, explanation: &Explanation) -> Vec<IpAddr> {
    match &explanation.destination {
        Some(Destination::Resolved(_, matched)) => {
            let is_blocked = |address: &IpAddr| request.blocked.contains(*matched, *address);
            request.addresses.iter().copied().filter(is_blocked).collect()
        }
        Some(Destination::Original | Destination::Passthrough) | None => Vec::new(),
    }
}

fn address_grant(evaluation: &RuleEvaluation, document: &egress_policy::Document) -> AddressGrant {
    let rules = document.rules.iter();
    let same = rules.filter(|rule| rule.policy == evaluation.policy && rule.name == evaluation.rule);
    let mut addresses: Vec<String> = same
        .flat_map(|rule| rule.addresses.iter().flat_map(|blocks| blocks.iter()))
        .map(Cidr::to_string)
        .collect();
    addresses.dedup();
    AddressGrant { policy: evaluation.policy.clone(), rule: evaluation.rule.clone(), addresses }
}
