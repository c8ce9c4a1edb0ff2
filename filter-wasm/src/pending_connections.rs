//! The connections whose first bytes decide and have not come.

use std::cell::Cell;
use std::net::SocketAddr;

use crate::open_connections::OpenConnection;
use crate::shared_sum::{Share, SharedSum};
use crate::table::{Guard, Table};
use crate::tick::{ActionKind, MAX_ACTIONS, StreamAction};

/// The most connections that wait in a worker. Each costs Envoy some 10 kB, and a workload could hold any number of them
/// open for the whole time-out. A burst of connections is far smaller, and each waits only until its first packet
/// arrives.
pub(crate) const MAX_PENDING: usize = 4096;

/// The most first bytes that wait in a worker. A ClientHello is 0.3 to 2 kB, so [`MAX_PENDING`] honest connections stay
/// below it; one that never ends may take 16 KiB, here and in Envoy.
pub(crate) const MAX_PENDING_BYTES: usize = 16 << 20;

/// The pending connections of a scope.
#[derive(Debug, Default)]
pub(crate) struct PendingConnections {
    table: Table<PendingConnection>,
    bytes: SharedSum,
    next_number: Cell<u64>,
}

/// A connection whose first bytes decide and have not come.
#[derive(Debug)]
pub(crate) struct PendingConnection {
    pub(crate) id: u32,
    /// The original destination.
    pub(crate) to: SocketAddr,
    /// The end of its time, in milliseconds as [`crate::host::Host::now`] counts.
    deadline: u64,
    /// Its number among all: the smallest is the oldest.
    number: u64,
    pub(crate) held_bytes: Share,
    pub(crate) state: PendingState,
}

/// The state of a pending connection.
#[derive(Debug)]
pub(crate) enum PendingState {
    /// It waits.
    Waiting,
    /// It was let through, or refused, without its first bytes.
    Decided(Option<Guard<OpenConnection>>),
}

impl PendingConnection {
    /// Returns whether it still waits.
    pub(crate) fn is_waiting(&self) -> bool {
        matches!(self.state, PendingState::Waiting)
    }
}

impl PendingConnections {
    /// Adds a connection.
    pub(crate) fn insert(&self, id: u32, to: SocketAddr, deadline: u64) -> Guard<PendingConnection> {
        let number = self.next_number.get();
        self.next_number.set(number.saturating_add(1));
        let (held_bytes, state) = (self.bytes.share(0), PendingState::Waiting);
        self.table.insert(PendingConnection { id, to, deadline, number, held_bytes, state })
    }

    /// The connections by key.
    pub(crate) fn table(&self) -> &Table<PendingConnection> {
        &self.table
    }

    /// Finds the connections that are too many: the oldest, and where bytes are too many, the oldest that hold some. They
    /// must be closed at once, because the memory of a VM never shrinks.
    pub(crate) fn excess(&self) -> Vec<StreamAction> {
        if self.table.len() <= MAX_PENDING && self.bytes.get() <= MAX_PENDING_BYTES {
            return Vec::new();
        }
        let mut waiting = Vec::new();
        let entry = |key, pending: &PendingConnection| {
            pending.is_waiting().then(|| (pending.number, key, pending.id, pending.held_bytes.get()))
        };
        self.table.collect_from(0, usize::MAX, usize::MAX, &mut waiting, entry);
        let mut count = waiting.len();
        let mut bytes = self.bytes.get();
        let mut excess = Vec::new();
        while excess.len() < MAX_ACTIONS && (count > MAX_PENDING || bytes > MAX_PENDING_BYTES) {
            let is_candidate = |(_, _, _, held): &&(u64, usize, u32, usize)| count > MAX_PENDING || *held > 0;
            let Some(&oldest) = waiting.iter().filter(is_candidate).min() else { break };
            waiting.retain(|entry| *entry != oldest);
            let (_, key, id, held) = oldest;
            count = count.saturating_sub(1);
            bytes = bytes.saturating_sub(held);
            excess.push(StreamAction { id, key, kind: ActionKind::Evict });
        }
        excess
    }

    /// Finds the connections whose time is up.
    pub(crate) fn timed_out(&self, now: u64) -> Vec<StreamAction> {
        let mut actions = Vec::new();
        let timed_out = |key, pending: &PendingConnection| {
            (pending.is_waiting() && pending.deadline <= now).then_some(StreamAction {
                id: pending.id,
                key,
                kind: ActionKind::TimeOut,
            })
        };
        self.table.collect_from(0, usize::MAX, MAX_ACTIONS, &mut actions, timed_out);
        actions
    }
}
