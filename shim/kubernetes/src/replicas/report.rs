//! What one control plane says of its proxies, and what all of them say together.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use egress_policy::Identity;
use serde::{Deserialize, Serialize};

use egress_compile::Compiled;
use egress_core::proxies::{Fleet, Refusal};

/// A ConfigMap holds 1 MiB. Some ten thousand identities fit in this.
const MOST_BYTES: usize = 900_000;
/// How much of Envoy's words is told: the first of them say what is wrong.
const LONGEST_ERROR: usize = 300;

/// What a control plane says: by identity, in order.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Report {
    identities: BTreeMap<String, Entry>,
    /// Whether there are more, after the last one, of which nothing is said.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    more: bool,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Entry {
    /// The version of the document that they should have.
    current: String,
    /// How many have which version.
    has: BTreeMap<String, u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    refusal: Option<Refusal>,
}

impl Report {
    /// What there is to say of these proxies. Those that no policy names are not asked about.
    pub(crate) fn of(fleets: BTreeMap<String, Fleet>, compiled: &Compiled) -> Self {
        let mut report = Self::default();
        let mut bytes = 0;
        for (name, Fleet { has, refusal }) in fleets {
            let document = name.parse().ok().and_then(|identity: Identity| compiled.documents.get(&identity));
            let Some(document) = document else { continue };
            let cut = |refusal: Refusal| Refusal {
                error: refusal.error.chars().take(LONGEST_ERROR).collect(),
                ..refusal
            };
            let entry = Entry { current: document.version.clone(), has, refusal: refusal.map(cut) };
            bytes += name.len() + serde_json::to_string(&entry).map_or(0, |text| text.len()) + 4;
            if bytes > MOST_BYTES {
                report.more = true;
                break;
            }
            report.identities.insert(name, entry);
        }
        report
    }

    /// As it stands in a ConfigMap.
    pub(crate) fn to_json(&self) -> String {
        serde_json::to_string(self).unwrap_or_default()
    }

    /// Reads it. What cannot be read is of another version of this program.
    pub(super) fn read(text: &str) -> Option<Self> {
        serde_json::from_str(text).ok()
    }

    /// How many proxies of an identity have which version.
    pub(super) fn of_identity(&self, identity: &Identity) -> impl Iterator<Item = (&String, &u64)> {
        self.identities.get(&identity.to_string()).into_iter().flat_map(|entry| &entry.has)
    }

    /// Whether it cannot be said what proxies of this identity have.
    fn is_silent_on(&self, identity: &str) -> bool {
        let last = self.identities.keys().next_back();
        self.more && last.is_some_and(|last| last.as_str() < identity)
    }
}

/// What the proxies of some identities have, of all control planes together.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    /// How many have what they should have.
    pub(crate) current: u64,
    /// How many there are.
    pub(crate) connected: u64,
    /// What one of them refuses.
    pub(crate) refusal: Option<Refusal>,
    /// An identity of which control planes have different documents.
    pub(crate) disputed: Option<String>,
    /// Whether there are more than could be counted.
    pub(crate) uncounted: bool,
}

/// Counts the proxies of some identities. All control planes must come to the same result, even if they do not agree
/// on what proxies should have: then those count that have the version that fewest have.
pub(crate) fn tally(
    identities: &BTreeSet<Identity>,
    reports: &BTreeMap<String, Arc<Report>>,
    compiled: &Compiled,
) -> Tally {
    let mut tally = Tally::default();
    for identity in identities {
        let name = identity.to_string();
        let mut wanted: BTreeSet<&str> =
            compiled.documents.get(identity).map(|document| document.version.as_str()).into_iter().collect();
        let entries: Vec<&Entry> =
            reports.values().filter_map(|report| report.identities.get(&name)).collect();
        wanted.extend(entries.iter().map(|entry| entry.current.as_str()));
        let have = |version: &str| entries.iter().filter_map(|entry| entry.has.get(version)).sum::<u64>();
        tally.current += wanted.iter().map(|version| have(version)).min().unwrap_or_default();
        tally.connected += entries.iter().flat_map(|entry| entry.has.values()).sum::<u64>();
        let refusals = entries.iter().filter_map(|entry| entry.refusal.clone());
        tally.refusal = tally.refusal.take().into_iter().chain(refusals).min();
        tally.uncounted |= reports.values().any(|report| report.is_silent_on(&name));
        if wanted.len() > 1 && tally.disputed.is_none() {
            tally.disputed = Some(name);
        }
    }
    tally
}
