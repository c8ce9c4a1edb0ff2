//! State of the world: every answer holds all that a stream wants of a type.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
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
    nonce: u64,
    /// The last message that was answered, each is once. A later request of the same nonce only subscribes.
    answered: u64,
    /// Messages that are replaced and not answered, with what they held.
    unanswered: VecDeque<(u64, BTreeMap<String, String>)>,
    /// Whether the proxy refused something before which was sent again since.
    refused: bool,
}

/// How many replaced messages may wait for their answers. Of those beyond, the answer to what replaced them counts.
const MAX_UNANSWERED: usize = 4;

impl Type {
    fn is_last(&self, nonce: &str) -> bool {
        self.nonce > 0 && nonce == self.nonce.to_string()
    }

    /// Takes the answer to a message that another has replaced. By the protocol it says nothing of the new one. But
    /// Envoy may acknowledge what it refused before without applying it: what came again in its version is refused.
    fn refuse_replaced(&mut self, url: &str, nonce: u64, error: &str) -> Option<Event> {
        let at = self.unanswered.iter().position(|(sent, _)| *sent == nonce)?;
        let (_, held) = self.unanswered.drain(..=at).next_back()?;
        // Clusters it refuses again, as often as they come: which of them is told by the new message's answer.
        let again = |(name, version): &(String, String)| {
            url != type_url::CLUSTER && self.sent.get(name) == Some(version)
        };
        let names: BTreeSet<String> = held.into_iter().filter(again).map(|(name, _)| name).collect();
        self.refused |= !names.is_empty();
        Some(Event::Rejected {
            type_url: url.to_owned(),
            version: self.version.clone().unwrap_or_default(),
            error: error.to_owned(),
            names,
            is_last: false,
        })
    }

    fn acknowledged(&self, url: &str) -> Event {
        Event::Acknowledged {
            type_url: url.to_owned(),
            version: self.version.clone().unwrap_or_default(),
            in_force: if self.refused { BTreeSet::new() } else { self.sent.keys().cloned().collect() },
            is_whole: !self.refused,
        }
    }
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
        let error = request.error_detail.as_ref().map(|error| error.message.as_str());
        // An answer to something older than what was sent last subscribes to nothing any more.
        if !request.response_nonce.is_empty() && !known.is_last(&request.response_nonce) {
            if let (Ok(nonce), Some(error)) = (request.response_nonce.parse(), error) {
                events.extend(known.refuse_replaced(url, nonce, error));
            }
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
                known.version = Some(version);
                events.push(known.acknowledged(url));
                return (vec![], events);
            }
        } else {
            if known.answered < known.nonce {
                known.answered = known.nonce;
                known.unanswered.clear();
                events.push(match error {
                    None => known.acknowledged(url),
                    Some(error) => Event::Rejected {
                        type_url: url.to_owned(),
                        version: known.version.clone().unwrap_or_default(),
                        error: error.to_owned(),
                        names: known.sent.keys().cloned().collect(),
                        is_last: true,
                    },
                });
            }
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
        let before = std::mem::replace(&mut known.sent, versions(&wanted));
        if known.answered < known.nonce {
            known.unanswered.push_back((known.nonce, before));
            if known.unanswered.len() > MAX_UNANSWERED {
                known.unanswered.pop_front();
            }
        }
        known.refused = false;
        known.version = Some(version.clone());
        known.nonce = self.nonces;
        events.push(Event::Sent { type_url: url.to_owned(), version: version.clone() });
        DiscoveryResponse {
            version_info: version,
            resources: wanted.values().map(|resource| resource.body()).collect(),
            type_url: url.to_owned(),
            nonce: known.nonce.to_string(),
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
