//! The writer of policy status: conditions in the status of each policy, and events when they change.
//!
//! The written status follows from the objects and from the reports of all control planes about their proxies, so any number of
//! them write the same and do not fight. Nothing is written that is there already; an object is written once a second
//! at most; and which proxies have a policy is written when it has been so for a second, as it changes quickly.

mod current;
mod desired;
pub(super) mod events;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use kube::api::{ApiResource, DynamicObject, Patch, PatchParams};
use kube::{Api, Client};
use serde_json::json;
use tokio::sync::watch;
use tokio::time::Instant;

pub use self::current::PolicyStatuses;
use self::desired::{DesiredStatus, PolicyConditions, StatusDiff, policy_conditions, programmed};
use self::events::EventBudget;
use super::client::{MANAGER, is_unknown, reason};
use super::object::{Key, Observed, Statuses};
use super::replicas::{Report, Reports, tally};
use egress_compile::Compiled;
use egress_compile::manifest::{Kind, ObjectRef};
use egress_core::source::SourceState;

/// The resource, and its version.
const EGRESS: (&str, &str) = ("egresses", "policy.openservicemesh.io/v1alpha1");
/// The delay after a change: enforcement comes first, and changes come in bursts.
const QUIET_TIME: Duration = Duration::from_millis(100);
/// The shortest interval between two writes of an object, and the time that a change of its proxies must last before it is
/// written.
const WRITE_INTERVAL: Duration = Duration::from_secs(1);
/// The time that proxies have to connect after a start. Until then the status keeps what it says of them: they come back from
/// another control plane, or from this one before it restarted.
const ARRIVAL_TIME: Duration = Duration::from_secs(5);
/// The number of objects that are written at a time.
const MAX_CONCURRENT_WRITES: usize = 8;
/// The delay after a failure.
const RETRY_DELAY: Duration = Duration::from_secs(5);

/// The inputs of the writer.
pub(super) struct Inputs {
    pub(super) states: watch::Receiver<SourceState>,
    pub(super) compiled: watch::Receiver<Arc<Compiled>>,
    pub(super) observed: watch::Receiver<Statuses>,
    /// The report of this control plane.
    pub(super) own: watch::Receiver<Arc<Report>>,
    /// The reports of the others.
    pub(super) others: watch::Receiver<Reports>,
}

impl Inputs {
    /// Waits for a change. Returns false when there can be none any more.
    async fn changed(&mut self) -> bool {
        let result = tokio::select! {
            result = self.compiled.changed() => result,
            result = self.observed.changed() => result,
            result = self.own.changed() => result,
            result = self.others.changed() => result,
        };
        result.is_ok()
    }
}

/// The last write of a policy's status.
struct WrittenStatus {
    /// The status that was written, and the one that it replaced: it is not written again before the API server shows it.
    desired: DesiredStatus,
    over: Arc<Observed>,
    at: Instant,
}

struct StatusWriter {
    client: Client,
    done: BTreeMap<Key, WrittenStatus>,
    /// The time since when proxies differ from the status.
    differing: BTreeMap<Key, Instant>,
    events: EventBudget,
}

/// A status to write.
struct StatusWrite {
    key: Key,
    desired: DesiredStatus,
    before: Arc<Observed>,
    events: Vec<events::Event>,
}

/// Writes statuses until their inputs end.
pub(super) async fn write(client: Client, mut inputs: Inputs) {
    let mut writer = StatusWriter::new(client);
    let arrived = Instant::now() + ARRIVAL_TIME;
    let mut known: BTreeMap<Key, Arc<PolicyConditions>> = BTreeMap::new();
    let mut judged: Option<Arc<Compiled>> = None;
    loop {
        let compiled = inputs.compiled.borrow_and_update().clone();
        if judged.as_ref().is_none_or(|judged| !Arc::ptr_eq(judged, &compiled)) {
            known = policy_conditions(&compiled, &inputs.states.borrow().store);
            judged = Some(Arc::clone(&compiled));
        }
        let statuses = Arc::clone(&inputs.observed.borrow_and_update());
        let own = Arc::clone(&inputs.own.borrow_and_update());
        let is_early = Instant::now() < arrived;
        let reports = inputs.others.borrow_and_update().clone().filter(|_| !is_early).map(|mut reports| {
            // No ConfigMap has an empty name.
            reports.insert(String::new(), own);
            reports
        });
        let (writes, next) = writer.choose_writes(&known, &statuses, Instant::now(), |conditions| {
            reports.as_ref().map(|reports| programmed(&tally(&conditions.sources, reports, &compiled)))
        });
        if writer.write_all(writes, &inputs.observed).await {
            let changed = tokio::select! {
                changed = inputs.changed() => changed,
                () = until(next) => true,
                () = tokio::time::sleep_until(arrived), if is_early => true,
            };
            if !changed {
                return;
            }
            tokio::time::sleep(QUIET_TIME).await;
        } else {
            // Changes that come meanwhile are taken in then.
            tokio::time::sleep(RETRY_DELAY).await;
        }
    }
}

/// Waits until a time, or without end if there is none.
async fn until(next: Option<Instant>) {
    match next {
        Some(next) => tokio::time::sleep_until(next).await,
        None => std::future::pending().await,
    }
}

impl StatusWriter {
    fn new(client: Client) -> Self {
        let (done, differing) = (BTreeMap::new(), BTreeMap::new());
        Self { client, done, differing, events: EventBudget::new(Instant::now()) }
    }

    /// The statuses to write now, and the time of the next ones.
    fn choose_writes(
        &mut self,
        known: &BTreeMap<Key, Arc<PolicyConditions>>,
        statuses: &Statuses,
        now: Instant,
        programmed: impl Fn(&PolicyConditions) -> Option<(desired::Condition, String)>,
    ) -> (Vec<StatusWrite>, Option<Instant>) {
        self.done.retain(|key, _| statuses.contains_key(key));
        self.differing.retain(|key, _| statuses.contains_key(key));
        let mut next: Option<Instant> = None;
        let mut writes = Vec::new();
        for (key, conditions) in known {
            let Some(before) = statuses.get(key) else { continue };
            let desired =
                DesiredStatus { conditions: Arc::clone(conditions), programmed: programmed(conditions) };
            let diff = desired.diff(before);
            if diff != StatusDiff::Programmed {
                self.differing.remove(key);
            }
            let done = self.done.get(key);
            let is_done = done.is_some_and(|done| done.desired == desired && Arc::ptr_eq(&done.over, before));
            if diff == StatusDiff::Unchanged || is_done {
                continue;
            }
            let mut due = done.map_or(now, |done| done.at + WRITE_INTERVAL);
            if diff == StatusDiff::Programmed {
                due = due.max(*self.differing.entry(key.clone()).or_insert(now) + WRITE_INTERVAL);
            }
            if due > now {
                next = Some(next.map_or(due, |next| next.min(due)));
                continue;
            }
            let mut events = events::events_of_change(&desired, before);
            events.retain(|_| self.events.take(now));
            writes.push(StatusWrite { key: key.clone(), desired, before: Arc::clone(before), events });
        }
        (writes, next)
    }

    /// Writes statuses and returns whether all succeeded.
    async fn write_all(&mut self, writes: Vec<StatusWrite>, observed: &watch::Receiver<Statuses>) -> bool {
        let client = &self.client;
        let mut results = std::pin::pin!(
            futures::stream::iter(writes)
                .map(|write| async move {
                    let result = write_status(client, &write, observed).await;
                    (write, result)
                })
                .buffer_unordered(MAX_CONCURRENT_WRITES)
        );
        while let Some((write, result)) = results.next().await {
            match result {
                Ok(()) => {
                    let StatusWrite { key, desired, before: over, events: _ } = write;
                    self.differing.remove(&key);
                    self.done.insert(key, WrittenStatus { desired, over, at: Instant::now() });
                }
                // It is gone, which is to be told soon.
                Err(error) if is_unknown(&error) => {}
                Err(error) => {
                    let policy = format!("{}/{}", write.key.0, write.key.1);
                    tracing::warn!(reason = reason(&error), policy, "cannot write the status");
                    return false;
                }
            }
        }
        true
    }
}

async fn write_status(
    client: &Client,
    StatusWrite { key, desired, before, events }: &StatusWrite,
    observed: &watch::Receiver<Statuses>,
) -> kube::Result<()> {
    // Another control plane may have written it meanwhile, with its events.
    let matches_observed =
        observed.borrow().get(key).is_some_and(|now| desired.diff(now) == StatusDiff::Unchanged);
    if matches_observed {
        return Ok(());
    }
    let now = timestamp();
    let generation = desired.conditions.generation(before);
    let involved = events::InvolvedObject {
        object: ObjectRef::new(Kind::Egress, &key.0, &key.1),
        uid: before.uid.clone(),
    };
    for event in events {
        let name = events::event_name(&key.1, &before.uid, generation, event.reason);
        events::create_event(client, &involved, event, &name, &now).await;
    }
    let (namespace, name) = key;
    let resource = ApiResource {
        group: Kind::Egress.group().to_owned(),
        version: "v1alpha1".to_owned(),
        api_version: EGRESS.1.to_owned(),
        kind: Kind::Egress.as_str().to_owned(),
        plural: EGRESS.0.to_owned(),
    };
    let api: Api<DynamicObject> = Api::namespaced_with(client.clone(), namespace, &resource);
    let patch = json!({
        "apiVersion": resource.api_version,
        "kind": resource.kind,
        "metadata": { "name": name, "namespace": namespace },
        "status": desired.to_json(before, &now),
    });
    api.patch_status(name, &PatchParams::apply(MANAGER).force(), &Patch::Apply(patch)).await.map(|_| ())
}

/// The time, as Kubernetes writes it.
pub(super) fn timestamp() -> String {
    k8s_openapi::jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

#[cfg(test)]
mod tests;
