//! What changed manifests would change for the flows that were seen.
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

use super::{Flow, Sample, Verdict, decided};

/// How many changes are shown to people.
const SHOWN: usize = 200;

/// The flows, with what is different.
#[derive(Debug, Default, PartialEq, Eq, Serialize)]
pub struct Simulation {
    /// How many flows were looked at.
    pub flows: usize,
    /// Those whose verdict changes, or may change.
    pub changes: Vec<Change>,
    /// How many were left out: what was decided of them does not depend on policies.
    pub left_out: usize,
}

/// A flow whose verdict changes.
#[derive(Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Change {
    /// Whose.
    pub identity: String,
    /// Where to.
    pub destination: String,
    /// How often it was seen.
    pub count: u64,
    /// The request, where it is one.
    pub request: Option<Sample>,
    /// What happens now.
    pub before: Answer,
    /// What would happen.
    pub after: Answer,
}

/// An answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Answer {
    /// The verdict; `null`: it depends on what was not seen of the flow.
    pub verdict: Option<Verdict>,
    /// The reason code.
    pub reason: Option<String>,
    /// The rule that decides.
    pub by: Option<String>,
}

impl Change {
    /// Whether something that is allowed may be refused then.
    #[must_use]
    pub fn is_loss(&self) -> bool {
        self.before.verdict != Some(Verdict::Deny)
    }
}

impl Simulation {
    /// Asks what becomes of the flows. Without `before`, what the sidecars decided counts as what happens now.
    ///
    /// # Errors
    /// When a document does not compile.
    pub fn of(
        flows: &[Flow],
        before: Option<&Compiled>,
        after: &Compiled,
        listener_port: u16,
    ) -> Result<Self> {
        let mut simulation = Self::default();
        let mut engines = Engines { before, after, of: BTreeMap::new() };
        for flow in flows {
            if is_beyond_policy(flow) {
                simulation.left_out += 1;
                continue;
            }
            simulation.flows += 1;
            let identity: Identity = flow.identity.parse()?;
            let (old, new) = engines.of(&identity)?;
            let decided = Answer::decided(flow);
            for request in requests(flow) {
                let now = match old {
                    Some(old) => answer(old, flow, request, listener_port),
                    None => decided.clone(),
                };
                let then = answer(new, flow, request, listener_port);
                if now.verdict == then.verdict {
                    continue;
                }
                simulation.changes.push(Change {
                    identity: flow.identity.clone(),
                    destination: flow.destination(),
                    // Of a flow that has requests, each was seen for itself.
                    count: request
                        .map(|request| request.count)
                        .filter(|count| *count > 0)
                        .unwrap_or(flow.count),
                    request: request.cloned(),
                    // What was decided is known, where the objects do not say it.
                    before: if now.verdict.is_none() { decided.clone() } else { now },
                    after: then,
                });
            }
        }
        simulation.changes.retain(|change| change.before.verdict != change.after.verdict);
        Ok(simulation)
    }

    /// Whether something that is allowed may be refused then.
    #[must_use]
    pub fn loses(&self) -> bool {
        self.changes.iter().any(Change::is_loss)
    }
}

/// The documents of an identity, compiled: before and after.
struct Engines<'c> {
    before: Option<&'c Compiled>,
    after: &'c Compiled,
    of: BTreeMap<Identity, (Option<Explainer>, Explainer)>,
}

impl Engines<'_> {
    fn of(&mut self, identity: &Identity) -> Result<(Option<&Explainer>, &Explainer)> {
        if !self.of.contains_key(identity) {
            let explainer =
                |compiled: &Compiled| Explainer::new(compiled.document(identity).as_ref().clone());
            let both = (self.before.map(explainer).transpose()?, explainer(self.after)?);
            self.of.insert(identity.clone(), both);
        }
        let (before, after) = self.of.get(identity).ok_or_else(|| anyhow::anyhow!("no document"))?;
        Ok((before.as_ref(), after))
    }
}

/// What policies have no say in: where a name led, and what was no egress.
fn is_beyond_policy(flow: &Flow) -> bool {
    matches!(
        decided::code(flow.decided.refusal()),
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

/// The requests that are asked about; one that is none for a flow without.
fn requests(flow: &Flow) -> Vec<Option<&Sample>> {
    if flow.requests.is_empty() { vec![None] } else { flow.requests.iter().map(Some).collect() }
}

/// The answer for the addresses that were dialled: refused where one is.
fn answer(engine: &Explainer, flow: &Flow, request: Option<&Sample>, listener_port: u16) -> Answer {
    let addresses: Vec<Option<IpAddr>> = if flow.addresses.is_empty() {
        vec![None]
    } else {
        flow.addresses.iter().copied().map(Some).collect()
    };
    let answers = addresses.into_iter().map(|address| ask(engine, flow, request, address, listener_port));
    let severity = |answer: &Answer| match answer.verdict {
        Some(Verdict::Deny) => 0,
        None => 1,
        Some(Verdict::Allow) => 2,
    };
    answers.min_by_key(severity).unwrap_or_else(Answer::unknown)
}

fn ask(
    engine: &Explainer,
    flow: &Flow,
    request: Option<&Sample>,
    address: Option<IpAddr>,
    listener_port: u16,
) -> Answer {
    let question = |traffic| Question { address, port: flow.port, listener_port, traffic };
    let refusal = decided::code(flow.decided.refusal());
    // What was seen of the first bytes.
    let none = Sample { method: "GET".to_owned(), path: "/".to_owned(), upgrade: None, count: 0 };
    let Sample { method, path, upgrade, count: _ } = request.unwrap_or(&none);
    let request = Request {
        authority: flow.name.as_deref(),
        method,
        path,
        upgrade: upgrade.as_deref(),
        headers: &NotSeen,
    };
    let (traffic, seen) = match (flow.protocol, refusal) {
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
    let explanation = engine.answer(&question(traffic));
    let by_headers = explanation.reason == Some(ReasonCode::RouteNotAllowed)
        && engine
            .explain(&question(traffic))
            .rules
            .iter()
            .any(|rule| rule.mismatches.iter().all(may_be_headers) && !rule.mismatches.is_empty());
    if (!seen && explanation.stage != Stage::Connection) || by_headers {
        return Answer::unknown();
    }
    let verdict = match explanation.verdict {
        egress_policy::explain::Verdict::Allow => Verdict::Allow,
        egress_policy::explain::Verdict::Deny => Verdict::Deny,
    };
    Answer {
        verdict: Some(verdict),
        reason: explanation.reason.map(|reason| reason.as_str().to_owned()),
        by: explanation.rule.map(|rule| format!("{} {}", rule.policy, rule.name)),
    }
}

/// Whether all that is lacked may be headers, which nobody has seen.
fn may_be_headers(lack: &Mismatch) -> bool {
    let is_header = |part: &RouteMismatch| matches!(part, RouteMismatch::Header { .. });
    matches!(lack, Mismatch::Route { routes } if routes.iter().any(|route| route.mismatches.iter().all(is_header)))
}

/// Headers are not remembered.
struct NotSeen;

impl Headers for NotSeen {
    fn values(&self, _: &str) -> Vec<std::borrow::Cow<'_, str>> {
        Vec::new()
    }
}

impl Answer {
    fn unknown() -> Self {
        Self { verdict: None, reason: None, by: None }
    }

    fn decided(flow: &Flow) -> Self {
        let decided = &flow.decided;
        let by = decided.policy.as_ref().zip(decided.rule.as_ref());
        Self {
            verdict: Some(decided.verdict),
            reason: Some(decided.reason.clone()),
            by: by.map(|(policy, rule)| format!("{policy} {rule}")),
        }
    }
}

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.verdict {
            Some(Verdict::Allow) => "allowed",
            Some(Verdict::Deny) => "refused",
            None => "it depends on what was not seen of it",
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
        if changes.len() > SHOWN {
            // What matters most.
            changes.sort_by_key(|change| (!change.is_loss(), std::cmp::Reverse(change.count)));
        }
        for change in changes.iter().take(SHOWN) {
            let Change { identity, destination, count, request, before, after } = change;
            let sign = match (change.is_loss(), after.verdict) {
                (_, None) => '?',
                (true, _) => '-',
                (false, _) => '+',
            };
            let mut what = destination.clone();
            if let Some(Sample { method, path, .. }) = request {
                // Writing to a string cannot fail.
                let _ = write!(what, " {method} {path}");
            }
            writeln!(
                f,
                "{sign} {identity} -> {what}, seen {}\n    now  {before}\n    then {after}",
                super::suggest::times(*count)
            )?;
        }
        if changes.len() > SHOWN {
            writeln!(f, "… and {} other changes: `-o json` has all of them", changes.len() - SHOWN)?;
        }
        let losses = self.changes.iter().filter(|change| change.is_loss()).count();
        let gains = self.changes.len() - losses;
        let plural = |count: usize, one: &str| format!("{count} {one}{}", if count == 1 { "" } else { "s" });
        writeln!(
            f,
            "{} looked at: {losses} would be refused, or may be, and {gains} allowed that are refused now",
            plural(self.flows, "flow")
        )?;
        if self.left_out > 0 {
            writeln!(f, "{} left out: policies do not decide about them", plural(self.left_out, "flow"))?;
        }
        Ok(())
    }
}
