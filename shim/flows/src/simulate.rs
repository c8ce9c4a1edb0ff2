//! Simulation: the verdicts that changed manifests would give the recorded flows.
//!
//! The verdict is the engine's ([`egress_policy::explain`]), as for `osm-egress explain`.

use std::collections::BTreeMap;
use std::fmt::{self, Write};
use std::net::IpAddr;

use anyhow::Result;
use egress_compile::Compiled;
use egress_policy::explain::{Explainer, Mismatch, Question, RouteMismatch, Stage, Traffic};
use egress_policy::{Headers, Identity, Protocol, ReasonCode, Request};
use serde::Serialize;

use super::{Flow, RequestSample, Verdict, decision_record};

/// The most changes that the text output lists.
const MAX_LISTED_CHANGES: usize = 200;

/// The result of a simulation.
#[derive(Debug, Default, PartialEq, Eq, Serialize)]
pub struct Simulation {
    /// The number of flows that were evaluated.
    pub flows: usize,
    /// The flows whose verdict changes, or may change.
    pub changes: Vec<Change>,
    /// The number of flows that were not evaluated, because their decision does not depend on policies.
    pub left_out: usize,
}

/// A flow whose verdict changes.
#[derive(Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Change {
    /// The identity of the workload.
    pub identity: String,
    /// The destination.
    pub destination: String,
    /// The number of such connections or requests.
    pub count: u64,
    /// The request, if it is one.
    pub request: Option<RequestSample>,
    /// The outcome now.
    pub before: Outcome,
    /// The outcome with the changed manifests.
    pub after: Outcome,
}

/// The outcome for a flow under one set of manifests.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Outcome {
    /// The verdict; `null` if it depends on data that the flow does not record.
    pub verdict: Option<Verdict>,
    /// The reason code.
    pub reason: Option<String>,
    /// The rule that decides.
    pub by: Option<String>,
}

impl Change {
    /// Returns true if traffic that is allowed now may be denied.
    #[must_use]
    pub fn is_loss(&self) -> bool {
        self.before.verdict != Some(Verdict::Deny)
    }
}

impl Simulation {
    /// Evaluates flows under the changed manifests. Without `before`, the recorded decisions are the outcomes now.
    ///
    /// # Errors
    /// Fails when a document does not compile.
    pub fn run(
        flows: &[Flow],
        before: Option<&Compiled>,
        after: &Compiled,
        listener_port: u16,
    ) -> Result<Self> {
        let mut simulation = Self::default();
        let mut explainers = ExplainerCache { before, after, by_identity: BTreeMap::new() };
        for flow in flows {
            if is_beyond_policy(flow) {
                simulation.left_out += 1;
                continue;
            }
            simulation.flows += 1;
            let identity: Identity = flow.identity.parse()?;
            let (old, new) = explainers.get(&identity)?;
            let recorded = Outcome::recorded(flow);
            for request in request_samples(flow) {
                let outcome_before = match old {
                    Some(old) => evaluate_flow(old, flow, request, listener_port),
                    None => recorded.clone(),
                };
                let outcome_after = evaluate_flow(new, flow, request, listener_port);
                if outcome_before.verdict == outcome_after.verdict {
                    continue;
                }
                simulation.changes.push(Change {
                    identity: flow.identity.clone(),
                    destination: flow.destination(),
                    // Each request of a flow has its own count.
                    count: request
                        .map(|request| request.count)
                        .filter(|count| *count > 0)
                        .unwrap_or(flow.count),
                    request: request.cloned(),
                    // If the manifests leave the outcome open, the recorded decision is known.
                    before: if outcome_before.verdict.is_none() { recorded.clone() } else { outcome_before },
                    after: outcome_after,
                });
            }
        }
        simulation.changes.retain(|change| change.before.verdict != change.after.verdict);
        Ok(simulation)
    }

    /// Returns true if any traffic that is allowed now may be denied.
    #[must_use]
    pub fn has_losses(&self) -> bool {
        self.changes.iter().any(Change::is_loss)
    }
}

/// The explainers of each identity, before and after the change.
struct ExplainerCache<'c> {
    before: Option<&'c Compiled>,
    after: &'c Compiled,
    by_identity: BTreeMap<Identity, (Option<Explainer>, Explainer)>,
}

impl ExplainerCache<'_> {
    fn get(&mut self, identity: &Identity) -> Result<(Option<&Explainer>, &Explainer)> {
        if !self.by_identity.contains_key(identity) {
            let explainer =
                |compiled: &Compiled| Explainer::new(compiled.document(identity).as_ref().clone());
            let both = (self.before.map(explainer).transpose()?, explainer(self.after)?);
            self.by_identity.insert(identity.clone(), both);
        }
        let (before, after) = self
            .by_identity
            .get(identity)
            .ok_or_else(|| anyhow::anyhow!("there is no document for {identity}"))?;
        Ok((before.as_ref(), after))
    }
}

/// Returns true if the decision does not depend on policies: the addresses of a name, and traffic that is not egress.
fn is_beyond_policy(flow: &Flow) -> bool {
    matches!(
        decision_record::parse_reason_code(flow.decision.enforced_reason()),
        Some(
            ReasonCode::AddressForbidden
                | ReasonCode::NameNotFound
                | ReasonCode::DnsFailed
                | ReasonCode::NameUnresolved
                | ReasonCode::PathRefused
                | ReasonCode::RequestMalformed
                | ReasonCode::HeadersTooLarge
                | ReasonCode::InMesh
                | ReasonCode::InMeshDenied
                | ReasonCode::NotIntercepted
                | ReasonCode::SelfIntercepted
                | ReasonCode::PolicyInvalid
                | ReasonCode::Revoked
        )
    )
}

/// The requests to evaluate; `None` stands for a flow without requests.
fn request_samples(flow: &Flow) -> Vec<Option<&RequestSample>> {
    if flow.requests.is_empty() { vec![None] } else { flow.requests.iter().map(Some).collect() }
}

/// Evaluates a flow for all of its addresses: denied if any of them is.
fn evaluate_flow(
    explainer: &Explainer,
    flow: &Flow,
    request: Option<&RequestSample>,
    listener_port: u16,
) -> Outcome {
    let addresses: Vec<Option<IpAddr>> = if flow.addresses.is_empty() {
        vec![None]
    } else {
        flow.addresses.iter().copied().map(Some).collect()
    };
    let outcomes = addresses
        .into_iter()
        .map(|address| evaluate_address(explainer, flow, request, address, listener_port));
    let severity = |outcome: &Outcome| match outcome.verdict {
        Some(Verdict::Deny) => 0,
        None => 1,
        Some(Verdict::Allow) => 2,
    };
    outcomes.min_by_key(severity).unwrap_or_else(Outcome::unknown)
}

/// Evaluates a flow for one address.
fn evaluate_address(
    explainer: &Explainer,
    flow: &Flow,
    request: Option<&RequestSample>,
    address: Option<IpAddr>,
    listener_port: u16,
) -> Outcome {
    let question = |traffic| Question { address, port: flow.port, listener_port, traffic };
    let reason = decision_record::parse_reason_code(flow.decision.enforced_reason());
    let default_request =
        RequestSample { method: "GET".to_owned(), path: "/".to_owned(), upgrade: None, count: 0 };
    let RequestSample { method, path, upgrade, count: _ } = request.unwrap_or(&default_request);
    let request = Request {
        authority: flow.name.as_deref(),
        method,
        path,
        upgrade: upgrade.as_deref(),
        headers: &UnrecordedHeaders,
    };
    // The flag is true if the first bytes are known.
    let (traffic, has_first_bytes) = match (flow.protocol, reason) {
        (_, Some(reason @ (ReasonCode::TlsMalformed | ReasonCode::TlsOversize))) => {
            (Traffic::BrokenTls(reason), true)
        }
        (Protocol::Https, reason) => {
            let encrypted = reason == Some(ReasonCode::EchRefused);
            (Traffic::Tls { server_name: flow.name.as_deref(), encrypted }, true)
        }
        (Protocol::Http, _) => (Traffic::Http(&request), true),
        (Protocol::Tcp, Some(ReasonCode::TlsRequired)) => (Traffic::Other, true),
        (Protocol::Tcp, Some(ReasonCode::FirstBytesTimeout | ReasonCode::TooManyPending)) => {
            (Traffic::Silence, true)
        }
        (Protocol::Tcp, _) => (Traffic::Silence, false),
    };
    let explanation = explainer.answer(&question(traffic));
    let depends_on_headers = explanation.reason == Some(ReasonCode::RouteNotAllowed)
        && explainer
            .explain(&question(traffic))
            .rules
            .iter()
            .any(|rule| rule.mismatches.iter().all(may_be_headers) && !rule.mismatches.is_empty());
    if (!has_first_bytes && explanation.stage != Stage::Connection) || depends_on_headers {
        return Outcome::unknown();
    }
    let verdict = match explanation.verdict {
        egress_policy::explain::Verdict::Allow => Verdict::Allow,
        egress_policy::explain::Verdict::Deny => Verdict::Deny,
    };
    Outcome {
        verdict: Some(verdict),
        reason: explanation.reason.map(|reason| reason.as_str().to_owned()),
        by: explanation.rule.map(|rule| format!("{} {}", rule.policy, rule.name)),
    }
}

/// Returns true if a route may fail to match for its headers alone, which flows do not record.
fn may_be_headers(lack: &Mismatch) -> bool {
    let is_header = |part: &RouteMismatch| matches!(part, RouteMismatch::Header { .. });
    matches!(lack, Mismatch::Route { routes } if routes.iter().any(|route| route.mismatches.iter().all(is_header)))
}

/// The headers of a request: flows record none.
struct UnrecordedHeaders;

impl Headers for UnrecordedHeaders {
    fn values(&self, _: &str) -> Vec<std::borrow::Cow<'_, str>> {
        Vec::new()
    }
}

impl Outcome {
    fn unknown() -> Self {
        Self { verdict: None, reason: None, by: None }
    }

    /// The outcome that the sidecar recorded.
    fn recorded(flow: &Flow) -> Self {
        let decision = &flow.decision;
        let by = decision.policy.as_ref().zip(decision.rule.as_ref());
        Self {
            verdict: Some(decision.verdict),
            reason: Some(decision.reason.clone()),
            by: by.map(|(policy, rule)| format!("{policy} {rule}")),
        }
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.verdict {
            Some(Verdict::Allow) => "allowed",
            Some(Verdict::Deny) => "denied",
            None => "unknown: it depends on data that flows do not record",
        })?;
        match (&self.reason, &self.by) {
            (Some(reason), Some(by)) => write!(f, " ({reason}, {by})"),
            (Some(reason), None) => write!(f, " ({reason})"),
            (None, _) => Ok(()),
        }
    }
}

impl fmt::Display for Simulation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut changes: Vec<&Change> = self.changes.iter().collect();
        if changes.len() > MAX_LISTED_CHANGES {
            // Losses first, then the most frequent.
            changes.sort_by_key(|change| (!change.is_loss(), std::cmp::Reverse(change.count)));
        }
        for change in changes.iter().take(MAX_LISTED_CHANGES) {
            let Change { identity, destination, count, request, before, after } = change;
            let sign = match (change.is_loss(), after.verdict) {
                (_, None) => '?',
                (true, _) => '-',
                (false, _) => '+',
            };
            let mut target = destination.clone();
            if let Some(RequestSample { method, path, .. }) = request {
                // Writing to a string cannot fail.
                let _ = write!(target, " {method} {path}");
            }
            writeln!(
                f,
                "{sign} {identity} -> {target}, seen {}\n    now  {before}\n    then {after}",
                super::suggest::format_count(*count)
            )?;
        }
        if changes.len() > MAX_LISTED_CHANGES {
            writeln!(
                f,
                "… and {} more changes: `-o json` lists all of them",
                changes.len() - MAX_LISTED_CHANGES
            )?;
        }
        let losses = self.changes.iter().filter(|change| change.is_loss()).count();
        let gains = self.changes.len() - losses;
        let plural = |count: usize, one: &str| format!("{count} {one}{}", if count == 1 { "" } else { "s" });
        writeln!(
            f,
            "{} evaluated: {losses} newly denied or unknown, {gains} newly allowed",
            plural(self.flows, "flow")
        )?;
        if self.left_out > 0 {
            writeln!(f, "{} not evaluated: policies do not decide them", plural(self.left_out, "flow"))?;
        }
        Ok(())
    }
}
