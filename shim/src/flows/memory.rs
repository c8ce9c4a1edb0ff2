//! The flows that are remembered: a bounded number, the most recently seen.

use std::collections::HashMap;
use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use egress_policy::{Identity, Protocol};
use jiff::Timestamp;
use lru::LruCache;
use serde::{Deserialize, Serialize};

use super::{Decided, Flow, Observation, Sample, clean};

/// How many flows are remembered of all identities together. None is larger than about 2 kB.
const MOST: usize = 100_000;
/// How many of its addresses, proxies and requests a flow remembers.
const SOME: usize = 4;
/// The longest node id.
const LONGEST_NODE: usize = 128;

/// What is remembered.
#[derive(Debug)]
pub struct Memory {
    per_identity: NonZeroUsize,
    most: usize,
    inner: Mutex<Inner>,
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
}

#[derive(Debug, Default)]
struct Inner {
    identities: HashMap<Identity, LruCache<Key, Flow>>,
    total: usize,
    sequence: u64,
}

/// What makes two connections the same flow.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Key {
    /// The name; without one, the address.
    destination: Result<String, std::net::IpAddr>,
    port: u16,
    protocol: Protocol,
    decided: Decided,
}

/// Which flows are wanted.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Filter {
    /// Of this identity.
    #[serde(default, deserialize_with = "parsed")]
    pub identity: Option<Identity>,
    /// With this verdict.
    pub verdict: Option<Wanted>,
    /// Those that changed after this.
    #[serde(default)]
    pub after: u64,
}

/// A verdict to filter by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Wanted {
    /// Allowed by a rule, by the mesh or by global egress.
    Allow,
    /// Let through by audit mode alone.
    Audit,
    /// Refused.
    Deny,
}

impl Wanted {
    /// The word that `/flows` knows.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Allow => "allow",
            Self::Audit => "audit",
            Self::Deny => "deny",
        }
    }
}

/// What `/flows` says.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Flows {
    /// Whether flows are remembered at all.
    pub enabled: bool,
    /// The last change; `after` takes it.
    pub sequence: u64,
    /// How many were forgotten because others came.
    pub dropped: u64,
    /// The flows, the least recently seen first.
    pub flows: Vec<Flow>,
}

impl Memory {
    /// Nothing yet.
    #[must_use]
    pub fn new(per_identity: NonZeroUsize) -> Self {
        Self {
            per_identity,
            most: MOST.max(per_identity.get()),
            inner: Mutex::default(),
            counts: Counts::default(),
        }
    }

    /// Takes in what the log of a proxy says.
    pub fn record(&self, identity: &Identity, node: &str, now: Timestamp, seen: Vec<Option<Observation>>) {
        let mut dropped = 0;
        let mut inner = self.lock();
        for observation in seen {
            match observation {
                Some(observation) => {
                    self.counts.entries.fetch_add(1, Ordering::Relaxed);
                    inner.take(identity, node, now, observation);
                    dropped += inner.make_room(identity, self.per_identity.get(), self.most);
                }
                None => drop(self.counts.undecided.fetch_add(1, Ordering::Relaxed)),
            }
        }
        drop(inner);
        self.counts.dropped.fetch_add(dropped, Ordering::Relaxed);
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.lock().total
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Those that are wanted.
    #[must_use]
    pub fn flows(&self, filter: &Filter) -> Flows {
        let Filter { identity, verdict, after } = filter;
        let inner = self.lock();
        let is_wanted = |flow: &Flow| {
            flow.sequence > *after && verdict.is_none_or(|verdict| verdict.word() == flow.decided.word())
        };
        let mut flows: Vec<Flow> = inner
            .identities
            .iter()
            .filter(|(whose, _)| identity.as_ref().is_none_or(|identity| identity == *whose))
            .flat_map(|(_, flows)| flows.iter().map(|(_, flow)| flow))
            .filter(|flow| is_wanted(flow))
            .cloned()
            .collect();
        let sequence = inner.sequence;
        drop(inner);
        flows.sort_by_key(|flow| flow.sequence);
        Flows { enabled: true, sequence, dropped: self.counts.dropped.load(Ordering::Relaxed), flows }
    }

    /// Nothing is left half done under this lock.
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn take(&mut self, identity: &Identity, node: &str, now: Timestamp, seen: Observation) {
        let Observation { decided, to, protocol, name, request } = seen;
        let address = to.ip().to_canonical();
        let key = Key {
            destination: name.clone().ok_or(address),
            port: to.port(),
            protocol,
            decided: decided.clone(),
        };
        self.sequence += 1;
        let flows = self.identities.entry(identity.clone()).or_insert_with(LruCache::unbounded);
        let before = flows.len();
        let flow = flows.get_or_insert_mut(key, || Flow {
            identity: identity.to_string(),
            name,
            addresses: Vec::new(),
            port: to.port(),
            protocol,
            decided,
            count: 0,
            first_seen: now,
            last_seen: now,
            nodes: Vec::new(),
            requests: Vec::new(),
            more_requests: false,
            sequence: 0,
        });
        flow.count = flow.count.saturating_add(1);
        flow.last_seen = now;
        flow.sequence = self.sequence;
        add(&mut flow.addresses, address);
        add(&mut flow.nodes, clean::text(node, LONGEST_NODE));
        if let Some(request) = request {
            flow.more_requests |= !add::<Sample>(&mut flow.requests, request);
        }
        self.total += flows.len() - before;
    }

    /// Forgets what was seen least recently, and says how many flows that are: of this identity where it has too
    /// many, and where all have, of the one that has most.
    fn make_room(&mut self, identity: &Identity, per_identity: usize, most: usize) -> u64 {
        let mut dropped = 0;
        let too_many = self.identities.get(identity).is_some_and(|flows| flows.len() > per_identity);
        if too_many {
            dropped += self.forget(&identity.clone());
        }
        while self.total > most {
            let largest = self.identities.iter().max_by_key(|(_, flows)| flows.len());
            let Some(largest) = largest.map(|(identity, _)| identity.clone()) else { break };
            dropped += self.forget(&largest);
        }
        dropped
    }

    fn forget(&mut self, identity: &Identity) -> u64 {
        let Some(flows) = self.identities.get_mut(identity) else { return 0 };
        let gone = u64::from(flows.pop_lru().is_some());
        if flows.is_empty() {
            self.identities.remove(identity);
        }
        self.total = self.total.saturating_sub(usize::from(gone > 0));
        gone
    }
}

/// Adds what is new while there is room; says whether it is there now.
fn add<T: PartialEq>(some: &mut Vec<T>, one: T) -> bool {
    if some.contains(&one) {
        return true;
    }
    let room = some.len() < SOME;
    if room {
        some.push(one);
    }
    room
}

fn parsed<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<Identity>, D::Error> {
    let text = String::deserialize(deserializer)?;
    text.parse().map(Some).map_err(serde::de::Error::custom)
}
