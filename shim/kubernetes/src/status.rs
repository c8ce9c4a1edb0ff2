//! Says in the status of each policy what became of it, and tells in events when that changes.
//!
//! What is written follows from the objects and from what all control planes say of their proxies, so any number of
//! them write the same and do not fight. Nothing is written that is there already; an object is written once a second
//! at most; and which proxies have a policy is written when it has been so for a second, as it changes quickly.

pub(super) mod events;
mod now;
mod verdict;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use kube::api::{ApiResource, DynamicObject, Patch, PatchParams};
use kube::{Api, Client};
use serde_json::json;
use tokio::sync::watch;
use tokio::time::Instant;

use self::events::Events;
pub use self::now::PolicyStatuses;
use self::verdict::{News, Said, Verdict, programmed, verdicts};
use super::Statuses;
use super::connect::{is_unknown, reason};
use super::object::{Key, Observed};
use super::replicas::{Report, Reports, tally};
use egress_compile::Compiled;
use egress_compile::manifest::{Kind, ObjectRef};
use egress_core::source::SourceState;

/// Who owns the fields, for the API server.
pub(super) const MANAGER: &str = "osm-egress";
/// The resource, and its version.
const EGRESS: (&str, &str) = ("egresses", "policy.openservicemesh.io/v1alpha1");
/// After a change, how long to wait: enforcing comes first, and changes come in bursts.
const REST: Duration = Duration::from_millis(100);
/// How often an object is written at most, and how long proxies must be as they are to be written about.
const PACE: Duration = Duration::from_secs(1);
/// How long proxies have to come when this begins. Until then what was said of them stays: they come back from
/// another control plane, or from this one before it was started again.
const ARRIVAL: Duration = Duration::from_secs(5);
/// How many objects are written at a time.
const AT_A_TIME: usize = 8;
/// After a failure, how long to wait.
const AGAIN: Duration = Duration::from_secs(5);

/// What is looked at.
pub(super) struct Inputs {
    pub(super) states: watch::Receiver<SourceState>,
    pub(super) compiled: watch::Receiver<Arc<Compiled>>,
    pub(super) observed: watch::Receiver<Statuses>,
    /// What this control plane says of its proxies.
    pub(super) own: watch::Receiver<Arc<Report>>,
    /// What the others say.
    pub(super) others: watch::Receiver<Reports>,
}

impl Inputs {
    /// Waits for a change; nobody changes anything any more when this is false.
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

/// What was done about a policy.
struct Done {
    /// What was written, over what: it is not written again before the API server shows it.
    said: Said,
    over: Arc<Observed>,
    at: Instant,
}

struct Writer {
    client: Client,
    done: BTreeMap<Key, Done>,
    /// Since when proxies are not as the status says.
    differing: BTreeMap<Key, Instant>,
    events: Events,
}

/// A status to write.
struct Write {
    key: Key,
    said: Said,
    before: Arc<Observed>,
    events: Vec<events::Event>,
}

/// Writes, for as long as there is anything to say.
pub(super) async fn write(client: Client, mut inputs: Inputs) {
    let mut writer = Writer::new(client);
    let arrived = Instant::now() + ARRIVAL;
    let mut known: BTreeMap<Key, Arc<Verdict>> = BTreeMap::new();
    let mut judged: Option<Arc<Compiled>> = None;
    loop {
        let compiled = inputs.compiled.borrow_and_update().clone();
        if judged.as_ref().is_none_or(|judged| !Arc::ptr_eq(judged, &compiled)) {
            known = verdicts(&compiled, &inputs.states.borrow().store);
            judged = Some(Arc::clone(&compiled));
        }
        let statuses = Arc::clone(&inputs.observed.borrow_and_update());
        let own = Arc::clone(&inputs.own.borrow_and_update());
        let is_early = Instant::now() < arrived;
        let reports = inputs.others.borrow_and_update().clone().filter(|_| !is_early).map(|mut reports| {
            // An empty name is nobody else's.
            reports.insert(String::new(), own);
            reports
        });
        let (writes, next) = writer.choose(&known, &statuses, Instant::now(), |verdict| {
            reports.as_ref().map(|reports| programmed(&tally(&verdict.sources, reports, &compiled)))
        });
        if writer.carry_out(writes, &inputs.observed).await {
            let changed = tokio::select! {
                changed = inputs.changed() => changed,
                () = until(next) => true,
                () = tokio::time::sleep_until(arrived), if is_early => true,
            };
            if !changed {
                return;
            }
            tokio::time::sleep(REST).await;
        } else {
            // Changes that come meanwhile are taken in then.
            tokio::time::sleep(AGAIN).await;
        }
    }
}

async fn until(next: Option<Instant>) {
    match next {
        Some(next) => tokio::time::sleep_until(next).await,
        None => std::future::pending().await,
    }
}

impl Writer {
    fn new(client: Client) -> Self {
        let (done, differing) = (BTreeMap::new(), BTreeMap::new());
        Self { client, done, differing, events: Events::new(Instant::now()) }
    }

    /// What is to be written now, and when there may be more.
    fn choose(
        &mut self,
        known: &BTreeMap<Key, Arc<Verdict>>,
        statuses: &Statuses,
        now: Instant,
        programmed: impl Fn(&Verdict) -> Option<(verdict::Condition, String)>,
    ) -> (Vec<Write>, Option<Instant>) {
        self.done.retain(|key, _| statuses.contains_key(key));
        self.differing.retain(|key, _| statuses.contains_key(key));
        let mut next: Option<Instant> = None;
        let mut writes = Vec::new();
        for (key, verdict) in known {
            let Some(before) = statuses.get(key) else { continue };
            let said = Said { verdict: Arc::clone(verdict), programmed: programmed(verdict) };
            let news = said.news(before);
            if news != News::Programmed {
                self.differing.remove(key);
            }
            let done = self.done.get(key);
            let is_done = done.is_some_and(|done| done.said == said && Arc::ptr_eq(&done.over, before));
            if news == News::Nothing || is_done {
                continue;
            }
            let mut due = done.map_or(now, |done| done.at + PACE);
            if news == News::Programmed {
                due = due.max(*self.differing.entry(key.clone()).or_insert(now) + PACE);
            }
            if due > now {
                next = Some(next.map_or(due, |next| next.min(due)));
                continue;
            }
            let mut events = events::events(&said, before);
            events.retain(|_| self.events.may(now));
            writes.push(Write { key: key.clone(), said, before: Arc::clone(before), events });
        }
        (writes, next)
    }

    /// Writes; says whether that succeeded.
    async fn carry_out(&mut self, writes: Vec<Write>, observed: &watch::Receiver<Statuses>) -> bool {
        let client = &self.client;
        let mut results = std::pin::pin!(
            futures::stream::iter(writes)
                .map(|write| async move {
                    let result = carry_out(client, &write, observed).await;
                    (write, result)
                })
                .buffer_unordered(AT_A_TIME)
        );
        while let Some((write, result)) = results.next().await {
            match result {
                Ok(()) => {
                    let Write { key, said, before: over, events: _ } = write;
                    self.differing.remove(&key);
                    self.done.insert(key, Done { said, over, at: Instant::now() });
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

async fn carry_out(
    client: &Client,
    Write { key, said, before, events }: &Write,
    observed: &watch::Receiver<Statuses>,
) -> kube::Result<()> {
    // Another control plane may have said it meanwhile, and told it.
    let is_said = observed.borrow().get(key).is_some_and(|now| said.news(now) == News::Nothing);
    if is_said {
        return Ok(());
    }
    let now = timestamp();
    let generation = said.verdict.generation(before);
    let involved =
        events::Involved { object: ObjectRef::new(Kind::Egress, &key.0, &key.1), uid: before.uid.clone() };
    for event in events {
        let name = events::name(&key.1, &before.uid, generation, event.reason);
        events::make(client, &involved, event, &name, &now).await;
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
        "status": said.to_json(before, &now),
    });
    api.patch_status(name, &PatchParams::apply(MANAGER).force(), &Patch::Apply(patch)).await.map(|_| ())
}

/// The time, as Kubernetes writes it.
pub(super) fn timestamp() -> String {
    k8s_openapi::jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

#[cfg(test)]
mod tests;
