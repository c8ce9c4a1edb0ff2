//! Delta: every answer holds what changed.

use std::collections::{BTreeMap, BTreeSet};

use envoy_types::pb::envoy::service::discovery::v3::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse, Resource as WireResource,
};

use super::{Event, Subscription, grows, order, version_of};
use crate::snapshot::{Snapshot, type_url};

/// A delta stream.
#[derive(Debug, Default)]
pub struct Delta {
    types: BTreeMap<String, Type>,
    nonces: u64,
}

#[derive(Debug, Default)]
struct Type {
    subscription: Subscription,
    /// What the proxy has been sent, by name and version.
    sent: BTreeMap<String, String>,
    /// The number of the last message.
    nonce: u64,
    version: String,
    /// The number of the last message that was answered. Envoy answers each once, in their order.
    answered: u64,
    /// What unanswered messages changed or removed, with the last message that did.
    in_flight: BTreeMap<String, u64>,
    /// The version that the proxy refused, and what the refused messages were about. Envoy may have applied none of it.
    refused: Option<(String, BTreeSet<String>)>,
    started: bool,
}

impl Type {
    /// Takes an answer, the first for its message. What it says of a message holds for what no later one carried.
    fn answer(&mut self, url: &str, nonce: &str, error: Option<&str>) -> Option<Event> {
        let nonce: u64 = nonce.parse().ok()?;
        if nonce <= self.answered || nonce > self.nonce {
            return None;
        }
        self.answered = nonce;
        let of_message = self.in_flight.iter().filter(|(_, sent)| **sent == nonce);
        let names: BTreeSet<String> = of_message.map(|(name, _)| name.clone()).collect();
        self.in_flight.retain(|_, sent| *sent != nonce);
        let (type_url, version, is_last) = (url.to_owned(), self.version.clone(), nonce == self.nonce);
        if let Some(error) = error {
            if is_last || !names.is_empty() {
                let before = self.refused.take().map(|(_, names)| names).unwrap_or_default();
                self.refused = Some((version.clone(), before.into_iter().chain(names.clone()).collect()));
            }
            return Some(Event::Rejected { type_url, version, error: error.to_owned(), names, is_last });
        }
        // Nothing is said of what came since. The answer to that tells all that is in force.
        is_last.then(|| self.acknowledged(type_url))
    }

    fn acknowledged(&self, type_url: String) -> Event {
        let is_refused = |name: &String| self.refused.as_ref().is_some_and(|(_, names)| names.contains(name));
        let is_in_force = |name: &&String| !self.in_flight.contains_key(*name) && !is_refused(name);
        Event::Acknowledged {
            type_url,
            version: self.version.clone(),
            in_force: self.sent.keys().filter(is_in_force).cloned().collect(),
            is_whole: self.refused.is_none(),
        }
    }
}

impl Delta {
    /// How many names the proxy has given, and of how many bytes.
    pub fn size(&self) -> (usize, usize) {
        super::size(self.types.iter().flat_map(|(url, known)| {
            let refused = known.refused.iter().flat_map(|(_, names)| names);
            let gone = known.in_flight.keys().chain(refused).filter(|name| !known.sent.contains_key(*name));
            [url].into_iter().chain(&known.subscription.names).chain(known.sent.keys()).chain(gone)
        }))
    }

    /// A message of the proxy: a subscription, an acknowledgement or a refusal.
    pub fn on_request(
        &mut self,
        request: &DeltaDiscoveryRequest,
        snapshot: &Snapshot,
    ) -> (Vec<DeltaDiscoveryResponse>, Vec<Event>) {
        let url = request.type_url.as_str();
        let mut events = Vec::new();
        let known = self.types.entry(url.to_owned()).or_default();
        let error = request.error_detail.as_ref().map(|error| error.message.as_str());
        events.extend(known.answer(url, &request.response_nonce, error));
        let first = !std::mem::replace(&mut known.started, true);
        if first {
            known.sent = request.initial_resource_versions.clone().into_iter().collect();
            // Without any name the first message of these types asks for everything.
            let has_wildcard = matches!(url, type_url::LISTENER | type_url::CLUSTER);
            known.subscription.wildcard = has_wildcard && request.resource_names_subscribe.is_empty();
        }
        let mut asked = BTreeSet::new();
        for name in &request.resource_names_subscribe {
            if name == "*" {
                known.subscription.wildcard = true;
            } else {
                known.subscription.names.insert(name.clone());
                asked.insert(name.as_str());
                // Whoever subscribes again does not have it any more, unless it just said so.
                if !(first && request.initial_resource_versions.contains_key(name)) {
                    known.sent.remove(name);
                }
            }
        }
        for name in &request.resource_names_unsubscribe {
            if name == "*" {
                known.subscription.wildcard = false;
            }
            known.subscription.names.remove(name);
            if !known.subscription.wildcard {
                known.sent.remove(name);
            }
        }
        let subscribing = first || !asked.is_empty();
        if !subscribing {
            return (vec![], events);
        }
        match self.response(url, snapshot, &asked, first, &mut events) {
            Some(response) => (vec![response], events),
            None => (vec![], events),
        }
    }

    /// The snapshot changed.
    pub fn on_snapshot(&mut self, snapshot: &Snapshot) -> (Vec<DeltaDiscoveryResponse>, Vec<Event>) {
        let clusters_grow = self
            .types
            .get(type_url::CLUSTER)
            .is_some_and(|known| grows(&known.subscription.select(snapshot, type_url::CLUSTER), &known.sent));
        let mut events = Vec::new();
        let responses = order(clusters_grow)
            .into_iter()
            .filter_map(|url| self.response(url, snapshot, &BTreeSet::new(), false, &mut events))
            .collect();
        (responses, events)
    }

    /// What is new, changed and gone; `None` when nothing is and nobody waits for an answer.
    fn response(
        &mut self,
        url: &str,
        snapshot: &Snapshot,
        asked: &BTreeSet<&str>,
        first: bool,
        events: &mut Vec<Event>,
    ) -> Option<DeltaDiscoveryResponse> {
        let known = self.types.get_mut(url)?;
        let wanted = known.subscription.select(snapshot, url);
        let version = version_of(wanted.values().map(|r| (r.name(), r.version())));
        // The same again would be refused again. With anything else, all that came beside the mistake is sent again.
        if let Some((_, names)) = known.refused.take_if(|(refused, _)| *refused != version) {
            known.sent.extend(names.into_iter().map(|name| (name, String::new())));
        }
        let changed: Vec<_> = wanted
            .values()
            .filter(|resource| {
                known.sent.get(resource.name()).map(String::as_str) != Some(resource.version())
            })
            .collect();
        let mut removed: BTreeSet<String> =
            known.sent.keys().filter(|name| !wanted.contains_key(name.as_str())).cloned().collect();
        removed
            .extend(asked.iter().filter(|name| !wanted.contains_key(**name)).map(|name| (*name).to_owned()));
        if changed.is_empty() && removed.is_empty() {
            // A proxy that comes back with everything has shown that it has it; one that asks for
            // the first time waits for an answer, be it empty.
            if first && !known.sent.is_empty() {
                known.version = version;
                events.push(known.acknowledged(url.to_owned()));
                return None;
            }
            if !first {
                return None;
            }
        }
        self.nonces += 1;
        known.nonce = self.nonces;
        known.version.clone_from(&version);
        known.sent = wanted.values().map(|r| (r.name().to_owned(), r.version().to_owned())).collect();
        let carried =
            changed.iter().map(|resource| resource.name()).chain(removed.iter().map(String::as_str));
        known.in_flight.extend(carried.map(|name| (name.to_owned(), self.nonces)));
        events.push(Event::Sent { type_url: url.to_owned(), version: version.clone() });
        Some(DeltaDiscoveryResponse {
            system_version_info: version,
            resources: changed
                .into_iter()
                .map(|resource| WireResource {
                    name: resource.name().to_owned(),
                    version: resource.version().to_owned(),
                    resource: Some(resource.body()),
                    ..Default::default()
                })
                .collect(),
            type_url: url.to_owned(),
            removed_resources: removed.into_iter().collect(),
            nonce: known.nonce.to_string(),
            ..Default::default()
        })
    }
}
