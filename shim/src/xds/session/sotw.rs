//! State of the world: every answer holds all that a stream wants of a type.

use std::collections::BTreeMap;
use std::sync::Arc;

use envoy_types::pb::envoy::service::discovery::v3::{DiscoveryRequest, DiscoveryResponse};

use super::{Event, Subscription, grows, order, version_of};
use crate::snapshot::{Snapshot, type_url};

/// A state-of-the-world stream.
#[derive(Debug, Default)]
pub struct Sotw {
    types: BTreeMap<String, Type>,
    nonces: u64,
}

#[derive(Debug, Default)]
struct Type {
    subscription: Subscription,
    /// What was sent last, by name and version.
    sent: BTreeMap<String, String>,
    /// The version of that as a whole; `None` before anything was sent.
    version: Option<String>,
    nonce: String,
}

impl Sotw {
    /// How many names the proxy has given, and of how many bytes.
    pub fn size(&self) -> (usize, usize) {
        super::size(self.types.iter().flat_map(|(url, known)| {
            [url].into_iter().chain(&known.subscription.names).chain(known.sent.keys())
        }))
    }

    /// A message of the proxy: a subscription, an acknowledgement or a refusal.
    pub fn on_request(
        &mut self,
        request: &DiscoveryRequest,
        snapshot: &Snapshot,
    ) -> (Vec<DiscoveryResponse>, Vec<Event>) {
        let url = request.type_url.as_str();
        let mut events = Vec::new();
        let known = self.types.entry(url.to_owned()).or_default();
        // An answer to something older than what was sent last says nothing any more.
        if !request.response_nonce.is_empty() && request.response_nonce != known.nonce {
            return (vec![], events);
        }
        let subscription = subscription(url, request);
        let grown = subscription.names.difference(&known.subscription.names).next().is_some();
        known.subscription = subscription;
        let wanted = known.subscription.select(snapshot, url);
        let version = version_of(wanted.values().map(|r| (r.name(), r.version())));
        if request.response_nonce.is_empty() {
            // The first message of the type: it may come from a proxy that was here before.
            if !request.version_info.is_empty() && request.version_info == version {
                known.sent = versions(&wanted);
                known.version = Some(version.clone());
                events.push(Event::Acknowledged { type_url: url.to_owned(), version });
                return (vec![], events);
            }
        } else {
            let sent = known.version.clone().unwrap_or_default();
            events.push(match &request.error_detail {
                None => Event::Acknowledged { type_url: url.to_owned(), version: sent },
                Some(error) => {
                    Event::Rejected { type_url: url.to_owned(), version: sent, error: error.message.clone() }
                }
            });
            // A refusal carries the version before: sending the same again would go on for ever.
            if !grown && known.version.as_ref() == Some(&version) {
                return (vec![], events);
            }
        }
        let response = self.response(url, snapshot, &mut events);
        (vec![response], events)
    }

    /// The snapshot changed.
    pub fn on_snapshot(&mut self, snapshot: &Snapshot) -> (Vec<DiscoveryResponse>, Vec<Event>) {
        let clusters_grow = self
            .types
            .get(type_url::CLUSTER)
            .is_some_and(|known| grows(&known.subscription.select(snapshot, type_url::CLUSTER), &known.sent));
        let mut events = Vec::new();
        let mut responses = Vec::new();
        for url in order(clusters_grow) {
            let Some(known) = self.types.get(url) else { continue };
            let wanted = known.subscription.select(snapshot, url);
            let version = version_of(wanted.values().map(|r| (r.name(), r.version())));
            if known.version.as_ref() != Some(&version) {
                responses.push(self.response(url, snapshot, &mut events));
            }
        }
        (responses, events)
    }

    fn response(&mut self, url: &str, snapshot: &Snapshot, events: &mut Vec<Event>) -> DiscoveryResponse {
        self.nonces += 1;
        let known = self.types.entry(url.to_owned()).or_default();
        let wanted = known.subscription.select(snapshot, url);
        let version = version_of(wanted.values().map(|r| (r.name(), r.version())));
        known.sent = versions(&wanted);
        known.version = Some(version.clone());
        known.nonce = self.nonces.to_string();
        events.push(Event::Sent { type_url: url.to_owned(), version: version.clone() });
        DiscoveryResponse {
            version_info: version,
            resources: wanted.values().map(|resource| resource.body()).collect(),
            type_url: url.to_owned(),
            nonce: known.nonce.clone(),
            ..Default::default()
        }
    }
}

fn versions(wanted: &BTreeMap<&str, &Arc<crate::snapshot::Resource>>) -> BTreeMap<String, String> {
    wanted.values().map(|r| (r.name().to_owned(), r.version().to_owned())).collect()
}

/// Listeners and clusters without names are wanted all; anything else by name only.
fn subscription(url: &str, request: &DiscoveryRequest) -> Subscription {
    let has_wildcard = matches!(url, type_url::LISTENER | type_url::CLUSTER);
    let star = request.resource_names.iter().any(|name| name == "*");
    Subscription {
        wildcard: has_wildcard && (star || request.resource_names.is_empty()),
        names: request.resource_names.iter().filter(|name| *name != "*").cloned().collect(),
    }
}
