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
    nonce: String,
    version: String,
    /// What the last message changed or removed.
    last: BTreeSet<String>,
    /// The version that the proxy refused, and what that message was about. Envoy may have applied none of it.
    refused: Option<(String, BTreeSet<String>)>,
    started: bool,
}

impl Delta {
    /// How many names the proxy has given, and of how many bytes.
    pub fn size(&self) -> (usize, usize) {
        super::size(self.types.iter().flat_map(|(url, known)| {
            [url].into_iter().chain(&known.subscription.names).chain(known.sent.keys())
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
        if !request.response_nonce.is_empty() && request.response_nonce == known.nonce {
            let version = known.version.clone();
            events.push(match &request.error_detail {
                None => Event::Acknowledged { type_url: url.to_owned(), version },
                Some(error) => {
                    known.refused = Some((version.clone(), std::mem::take(&mut known.last)));
                    Event::Rejected { type_url: url.to_owned(), version, error: error.message.clone() }
                }
            });
        }
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
                known.version.clone_from(&version);
                events.push(Event::Acknowledged { type_url: url.to_owned(), version });
                return None;
            }
            if !first {
                return None;
            }
        }
        self.nonces += 1;
        known.nonce = self.nonces.to_string();
        known.version.clone_from(&version);
        known.sent = wanted.values().map(|r| (r.name().to_owned(), r.version().to_owned())).collect();
        known.last = changed
            .iter()
            .map(|resource| resource.name().to_owned())
            .chain(removed.iter().cloned())
            .collect();
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
            nonce: known.nonce.clone(),
            ..Default::default()
        })
    }
}
