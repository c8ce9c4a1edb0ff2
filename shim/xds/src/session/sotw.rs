//! State of the world: every answer holds all that a stream wants of a type.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use envoy_types::pb::envoy::service::discovery::v3::DiscoveryRequest;

use super::{Answer, Event, MakeBeforeBreak, Subscription, grows, has_wildcard, version_of};
use egress_envoy::snapshot::{Resource, Snapshot, type_url};

/// A state-of-the-world stream.
#[derive(Debug, Default)]
pub struct Sotw {
    types: BTreeMap<String, Type>,
    nonces: u64,
}

#[derive(Debug, Default)]
struct Type {
    subscription: Subscription,
    /// True if a request has named anything. From then on no names mean nothing, and not everything.
    has_named: bool,
    /// The resources that were sent last.
    sent: BTreeMap<String, Arc<Resource>>,
    /// The removed clusters that stay until the policy that does not lead there is in force.
    kept: BTreeSet<String>,
    /// The version of what was sent as a whole; `None` before anything was sent.
    version: Option<String>,
    nonce: u64,
    /// The last message that was answered, each is once. A later request of the same nonce only subscribes.
    answered: u64,
    /// Messages that are replaced and not answered, with the versions of what they held.
    unanswered: VecDeque<(u64, BTreeMap<String, String>)>,
    /// True if the proxy refused something before which was sent again since.
    refused: bool,
    /// True if it refused the last message that it answered: then it may have none of that.
    is_rejected: bool,
}

/// The most replaced messages that may wait for their answers. Of those beyond, the answer to what replaced them counts.
const MAX_UNANSWERED: usize = 4;

impl Type {
    fn is_last(&self, nonce: &str) -> bool {
        self.nonce > 0 && nonce == self.nonce.to_string()
    }

    /// The resources that the proxy should have.
    fn wanted<'s>(&'s self, snapshot: &'s Snapshot, url: &str) -> BTreeMap<&'s str, &'s Arc<Resource>> {
        let mut wanted = self.subscription.select(snapshot, url);
        for name in &self.kept {
            if let Some(resource) = self.sent.get(name) {
                wanted.entry(name).or_insert(resource);
            }
        }
        wanted
    }

    fn sent_version(&self, name: &str) -> Option<&str> {
        self.sent.get(name).map(|resource| resource.version())
    }

    /// Takes a request's names. Says whether something is asked for that was not before.
    fn subscribe(&mut self, url: &str, request: &DiscoveryRequest) -> bool {
        let names: BTreeSet<String> =
            request.resource_names.iter().filter(|name| *name != "*").cloned().collect();
        let star = request.resource_names.iter().any(|name| name == "*");
        self.has_named |= !request.resource_names.is_empty();
        // Listeners and clusters without names are wanted all; anything else by name only.
        let wildcard = has_wildcard(url) && (star || !self.has_named);
        let grows = wildcard && !self.subscription.wildcard
            || names.difference(&self.subscription.names).next().is_some();
        self.subscription = Subscription { wildcard, names };
        grows
    }

    /// Takes the answer to a message that another has replaced. By the protocol it says nothing of the new one. But
    /// Envoy may acknowledge what it refused before without applying it: what came again in its version is refused.
    fn refuse_replaced(&mut self, url: &str, nonce: u64, error: &str) -> Option<Event> {
        let at = self.unanswered.iter().position(|(sent, _)| *sent == nonce)?;
        let (_, held) = self.unanswered.drain(..=at).next_back()?;
        // Clusters it refuses again, as often as they come: which of them is told by the new message's answer.
        let again = |(name, version): &(String, String)| {
            url != type_url::CLUSTER && self.sent_version(name) == Some(version)
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

    /// Takes the first answer to the last message.
    fn answer(&mut self, url: &str, error: Option<&str>) -> Option<Event> {
        if self.answered >= self.nonce {
            return None;
        }
        self.answered = self.nonce;
        self.unanswered.clear();
        self.is_rejected = error.is_some();
        Some(match error {
            None => self.acknowledged(url),
            Some(error) => Event::Rejected {
                type_url: url.to_owned(),
                version: self.version.clone().unwrap_or_default(),
                error: error.to_owned(),
                names: self.sent.keys().cloned().collect(),
                is_last: true,
            },
        })
    }
}

impl Sotw {
    /// The number of names that the proxy gave, and of their bytes.
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
    ) -> (Vec<Answer>, Vec<Event>) {
        let mut events = Vec::new();
        let answers = self.answer(request, snapshot, &mut events).into_iter().collect();
        (answers, events)
    }

    fn answer(
        &mut self,
        request: &DiscoveryRequest,
        snapshot: &Snapshot,
        events: &mut Vec<Event>,
    ) -> Option<Answer> {
        let url = request.type_url.as_str();
        let known = self.types.entry(url.to_owned()).or_default();
        let error = request.error_detail.as_ref().map(|error| error.message.as_str());
        // An answer to something older than what was sent last subscribes to nothing any more.
        if !request.response_nonce.is_empty() && !known.is_last(&request.response_nonce) {
            if let (Ok(nonce), Some(error)) = (request.response_nonce.parse(), error) {
                events.extend(known.refuse_replaced(url, nonce, error));
            }
            return None;
        }
        let grows = known.subscribe(url, request);
        if !request.response_nonce.is_empty() {
            events.extend(known.answer(url, error));
        }
        let wanted = known.wanted(snapshot, url);
        let version = version_of(wanted.values().map(|r| (r.name(), r.version())));
        let is_first = known.version.is_none();
        if is_first {
            // It may come from a proxy that was here before.
            if !request.version_info.is_empty() && request.version_info == version {
                known.sent = owned(&wanted);
                known.version = Some(version);
                events.push(known.acknowledged(url));
                return None;
            }
        } else if !grows && !request.response_nonce.is_empty() {
            // A refusal carries the version before: sending the same again would go on for ever. And whoever wants less
            // than before has it.
            let has_all = !self::grows(&wanted, |name| known.sent_version(name));
            if has_all {
                known.sent = owned(&wanted);
                known.version = Some(version);
                return None;
            }
        }
        Some(self.send(url, snapshot, events))
    }

    fn send(&mut self, url: &str, snapshot: &Snapshot, events: &mut Vec<Event>) -> Answer {
        self.nonces += 1;
        let known = self.types.entry(url.to_owned()).or_default();
        let wanted = known.wanted(snapshot, url);
        let version = version_of(wanted.values().map(|r| (r.name(), r.version())));
        let resources: Vec<_> = wanted.values().map(|resource| Arc::clone(resource)).collect();
        let sent = owned(&wanted);
        let before = std::mem::replace(&mut known.sent, sent);
        if known.answered < known.nonce {
            let versions = before.into_iter().map(|(name, resource)| (name, resource.version().to_owned()));
            known.unanswered.push_back((known.nonce, versions.collect()));
            if known.unanswered.len() > MAX_UNANSWERED {
                known.unanswered.pop_front();
            }
        }
        known.refused = false;
        known.version = Some(version.clone());
        known.nonce = self.nonces;
        events.push(Event::Sent { type_url: url.to_owned(), version: version.clone() });
        Answer {
            type_url: url.to_owned(),
            version_info: version,
            nonce: known.nonce.to_string(),
            resources,
            removed_resources: Vec::new(),
        }
    }
}

impl MakeBeforeBreak for Sotw {
    fn keep_removed_clusters(&mut self, snapshot: &Snapshot) -> bool {
        let Some(clusters) = self.types.get_mut(type_url::CLUSTER) else { return false };
        let wanted = clusters.subscription.select(snapshot, type_url::CLUSTER);
        // A refused cluster must not be sent again. The message was refused as a whole, so none is kept.
        let may_keep = !clusters.is_rejected;
        let is_removed = |name: &&String| may_keep && !wanted.contains_key(name.as_str());
        let kept = clusters.sent.keys().filter(is_removed).cloned().collect();
        let grows = grows(&wanted, |name| clusters.sent_version(name));
        clusters.kept = kept;
        grows
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
        let known = self.types.get(url)?;
        let wanted = known.wanted(snapshot, url);
        let version = version_of(wanted.values().map(|r| (r.name(), r.version())));
        (known.version.as_ref() != Some(&version)).then(|| self.send(url, snapshot, events))
    }
}

fn owned(wanted: &BTreeMap<&str, &Arc<Resource>>) -> BTreeMap<String, Arc<Resource>> {
    wanted.iter().map(|(name, resource)| ((*name).to_owned(), Arc::clone(resource))).collect()
}
