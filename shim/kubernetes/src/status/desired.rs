//! The desired status of a policy: whether it is accepted, what it conflicts with, and which proxies have it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use egress_policy::Identity;
use serde_json::{Map, Value, json};

use super::super::object::{Key, Observed};
use super::super::replicas::Tally;
use egress_compile::Compiled;
use egress_compile::manifest::{Cause, Diagnostic, Kind, Severity};
use egress_compile::store::Store;

pub(super) const ACCEPTED: &str = "Accepted";
pub(super) const PROGRAMMED: &str = "Programmed";
const CONFLICTS: &str = "Conflicts";
/// The reason of a policy that a proxy refuses.
pub(super) const REJECTED: &str = "Rejected";
/// The longest message. An API server takes 32 kB; nobody reads as much.
const MAX_MESSAGE_CHARS: usize = 1024;

/// A condition, as Kubernetes has them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Condition {
    pub(super) kind: &'static str,
    pub(super) status: &'static str,
    pub(super) reason: &'static str,
    pub(super) message: String,
}

/// The conditions of a policy that follow from the objects alone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PolicyConditions {
    pub(super) accepted: Condition,
    pub(super) conflicts: Option<Condition>,
    /// The identities to which it applies.
    pub(super) sources: BTreeSet<Identity>,
    generation: Option<i64>,
}

/// The desired status of a policy.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct DesiredStatus {
    pub(super) conditions: Arc<PolicyConditions>,
    /// The condition and `status.programmed`; nothing while it is not known.
    pub(super) programmed: Option<(Condition, String)>,
}

/// The conditions of every policy.
pub(crate) fn policy_conditions(compiled: &Compiled, store: &Store) -> BTreeMap<Key, Arc<PolicyConditions>> {
    let policies = compiled.statuses.values().filter(|condition| condition.object.kind == Kind::Egress);
    let mut policy_conditions: BTreeMap<Key, PolicyConditions> = policies
        .map(|condition| {
            let key = (condition.object.namespace.clone(), condition.object.name.clone());
            let rules = match condition.rules {
                1 => "1 rule".to_owned(),
                rules => format!("{rules} rules"),
            };
            let problems = &condition.diagnostics;
            let errors =
                problems.iter().filter(|p| p.severity != Severity::Info && p.cause != Cause::Conflict);
            let message = message(std::iter::once(rules).chain(errors.map(Diagnostic::format_brief)));
            let mut conflicts = problems.iter().filter(|p| p.cause == Cause::Conflict).peekable();
            let conditions = PolicyConditions {
                accepted: accepted(condition.accepted, condition.reason(), message),
                conflicts: conflicts.peek().is_some().then(|| Condition {
                    kind: CONFLICTS,
                    status: "True",
                    reason: "Overruled",
                    message: self::message(conflicts.map(Diagnostic::format_brief)),
                }),
                sources: condition.sources.clone(),
                generation: condition.generation,
            };
            (key, conditions)
        })
        .collect();
    for problem in store.diagnostics().filter(|problem| problem.severity == Severity::Error) {
        if let Some(object) = problem.object.as_ref().filter(|object| object.kind == Kind::Egress) {
            let key = (object.namespace.clone(), object.name.clone());
            // What it said before is in force, for those to whom it applied.
            let before = policy_conditions.remove(&key);
            let conditions = PolicyConditions {
                accepted: accepted(false, "Unreadable", message(std::iter::once(problem.format_brief()))),
                conflicts: None,
                sources: before.map(|before| before.sources).unwrap_or_default(),
                generation: None,
            };
            policy_conditions.insert(key, conditions);
        }
    }
    policy_conditions.into_iter().map(|(key, conditions)| (key, Arc::new(conditions))).collect()
}

fn accepted(is_accepted: bool, otherwise: &'static str, message: String) -> Condition {
    let (status, reason) = if is_accepted { ("True", ACCEPTED) } else { ("False", otherwise) };
    Condition { kind: ACCEPTED, status, reason, message }
}

/// The condition `Programmed` by the proxies of a policy's sources, and its short form for `status.programmed`.
pub(super) fn programmed(tally: &Tally) -> (Condition, String) {
    let Tally { current, connected, refusal, disputed, uncounted } = tally;
    let have = format!("{current} of {connected} proxies have it");
    let (status, reason, message) = if *uncounted {
        ("Unknown", "TooMany", "there are more identities than control planes can tell each other".to_owned())
    } else if *connected == 0 {
        ("Unknown", "NoProxies", "no proxy of its sources is connected".to_owned())
    } else if let Some(refusal) = refusal {
        ("False", REJECTED, format!("{have}; `{}` refused it: {}", refusal.node, refusal.error))
    } else if let Some(identity) = disputed {
        let message = format!("{have}; control planes have different policies for {identity}");
        ("False", "Waiting", message)
    } else if current < connected {
        ("False", "Waiting", have)
    } else {
        ("True", PROGRAMMED, have)
    };
    let message = self::message(std::iter::once(message));
    (Condition { kind: PROGRAMMED, status, reason, message }, format!("{current}/{connected}"))
}

fn message(parts: impl Iterator<Item = String>) -> String {
    let message = parts.collect::<Vec<_>>().join("; ");
    match message.char_indices().nth(MAX_MESSAGE_CHARS) {
        Some((end, _)) => format!("{}…", message.get(..end).unwrap_or_default()),
        None => message,
    }
}

impl PolicyConditions {
    /// The observed generation: what was read is what is there now, unless it could not be read.
    pub(super) fn generation(&self, before: &Observed) -> Option<i64> {
        self.generation.or(before.generation)
    }

    /// Returns whether the API server has these conditions.
    fn matches_observed(&self, before: &Observed) -> bool {
        let generation = self.generation(before);
        self.accepted.matches_observed(before, generation)
            && match &self.conflicts {
                Some(conflicts) => conflicts.matches_observed(before, generation),
                None => find(before, CONFLICTS).is_none(),
            }
    }
}

/// The difference between the desired and the observed status.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum StatusDiff {
    /// There is none.
    Unchanged,
    /// Only `Programmed` differs.
    Programmed,
    /// The conditions of the policy itself differ.
    Conditions,
}

impl DesiredStatus {
    /// The difference from what the API server has.
    pub(super) fn diff(&self, before: &Observed) -> StatusDiff {
        if !self.conditions.matches_observed(before) {
            return StatusDiff::Conditions;
        }
        let generation = self.conditions.generation(before);
        match &self.programmed {
            Some((condition, short)) => {
                let matches_observed = condition.matches_observed(before, generation)
                    && before.programmed.as_ref() == Some(short);
                if matches_observed { StatusDiff::Unchanged } else { StatusDiff::Programmed }
            }
            None => StatusDiff::Unchanged,
        }
    }

    /// The whole status.
    pub(super) fn to_json(&self, before: &Observed, now: &str) -> Value {
        let generation = self.conditions.generation(before);
        let mut conditions = vec![self.conditions.accepted.to_json(before, generation, now)];
        let mut status = Map::new();
        if let Some((condition, short)) = &self.programmed {
            conditions.push(condition.to_json(before, generation, now));
            status.insert("programmed".to_owned(), json!(short));
        } else {
            // What is left out would be removed.
            conditions.extend(find(before, PROGRAMMED).cloned());
            status.extend(before.programmed.as_ref().map(|short| ("programmed".to_owned(), json!(short))));
        }
        conditions.extend(self.conditions.conflicts.as_ref().map(|c| c.to_json(before, generation, now)));
        status.insert("conditions".to_owned(), json!(conditions));
        Value::Object(status)
    }
}

impl Condition {
    pub(super) fn matches_observed(&self, before: &Observed, generation: Option<i64>) -> bool {
        find(before, self.kind).is_some_and(|condition| {
            condition["status"] == self.status
                && condition["reason"] == self.reason
                && condition["message"] == self.message.as_str()
                && condition["observedGeneration"].as_i64() == generation
        })
    }

    fn to_json(&self, before: &Observed, generation: Option<i64>, now: &str) -> Value {
        // The moment of the last change of the conditions, not of the message.
        let since = find(before, self.kind)
            .filter(|condition| condition["status"] == self.status)
            .map(|condition| condition["lastTransitionTime"].clone())
            .filter(Value::is_string);
        let mut condition = json!({
            "type": self.kind,
            "status": self.status,
            "reason": self.reason,
            "message": self.message,
            "lastTransitionTime": since.unwrap_or_else(|| json!(now)),
        });
        if let Some(generation) = generation {
            condition["observedGeneration"] = json!(generation);
        }
        condition
    }
}

/// A condition that the API server has.
pub(super) fn find<'o>(observed: &'o Observed, kind: &str) -> Option<&'o Value> {
    observed.conditions.as_array()?.iter().find(|condition| condition["type"] == kind)
}
