//! The snapshot cache: a snapshot for each identity that a proxy subscribes to.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use egress_compile::{Compiled, OwnCluster};
use egress_core::hash;
use egress_envoy::Generator;
use egress_envoy::snapshot::Snapshot;
use egress_policy::{Document, Identity};
use tokio::sync::watch;

use super::fallback::SnapshotBuilder;
use super::server::SnapshotProvider;

/// The snapshots that proxies subscribe to, by identity. Others are never made.
#[derive(Debug)]
pub struct SnapshotCache {
    generator: Generator,
    compiled: watch::Receiver<Arc<Compiled>>,
    topics: Mutex<HashMap<Identity, watch::Sender<Arc<Snapshot>>>>,
    /// The snapshots of proxies that refuse that of their identity.
    builder: Mutex<HashMap<String, Weak<Snapshot>>>,
}

impl SnapshotCache {
    /// A cache of the snapshots that the generator makes of these documents.
    #[must_use]
    pub fn new(generator: Generator, compiled: watch::Receiver<Arc<Compiled>>) -> Self {
        Self { generator, compiled, topics: Mutex::default(), builder: Mutex::default() }
    }

    /// Replaces the snapshots whose document or clusters changed, and returns their number.
    pub fn update(&self, compiled: &Compiled) -> usize {
        let outdated = |topic: &watch::Sender<Arc<Snapshot>>, identity: &Identity| {
            !is_current(&topic.borrow(), compiled, identity)
        };
        let changed: Vec<Identity> = {
            let mut topics = self.topics();
            topics.retain(|_, topic| !topic.is_closed());
            topics.iter().filter(|(id, topic)| outdated(topic, id)).map(|(id, _)| id.clone()).collect()
        };
        for identity in &changed {
            // Not under the lock: those that connect would wait.
            let snapshot = self.snapshot(compiled, identity);
            if let Some(topic) = self.topics().get(identity) {
                topic.send_replace(snapshot);
            }
        }
        changed.len()
    }

    fn snapshot(&self, compiled: &Compiled, identity: &Identity) -> Arc<Snapshot> {
        Arc::new(self.generator.snapshot(&compiled.document(identity), compiled.clusters(identity)))
    }

    /// Nothing is left half done under this lock.
    fn topics(&self) -> MutexGuard<'_, HashMap<Identity, watch::Sender<Arc<Snapshot>>>> {
        self.topics.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Returns whether a snapshot is that of an identity's current document. Settings of clusters are no part of the document.
fn is_current(snapshot: &Snapshot, compiled: &Compiled, identity: &Identity) -> bool {
    snapshot.document_version() == compiled.document(identity).version
        && snapshot.clusters() == compiled.clusters(identity)
}

impl SnapshotBuilder for SnapshotCache {
    fn build_snapshot(&self, document: &Document, clusters: &[OwnCluster]) -> Arc<Snapshot> {
        let names = clusters.iter().map(|cluster| cluster.name.as_bytes());
        let key = hash(std::iter::once(document.version.as_bytes()).chain(names));
        let key = format!("{} {key}", document.identity);
        let lock = || self.builder.lock().unwrap_or_else(PoisonError::into_inner);
        let known = |builder: &HashMap<String, Weak<Snapshot>>| {
            builder.get(&key).and_then(Weak::upgrade).filter(|known| known.clusters() == clusters)
        };
        if let Some(known) = known(&lock()) {
            return known;
        }
        // Not under the lock: all streams would wait for one that makes a long one.
        let snapshot = Arc::new(self.generator.snapshot(&Arc::new(document.clone()), clusters));
        let mut builder = lock();
        if let Some(known) = known(&builder) {
            return known;
        }
        builder.retain(|_, build_snapshot| build_snapshot.strong_count() > 0);
        builder.insert(key, Arc::downgrade(&snapshot));
        snapshot
    }

    fn sort_newest_first(&self, policies: &mut [String]) {
        self.compiled.borrow().sort_newest_first(policies);
    }
}

impl SnapshotProvider for SnapshotCache {
    fn most_proxies(&self) -> Option<usize> {
        self.compiled.borrow().max_proxies()
    }

    fn subscribe(&self, identity: &Identity) -> watch::Receiver<Arc<Snapshot>> {
        let mut made: Option<Arc<Snapshot>> = None;
        loop {
            let compiled = Arc::clone(&self.compiled.borrow());
            {
                let mut topics = self.topics();
                // What comes after this is found by the next update, which takes the lock later.
                let is_newest = Arc::ptr_eq(&compiled, &self.compiled.borrow());
                let known = topics.get(identity);
                if let Some(topic) = known.filter(|topic| is_current(&topic.borrow(), &compiled, identity)) {
                    return topic.subscribe();
                }
                let made = made.take().filter(|made| is_newest && is_current(made, &compiled, identity));
                if let Some(made) = made {
                    let topic =
                        topics.entry(identity.clone()).or_insert_with(|| watch::channel(Arc::clone(&made)).0);
                    if !Arc::ptr_eq(&topic.borrow(), &made) {
                        topic.send_replace(made);
                    }
                    return topic.subscribe();
                }
            }
            // Not under the lock: all that connect would wait for one that has a long document.
            made = Some(self.snapshot(&compiled, identity));
        }
    }
}
