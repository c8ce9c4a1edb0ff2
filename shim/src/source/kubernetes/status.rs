//! Says in the status of each policy what became of it: the condition `Accepted`.
//!
//! What is written follows from the objects alone, so any number of control planes write the same and do not
//! fight; and nothing is written that is there already.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use kube::api::{ApiResource, DynamicObject, Patch, PatchParams};
use kube::{Api, Client};
use serde_json::{Value, json};
use tokio::sync::watch;

use super::Statuses;
use super::connect::{is_unknown, reason};
use super::object::{Key, Observed};
use crate::source::SourceState;
use egress_compile::Compiled;
use egress_compile::manifest::{Kind, Problem, Severity};
use egress_compile::store::Store;

/// Who owns the fields, for the API server.
const MANAGER: &str = "osm-egress";
/// The only condition.
const ACCEPTED: &str = "Accepted";
/// After a change, how long to wait: enforcing comes first, and changes come in bursts.
const REST: Duration = Duration::from_millis(100);
/// After a failure, how long to wait.
const AGAIN: Duration = Duration::from_secs(5);
/// The longest message that an API server takes is 32 kB; nobody reads as much.
const LONGEST: usize = 1024;

/// What there is to say of a policy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Verdict {
    accepted: bool,
    reason: &'static str,
    message: String,
    generation: Option<i64>,
}

/// Writes, for as long as there is anything to say.
pub(super) async fn write(
    client: Client,
    states: watch::Receiver<SourceState>,
    mut compiled: watch::Receiver<Arc<Compiled>>,
    mut observed: watch::Receiver<Statuses>,
) {
    // What was written, over what: it is not written again before the API server shows it.
    let mut written: BTreeMap<Key, (Verdict, Arc<Observed>)> = BTreeMap::new();
    loop {
        let verdicts = verdicts(&compiled.borrow_and_update().clone(), &states.borrow().store);
        let statuses = Arc::clone(&observed.borrow_and_update());
        written.retain(|key, _| statuses.contains_key(key));
        let mut failed = false;
        for (key, verdict) in verdicts {
            let Some(before) = statuses.get(&key) else { continue };
            let was_written =
                written.get(&key).is_some_and(|(said, over)| *said == verdict && Arc::ptr_eq(over, before));
            if was_written || verdict.is_said(before) {
                continue;
            }
            match verdict.write(&client, &key, before).await {
                Ok(()) => drop(written.insert(key, (verdict, Arc::clone(before)))),
                // It is gone, which is to be told soon.
                Err(error) if is_unknown(&error) => {}
                Err(error) => {
                    let (reason, policy) = (reason(&error), format!("{}/{}", key.0, key.1));
                    tracing::warn!(reason, policy, "cannot write the status");
                    failed = true;
                    break;
                }
            }
        }
        let changed = async {
            tokio::select! {
                result = compiled.changed() => result.is_ok(),
                result = observed.changed() => result.is_ok(),
            }
        };
        if failed {
            // Changes that come meanwhile are taken in then.
            tokio::time::sleep(AGAIN).await;
        } else if changed.await {
            tokio::time::sleep(REST).await;
        } else {
            return;
        }
    }
}

/// What there is to say of every policy that counts.
pub(super) fn verdicts(compiled: &Compiled, store: &Store) -> BTreeMap<Key, Verdict> {
    let policies = compiled.conditions.values().filter(|condition| condition.object.kind == Kind::Egress);
    let objects = store.index().objects;
    let mut verdicts: BTreeMap<Key, Verdict> = policies
        .map(|condition| {
            let key = (condition.object.namespace.clone(), condition.object.name.clone());
            let rules = match condition.rules {
                1 => "1 rule".to_owned(),
                rules => format!("{rules} rules"),
            };
            let said = condition.problems.iter().filter(|problem| problem.severity != Severity::Info);
            let message = message(std::iter::once(rules).chain(said.map(Problem::brief)));
            let reason = if condition.accepted { ACCEPTED } else { "Invalid" };
            let generation = objects.get(&condition.object).and_then(|o| o.metadata.generation);
            (key, Verdict { accepted: condition.accepted, reason, message, generation })
        })
        .collect();
    for problem in store.problems().filter(|problem| problem.severity == Severity::Error) {
        if let Some(object) = problem.object.as_ref().filter(|object| object.kind == Kind::Egress) {
            let key = (object.namespace.clone(), object.name.clone());
            let message = message(std::iter::once(problem.brief()));
            let verdict = Verdict { accepted: false, reason: "Unreadable", message, generation: None };
            verdicts.insert(key, verdict);
        }
    }
    verdicts
}

fn message(parts: impl Iterator<Item = String>) -> String {
    let message = parts.collect::<Vec<_>>().join("; ");
    match message.char_indices().nth(LONGEST) {
        Some((end, _)) => format!("{}…", message.get(..end).unwrap_or_default()),
        None => message,
    }
}

impl Verdict {
    fn status(&self) -> &'static str {
        if self.accepted { "True" } else { "False" }
    }

    /// The generation that this is about: what was read is what is there now, unless it could not be read.
    fn generation(&self, before: &Observed) -> Option<i64> {
        self.generation.or(before.generation)
    }

    /// Whether this is what the API server has.
    pub(super) fn is_said(&self, before: &Observed) -> bool {
        condition(before).is_some_and(|condition| {
            condition["status"] == self.status()
                && condition["reason"] == self.reason
                && condition["message"] == self.message.as_str()
                && condition["observedGeneration"].as_i64() == self.generation(before)
        })
    }

    async fn write(&self, client: &Client, (namespace, name): &Key, before: &Observed) -> kube::Result<()> {
        let resource = ApiResource {
            group: Kind::Egress.group().to_owned(),
            version: "v1alpha1".to_owned(),
            api_version: "policy.openservicemesh.io/v1alpha1".to_owned(),
            kind: Kind::Egress.as_str().to_owned(),
            plural: "egresses".to_owned(),
        };
        let api: Api<DynamicObject> = Api::namespaced_with(client.clone(), namespace, &resource);
        // The moment of the last change of the verdict, not of the message.
        let since = condition(before)
            .filter(|condition| condition["status"] == self.status())
            .map(|condition| condition["lastTransitionTime"].clone())
            .filter(Value::is_string);
        let now = || json!(k8s_openapi::jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string());
        let patch = json!({
            "apiVersion": resource.api_version,
            "kind": resource.kind,
            "metadata": { "name": name, "namespace": namespace },
            "status": { "conditions": [{
                "type": ACCEPTED,
                "status": self.status(),
                "reason": self.reason,
                "message": self.message,
                "observedGeneration": self.generation(before),
                "lastTransitionTime": since.unwrap_or_else(now),
            }]},
        });
        let params = PatchParams::apply(MANAGER).force();
        api.patch_status(name, &params, &Patch::Apply(patch)).await.map(|_| ())
    }
}

fn condition(observed: &Observed) -> Option<&Value> {
    observed.conditions.as_array()?.iter().find(|condition| condition["type"] == ACCEPTED)
}
