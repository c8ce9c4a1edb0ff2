//! The connections whose first bytes decide and have not come.

use std::cell::Cell;
use std::net::SocketAddr;
use std::rc::Rc;

use crate::open_connections::OpenConnection;
use crate::table::Guard;

/// The most connections that wait in a worker. Each costs Envoy some 10 kB, and a workload could hold any
/// number of them open for the whole time-out. A burst of connections is far smaller, and each waits only for
/// as long as its first packet is under way.
pub(crate) const MAX_PENDING: usize = 4096;

/// The most first bytes that wait in a worker. A ClientHello is 0.3 to 2 kB, so [`MAX_PENDING`] honest
/// connections stay below it; one that never ends may take 16 KiB, here and in Envoy.
pub(crate) const MAX_PENDING_BYTES: usize = 16 << 20;

/// A connection whose first bytes decide and have not come.
#[derive(Debug)]
pub(crate) struct PendingConnection {
    pub(crate) id: u32,
    /// The original destination.
    pub(crate) to: SocketAddr,
    /// When its time is up, in milliseconds as [`crate::host::Host::now`] counts.
    pub(crate) deadline: u64,
    /// Its number among all: the smallest is the oldest.
    pub(crate) number: u64,
    pub(crate) held: HeldBytes,
    pub(crate) state: PendingState,
}

/// What became of it.
#[derive(Debug)]
pub(crate) enum PendingState {
    /// It waits.
    Waiting,
    /// It was let through, or refused, without its first bytes.
    Over(Option<Guard<OpenConnection>>),
}

/// The bytes that a connection holds, as a part of the sum of all.
#[derive(Debug)]
pub(crate) struct HeldBytes {
    bytes: usize,
    sum: Rc<Cell<usize>>,
}

impl HeldBytes {
    /// None so far.
    pub(crate) fn none(sum: &Rc<Cell<usize>>) -> Self {
        Self { bytes: 0, sum: Rc::clone(sum) }
    }

    /// How many there are.
    pub(crate) fn get(&self) -> usize {
        self.bytes
    }

    /// There are so many now.
    pub(crate) fn set(&mut self, bytes: usize) {
        let others = self.sum.get().saturating_sub(self.bytes);
        self.bytes = bytes;
        self.sum.set(others.saturating_add(bytes));
    }
}

impl Drop for HeldBytes {
    fn drop(&mut self) {
        self.set(0);
    }
}

impl PendingConnection {
    pub(crate) fn is_waiting(&self) -> bool {
        matches!(self.state, PendingState::Waiting)
    }
}
