//! The objects of a cluster, kept up to date by events. A plain value: no I/O.
//!
//! INVARIANT(same-state): the store is a function of the objects as they are now, however that was learnt:
//! by one change after another, by a list, or by both in any order. So any number of control planes agree.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::object::{Item, Key, Observed, file};
use super::services::Services;
use egress_compile::manifest::Kind;
use egress_compile::store::{Change, FileUpdate, Store};
use egress_compile::{CompileOptions, MONITORED_LABEL, PolicyNamespaces};
use egress_core::source::{Availability, SourceState};

/// An event of the cluster.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Event {
    /// A list of all objects of a kind begins.
    Begin(Kind),
    /// An object of that list.
    Listed(Kind, Item),
    /// The list is complete: other objects of the kind are gone.
    End(Kind),
    /// An object is new, or changed.
    Applied(Kind, Item),
    /// An object is gone.
    Deleted(Kind, Key),
    /// The API server does not know this kind, and need not.
    Absent(Kind),
    /// A kind cannot be watched, for this reason.
    WatchFailed(Kind, String),
    /// A kind can be watched again.
    WatchRecovered(Kind),
    /// The API server answers.
    ServerAvailable,
    /// The API server does not answer, for this reason.
    ServerUnavailable(String),
}

/// The objects of a cluster, and what they make of the store.
#[derive(Debug)]
pub(super) struct ClusterCache {
    mesh_name: String,
    /// Policies of the namespaces that are named here count without the label of the mesh.
    policy_namespaces: PolicyNamespaces,
    /// Every object, whether it counts or not: what does not count may later.
    known: BTreeMap<Kind, BTreeMap<Key, Change>>,
    /// Services, and what is behind them.
    services: Services,
    /// The lists that are not complete yet.
    listing: BTreeMap<Kind, BTreeMap<Key, Item>>,
    /// The kinds that were never read completely.
    unread: BTreeSet<Kind>,
    /// The namespaces that belong to the mesh.
    monitored: BTreeSet<String>,
    /// The statuses of policies, and whether they changed since they were taken.
    observed: (BTreeMap<Key, Arc<Observed>>, bool),
    failing: BTreeMap<Kind, String>,
    server_failure: Option<String>,
    store: Store,
    /// True if a complete state was published.
    published: bool,
    /// True if the store changed since it was published.
    changed: bool,
    /// The availability that was published last.
    published_availability: Availability,
}

impl ClusterCache {
    /// An empty cache, which is complete once these kinds were read.
    pub(super) fn new(options: &CompileOptions, kinds: impl IntoIterator<Item = Kind>) -> Self {
        Self {
            mesh_name: options.mesh_name.clone(),
            policy_namespaces: options.policy_namespaces.clone(),
            known: BTreeMap::new(),
            services: Services::default(),
            listing: BTreeMap::new(),
            unread: kinds.into_iter().collect(),
            monitored: BTreeSet::new(),
            observed: (BTreeMap::new(), false),
            failing: BTreeMap::new(),
            server_failure: None,
            store: Store::default(),
            published: false,
            changed: false,
            published_availability: Availability::Available,
        }
    }

    /// Returns whether the state differs from the published one.
    pub(super) fn has_changed(&mut self) -> bool {
        self.resolve();
        (self.changed && self.is_complete()) || self.availability() != self.published_availability
    }

    /// The state to publish.
    pub(super) fn publish(&mut self) -> SourceState {
        self.resolve();
        self.published_availability = self.availability();
        if !self.is_complete() {
            return SourceState { store: Arc::default(), availability: self.published_availability.clone() };
        }
        self.changed = false;
        self.published = true;
        SourceState { store: Arc::new(self.store.clone()), availability: self.published_availability.clone() }
    }

    /// The statuses of policies, if they changed since the last call.
    pub(super) fn take_observed(&mut self) -> Option<BTreeMap<Key, Arc<Observed>>> {
        let (observed, changed) = &mut self.observed;
        std::mem::take(changed).then(|| observed.clone())
    }

    /// Brings the services in the store up to date.
    fn resolve(&mut self) {
        for update in self.services.resolve() {
            self.changed |= self.store.apply(update);
        }
    }

    /// Returns whether all kinds were read. A list of pods takes long, and what slices name meanwhile comes right after it.
    fn is_complete(&self) -> bool {
        self.unread.is_empty() && (self.published || !self.services.is_waiting())
    }

    /// Returns whether a service waits for a pod that a slice names.
    pub(super) fn is_waiting(&self) -> bool {
        self.services.is_waiting()
    }

    /// Stops waiting for pods.
    pub(super) fn give_up(&mut self) {
        self.services.give_up();
    }

    fn availability(&self) -> Availability {
        let failing = self.failing.values().next().or(self.server_failure.as_ref());
        if let Some(reason) = failing {
            return Availability::Unavailable { reason: reason.clone() };
        }
        if self.is_complete() {
            return Availability::Available;
        }
        Availability::Unavailable { reason: "the cluster was not read completely yet".to_owned() }
    }

    /// Applies an event.
    pub(super) fn apply_event(&mut self, event: Event) {
        match event {
            Event::Begin(kind) => drop(self.listing.insert(kind, BTreeMap::new())),
            Event::Listed(kind, item) => {
                self.listing.entry(kind).or_default().insert(item.key.clone(), item);
            }
            Event::End(kind) => {
                let items = self.listing.remove(&kind).unwrap_or_default();
                self.replace(kind, items);
                if kind == Kind::EndpointSlice {
                    self.services.has_slices(true);
                }
            }
            Event::Applied(kind, item) => self.apply(kind, item),
            Event::Deleted(kind, key) => self.delete(kind, &key),
            Event::Absent(kind) => {
                self.listing.remove(&kind);
                self.replace(kind, BTreeMap::new());
                if kind == Kind::EndpointSlice {
                    self.services.has_slices(false);
                }
            }
            Event::WatchFailed(kind, reason) => drop(self.failing.insert(kind, reason)),
            Event::WatchRecovered(kind) => drop(self.failing.remove(&kind)),
            Event::ServerAvailable => {
                self.services.tick();
                self.server_failure = None;
            }
            Event::ServerUnavailable(reason) => self.server_failure = Some(reason),
        }
    }

    fn replace(&mut self, kind: Kind, items: BTreeMap<Key, Item>) {
        let known: Vec<Key> = if Services::keeps(kind) {
            self.services.keys(kind)
        } else {
            self.known.get(&kind).into_iter().flatten().map(|(key, _)| key.clone()).collect()
        };
        let gone: Vec<Key> = known.into_iter().filter(|key| !items.contains_key(key)).collect();
        for key in gone {
            self.delete(kind, &key);
        }
        for item in items.into_values() {
            self.apply(kind, item);
        }
        self.failing.remove(&kind);
        self.unread.remove(&kind);
    }

    fn apply(&mut self, kind: Kind, item: Item) {
        if Services::keeps(kind) {
            return self.services.apply(kind, item);
        }
        if item.is_being_deleted && is_grant(kind) {
            // Whoever deleted it has revoked it; a finalizer may keep it for hours.
            return self.delete(kind, &item.key);
        }
        let Item { key, labels, change, status, is_being_deleted: _ } = item;
        if kind == Kind::Egress && self.observed.0.get(&key).is_none_or(|before| **before != status) {
            self.observed.0.insert(key.clone(), Arc::new(status));
            self.observed.1 = true;
        }
        if kind == Kind::Namespace {
            let is_ours = labels.get(MONITORED_LABEL) == Some(&self.mesh_name);
            self.monitor(&key.1, is_ours);
        }
        self.update(kind, &key, change.clone());
        self.known.entry(kind).or_default().insert(key, change);
    }

    fn delete(&mut self, kind: Kind, key: &Key) {
        if Services::keeps(kind) {
            return self.services.delete(kind, key);
        }
        if kind == Kind::Namespace {
            self.monitor(&key.1, false);
        }
        self.changed |= self.store.apply(FileUpdate { file: file(kind, key), change: Change::Removed });
        if let Some(known) = self.known.get_mut(&kind) {
            known.remove(key);
        }
        if kind == Kind::Egress {
            self.observed.1 |= self.observed.0.remove(key).is_some();
        }
    }

    /// A namespace belongs to the mesh from now on, or no longer.
    fn monitor(&mut self, namespace: &str, is_ours: bool) {
        let was_ours = self.monitored.contains(namespace);
        if was_ours == is_ours {
            return;
        }
        if is_ours {
            self.monitored.insert(namespace.to_owned());
        } else {
            self.monitored.remove(namespace);
        }
        self.services.monitor(namespace, is_ours);
        let mut updates = Vec::new();
        for (kind, known) in &self.known {
            if needs_namespace(*kind) && !self.is_policy_of_named(*kind, namespace) {
                let first = (namespace.to_owned(), String::new());
                let here = known.range(first..).take_while(|((other, _), _)| other == namespace);
                updates.extend(here.map(|(key, change)| (*kind, key.clone(), change.clone())));
            }
        }
        for (kind, key, change) in updates {
            let change = if is_ours { change } else { Change::Removed };
            self.changed |= self.store.apply(FileUpdate { file: file(kind, &key), change });
        }
    }

    fn update(&mut self, kind: Kind, key: &Key, change: Change) {
        if !needs_namespace(kind) || self.monitored.contains(&key.0) || self.is_policy_of_named(kind, &key.0)
        {
            self.changed |= self.store.apply(FileUpdate { file: file(kind, key), change });
        }
    }

    /// Returns whether objects of this kind and namespace are policies of `--policy-namespaces`: the mesh's own namespace, for
    /// example, whose pods have no sidecars.
    fn is_policy_of_named(&self, kind: Kind, namespace: &str) -> bool {
        let is_policy = matches!(kind, Kind::Egress | Kind::HttpRouteGroup | Kind::UpstreamTrafficSetting);
        is_policy && self.policy_namespaces.names(namespace)
    }
}

/// Returns whether objects of this kind grant something by themselves.
const fn is_grant(kind: Kind) -> bool {
    matches!(kind, Kind::Egress | Kind::TrafficTarget)
}

/// Returns whether objects of this kind count in namespaces of the mesh only. The MeshConfig is named by flags.
const fn needs_namespace(kind: Kind) -> bool {
    !matches!(kind, Kind::Namespace | Kind::MeshConfig)
}
