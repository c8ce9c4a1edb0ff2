//! Which other control planes there are. A plain value: no I/O, and the time is told to it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use kube::api::DynamicObject;
use kube::runtime::watcher::Event;
use tokio::time::Instant;

use super::{Report, Reports, value};

/// How long a mark may stay as it is; it is renewed three times as often.
const SILENT: Duration = Duration::from_secs(30);
/// After how long one that is silent is removed.
const DEAD: Duration = Duration::from_secs(300);

/// The ConfigMaps, and when each was renewed.
#[derive(Debug)]
pub(super) struct Seen {
    own: String,
    instance: String,
    others: BTreeMap<String, Other>,
    /// A list that is not complete yet.
    listing: Option<BTreeSet<String>>,
    /// Whether there was a complete list, and nothing was missed since.
    is_following: bool,
    /// Whether this one's own was seen, and what a process of the same name wrote over it.
    is_published: bool,
    has_twin: bool,
}

#[derive(Debug)]
struct Other {
    mark: (String, String),
    report: Arc<Report>,
    since: Instant,
}

impl Seen {
    /// Knows nothing yet.
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

    /// Takes in what happened.
    pub(super) fn take(&mut self, event: Event<DynamicObject>, now: Instant) {
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

    /// What happens is not seen any more, until the next event.
    pub(super) fn lose(&mut self) {
        self.is_following = false;
    }

    /// What was not seen for a while may have changed all the time.
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
        self.others.insert(name, Other { mark, report: Arc::new(report), since: now });
    }

    /// What those say that are alive; nothing while that cannot be said.
    pub(super) fn alive(&self, now: Instant) -> Reports {
        if !self.is_following || self.has_twin {
            return None;
        }
        let alive = self.others.iter().filter(|(_, other)| now.duration_since(other.since) < SILENT);
        Some(alive.map(|(name, other)| (name.clone(), Arc::clone(&other.report))).collect())
    }

    /// Those that are to be removed; each is named once.
    pub(super) fn take_dead(&mut self, now: Instant) -> Vec<String> {
        if !self.is_following {
            return Vec::new();
        }
        let is_dead = |other: &Other| now.duration_since(other.since) >= DEAD;
        let dead: Vec<String> =
            self.others.iter().filter(|(_, other)| is_dead(other)).map(|(name, _)| name.clone()).collect();
        self.others.retain(|_, other| !is_dead(other));
        dead
    }
}
