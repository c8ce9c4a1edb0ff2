//! Flows in the order in which they changed, of all and of each choice that can be asked for.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;

use egress_policy::{Identity, Protocol};
use jiff::Timestamp;

use super::{Filter, Gone, Wanted};
use crate::{Decided, Flow, Observation, Sample};
use egress_core::sanitize;

/// How many of its addresses, proxies and requests a flow remembers.
const SOME: usize = 4;
/// The longest node id.
const LONGEST_NODE: usize = 128;

/// The flows.
#[derive(Debug, Default)]
pub(super) struct Table {
    /// Each by its sequence: the first was seen least recently.
    flows: BTreeMap<u64, Kept>,
    /// The sequences within each choice, so that an answer takes no longer where there are many others.
    order: BTreeSet<(Choice, u64)>,
    identities: HashMap<Identity, Known>,
    /// How many identities had a number so far.
    numbers: u64,
    sequence: u64,
    /// How many flows had a row so far.
    rows: u64,
    /// The rows of flows that were forgotten, where these are in a file.
    gone: Option<Gone>,
}

/// A flow, and its row in a file: it stays the same as long as the flow is remembered.
#[derive(Debug)]
struct Kept {
    row: u64,
    flow: Flow,
}

/// What can be asked for; `None` stands for any.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Choice {
    identity: Option<u64>,
    verdict: Option<Wanted>,
}

/// An identity that has flows.
#[derive(Debug)]
struct Known {
    number: u64,
    flows: HashMap<Key, u64>,
}

/// What makes two connections the same flow.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Key {
    /// The name; without one, the address.
    destination: Result<String, Option<IpAddr>>,
    port: u16,
    protocol: Protocol,
    decided: Decided,
}

impl Key {
    /// The key of a flow among those of its identity.
    pub(super) fn of(flow: &Flow) -> Self {
        Self {
            // One without a name has one address.
            destination: flow.name.clone().ok_or_else(|| flow.addresses.first().copied()),
            port: flow.port,
            protocol: flow.protocol,
            decided: flow.decided.clone(),
        }
    }
}

impl Table {
    pub(super) fn len(&self) -> usize {
        self.flows.len()
    }

    pub(super) fn sequence(&self) -> u64 {
        self.sequence
    }

    pub(super) fn take(&mut self, identity: &Identity, node: &str, now: Timestamp, seen: Observation) {
        let Observation { decided, to, protocol, name, request } = seen;
        let address = to.ip().to_canonical();
        let key = Key {
            destination: name.clone().ok_or(Some(address)),
            port: to.port(),
            protocol,
            decided: decided.clone(),
        };
        let before = self.identities.get(identity).and_then(|known| known.flows.get(&key).copied());
        let mut kept = before.and_then(|sequence| self.remove(identity, sequence)).unwrap_or_else(|| {
            self.rows += 1;
            let flow = Flow {
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
            };
            Kept { row: self.rows, flow }
        });
        let flow = &mut kept.flow;
        flow.count = flow.count.saturating_add(1);
        flow.last_seen = now;
        self.sequence += 1;
        flow.sequence = self.sequence;
        add(&mut flow.addresses, address);
        add(&mut flow.nodes, sanitize::text(node, LONGEST_NODE));
        if let Some(request) = request {
            flow.more_requests |= !count(&mut flow.requests, request);
        }
        self.insert(identity, key, kept);
    }

    /// Takes in a flow as it was written. The sequence goes on from the highest.
    pub(super) fn restore(&mut self, identity: &Identity, row: u64, flow: Flow) {
        let key = Key::of(&flow);
        let before = self.identities.get(identity).and_then(|known| known.flows.get(&key).copied());
        self.rows = self.rows.max(row);
        if before.is_some() || self.flows.contains_key(&flow.sequence) {
            // No two are written.
            self.is_gone(row);
            return;
        }
        self.sequence = self.sequence.max(flow.sequence);
        self.insert(identity, key, Kept { row, flow });
    }

    /// Counts changes that nobody saw.
    pub(super) fn skip(&mut self, changes: u64) {
        self.sequence += changes;
    }

    /// From now on says what rows are gone.
    pub(super) fn follow_rows(&mut self) {
        self.gone = Some(Gone::default());
    }

    pub(super) fn take_gone(&mut self) -> Gone {
        self.gone.as_mut().map(std::mem::take).unwrap_or_default()
    }

    pub(super) fn put_back(&mut self, gone: Gone) {
        if let Some(now) = &mut self.gone {
            now.add(gone);
        }
    }

    /// The first flows that changed after this, with their rows.
    pub(super) fn changed(&self, after: u64, most: usize) -> Vec<(u64, Flow)> {
        let changed = self.flows.range(after.saturating_add(1)..);
        changed.take(most).map(|(_, kept)| (kept.row, kept.flow.clone())).collect()
    }

    /// Forgets what was seen least recently, and says how many flows that are: of this identity where it has too
    /// many, and where all have, of the one that has most.
    pub(super) fn make_room(&mut self, identity: &Identity, per_identity: usize, most: usize) -> u64 {
        let mut dropped = 0;
        if self.identities.get(identity).is_some_and(|known| known.flows.len() > per_identity) {
            dropped += self.forget(&identity.clone());
        }
        while self.flows.len() > most {
            let largest = self.identities.iter().max_by_key(|(_, known)| known.flows.len());
            let Some(largest) = largest.map(|(identity, _)| identity.clone()) else { break };
            dropped += self.forget(&largest);
        }
        dropped
    }

    /// As many as are wanted at once, and whether there are more of them.
    pub(super) fn page(&self, filter: &Filter) -> (Vec<Flow>, bool) {
        let Filter { identity, verdict, after, limit, newest } = filter;
        let identity = match identity.as_ref().map(|identity| self.identities.get(identity)) {
            None => None,
            Some(Some(known)) => Some(known.number),
            Some(None) => return (Vec::new(), false),
        };
        let choice = Choice { identity, verdict: *verdict };
        let range = self.order.range((choice, after.saturating_add(1))..=(choice, u64::MAX));
        let flow = |(_, sequence): &(Choice, u64)| Some(self.flows.get(sequence)?.flow.clone());
        let one_more = limit.get() + 1;
        let mut flows: Vec<Flow> = if *newest {
            range.rev().take(one_more).filter_map(flow).collect()
        } else {
            range.take(one_more).filter_map(flow).collect()
        };
        let more = flows.len() > limit.get();
        flows.truncate(limit.get());
        (flows, more)
    }

    fn insert(&mut self, identity: &Identity, key: Key, kept: Kept) {
        let sequence = kept.flow.sequence;
        let known = self.identities.entry(identity.clone()).or_insert_with(|| {
            self.numbers += 1;
            Known { number: self.numbers, flows: HashMap::new() }
        });
        known.flows.insert(key, sequence);
        self.order.extend(choices(known.number, &kept.flow).map(|choice| (choice, sequence)));
        self.flows.insert(sequence, kept);
    }

    /// Takes a flow out of the order. Its key stays.
    fn remove(&mut self, identity: &Identity, sequence: u64) -> Option<Kept> {
        let number = self.identities.get(identity)?.number;
        let kept = self.flows.remove(&sequence)?;
        for choice in choices(number, &kept.flow) {
            self.order.remove(&(choice, sequence));
        }
        Some(kept)
    }

    fn is_gone(&mut self, row: u64) {
        if let Some(gone) = &mut self.gone {
            gone.add(Gone { rows: vec![row], too_many: false });
        }
    }

    fn forget(&mut self, identity: &Identity) -> u64 {
        let Some(number) = self.identities.get(identity).map(|known| known.number) else { return 0 };
        let choice = Choice { identity: Some(number), verdict: None };
        let oldest = self.order.range((choice, 0)..=(choice, u64::MAX)).next().map(|(_, sequence)| *sequence);
        let Some(Kept { row, flow }) = oldest.and_then(|sequence| self.remove(identity, sequence)) else {
            return 0;
        };
        self.is_gone(row);
        if let Some(known) = self.identities.get_mut(identity) {
            known.flows.remove(&Key::of(&flow));
            if known.flows.is_empty() {
                self.identities.remove(identity);
            }
        }
        1
    }
}

/// All that a flow is an answer to.
fn choices(identity: u64, flow: &Flow) -> [Choice; 4] {
    let verdict = Some(Wanted::of(&flow.decided));
    let identity = Some(identity);
    [
        Choice { identity: None, verdict: None },
        Choice { identity: None, verdict },
        Choice { identity, verdict: None },
        Choice { identity, verdict },
    ]
}

/// Adds what is new while there is room; says whether it is there now.
/// The same for a request, of which each is counted.
fn count(some: &mut Vec<Sample>, one: Sample) -> bool {
    let is_same = |known: &&mut Sample| {
        (&known.method, &known.path, &known.upgrade) == (&one.method, &one.path, &one.upgrade)
    };
    if let Some(known) = some.iter_mut().find(is_same) {
        known.count = known.count.saturating_add(one.count);
        return true;
    }
    let room = some.len() < SOME;
    if room {
        some.push(one);
    }
    room
}

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
