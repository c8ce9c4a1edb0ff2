//! Delta: every answer holds what changed.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use envoy_types::pb::envoy::service::discovery::v3::DeltaDiscoveryRequest;

use super::{Answer, Event, MakeBeforeBreak, Subscription, grows, has_wildcard, version_of};
use egress_envoy::snapshot::{Snapshot, type_url};

/// A delta stream.
#[derive(Debug, Default)]
pub struct Delta {
    types: BTreeMap<String, Type>,
    nonces: u64,
}

#[derive(Debug, Default)]
struct Type {
    subscription: Subscription,
    /// The resources that the proxy was sent, by name and version.
    sent: BTreeMap<String, String>,
    /// The removed clusters that stay until the policy that does not lead there is in force.
    kept: BTreeSet<String>,
    /// The number of the last message.
    nonce: u64,
    version: String,
    /// The number of the last message that was answered. Envoy answers each once, in their order.
    answered: u64,
    /// The resources that unanswered messages changed or removed, with the last such message.
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
    /// The number of names that the proxy gave, and of their bytes.
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
    ) -> (Vec<Answer>, Vec<Event>) {
        let mut events = Vec::new();
        let answers = self.answer(request, snapshot, &mut events).into_iter().collect();
        (answers, events)
    }

    fn answer(
        &mut self,
        request: &DeltaDiscoveryRequest,
        snapshot: &Snapshot,
        events: &mut Vec<Event>,
    ) -> Option<Answer> {
        let url = request.type_url.as_str();
        let known = self.types.entry(url.to_owned()).or_default();
        let error = request.error_detail.as_ref().map(|error| error.message.as_str());
        events.extend(known.answer(url, &request.response_nonce, error));
        let first = !std::mem::replace(&mut known.started, true);
        let (subscribed, unsubscribed) =
            (&request.resource_names_subscribe, &request.resource_names_unsubscribe);
        let had_wildcard = known.subscription.wildcard;
        if first {
            known.sent = request.initial_resource_versions.clone().into_iter().collect();
            // Without any name the first message of these types asks for everything.
            known.subscription.wildcard =
                has_wildcard(url) && subscribed.is_empty() && unsubscribed.is_empty();
        }
        let mut requested = BTreeSet::new();
        for name in subscribed {
            if name == "*" {
                known.subscription.wildcard = has_wildcard(url);
            } else {
                known.subscription.names.insert(name.clone());
                requested.insert(name.as_str());
                // Whoever subscribes again does not have it any more, unless it just said so.
                if !(first && request.initial_resource_versions.contains_key(name)) {
                    known.sent.remove(name);
                }
            }
        }
        for name in unsubscribed {
            if name == "*" {
                known.subscription.wildcard = false;
            } else if known.subscription.names.remove(name) && known.subscription.wildcard {
                // The proxy cannot know whether the wildcard covers it: it is told, by the resource or by its removal.
                requested.insert(name);
                known.sent.remove(name);
            }
        }
        if !known.subscription.wildcard {
            // What is not wanted any more is not removed, but forgotten on both sides.
            let Type { subscription, sent, .. } = known;
            if !first {
                sent.retain(|name, _| subscription.names.contains(name));
            }
        }
        let gains_wildcard = known.subscription.wildcard && !had_wildcard;
        let waits = gains_wildcard || !requested.is_empty() || first && unsubscribed.is_empty();
        waits.then(|| self.send(url, snapshot, &requested, first, gains_wildcard, events)).flatten()
    }

    /// Sends what is new, changed and removed; `None` where there is nothing and no request waits for an answer.
    fn send(
        &mut self,
        url: &str,
        snapshot: &Snapshot,
        requested: &BTreeSet<&str>,
        first: bool,
        gains_wildcard: bool,
        events: &mut Vec<Event>,
    ) -> Option<Answer> {
        let known = self.types.get_mut(url)?;
        let wanted = known.subscription.select(snapshot, url);
        let kept: Vec<_> = known
            .sent
            .iter()
            .filter(|(name, _)| known.kept.contains(*name) && !wanted.contains_key(name.as_str()))
            .map(|(name, version)| (name.clone(), version.clone()))
            .collect();
        let version = version_of(
            wanted
                .values()
                .map(|r| (r.name(), r.version()))
                .chain(kept.iter().map(|(name, version)| (name.as_str(), version.as_str()))),
        );
        // The same again would be refused again. With anything else, all that came beside the mistake is sent again.
        if let Some((_, names)) = known.refused.take_if(|(refused, _)| *refused != version) {
            known.sent.extend(names.into_iter().map(|name| (name, String::new())));
        }
        let changed: Vec<_> = wanted
            .values()
            .filter(|resource| {
                known.sent.get(resource.name()).map(String::as_str) != Some(resource.version())
            })
            .map(|resource| Arc::clone(resource))
            .collect();
        let is_gone = |name: &str| !wanted.contains_key(name) && !known.kept.contains(name);
        let mut removed: BTreeSet<String> = known.sent.keys().filter(|name| is_gone(name)).cloned().collect();
        removed.extend(
            requested.iter().filter(|name| !wanted.contains_key(**name)).map(|name| (*name).to_owned()),
        );
        if changed.is_empty() && removed.is_empty() {
            // A proxy that comes back with everything has shown that it has it; one that asks for
            // the first time waits for an answer, be it empty.
            if first && !known.sent.is_empty() {
                known.version = version;
                events.push(known.acknowledged(url.to_owned()));
                return None;
            }
            if !first && !gains_wildcard {
                return None;
            }
        }
        self.nonces += 1;
        known.nonce = self.nonces;
        known.version.clone_from(&version);
        known.sent =
            wanted.values().map(|r| (r.name().to_owned(), r.version().to_owned())).chain(kept).collect();
        let carried =
            changed.iter().map(|resource| resource.name()).chain(removed.iter().map(String::as_str));
        known.in_flight.extend(carried.map(|name| (name.to_owned(), self.nonces)));
        events.push(Event::Sent { type_url: url.to_owned(), version: version.clone() });
        Some(Answer {
            type_url: url.to_owned(),
            version_info: version,
            nonce: known.nonce.to_string(),
            resources: changed,
            removed_resources: removed.into_iter().collect(),
        })
    }
}

impl MakeBeforeBreak for Delta {
    fn keep_removed_clusters(&mut self, snapshot: &Snapshot) -> bool {
        let Some(clusters) = self.types.get_mut(type_url::CLUSTER) else { return false };
        let wanted = clusters.subscription.select(snapshot, type_url::CLUSTER);
        let is_refused =
            |name: &String| clusters.refused.as_ref().is_some_and(|(_, names)| names.contains(name));
        let is_removed = |name: &&String| !wanted.contains_key(name.as_str()) && !is_refused(name);
        let kept = clusters.sent.keys().filter(is_removed).cloned().collect();
        clusters.kept = kept;
        grows(&wanted, |name| clusters.sent.get(name).map(String::as_str))
    }

    fn kept_clusters(&self) -> Option<&BTreeSet<String>> {
        self.types.get(type_url::CLUSTER).map(|clusters| &clusters.kept)
    }

    fn kept_clusters_mut(&mut self) -> Option<&mut BTreeSet<String>> {
        self.types.get_mut(type_url::CLUSTER).map(|clusters| &mut clusters.kept)
    }

    fn is_policy_answered(&self) -> bool {
        self.types.get(type_url::EXTENSION).is_none_or(|policy| policy.answered >= policy.nonce)
    }

    fn send_changes(&mut self, url: &str, snapshot: &Snapshot, events: &mut Vec<Event>) -> Option<Answer> {
        self.send(url, snapshot, &BTreeSet::new(), false, false, events)
    }
}
