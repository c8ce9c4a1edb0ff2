//! The registry of connected proxies: what each was sent, acknowledged and refused.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use egress_policy::Identity;
use envoy_types::pb::envoy::config::core::v3::{Node, node::UserAgentVersionType};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use tokio::sync::watch;

use super::session::Event;
use egress_core::proxies::{
    Fleet, HeldBack, Protocol, Proxy, ProxyRegistry, ProxyRejection, Rejection, ResourceType,
};
use egress_envoy::snapshot::type_url::short;

/// A count for each value of one label.
pub type Labelled = Family<[(&'static str, &'static str); 1], Counter>;

/// Counts since the start.
#[derive(Debug, Default)]
pub struct Counts {
    /// Streams that were opened.
    pub streams: AtomicU64,
    /// Streams that were refused or cut, by `reason`.
    pub refused: Labelled,
    /// Responses that were sent.
    pub sent: AtomicU64,
    /// Responses that were acknowledged.
    pub acknowledged: AtomicU64,
    /// Responses that were rejected.
    pub rejected: AtomicU64,
}

impl Counts {
    /// A stream was refused or cut.
    pub fn refused(&self, reason: &'static str) {
        self.refused.get_or_create(&[("reason", reason)]).inc();
    }
}

/// All proxies.
#[derive(Debug, Default)]
pub struct Proxies {
    streams: Mutex<BTreeMap<u64, Proxy>>,
    /// The refusals of disconnected proxies, by identity and node id: nobody can touch what is another's. Envoy acknowledges the
    /// very bytes that it refused before, without applying them: a reconnect must not make a refusal look mended.
    refusals: Mutex<BTreeMap<(String, String), Rejections>>,
    next: AtomicU64,
    changes: watch::Sender<()>,
    /// Counts since the start.
    pub counts: Counts,
}

/// The refusals of a proxy, by type.
type Rejections = BTreeMap<ResourceType, Rejection>;

/// The longest list of refusals of proxies that are gone.
const MAX_REFUSALS: usize = 10_000;

/// The entry of one stream; it goes when this is dropped.
#[derive(Debug)]
pub struct Registration<'a> {
    proxies: &'a Proxies,
    key: u64,
}

impl Proxies {
    /// Adds a stream.
    pub fn register(&self, node: &Node, identity: &Identity, protocol: Protocol) -> Registration<'_> {
        let key = self.next.fetch_add(1, Ordering::Relaxed);
        let mut proxy = Proxy {
            node: node.id.clone(),
            identity: identity.to_string(),
            envoy: envoy_version(node),
            protocol,
            document_sent: String::new(),
            document_acknowledged: None,
            types: BTreeMap::new(),
            held_back: None,
        };
        let known = lock(&self.refusals).remove(&(identity.to_string(), node.id.clone())).unwrap_or_default();
        for (kind, rejection) in known {
            proxy.types.entry(kind).or_default().rejected = Some(rejection);
        }
        self.counts.streams.fetch_add(1, Ordering::Relaxed);
        lock(&self.streams).insert(key, proxy);
        self.changes.send_replace(());
        Registration { proxies: self, key }
    }

    /// Everybody, by node id.
    pub fn list(&self) -> Vec<Proxy> {
        let mut list: Vec<_> = lock(&self.streams).values().cloned().collect();
        list.sort_by(|a, b| a.node.cmp(&b.node));
        list
    }

    /// The number of connected proxies.
    pub fn connected(&self) -> usize {
        lock(&self.streams).len()
    }

    /// The number of proxies whose configuration in force is not what was sent last.
    pub fn outdated(&self) -> usize {
        let is_outdated = |proxy: &&Proxy| proxy.document_acknowledged.as_ref() != Some(&proxy.document_sent);
        lock(&self.streams).values().filter(is_outdated).count()
    }

    /// The number of proxies that refuse what they were sent.
    pub fn refusing(&self) -> usize {
        let refuses = |proxy: &&Proxy| {
            proxy.held_back.is_some() || proxy.types.values().any(|status| status.rejected.is_some())
        };
        lock(&self.streams).values().filter(refuses).count()
    }
}

impl ProxyRegistry for Proxies {
    fn fleets(&self) -> BTreeMap<String, Fleet> {
        let mut fleets: BTreeMap<String, Fleet> = BTreeMap::new();
        for proxy in lock(&self.streams).values() {
            let fleet = fleets.entry(proxy.identity.clone()).or_default();
            let has = proxy.document_acknowledged.clone().unwrap_or_default();
            *fleet.has.entry(has).or_default() += 1;
            let refused = proxy.types.values().find_map(|status| status.rejected.as_ref());
            let refused = match (&proxy.held_back, refused) {
                (Some(held_back), _) => Some(held_back.to_string()),
                (None, refused) => refused.map(|rejection| rejection.error.clone()),
            };
            let refused = refused.map(|error| ProxyRejection { node: proxy.node.clone(), error });
            fleet.refusal = [fleet.refusal.take(), refused].into_iter().flatten().min();
        }
        fleets
    }

    fn changes(&self) -> watch::Receiver<()> {
        self.changes.subscribe()
    }
}

impl Registration<'_> {
    /// Takes note of what the proxy has not.
    pub fn hold_back(&self, held_back: Option<HeldBack>) {
        let mut streams = lock(&self.proxies.streams);
        let Some(proxy) = streams.get_mut(&self.key) else { return };
        if proxy.held_back != held_back {
            proxy.held_back = held_back;
            drop(streams);
            self.proxies.changes.send_replace(());
        }
    }

    /// Takes note of what happened, with the document that the stream is at.
    pub fn record(&self, events: &[Event], document: &str) {
        let counts = &self.proxies.counts;
        let mut streams = lock(&self.proxies.streams);
        let Some(proxy) = streams.get_mut(&self.key) else { return };
        document.clone_into(&mut proxy.document_sent);
        for event in events {
            match event {
                Event::Sent { type_url, version } => {
                    counts.sent.fetch_add(1, Ordering::Relaxed);
                    proxy.types.entry(short(type_url).into()).or_default().sent = Some(version.clone());
                }
                Event::Acknowledged { type_url, version, in_force: _, is_whole: _ } => {
                    counts.acknowledged.fetch_add(1, Ordering::Relaxed);
                    let status = proxy.types.entry(short(type_url).into()).or_default();
                    status.sent = Some(version.clone());
                    if status.rejected.as_ref().is_none_or(|rejected| rejected.version != *version) {
                        status.acknowledged = Some(version.clone());
                        status.rejected = None;
                    }
                }
                Event::Rejected { type_url, version, error, names, is_last } => {
                    counts.rejected.fetch_add(1, Ordering::Relaxed);
                    // What was replaced meanwhile has its own answer.
                    if !is_last && names.is_empty() {
                        continue;
                    }
                    proxy.types.entry(short(type_url).into()).or_default().rejected =
                        Some(Rejection { version: version.clone(), error: error.clone() });
                }
            }
        }
        let settled = |kind: &str| {
            proxy
                .types
                .get(kind)
                .is_some_and(|t| t.rejected.is_none() && t.sent.is_some() && t.sent == t.acknowledged)
        };
        if ["cluster", "listener", "extension"].into_iter().all(settled) {
            proxy.document_acknowledged = Some(document.to_owned());
        }
        drop(streams);
        self.proxies.changes.send_replace(());
    }
}

impl Drop for Registration<'_> {
    fn drop(&mut self) {
        let Some(proxy) = lock(&self.proxies.streams).remove(&self.key) else { return };
        self.proxies.changes.send_replace(());
        let rejected: BTreeMap<_, _> =
            proxy.types.into_iter().filter_map(|(kind, status)| status.rejected.map(|r| (kind, r))).collect();
        let mut refusals = lock(&self.proxies.refusals);
        if !rejected.is_empty() && refusals.len() < MAX_REFUSALS {
            refusals.insert((proxy.identity, proxy.node), rejected);
        }
    }
}

/// Nothing is left half done under these locks, so one that a panic left behind is as good as new.
fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

fn envoy_version(node: &Node) -> String {
    match &node.user_agent_version_type {
        Some(UserAgentVersionType::UserAgentBuildVersion(build)) => build
            .version
            .as_ref()
            .map(|v| format!("{}.{}.{}", v.major_number, v.minor_number, v.patch))
            .unwrap_or_default(),
        Some(UserAgentVersionType::UserAgentVersion(text)) => text.clone(),
        None => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use egress_envoy::snapshot::type_url;

    #[test]
    fn a_refusal_outlives_the_stream() {
        let proxies = Proxies::default();
        let node = Node { id: "p.sa.ns".to_owned(), ..Default::default() };
        let identity = Identity::new("ns", "sa").expect("valid");
        let event = |version: &str, error: Option<&str>| {
            let (type_url, version) = (type_url::EXTENSION.to_owned(), version.to_owned());
            match error {
                Some(error) => Event::Rejected {
                    type_url,
                    version,
                    error: error.to_owned(),
                    names: BTreeSet::new(),
                    is_last: true,
                },
                None => Event::Acknowledged { type_url, version, in_force: BTreeSet::new(), is_whole: true },
            }
        };
        let rejected = || proxies.list()[0].types["extension"].rejected.clone().map(|r| r.error);
        let stream = proxies.register(&node, &identity, Protocol::Sotw);
        stream.record(&[event("2", Some("no"))], "d2");
        drop(stream);
        assert_eq!(proxies.connected(), 0);
        // Somebody else who calls himself the same does not take it away.
        let other = Identity::new("ns", "other").expect("valid");
        let stream = proxies.register(&node, &other, Protocol::Sotw);
        assert!(proxies.list()[0].types.is_empty());
        drop(stream);
        let stream = proxies.register(&node, &identity, Protocol::Sotw);
        stream.record(&[event("2", None)], "d2");
        assert_eq!(rejected().as_deref(), Some("no"), "the same bytes again are not applied");
        assert_eq!((proxies.outdated(), proxies.refusing()), (1, 1));
        assert_eq!(proxies.list()[0].document_acknowledged, None);
        let fleet = || proxies.fleets().remove("ns/sa").expect("there");
        assert_eq!(fleet().has, BTreeMap::from([(String::new(), 1)]));
        assert_eq!(fleet().refusal.map(|refusal| refusal.error).as_deref(), Some("no"));
        stream.record(&[event("3", None)], "d3");
        assert_eq!(rejected(), None);
        assert_eq!(
            (proxies.outdated(), proxies.refusing()),
            (1, 0),
            "clusters and listeners are still to come"
        );
        assert_eq!(fleet().refusal, None);
    }
}
