//! One stream's state, for both protocols. Pure: messages in, messages out.
//!
//! What a stream has of a type is a set of resources, by name and version. State of the world (SotW)
//! and delta differ in how that set is asked for and written down, not in what it means.

mod delta;
mod sotw;

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

pub use self::delta::Delta;
pub use self::sotw::Sotw;
use crate::snapshot::{Resource, Snapshot, type_url};

/// What happened on a stream, for the registry.
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
        /// Whether these are all of that version: nothing that came in an earlier message was refused.
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
        /// What the refused message was about, without what later messages replaced.
        names: BTreeSet<String>,
        /// Whether that was the last message.
        is_last: bool,
    },
}

/// Which names of a type a stream wants.
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
    crate::snapshot::hash(resources.flat_map(|(name, version)| [name.as_bytes(), version.as_bytes()]))
}

/// In which order the types of a change are sent.
///
/// What is added must be there before something refers to it, and what goes must no longer be
/// referred to: clusters come first when some are new or changed, and last when some only go.
fn order(clusters_grow: bool) -> [&'static str; 3] {
    if clusters_grow {
        [type_url::CLUSTER, type_url::EXTENSION, type_url::LISTENER]
    } else {
        [type_url::EXTENSION, type_url::LISTENER, type_url::CLUSTER]
    }
}

/// Whether `wanted` has something that `sent` has not in the same version.
fn grows(wanted: &BTreeMap<&str, &Arc<Resource>>, sent: &BTreeMap<String, String>) -> bool {
    wanted.values().any(|resource| sent.get(resource.name()).map(String::as_str) != Some(resource.version()))
}
