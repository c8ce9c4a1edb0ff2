//! The events of a policy, which `kubectl describe` shows: it became wrong, it was mended, or a proxy
//! refused it.
//!
//! An event's name follows from object, generation and reason, so any number of control planes make one.

use std::time::Duration;

use kube::api::{ApiResource, DynamicObject, PostParams};
use kube::{Api, Client};
use serde_json::json;
use tokio::time::Instant;

use super::super::client::MANAGER;
use super::super::client::reason;
use super::super::object::Observed;
use super::desired::{ACCEPTED, Condition, DesiredStatus, PROGRAMMED, REJECTED, find};
use egress_compile::manifest::ObjectRef;
use egress_core::hash;

/// The largest burst of events, and the interval at which one more is allowed.
const MAX_BURST: u32 = 50;
const EVENT_INTERVAL: Duration = Duration::from_millis(200);
/// The longest part of a policy's name in the name of an event, which is limited too.
const MAX_NAME: usize = 200;

/// An event of a policy.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Event {
    /// `Normal` or `Warning`.
    pub(crate) kind: &'static str,
    pub(crate) reason: &'static str,
    pub(crate) message: String,
}

/// The events of a change from the observed to the desired status.
pub(super) fn events_of_change(desired: &DesiredStatus, before: &Observed) -> Vec<Event> {
    let generation = desired.conditions.generation(before);
    let is_reported = |condition: &Condition| {
        find(before, condition.kind).is_some_and(|known| {
            known["status"] == condition.status
                && known["reason"] == condition.reason
                && known["observedGeneration"].as_i64() == generation
        })
    };
    let event = |kind, condition: &Condition| Event {
        kind,
        reason: condition.reason,
        message: condition.message.clone(),
    };
    let mut events = Vec::new();
    let accepted = &desired.conditions.accepted;
    let was_wrong = find(before, ACCEPTED).is_some_and(|known| known["status"] == "False");
    if accepted.status == "False" && !is_reported(accepted) {
        events.push(event("Warning", accepted));
    } else if accepted.status == "True" && was_wrong {
        events.push(event("Normal", accepted));
    }
    if let Some((programmed, _)) = &desired.programmed
        && programmed.reason == REJECTED
        && !is_reported(programmed)
    {
        debug_assert_eq!(programmed.kind, PROGRAMMED);
        events.push(event("Warning", programmed));
    }
    events
}

/// The budget of events: a burst, and then one per interval.
#[derive(Debug)]
pub(crate) struct EventBudget {
    left: u32,
    since: Instant,
}

impl EventBudget {
    pub(crate) fn new(now: Instant) -> Self {
        Self { left: MAX_BURST, since: now }
    }

    /// Takes one event from the budget, if there is any. The status says the same without it.
    pub(crate) fn take(&mut self, now: Instant) -> bool {
        let earned = now.duration_since(self.since).as_millis() / EVENT_INTERVAL.as_millis();
        if earned > 0 {
            self.left = MAX_BURST.min(self.left.saturating_add(u32::try_from(earned).unwrap_or(MAX_BURST)));
            self.since = now;
        }
        let may = self.left > 0;
        self.left = self.left.saturating_sub(1);
        may
    }
}

/// The name of an event.
pub(super) fn event_name(policy: &str, uid: &str, generation: Option<i64>, reason: &str) -> String {
    let generation = generation.unwrap_or_default().to_be_bytes();
    named(policy, &hash([uid.as_bytes(), &generation, reason.as_bytes()]))
}

/// The name of an event about an object, with what tells it from others.
pub(crate) fn named(object: &str, hash: &str) -> String {
    let short = object.get(..MAX_NAME).unwrap_or(object).trim_end_matches(['.', '-']);
    format!("{short}.{hash}")
}

/// The object that an event is about.
#[derive(Clone, Debug)]
pub(crate) struct InvolvedObject {
    pub(crate) object: ObjectRef,
    pub(crate) uid: String,
}

impl InvolvedObject {
    fn api_version(&self) -> String {
        let version = self.object.kind.versions().first().copied().unwrap_or_default();
        match self.object.kind.group() {
            "" => version.to_owned(),
            group => format!("{group}/{version}"),
        }
    }
}

/// Makes an event of this name, unless there is one.
pub(crate) async fn create_event(
    client: &Client,
    involved: &InvolvedObject,
    event: &Event,
    name: &str,
    now: &str,
) {
    let ObjectRef { kind, namespace, name: object_name } = &involved.object;
    // Events about objects without a namespace are in that one.
    let own = if namespace.is_empty() { "default" } else { namespace };
    let resource = ApiResource {
        group: String::new(),
        version: "v1".to_owned(),
        api_version: "v1".to_owned(),
        kind: "Event".to_owned(),
        plural: "events".to_owned(),
    };
    let api: Api<DynamicObject> = Api::namespaced_with(client.clone(), own, &resource);
    let mut object = json!({
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {
            "name": name,
            "namespace": own,
        },
        "involvedObject": {
            "apiVersion": involved.api_version(), "kind": kind.as_str(),
            "name": object_name, "uid": involved.uid,
        },
        "type": event.kind, "reason": event.reason, "message": event.message,
        "source": { "component": MANAGER },
        "firstTimestamp": now, "lastTimestamp": now, "count": 1,
    });
    if !namespace.is_empty() {
        object["involvedObject"]["namespace"] = json!(namespace);
    }
    let Ok(object) = serde_json::from_value(object) else { return };
    match api.create(&PostParams::default(), &object).await {
        Ok(_) => {}
        // Another control plane was faster, or it happened before.
        Err(kube::Error::Api(status)) if status.code == 409 => {}
        // The object goes with its namespace, and nothing can be written there any more.
        Err(kube::Error::Api(status)) if status.message.contains("being terminated") => {}
        Err(error) => {
            let object = involved.object.to_string();
            tracing::warn!(reason = reason(&error), object, "cannot make an event");
        }
    }
}
