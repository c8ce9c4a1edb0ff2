//! One stream's state, for both protocols. Pure: messages in, messages out.
//!
//! What a stream has of a type is a set of resources, by name and version. State of the world (SotW)
//! and delta differ in how that set is asked for and written down, not in what it means.
//!
//! Make before break: of a change, new and changed clusters are sent first, then the policy, then the removal of clusters
//! to which the policy before may lead. That removal waits until the caller says so
//! ([`MakeBeforeBreak::finish_removals`]), some time after the proxy has answered the policy. The cluster of global egress goes with
//! the change: nothing may keep it open.

mod delta;
mod make_before_break;
mod sotw;

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

pub use self::delta::Delta;
pub use self::make_before_break::MakeBeforeBreak;
pub use self::sotw::Sotw;
use egress_envoy::snapshot::{Resource, Snapshot, type_url};

/// A message to the proxy.
#[derive(Debug)]
pub struct Answer {
    /// The type of its resources.
    pub type_url: String,
    /// The version of all that the proxy then has of the type.
    pub version_info: String,
    /// Names this message in the proxy's answer.
    pub nonce: String,
    /// The resources that it carries: state of the world all resources, delta those that are new or changed.
    pub resources: Vec<Arc<Resource>>,
    /// Delta: the names of resources that are gone.
    pub removed_resources: Vec<String>,
}

/// An event of a stream, for the registry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// A type's resources were sent.
    Sent {
        /// The type.
        type_url: String,
        /// The version of what was sent.
        version: String,
    },
    /// The proxy took what was sent last, or showed that it has it already.
    Acknowledged {
        /// The type.
        type_url: String,
        /// The version of what was sent last.
        version: String,
        /// The resources that it has in force now.
        in_force: BTreeSet<String>,
        /// True if these are all of that version: nothing that came in an earlier message was refused.
        is_whole: bool,
    },
    /// The proxy refused something that was sent.
    Rejected {
        /// The type.
        type_url: String,
        /// The version that is not in force therefore: of what was sent last.
        version: String,
        /// The proxy's own words.
        error: String,
        /// The resources of the refused message that no later message replaced.
        names: BTreeSet<String>,
        /// True if that was the last message.
        is_last: bool,
    },
}

/// The names of a type that a stream subscribes to.
#[derive(Debug, Default, Clone)]
struct Subscription {
    wildcard: bool,
    names: BTreeSet<String>,
}

/// Counts names and their bytes.
fn size<'n>(names: impl Iterator<Item = &'n String>) -> (usize, usize) {
    names.fold((0, 0), |(count, bytes), name| (count + 1, bytes + name.len()))
}

impl Subscription {
    /// The resources of the snapshot that are wanted.
    fn select<'s>(&self, snapshot: &'s Snapshot, type_url: &str) -> BTreeMap<&'s str, &'s Arc<Resource>> {
        snapshot
            .of_type(type_url)
            .filter(|resource| self.wildcard || self.names.contains(resource.name()))
            .map(|resource| (resource.name(), resource))
            .collect()
    }
}

/// The version of a set of resources: says exactly which ones, in which versions.
fn version_of<'a>(resources: impl Iterator<Item = (&'a str, &'a str)>) -> String {
    egress_core::hash(resources.flat_map(|(name, version)| [name.as_bytes(), version.as_bytes()]))
}

/// Returns whether a type knows the wildcard: all resources without their names.
fn has_wildcard(type_url: &str) -> bool {
    matches!(type_url, type_url::LISTENER | type_url::CLUSTER)
}

/// Returns whether `wanted` has something that `sent` has not in the same version.
fn grows<'a>(wanted: &BTreeMap<&str, &Arc<Resource>>, sent: impl Fn(&str) -> Option<&'a str>) -> bool {
    wanted.values().any(|resource| sent(resource.name()) != Some(resource.version()))
}

/// Returns whether the removal of a cluster may wait until the policy that does not lead there is in force.
fn may_wait(cluster: &str) -> bool {
    cluster != egress_compile::cluster::PASSTHROUGH
}
