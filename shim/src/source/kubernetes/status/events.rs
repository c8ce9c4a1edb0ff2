//! What `kubectl describe` shows of a policy: when it turned out to be wrong, when it was mended, when a proxy
//! refused it.
//!
//! An event's name follows from object, generation and reason, so any number of control planes make one.

use std::time::Duration;

use kube::api::{ApiResource, DynamicObject, PostParams};
use kube::{Api, Client};
use serde_json::json;
use tokio::time::Instant;

use super::super::connect::reason;
use super::super::object::{Key, Observed};
use super::verdict::{ACCEPTED, Condition, PROGRAMMED, REJECTED, Said, find};
use super::{EGRESS, MANAGER};
use crate::snapshot::hash;
use egress_compile::manifest::Kind;

/// How many events may be made at once, and how often there may be one more.
const BURST: u32 = 50;
const PACE: Duration = Duration::from_millis(200);
/// How much of a policy's name goes into that of an event, which must not be too long either.
const LONGEST_NAME: usize = 200;

/// What is to be told.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Event {
    /// `Normal` or `Warning`.
    pub(super) kind: &'static str,
    pub(super) reason: &'static str,
    pub(super) message: String,
}

/// What is to be told when this is said of an object of which that was said before.
pub(super) fn events(said: &Said, before: &Observed) -> Vec<Event> {
    let generation = said.verdict.generation(before);
    let is_told = |condition: &Condition| {
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
    let accepted = &said.verdict.accepted;
    let was_wrong = find(before, ACCEPTED).is_some_and(|known| known["status"] == "False");
    if accepted.status == "False" && !is_told(accepted) {
        events.push(event("Warning", accepted));
    } else if accepted.status == "True" && was_wrong {
        events.push(event("Normal", accepted));
    }
    if let Some((programmed, _)) = &said.programmed
        && programmed.reason == REJECTED
        && !is_told(programmed)
    {
        debug_assert_eq!(programmed.kind, PROGRAMMED);
        events.push(event("Warning", programmed));
    }
    events
}

/// Makes events, not too many of them.
#[derive(Debug)]
pub(super) struct Events {
    left: u32,
    since: Instant,
}

impl Events {
    pub(super) fn new(now: Instant) -> Self {
        Self { left: BURST, since: now }
    }

    /// Whether one more may be made. What is not told stands in the status all the same.
    pub(super) fn may(&mut self, now: Instant) -> bool {
        let earned = now.duration_since(self.since).as_millis() / PACE.as_millis();
        if earned > 0 {
            self.left = BURST.min(self.left.saturating_add(u32::try_from(earned).unwrap_or(BURST)));
            self.since = now;
        }
        let may = self.left > 0;
        self.left = self.left.saturating_sub(1);
        may
    }
}

/// The name of an event.
pub(super) fn name(policy: &str, uid: &str, generation: Option<i64>, reason: &str) -> String {
    let generation = generation.unwrap_or_default().to_be_bytes();
    let short = policy.get(..LONGEST_NAME).unwrap_or(policy).trim_end_matches(['.', '-']);
    format!("{short}.{}", hash([uid.as_bytes(), &generation, reason.as_bytes()]))
}

/// Makes an event, unless there is one.
pub(super) async fn make(
    client: &Client,
    (namespace, policy): &Key,
    event: &Event,
    generation: Option<i64>,
    before: &Observed,
    now: &str,
) {
    let resource = ApiResource {
        group: String::new(),
        version: "v1".to_owned(),
        api_version: "v1".to_owned(),
        kind: "Event".to_owned(),
        plural: "events".to_owned(),
    };
    let api: Api<DynamicObject> = Api::namespaced_with(client.clone(), namespace, &resource);
    let object = json!({
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {
            "name": name(policy, &before.uid, generation, event.reason),
            "namespace": namespace,
        },
        "involvedObject": {
            "apiVersion": EGRESS.1, "kind": Kind::Egress.as_str(),
            "namespace": namespace, "name": policy, "uid": before.uid,
        },
        "type": event.kind, "reason": event.reason, "message": event.message,
        "source": { "component": MANAGER },
        "firstTimestamp": now, "lastTimestamp": now, "count": 1,
    });
    let Ok(object) = serde_json::from_value(object) else { return };
    match api.create(&PostParams::default(), &object).await {
        Ok(_) => {}
        // Another control plane was faster, or it happened before.
        Err(kube::Error::Api(status)) if status.code == 409 => {}
        Err(error) => {
            tracing::warn!(
                reason = reason(&error),
                policy = format!("{namespace}/{policy}"),
                "cannot make an event"
            );
        }
    }
}
