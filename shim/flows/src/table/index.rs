//! The index of the flow table: flows by key, and in the order of their last change for each selection that a query
//! can make.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;

use egress_policy::{Identity, Protocol};
use jiff::Timestamp;

use super::{Evicted, FlowQuery, VerdictFilter};
use crate::{DecisionRecord, Flow, Observation, RequestSample};
use egress_core::sanitize;

/// The most addresses, proxies and distinct requests of one flow: examples for a reader, at a bounded size.
const MAX_EXAMPLES: usize = 4;
/// The longest node id that is stored, in bytes.
const MAX_NODE_ID_BYTES: usize = 128;

/// The flows with their indexes.
#[derive(Debug, Default)]
pub(super) struct FlowIndex {
    /// The flows by sequence number: the first was seen least recently.
    flows: BTreeMap<u64, StoredFlow>,
    /// The sequence numbers of each selection, so that the time of a query does not depend on the flows that it does not
    /// match.
    order: BTreeSet<(Selection, u64)>,
    identities: HashMap<Identity, IdentityFlows>,
    /// The last number that an identity got.
    last_identity_number: u64,
    sequence: u64,
    /// The last row that a flow got.
    last_row: u64,
    /// The rows of evicted flows; only with a flow database.
    evicted: Option<Evicted>,
}

/// A flow and its row in the database, which stays the same until the flow is evicted.
#[derive(Debug)]
struct StoredFlow {
    row: u64,
    flow: Flow,
}

/// A selection of a query; `None` stands for any.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Selection {
    identity: Option<u64>,
    verdict: Option<VerdictFilter>,
}

/// The flows of one identity.
#[derive(Debug)]
struct IdentityFlows {
    number: u64,
    flows: HashMap<FlowKey, u64>,
}

/// The key of a flow within its identity: observations with equal keys are one flow.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct FlowKey {
    /// The name; the address if there is none.
    destination: Result<String, Option<IpAddr>>,
    port: u16,
    protocol: Protocol,
    decision: DecisionRecord,
}

impl FlowKey {
    /// The key of a flow among those of its identity.
    pub(super) fn of(flow: &Flow) -> Self {
        Self {
            // A flow without a name has one address.
            destination: flow.name.clone().ok_or_else(|| flow.addresses.first().copied()),
            port: flow.port,
            protocol: flow.protocol,
            decision: flow.decision.clone(),
        }
    }
}

impl FlowIndex {
    pub(super) fn len(&self) -> usize {
        self.flows.len()
    }

    pub(super) fn sequence(&self) -> u64 {
        self.sequence
    }

    /// Records an observation: in the flow of its key, or in a new one.
    pub(super) fn record(
        &mut self,
        identity: &Identity,
        node: &str,
        now: Timestamp,
        observation: Observation,
    ) {
        let Observation { decision, original_destination, protocol, name, request } = observation;
        let address = original_destination.ip().to_canonical();
        let key = FlowKey {
            destination: name.clone().ok_or(Some(address)),
            port: original_destination.port(),
            protocol,
            decision: decision.clone(),
        };
        let before = self.identities.get(identity).and_then(|known| known.flows.get(&key).copied());
        let mut stored = before.and_then(|sequence| self.remove(identity, sequence)).unwrap_or_else(|| {
            self.last_row += 1;
            let flow = Flow {
                identity: identity.to_string(),
                name,
                addresses: Vec::new(),
                port: original_destination.port(),
                protocol,
                decision,
                count: 0,
                first_seen: now,
                last_seen: now,
                nodes: Vec::new(),
                requests: Vec::new(),
                more_requests: false,
                sequence: 0,
            };
            StoredFlow { row: self.last_row, flow }
        });
        let flow = &mut stored.flow;
        flow.count = flow.count.saturating_add(1);
        flow.last_seen = now;
        self.sequence += 1;
        flow.sequence = self.sequence;
        add_example(&mut flow.addresses, address);
        add_example(&mut flow.nodes, sanitize::text(node, MAX_NODE_ID_BYTES));
        if let Some(request) = request {
            flow.more_requests |= !count_request(&mut flow.requests, request);
        }
        self.insert(identity, key, stored);
    }

    /// Restores a flow from the database. The sequence goes on from the highest restored number.
    pub(super) fn restore(&mut self, identity: &Identity, row: u64, flow: Flow) {
        let key = FlowKey::of(&flow);
        let before = self.identities.get(identity).and_then(|known| known.flows.get(&key).copied());
        self.last_row = self.last_row.max(row);
        if before.is_some() || self.flows.contains_key(&flow.sequence) {
            // The writer writes no key or sequence number twice.
            self.mark_evicted(row);
            return;
        }
        self.sequence = self.sequence.max(flow.sequence);
        self.insert(identity, key, StoredFlow { row, flow });
    }

    /// Leaves out sequence numbers.
    pub(super) fn advance_sequence(&mut self, changes: u64) {
        self.sequence += changes;
    }

    /// Lists the rows of evicted flows from now on.
    pub(super) fn track_evictions(&mut self) {
        self.evicted = Some(Evicted::default());
    }

    pub(super) fn take_evicted(&mut self) -> Evicted {
        self.evicted.as_mut().map(std::mem::take).unwrap_or_default()
    }

    pub(super) fn put_back_evicted(&mut self, evicted: Evicted) {
        if let Some(current) = &mut self.evicted {
            current.add(evicted);
        }
    }

    /// Lists the first flows that changed after a sequence number, with their rows.
    pub(super) fn changed_since(&self, after: u64, limit: usize) -> Vec<(u64, Flow)> {
        let changed = self.flows.range(after.saturating_add(1)..);
        changed.take(limit).map(|(_, stored)| (stored.row, stored.flow.clone())).collect()
    }

    /// Evicts the least recently seen flows, and returns their number: of this identity if it has too many, and of the
    /// identity with the most flows if there are too many of all.
    pub(super) fn make_room(
        &mut self,
        identity: &Identity,
        max_per_identity: usize,
        max_flows: usize,
    ) -> u64 {
        let mut dropped = 0;
        if self.identities.get(identity).is_some_and(|known| known.flows.len() > max_per_identity) {
            dropped += self.evict_oldest(&identity.clone());
        }
        while self.flows.len() > max_flows {
            let largest = self.identities.iter().max_by_key(|(_, known)| known.flows.len());
            let Some(largest) = largest.map(|(identity, _)| identity.clone()) else { break };
            dropped += self.evict_oldest(&largest);
        }
        dropped
    }

    /// Returns one page of the flows that match a query, and true if there are more.
    pub(super) fn page(&self, query: &FlowQuery) -> (Vec<Flow>, bool) {
        let FlowQuery { identity, verdict, after, limit, newest } = query;
        let identity = match identity.as_ref().map(|identity| self.identities.get(identity)) {
            None => None,
            Some(Some(known)) => Some(known.number),
            Some(None) => return (Vec::new(), false),
        };
        let selection = Selection { identity, verdict: *verdict };
        let range = self.order.range((selection, after.saturating_add(1))..=(selection, u64::MAX));
        let flow = |(_, sequence): &(Selection, u64)| Some(self.flows.get(sequence)?.flow.clone());
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

    fn insert(&mut self, identity: &Identity, key: FlowKey, stored: StoredFlow) {
        let sequence = stored.flow.sequence;
        let known = self.identities.entry(identity.clone()).or_insert_with(|| {
            self.last_identity_number += 1;
            IdentityFlows { number: self.last_identity_number, flows: HashMap::new() }
        });
        known.flows.insert(key, sequence);
        self.order.extend(selections(known.number, &stored.flow).map(|selection| (selection, sequence)));
        self.flows.insert(sequence, stored);
    }

    /// Removes a flow from the order. Its key stays.
    fn remove(&mut self, identity: &Identity, sequence: u64) -> Option<StoredFlow> {
        let number = self.identities.get(identity)?.number;
        let stored = self.flows.remove(&sequence)?;
        for selection in selections(number, &stored.flow) {
            self.order.remove(&(selection, sequence));
        }
        Some(stored)
    }

    fn mark_evicted(&mut self, row: u64) {
        if let Some(evicted) = &mut self.evicted {
            evicted.add(Evicted { rows: vec![row], is_overflow: false });
        }
    }

    /// Evicts the least recently seen flow of an identity, and returns the number of evicted flows.
    fn evict_oldest(&mut self, identity: &Identity) -> u64 {
        let Some(number) = self.identities.get(identity).map(|known| known.number) else { return 0 };
        let selection = Selection { identity: Some(number), verdict: None };
        let oldest =
            self.order.range((selection, 0)..=(selection, u64::MAX)).next().map(|(_, sequence)| *sequence);
        let Some(StoredFlow { row, flow }) = oldest.and_then(|sequence| self.remove(identity, sequence))
        else {
            return 0;
        };
        self.mark_evicted(row);
        if let Some(known) = self.identities.get_mut(identity) {
            known.flows.remove(&FlowKey::of(&flow));
            if known.flows.is_empty() {
                self.identities.remove(identity);
            }
        }
        1
    }
}

/// The selections that a flow belongs to.
fn selections(identity: u64, flow: &Flow) -> [Selection; 4] {
    let verdict = Some(VerdictFilter::matching(&flow.decision));
    let identity = Some(identity);
    [
        Selection { identity: None, verdict: None },
        Selection { identity: None, verdict },
        Selection { identity, verdict: None },
        Selection { identity, verdict },
    ]
}

/// Counts a request under the example that equals it, or adds it as one while there is room. Returns false if there is no
/// room.
fn count_request(examples: &mut Vec<RequestSample>, request: RequestSample) -> bool {
    let is_same = |known: &&mut RequestSample| {
        (&known.method, &known.path, &known.upgrade) == (&request.method, &request.path, &request.upgrade)
    };
    if let Some(known) = examples.iter_mut().find(is_same) {
        known.count = known.count.saturating_add(request.count);
        return true;
    }
    let has_room = examples.len() < MAX_EXAMPLES;
    if has_room {
        examples.push(request);
    }
    has_room
}

/// Adds an example that is not there yet, while there is room.
fn add_example<T: PartialEq>(examples: &mut Vec<T>, example: T) {
    if examples.len() < MAX_EXAMPLES && !examples.contains(&example) {
        examples.push(example);
    }
}
