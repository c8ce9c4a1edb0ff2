//! The order in which a change is sent, for both protocols.

use std::collections::BTreeSet;

use super::{Answer, Event, may_wait};
use egress_envoy::snapshot::{Snapshot, type_url};

/// A stream that sends new clusters before the policy that leads to them, and removes clusters after it.
pub trait MakeBeforeBreak {
    /// Keeps the clusters that the snapshot removes. Returns true if the snapshot adds or changes any.
    fn keep_removed_clusters(&mut self, snapshot: &Snapshot) -> bool;

    /// The removed clusters that stay until the policy without them is in force; `None` before the proxy subscribes.
    fn kept_clusters(&self) -> Option<&BTreeSet<String>>;

    /// The same, to change.
    fn kept_clusters_mut(&mut self) -> Option<&mut BTreeSet<String>>;

    /// Returns true if the proxy has answered every message about the policy.
    fn is_policy_answered(&self) -> bool;

    /// Sends the new, changed and removed resources of a type, if there are any.
    fn send_changes(&mut self, url: &str, snapshot: &Snapshot, events: &mut Vec<Event>) -> Option<Answer>;

    /// Sends a changed snapshot: clusters, policy, listeners, and the removals that need not wait.
    fn on_snapshot(&mut self, snapshot: &Snapshot) -> (Vec<Answer>, Vec<Event>) {
        let mut events = Vec::new();
        let mut answers = Vec::new();
        if self.keep_removed_clusters(snapshot) {
            answers.extend(self.send_changes(type_url::CLUSTER, snapshot, &mut events));
        }
        for url in [type_url::EXTENSION, type_url::LISTENER] {
            answers.extend(self.send_changes(url, snapshot, &mut events));
        }
        if let Some(kept) = self.kept_clusters_mut() {
            kept.retain(|name| may_wait(name));
            answers.extend(self.send_changes(type_url::CLUSTER, snapshot, &mut events));
        }
        (answers, events)
    }

    /// Returns true if clusters wait to be removed.
    fn has_removals(&self) -> bool {
        self.kept_clusters().is_some_and(|kept| !kept.is_empty())
    }

    /// Removes the clusters that wait, whether the policy is answered or not.
    fn finish_removals(&mut self, snapshot: &Snapshot) -> (Vec<Answer>, Vec<Event>) {
        let mut events = Vec::new();
        let Some(kept) = self.kept_clusters_mut().filter(|kept| !kept.is_empty()) else {
            return (Vec::new(), events);
        };
        kept.clear();
        let answers = self.send_changes(type_url::CLUSTER, snapshot, &mut events).into_iter().collect();
        (answers, events)
    }
}
