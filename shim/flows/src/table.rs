//! The flow table: a bounded number of flows in memory, the most recently seen.

mod evictions;
mod index;
mod paging;
mod query;
mod reporters;

use std::convert::Infallible;
use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use egress_policy::Identity;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

pub(crate) use self::evictions::Evicted;
use self::index::{FlowIndex, FlowKey};
pub use self::paging::collect_pages;
pub use self::query::{FlowQuery, PageLimit, VerdictFilter};
use self::reporters::Reporters;
use super::{Flow, Observation};

/// The most flows of all identities together. A flow takes at most about 4 kB, with its key and its places in the
/// index.
const MAX_FLOWS: usize = 100_000;

/// The distance between the sequence number of a restored table and the last one in the database. Clients may have seen
/// changes that were not written before the restart, and ask for those that came after them.
const RESTORE_SEQUENCE_GAP: u64 = 1 << 32;

/// The flows of all identities, in memory.
#[derive(Debug)]
pub struct FlowTable {
    max_per_identity: NonZeroUsize,
    max_flows: usize,
    index: Mutex<FlowIndex>,
    reporters: Reporters,
    /// Counters since the start.
    pub counters: FlowCounters,
}

/// Counters since the start.
#[derive(Debug, Default)]
pub struct FlowCounters {
    /// Connections and requests that were recorded.
    pub entries: AtomicU64,
    /// Log entries without a decision.
    pub undecided: AtomicU64,
    /// Flows that were evicted.
    pub dropped: AtomicU64,
    /// Failed writes to the flow database.
    pub db_errors: AtomicU64,
}

/// The answer of `/flows`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct FlowList {
    /// True if the control plane records flows.
    pub enabled: bool,
    /// The sequence number of the last change of any flow.
    pub sequence: u64,
    /// The number of flows that were evicted.
    pub dropped: u64,
    /// True if more flows match: ask for those after the last one of this list.
    #[serde(default)]
    pub more: bool,
    /// The flows, least recently seen first; the other way round for a query with `newest`.
    pub flows: Vec<Flow>,
}

impl FlowTable {
    /// Makes an empty table.
    #[must_use]
    pub fn new(max_per_identity: NonZeroUsize) -> Self {
        Self {
            max_per_identity,
            max_flows: MAX_FLOWS.max(max_per_identity.get()),
            index: Mutex::default(),
            reporters: Reporters::default(),
            counters: FlowCounters::default(),
        }
    }

    /// Records the log entries of a proxy; `None` is an entry without a decision.
    pub fn record(
        &self,
        identity: &Identity,
        node: &str,
        now: Timestamp,
        observations: Vec<Option<Observation>>,
    ) {
        if observations.iter().any(Option::is_some) {
            self.reporters.add(identity, node);
        }
        let mut dropped = 0;
        let mut index = self.lock();
        for observation in observations {
            match observation {
                Some(observation) => {
                    self.counters.entries.fetch_add(1, Ordering::Relaxed);
                    index.record(identity, node, now, observation);
                    dropped += index.make_room(identity, self.max_per_identity.get(), self.max_flows);
                }
                None => drop(self.counters.undecided.fetch_add(1, Ordering::Relaxed)),
            }
        }
        drop(index);
        self.counters.dropped.fetch_add(dropped, Ordering::Relaxed);
    }

    /// Returns true if a proxy has reported a decision, now or before the last restart.
    #[must_use]
    pub fn has_reported(&self, identity: &str, node: &str) -> bool {
        self.reporters.contains(identity, node)
    }

    /// The number of flows.
    #[must_use]
    pub fn len(&self) -> usize {
        self.lock().len()
    }

    /// Returns true if there is no flow.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Lists the flows that match a query, one page of them.
    #[must_use]
    pub fn list_page(&self, query: &FlowQuery) -> FlowList {
        let index = self.lock();
        let (flows, more) = index.page(query);
        let sequence = index.sequence();
        drop(index);
        FlowList {
            enabled: true,
            sequence,
            dropped: self.counters.dropped.load(Ordering::Relaxed),
            more,
            flows,
        }
    }

    /// Lists all flows that match a query, oldest first.
    #[must_use]
    pub fn list_all(&self, query: &FlowQuery) -> FlowList {
        let Ok(flows) = collect_pages(query, |page| Ok::<_, Infallible>(self.list_page(page)));
        flows
    }

    /// The sequence number of the last change.
    pub(crate) fn sequence(&self) -> u64 {
        self.lock().sequence()
    }

    /// Restores the rows of the database, the least recently seen first, and returns the sequence number of the last
    /// one. From now on the rows of evicted flows are listed.
    pub(crate) fn restore(&self, rows: Vec<(u64, Flow)>) -> u64 {
        let mut dropped = 0;
        let mut index = self.lock();
        index.track_evictions();
        for (row, flow) in rows {
            let Ok(identity) = flow.identity.parse() else { continue };
            for node in &flow.nodes {
                self.reporters.add(&identity, node);
            }
            index.restore(&identity, row, flow);
            dropped += index.make_room(&identity, self.max_per_identity.get(), self.max_flows);
        }
        let last = index.sequence();
        index.advance_sequence(RESTORE_SEQUENCE_GAP);
        drop(index);
        self.counters.dropped.fetch_add(dropped, Ordering::Relaxed);
        last
    }

    /// Lists the first flows that changed after a sequence number, with their rows.
    pub(crate) fn changed_since(&self, after: u64, limit: usize) -> Vec<(u64, Flow)> {
        self.lock().changed_since(after, limit)
    }

    /// Takes the list of rows that were evicted since the last call.
    pub(crate) fn take_evicted(&self) -> Evicted {
        self.lock().take_evicted()
    }

    /// Puts rows that could not be deleted back into the list.
    pub(crate) fn put_back_evicted(&self, evicted: Evicted) {
        self.lock().put_back_evicted(evicted);
    }

    /// Locks the index. A poisoned lock is taken too: no change under it is left half done.
    fn lock(&self) -> MutexGuard<'_, FlowIndex> {
        self.index.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
