//! The flows that are remembered: a bounded number, the most recently seen.

mod asked;
mod gone;
mod pages;
mod reporters;
mod table;

use std::convert::Infallible;
use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use egress_policy::Identity;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

pub use self::asked::{Filter, Limit, Wanted};
pub(crate) use self::gone::Gone;
pub use self::pages::all;
use self::reporters::Reporters;
use self::table::{Key, Table};
use super::{Flow, Observation};

/// How many flows are remembered of all identities together. None takes more than about 4 kB, with its key and its
/// places in the order.
const MOST: usize = 100_000;

/// By how much the sequence of a memory that is restored is ahead of the last that was written: changes may have been
/// told of that were not written, and clients ask for what came after those.
const AHEAD: u64 = 1 << 32;

/// What is remembered.
#[derive(Debug)]
pub struct Memory {
    per_identity: NonZeroUsize,
    most: usize,
    table: Mutex<Table>,
    reporters: Reporters,
    /// Counts since the start.
    pub counts: Counts,
}

/// Counts since the start.
#[derive(Debug, Default)]
pub struct Counts {
    /// Connections and requests that were taken in.
    pub entries: AtomicU64,
    /// Entries of a log in which nothing was decided.
    pub undecided: AtomicU64,
    /// Flows that were forgotten because others came.
    pub dropped: AtomicU64,
    /// Times that flows could not be written to their file.
    pub db_errors: AtomicU64,
}

/// What `/flows` says.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Flows {
    /// Whether flows are remembered at all.
    pub enabled: bool,
    /// The last change of all.
    pub sequence: u64,
    /// How many were forgotten because others came.
    pub dropped: u64,
    /// Whether there are others that are wanted: ask for those after the last one of these.
    #[serde(default)]
    pub more: bool,
    /// The flows, the least recently seen first; where the newest were asked for, the other way round.
    pub flows: Vec<Flow>,
}

impl Memory {
    /// Nothing yet.
    #[must_use]
    pub fn new(per_identity: NonZeroUsize) -> Self {
        Self {
            per_identity,
            most: MOST.max(per_identity.get()),
            table: Mutex::default(),
            reporters: Reporters::default(),
            counts: Counts::default(),
        }
    }

    /// Takes in what the log of a proxy says.
    pub fn record(&self, identity: &Identity, node: &str, now: Timestamp, seen: Vec<Option<Observation>>) {
        if seen.iter().any(Option::is_some) {
            self.reporters.add(identity, node);
        }
        let mut dropped = 0;
        let mut table = self.lock();
        for observation in seen {
            match observation {
                Some(observation) => {
                    self.counts.entries.fetch_add(1, Ordering::Relaxed);
                    table.take(identity, node, now, observation);
                    dropped += table.make_room(identity, self.per_identity.get(), self.most);
                }
                None => drop(self.counts.undecided.fetch_add(1, Ordering::Relaxed)),
            }
        }
        drop(table);
        self.counts.dropped.fetch_add(dropped, Ordering::Relaxed);
    }

    /// Whether a proxy told of a decision, ever or before what is restored was written.
    #[must_use]
    pub fn has_decided(&self, identity: &str, node: &str) -> bool {
        self.reporters.has(identity, node)
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.lock().len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Those that are wanted, as many as fit in one answer.
    #[must_use]
    pub fn flows(&self, filter: &Filter) -> Flows {
        let table = self.lock();
        let (flows, more) = table.page(filter);
        let sequence = table.sequence();
        drop(table);
        Flows { enabled: true, sequence, dropped: self.counts.dropped.load(Ordering::Relaxed), more, flows }
    }

    /// All that are wanted, however many, the oldest first.
    #[must_use]
    pub fn all(&self, filter: &Filter) -> Flows {
        let Ok(flows) = all(filter, |page| Ok::<_, Infallible>(self.flows(page)));
        flows
    }

    /// The last change.
    pub(crate) fn sequence(&self) -> u64 {
        self.lock().sequence()
    }

    /// Takes in what was written, the least recently seen first, by the rows in which it is, and says what the last
    /// change of it was. From now on rows that are gone are told of.
    pub(crate) fn restore(&self, rows: Vec<(u64, Flow)>) -> u64 {
        let mut dropped = 0;
        let mut table = self.lock();
        table.follow_rows();
        for (row, flow) in rows {
            let Ok(identity) = flow.identity.parse() else { continue };
            for node in &flow.nodes {
                self.reporters.add(&identity, node);
            }
            table.restore(&identity, row, flow);
            dropped += table.make_room(&identity, self.per_identity.get(), self.most);
        }
        let last = table.sequence();
        table.skip(AHEAD);
        drop(table);
        self.counts.dropped.fetch_add(dropped, Ordering::Relaxed);
        last
    }

    /// The first flows that changed after this, with their rows.
    pub(crate) fn changed(&self, after: u64, most: usize) -> Vec<(u64, Flow)> {
        self.lock().changed(after, most)
    }

    /// The rows that are gone since this was asked for.
    pub(crate) fn take_gone(&self) -> Gone {
        self.lock().take_gone()
    }

    /// Takes them back, where they could not be deleted.
    pub(crate) fn put_back(&self, gone: Gone) {
        self.lock().put_back(gone);
    }

    /// Nothing is left half done under this lock.
    fn lock(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
