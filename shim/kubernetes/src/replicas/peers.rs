//! The other control planes, by their ConfigMaps. A plain value: no I/O, and the time is an argument.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use kube::api::DynamicObject;
use kube::runtime::watcher::Event;
use tokio::time::Instant;

use super::report::{Report, Reports, value};

/// The time after which an unchanged mark does not count. It is renewed three times as often.
const PEER_TIMEOUT: Duration = Duration::from_secs(30);
/// The time after which the ConfigMap of a silent peer is removed.
const PEER_REMOVAL_AGE: Duration = Duration::from_secs(300);

/// The ConfigMaps, and when each was renewed.
#[derive(Debug)]
pub(super) struct PeerTracker {
    own: String,
    instance: String,
    others: BTreeMap<String, Peer>,
    /// A list that is not complete yet.
    listing: Option<BTreeSet<String>>,
    /// True if there was a complete list, and nothing was missed since.
    is_following: bool,
    /// True if this one's own was seen, and what a process of the same name wrote over it.
    is_published: bool,
    has_twin: bool,
}

#[derive(Debug)]
struct Peer {
    mark: (String, String),
    report: Arc<Report>,
    since: Instant,
}

impl PeerTracker {
    /// A tracker without peers.
    pub(super) fn new(own: &str, instance: &str) -> Self {
        Self {
            own: own.to_owned(),
            instance: instance.to_owned(),
            others: BTreeMap::new(),
            listing: None,
            is_following: false,
            is_published: false,
            has_twin: false,
        }
    }

    /// Applies an event of a watch.
    pub(super) fn apply_event(&mut self, event: Event<DynamicObject>, now: Instant) {
        match event {
            Event::Init => self.listing = Some(BTreeSet::new()),
            Event::InitApply(object) => {
                if let (Some(listing), Some(name)) = (&mut self.listing, &object.metadata.name) {
                    listing.insert(name.clone());
                }
                self.apply(&object, now);
            }
            Event::InitDone => {
                let listed = self.listing.take().unwrap_or_default();
                self.others.retain(|name, _| listed.contains(name));
                self.follow(now);
            }
            Event::Apply(object) => {
                self.apply(&object, now);
                self.follow(now);
            }
            Event::Delete(object) => {
                self.others.remove(object.metadata.name.as_deref().unwrap_or_default());
                self.follow(now);
            }
        }
    }

    /// Notes that events are missed until the next one.
    pub(super) fn lose(&mut self) {
        self.is_following = false;
    }

    /// Notes that events arrive again. Marks may have changed while they were missed.
    fn follow(&mut self, now: Instant) {
        // A list that breaks off begins again.
        if self.listing.is_none() && !std::mem::replace(&mut self.is_following, true) {
            self.others.values_mut().for_each(|other| other.since = now);
        }
    }

    fn apply(&mut self, object: &DynamicObject, now: Instant) {
        let name = object.metadata.name.clone().unwrap_or_default();
        let text = |key| value(object, key).unwrap_or_default().to_owned();
        let mark = (text("instance"), text("renewed"));
        if name == self.own {
            let is_mine = mark.0 == self.instance;
            if self.is_published && !is_mine {
                tracing::error!(
                    name,
                    "another control plane has the same name, so proxies cannot be counted: \
                     give each its own `--replica-name`"
                );
            }
            self.has_twin = self.is_published && !is_mine;
            self.is_published |= is_mine;
            return;
        }
        let is_new = self.others.get(&name).is_none_or(|other| other.mark != mark);
        let Some(report) = Report::read(&text("proxies")).filter(|_| is_new) else { return };
        self.others.insert(name, Peer { mark, report: Arc::new(report), since: now });
    }

    /// The reports of live peers; nothing while they are unknown.
    pub(super) fn live_reports(&self, now: Instant) -> Reports {
        if !self.is_following || self.has_twin {
            return None;
        }
        let alive = self.others.iter().filter(|(_, other)| now.duration_since(other.since) < PEER_TIMEOUT);
        Some(alive.map(|(name, other)| (name.clone(), Arc::clone(&other.report))).collect())
    }

    /// The peers whose ConfigMap is to be removed; each is returned once.
    pub(super) fn take_expired(&mut self, now: Instant) -> Vec<String> {
        if !self.is_following {
            return Vec::new();
        }
        let is_dead = |other: &Peer| now.duration_since(other.since) >= PEER_REMOVAL_AGE;
        let dead: Vec<String> =
            self.others.iter().filter(|(_, other)| is_dead(other)).map(|(name, _)| name.clone()).collect();
        self.others.retain(|_, other| !is_dead(other));
        dead
    }
}
