//! Events of the audit record: one for each change of a grant, however many control planes there are.
//!
//! The name of an event follows from the change, so the first control plane that makes it is the only one. Whoever saw the
//! request knows the user and makes it at once; the others wait for that.

use std::time::Duration;

use kube::Client;
use tokio::sync::mpsc::{Receiver, Sender, channel};
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::status::events::{Event, EventBudget, InvolvedObject, create_event, named};
use super::status::timestamp;
use egress_compile::manifest::ObjectRef;

/// The most events that may wait. Those over it are in the log only.
const MAX_WAITING: usize = 1024;
/// The time that a control plane without the user's name waits for one that has it.
const SECOND_HAND_DELAY: Duration = Duration::from_secs(2);
/// The most bytes of a message: an API server takes 1 kB.
const MAX_MESSAGE: usize = 1000;

/// An event of the audit record.
#[derive(Debug)]
pub struct AuditEvent {
    /// The object that grants.
    pub object: ObjectRef,
    /// Its identifier.
    pub uid: String,
    /// The identifier of the change.
    pub id: String,
    /// The change, as text.
    pub message: String,
    /// True if this control plane saw the request.
    pub is_first_hand: bool,
}

/// Takes events.
#[derive(Clone, Debug)]
pub struct AuditEvents {
    first_hand: Sender<(Instant, AuditEvent)>,
    second_hand: Sender<(Instant, AuditEvent)>,
}

impl AuditEvents {
    /// Begins to make events.
    pub(super) fn new(client: &Client, tasks: &mut JoinSet<()>) -> Self {
        let mut queue = |delay| {
            let (sender, receiver) = channel(MAX_WAITING);
            tasks.spawn(write(client.clone(), receiver, delay));
            sender
        };
        Self { first_hand: queue(Duration::ZERO), second_hand: queue(SECOND_HAND_DELAY) }
    }

    /// Makes an event, soon; none where too many wait.
    pub fn send(&self, event: AuditEvent) {
        let queue = if event.is_first_hand { &self.first_hand } else { &self.second_hand };
        if let Err(error) = queue.try_send((Instant::now(), event)) {
            tracing::warn!(target: "audit", %error, "an event is left out");
        }
    }
}

async fn write(client: Client, mut queue: Receiver<(Instant, AuditEvent)>, delay: Duration) {
    let mut budget = EventBudget::new(Instant::now());
    while let Some((queued, AuditEvent { object, uid, id, mut message, is_first_hand: _ })) =
        queue.recv().await
    {
        if !budget.take(Instant::now()) {
            tracing::warn!(target: "audit", object = %object, change = id, "an event is left out");
            continue;
        }
        tokio::time::sleep_until(queued + delay).await;
        if message.len() > MAX_MESSAGE {
            let is_end = |at: &usize| message.is_char_boundary(*at);
            let end = (0..=MAX_MESSAGE - '…'.len_utf8()).rev().find(is_end).unwrap_or_default();
            message.truncate(end);
            message.push('…');
        }
        let name = named(&object.name, &id);
        let event = Event { kind: "Normal", reason: "GrantChanged", message };
        create_event(&client, &InvolvedObject { object, uid }, &event, &name, &timestamp()).await;
    }
}
