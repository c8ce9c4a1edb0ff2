//! The audit record: a line in the log, and on a cluster an event, for each change of what an object grants.
//!
//! Enforcement comes first: a change is recorded after proxies received it, and no change waits for the record of the one
//! before. Changes that arrive while two states are compared become one record. Memory is bounded: two states beside the
//! current one, and a list of requests that the webhook saw.

mod request_log;

use std::sync::Arc;

use tokio::sync::watch;

pub use self::request_log::{RequestLog, User};
use crate::audit_events::{AuditEvent, AuditEvents};
use egress_compile::Compiled;
use egress_compile::changes::{Effect, GrantChange, PolicyState, TruncatedList, compare_grants};
use egress_compile::manifest::{Object, ObjectRef, Revision};
use egress_compile::store::Store;
use egress_core::hash;

/// The most records of one comparison: more is a replaced folder or cluster, which nobody reads object by object.
const MAX_RECORDS: usize = 500;

/// A state of the objects, and what the compiler made of it.
pub type AuditedState = (Arc<Store>, Arc<Compiled>);

/// Writes records.
#[derive(Debug)]
pub struct Audit {
    /// The requests that the webhook saw.
    pub request_log: Arc<RequestLog>,
    /// The sink of events; none: there is no API server.
    pub events: Option<AuditEvents>,
}

/// A record of one object.
#[derive(Debug)]
struct Record {
    change: GrantChange,
    users: Vec<String>,
    /// Equal for all control planes that see the same change.
    id: String,
    revision: Revision,
}

impl Audit {
    /// Records every change from the current state on, until the sender is dropped.
    pub fn run(self, mut states: watch::Receiver<AuditedState>) -> impl Future<Output = ()> + Send {
        // Taken now: the task may begin after a change.
        let mut before = states.borrow_and_update().clone();
        async move {
            while states.changed().await.is_ok() {
                let after = states.borrow_and_update().clone();
                let (old, new, request_log) = (before, after.clone(), Arc::clone(&self.request_log));
                let records = tokio::task::spawn_blocking(move || records(&old, &new, &request_log));
                match records.await {
                    Ok(records) => self.write(records),
                    Err(_) => {
                        tracing::error!(target: "audit", "comparing failed; this change is not recorded");
                    }
                }
                before = after;
            }
        }
    }

    fn write(&self, records: Vec<Record>) {
        let more = records.len().saturating_sub(MAX_RECORDS);
        for record in records.into_iter().take(MAX_RECORDS) {
            record.log();
            if let Some(events) = &self.events {
                events.send(record.into_event());
            }
        }
        if more > 0 {
            tracing::warn!(target: "audit", more, "more objects changed what they grant; they are left out");
        }
    }
}

fn records(
    (old_store, old): &AuditedState,
    (new_store, new): &AuditedState,
    request_log: &RequestLog,
) -> Vec<Record> {
    let changes = compare_grants(
        PolicyState { store: old_store, compiled: old },
        PolicyState { store: new_store, compiled: new },
    );
    if changes.is_empty() {
        return Vec::new();
    }
    let (before, after) = (old_store.index().objects, new_store.index().objects);
    let records = changes.into_iter().map(|change| {
        let now = |object: &ObjectRef| after.get(object).copied();
        let revision = |object: &ObjectRef| -> Revision {
            let found = now(object).or_else(|| before.get(object).copied());
            found.map(|object: &Object| object.metadata.revision.clone()).unwrap_or_default()
        };
        let users = change.changed.iter().flat_map(|object| request_log.users_of(object, now(object)));
        let mut users: Vec<String> = users.map(|user| user.to_string()).collect();
        users.sort();
        users.dedup();
        let mut parts = vec![change.object.to_string(), revision(&change.object).uid];
        for object in &change.changed {
            let is_there = now(object).is_some();
            parts.extend([object.to_string(), revision(object).version, is_there.to_string()]);
        }
        let id = hash(parts.iter().map(String::as_bytes));
        let revision = revision(&change.object);
        Record { change, users, id, revision }
    });
    records.collect()
}

impl Record {
    fn user(&self) -> Option<String> {
        (!self.users.is_empty()).then(|| self.users.join(", "))
    }

    fn changed(&self) -> String {
        self.change.changed.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
    }

    fn log(&self) {
        let GrantChange { object, file, effects, more_effects, .. } = &self.change;
        let (user, changed, id) = (self.user(), self.changed(), &self.id);
        for Effect { opens, closes, identities } in effects {
            let text = |list: &TruncatedList| (!list.is_empty()).then(|| list.to_string());
            tracing::info!(
                target: "audit",
                object = %object, file, changed, user,
                opens = text(opens), closes = text(closes), identities = %identities, change = id,
                "a grant changed"
            );
        }
        if *more_effects > 0 {
            tracing::info!(target: "audit", object = %object, more_effects, change = id, "the rest is left out");
        }
    }

    fn into_event(self) -> AuditEvent {
        let effects = self.change.effects.iter().map(|Effect { opens, closes, identities }| {
            let part = |verb: &str, list: &TruncatedList| {
                if list.is_empty() { String::new() } else { format!("{verb} {list}; ") }
            };
            format!("{}{}for {identities}", part("opens", opens), part("closes", closes))
        });
        let effects = effects.collect::<Vec<_>>().join(". ");
        let by = self.user().map(|user| format!(" by {user}")).unwrap_or_default();
        AuditEvent {
            // Who did it comes first: the end may be cut off.
            message: format!("changed{by} ({}): {effects}", self.changed()),
            is_first_hand: !self.users.is_empty(),
            object: self.change.object,
            uid: self.revision.uid,
            id: self.id,
        }
    }
}
