//! The fallback of a proxy that refuses its configuration, so that a refusal holds up no revocation.
//!
//! A document that is refused is followed at once by the one that allows only what the accepted and the new one
//! both allow (the bridge). Once that is in force, the new document is tried again without its newest Egress
//! objects: one, two, four, and so on until the proxy accepts it or nothing of what is new is left. A cluster
//! that is refused takes everything with it that came in the same message, so clusters that are not known to be
//! good are tried in halves until those alone are left out.
//!
//! From passthrough there is no bridge: all that the new document allows was allowed. The tries begin at once.

use std::collections::BTreeSet;
use std::sync::Arc;

use egress_compile::{OwnCluster, fallback};
use egress_core::proxies::HeldBack;
use egress_policy::{Document, Mode};

use super::session::Event;
use egress_envoy::snapshot::{Snapshot, type_url};

/// After so many refused clusters all that were not accepted yet are left out: each try sends all the others again.
const MAX_REFUSED_CLUSTERS: usize = 64;

/// Builds the snapshots that a proxy is offered.
pub trait SnapshotBuilder {
    /// The snapshot of another document, or of other clusters.
    fn build_snapshot(&self, document: &Document, clusters: &[OwnCluster]) -> Arc<Snapshot>;
    /// Sorts Egress objects, the newest first.
    fn sort_newest_first(&self, policies: &mut [String]);
}

/// The state of one proxy.
#[derive(Debug)]
pub(super) struct Fallback {
    /// The snapshot that it should have.
    target: Arc<Snapshot>,
    /// The snapshot that it was sent last.
    current: Arc<Snapshot>,
    /// The snapshot that is in force, where that is known.
    accepted: Option<Arc<Snapshot>>,
    phase: Phase,
    /// True if the bridge to the target is in force.
    is_bridged: bool,
    /// The reason why the target is not in force.
    error: Option<String>,
    clusters: Clusters,
    /// True if a try goes on with another target: then the whole of that was not tried.
    resumes: bool,
    /// True if the held back part may have changed since it was read last.
    has_changed: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// The target without so many of its newest changes was sent.
    Trial(usize),
    /// The bridge was sent; then so many changes are left out, if any try is left.
    Bridge(Option<usize>),
    /// Nothing is to be tried.
    Settled(usize),
}

/// The clusters of its own that a proxy accepts.
#[derive(Debug, Default)]
struct Clusters {
    accepted: Vec<OwnCluster>,
    refused: Vec<OwnCluster>,
    /// Those of the last group were sent, the others are still to be tried.
    groups: Vec<Vec<OwnCluster>>,
    error: Option<String>,
}

impl Clusters {
    fn retarget(&mut self, target: &[OwnCluster]) {
        self.accepted.retain(|cluster| target.contains(cluster));
        self.refused.retain(|cluster| target.contains(cluster));
        if self.refused.is_empty() {
            self.error = None;
        }
        let known = |cluster: &&OwnCluster| self.accepted.contains(cluster) || self.refused.contains(cluster);
        let new: Vec<OwnCluster> = target.iter().filter(|cluster| !known(cluster)).cloned().collect();
        self.groups = if new.is_empty() { Vec::new() } else { vec![new] };
    }

    /// Those that are sent.
    fn sent(&self) -> Vec<OwnCluster> {
        let mut sent: Vec<_> =
            self.accepted.iter().chain(self.groups.last().into_iter().flatten()).cloned().collect();
        sent.sort();
        sent
    }

    /// Takes those that are in force. Says whether others are to be sent.
    fn accept(&mut self, in_force: &BTreeSet<String>) -> bool {
        let Some(group) = self.groups.pop() else { return false };
        let (accepted, waiting): (Vec<_>, Vec<_>) =
            group.into_iter().partition(|cluster| in_force.contains(&cluster.name));
        self.accepted.extend(accepted);
        if waiting.is_empty() {
            return !self.groups.is_empty();
        }
        self.groups.push(waiting);
        false
    }

    /// Takes those of which one is refused. Says whether others are to be sent.
    fn reject(&mut self, error: &str, names: &BTreeSet<String>) -> bool {
        let Some(group) = self.groups.pop() else { return false };
        let (mut suspects, mut others): (Vec<_>, Vec<_>) =
            group.into_iter().partition(|cluster| names.contains(&cluster.name));
        if suspects.is_empty() {
            self.groups.push(others);
            return false;
        }
        self.error = Some(error.to_owned());
        if suspects.len() > 1 {
            let half = suspects.split_off(suspects.len() / 2);
            self.groups.extend([half, suspects]);
        } else {
            self.refused.extend(suspects);
        }
        if self.refused.len() >= MAX_REFUSED_CLUSTERS {
            self.refused.extend(std::mem::take(&mut self.groups).into_iter().flatten());
        }
        // Those that came in other messages stay, with the next that are tried.
        if !others.is_empty() {
            others.extend(self.groups.pop().unwrap_or_default());
            self.groups.push(others);
        }
        true
    }
}

impl Fallback {
    /// Begins with what a proxy should have.
    pub(super) fn new(target: Arc<Snapshot>) -> Self {
        let mut clusters = Clusters::default();
        clusters.retarget(target.clusters());
        Self {
            current: Arc::clone(&target),
            target,
            accepted: None,
            phase: Phase::Trial(0),
            is_bridged: false,
            error: None,
            clusters,
            resumes: false,
            has_changed: false,
        }
    }

    /// Says whether what is held back may be something else than at the last call. To make that costs as much as the
    /// document is long, so no proxy may ask for it with an answer that changes nothing.
    pub(super) const fn take_change(&mut self) -> bool {
        std::mem::replace(&mut self.has_changed, false)
    }

    /// There is something else that the proxy should have. Returns what is sent.
    pub(super) fn retarget(
        &mut self,
        target: Arc<Snapshot>,
        builder: &impl SnapshotBuilder,
    ) -> Arc<Snapshot> {
        self.clusters.retarget(target.clusters());
        self.target = target;
        self.is_bridged = false;
        self.has_changed = true;
        // Where there is trouble already, what was revoked must not wait for the end of it.
        let is_in_trouble = self.error.is_some() && self.accepted.is_some();
        let leaves_passthrough = self.leaves_passthrough();
        self.resumes = false;
        self.phase = match self.phase {
            // From the start again, there would be no end as long as there are changes.
            Phase::Trial(dropped @ 1..) if is_in_trouble && leaves_passthrough => {
                self.resumes = true;
                Phase::Trial(dropped)
            }
            Phase::Trial(_) | Phase::Bridge(_) | Phase::Settled(_)
                if is_in_trouble && !leaves_passthrough =>
            {
                Phase::Bridge(Some(0))
            }
            Phase::Trial(_) | Phase::Bridge(_) | Phase::Settled(_) => Phase::Trial(0),
        };
        self.snapshot(builder)
    }

    /// Takes note of the proxy's answers. Returns what is to be sent now, if anything.
    pub(super) fn observe(
        &mut self,
        events: &[Event],
        builder: &impl SnapshotBuilder,
    ) -> Option<Arc<Snapshot>> {
        let mut changes = false;
        for event in events {
            changes |= match event {
                Event::Acknowledged { type_url, is_whole: true, .. } if type_url == type_url::EXTENSION => {
                    self.accept()
                }
                // What was replaced meanwhile has its own answer.
                Event::Rejected { type_url, error, names, is_last, .. }
                    if type_url == type_url::EXTENSION && (*is_last || !names.is_empty()) =>
                {
                    self.reject(error, builder)
                }
                Event::Acknowledged { type_url, in_force, .. } if type_url == type_url::CLUSTER => {
                    self.clusters.accept(in_force)
                }
                Event::Rejected { type_url, error, names, .. } if type_url == type_url::CLUSTER => {
                    let changes = self.clusters.reject(error, names);
                    self.has_changed |= changes;
                    changes
                }
                Event::Sent { .. } | Event::Acknowledged { .. } | Event::Rejected { .. } => false,
            };
        }
        changes.then(|| self.snapshot(builder))
    }

    fn accept(&mut self) -> bool {
        let is_known = self.accepted.as_ref().is_some_and(|accepted| Arc::ptr_eq(accepted, &self.current));
        self.has_changed |= !is_known || !matches!(self.phase, Phase::Settled(_));
        self.accepted = Some(Arc::clone(&self.current));
        match self.phase {
            Phase::Trial(dropped) => {
                if dropped == 0 {
                    self.error = None;
                }
                self.is_bridged = false;
                let whole_is_next = std::mem::replace(&mut self.resumes, false) && dropped > 0;
                self.phase = if whole_is_next { Phase::Trial(0) } else { Phase::Settled(dropped) };
                whole_is_next
            }
            Phase::Bridge(next) => {
                self.is_bridged = true;
                self.phase = next.map_or(Phase::Settled(0), Phase::Trial);
                next.is_some()
            }
            Phase::Settled(_) => false,
        }
    }

    fn reject(&mut self, error: &str, builder: &impl SnapshotBuilder) -> bool {
        self.has_changed = true;
        self.error = Some(error.to_owned());
        let dropped = match self.phase {
            Phase::Trial(dropped) => dropped,
            // The same document for the other plugin.
            Phase::Settled(dropped) => {
                self.accepted = None;
                dropped
            }
            // Not even what it had before: it keeps what it has.
            Phase::Bridge(_) => {
                self.phase = Phase::Settled(0);
                return false;
            }
        };
        let changed = self.changed(builder).len();
        let next = (dropped < changed).then(|| (dropped * 2).max(1).min(changed));
        let continues = self.leaves_passthrough() && next.is_some();
        let has_bridge = !self.is_bridged && !continues;
        self.phase = match (next, &self.accepted) {
            (next, Some(_)) if has_bridge => Phase::Bridge(next),
            (Some(next), _) => Phase::Trial(next),
            (None, Some(_)) => Phase::Bridge(None),
            (None, None) => {
                self.phase = Phase::Settled(dropped);
                return false;
            }
        };
        true
    }

    /// The Egress objects that may be what is refused, the newest first.
    fn changed(&self, builder: &impl SnapshotBuilder) -> Vec<String> {
        let mut changed = fallback::list_changed_policies(self.accepted(), self.target.document());
        builder.sort_newest_first(&mut changed);
        changed
    }

    /// Returns whether a proxy that lets everything through is to have rules. Such a document has none of its own, so the
    /// bridge would close all that both allow; what both allow by rules is the new document itself.
    fn leaves_passthrough(&self) -> bool {
        self.accepted().is_some_and(|accepted| accepted.mode == Mode::Passthrough)
            && self.target.document().mode != Mode::Passthrough
    }

    fn accepted(&self) -> Option<&Document> {
        self.accepted.as_deref().map(Snapshot::document)
    }

    fn snapshot(&mut self, builder: &impl SnapshotBuilder) -> Arc<Snapshot> {
        let document = self.document(builder);
        let clusters = self.clusters.sent();
        let mut wanted = self.target.clusters().to_vec();
        wanted.sort();
        self.current = if document.version == self.target.document_version() && clusters == wanted {
            Arc::clone(&self.target)
        } else {
            builder.build_snapshot(&document, &clusters)
        };
        Arc::clone(&self.current)
    }

    /// The document of this phase. A phase whose document is in force already is over: nothing would be sent, and
    /// no answer would come.
    fn document(&mut self, builder: &impl SnapshotBuilder) -> Document {
        loop {
            let target = self.target.document();
            let document = match (self.phase, self.accepted()) {
                (Phase::Trial(0), _) => target.clone(),
                (Phase::Trial(dropped), accepted) => {
                    let mut left_out = self.changed(builder);
                    left_out.truncate(dropped);
                    fallback::omit_policies(accepted, target, &left_out)
                }
                (Phase::Bridge(_), Some(accepted)) => fallback::intersect_documents(accepted, target),
                (Phase::Bridge(_), None) | (Phase::Settled(_), _) => return self.current.document().clone(),
            };
            if self.accepted().is_none_or(|accepted| accepted.version != document.version) {
                return document;
            }
            match self.phase {
                Phase::Bridge(next) => {
                    self.is_bridged = true;
                    self.phase = next.map_or(Phase::Settled(0), Phase::Trial);
                    if next.is_some() {
                        continue;
                    }
                }
                Phase::Trial(dropped) => {
                    if dropped == 0 {
                        self.error = None;
                    }
                    self.is_bridged = false;
                    self.phase = Phase::Settled(dropped);
                }
                Phase::Settled(_) => {}
            }
            return document;
        }
    }

    /// The configuration that the proxy refuses.
    pub(super) fn held_back(&self, builder: &impl SnapshotBuilder) -> Option<HeldBack> {
        let clusters: Vec<String> =
            self.clusters.refused.iter().map(|cluster| cluster.name.clone()).collect();
        let error = match (&self.error, &self.clusters.error) {
            (Some(error), _) => error.clone(),
            (None, Some(error)) if !clusters.is_empty() => error.clone(),
            (None, _) => return None,
        };
        // What is not in force of the target is what was left out.
        let policies = if self.error.is_some() { self.changed(builder) } else { Vec::new() };
        let document = self.target.document_version().to_owned();
        Some(HeldBack { document, error, bridged: self.is_bridged, policies, clusters })
    }
}

#[cfg(test)]
mod tests;
