//! The report of one control plane about its proxies, and the tally of all reports.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use egress_policy::Identity;
use kube::api::DynamicObject;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use egress_compile::Compiled;
use egress_core::proxies::{Fleet, ProxyRejection};

/// A ConfigMap holds 1 MiB. Some ten thousand identities fit in this.
const MAX_REPORT_SIZE: usize = 900_000;
/// The longest part of Envoy's error that is reported: its beginning says what is wrong.
const MAX_ERROR_CHARS: usize = 300;

/// The report of a control plane, by identity.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Report {
    identities: BTreeMap<String, IdentityReport>,
    /// True if identities after the last one are left out.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    more: bool,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct IdentityReport {
    /// The version of the identity's current document.
    current: String,
    /// The number of proxies with each version.
    has: BTreeMap<String, u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    refusal: Option<ProxyRejection>,
}

/// The reports of all control planes by the names of their ConfigMaps; nothing while they are unknown.
pub(crate) type Reports = Option<BTreeMap<String, Arc<Report>>>;

impl Report {
    /// The report about these proxies, without those that no policy names.
    pub(crate) fn of(fleets: BTreeMap<String, Fleet>, compiled: &Compiled) -> Self {
        let mut report = Self::default();
        let mut bytes = 0;
        for (name, Fleet { has, refusal }) in fleets {
            let document = name.parse().ok().and_then(|identity: Identity| compiled.documents.get(&identity));
            let Some(document) = document else { continue };
            let cut = |refusal: ProxyRejection| ProxyRejection {
                error: refusal.error.chars().take(MAX_ERROR_CHARS).collect(),
                ..refusal
            };
            let entry = IdentityReport { current: document.version.clone(), has, refusal: refusal.map(cut) };
            bytes += name.len() + serde_json::to_string(&entry).map_or(0, |text| text.len()) + 4;
            if bytes > MAX_REPORT_SIZE {
                report.more = true;
                break;
            }
            report.identities.insert(name, entry);
        }
        report
    }

    /// The text in a ConfigMap.
    pub(crate) fn to_json(&self) -> String {
        serde_json::to_string(self).unwrap_or_default()
    }

    /// Reads the text. It cannot be read if another version of this program wrote it.
    pub(super) fn read(text: &str) -> Option<Self> {
        serde_json::from_str(text).ok()
    }

    /// The number of proxies of an identity with each version.
    pub(super) fn of_identity(&self, identity: &Identity) -> impl Iterator<Item = (&String, &u64)> {
        self.identities.get(&identity.to_string()).into_iter().flat_map(|entry| &entry.has)
    }

    /// Returns whether this identity is left out.
    fn omits(&self, identity: &str) -> bool {
        let last = self.identities.keys().next_back();
        self.more && last.is_some_and(|last| last.as_str() < identity)
    }
}

/// A value of a ConfigMap.
pub(super) fn value<'o>(object: &'o DynamicObject, key: &str) -> Option<&'o str> {
    object.data.get("data").and_then(|data| data.get(key)).and_then(Value::as_str)
}

/// The proxies of some identities, of all control planes together.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    /// The number with the current document.
    pub(crate) current: u64,
    /// The number that is connected.
    pub(crate) connected: u64,
    /// The refusal of one of them.
    pub(crate) refusal: Option<ProxyRejection>,
    /// An identity for which control planes have different documents.
    pub(crate) disputed: Option<String>,
    /// True if some could not be counted.
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
        let entries: Vec<&IdentityReport> =
            reports.values().filter_map(|report| report.identities.get(&name)).collect();
        wanted.extend(entries.iter().map(|entry| entry.current.as_str()));
        let have = |version: &str| entries.iter().filter_map(|entry| entry.has.get(version)).sum::<u64>();
        tally.current += wanted.iter().map(|version| have(version)).min().unwrap_or_default();
        tally.connected += entries.iter().flat_map(|entry| entry.has.values()).sum::<u64>();
        let refusals = entries.iter().filter_map(|entry| entry.refusal.clone());
        tally.refusal = tally.refusal.take().into_iter().chain(refusals).min();
        tally.uncounted |= reports.values().any(|report| report.omits(&name));
        if wanted.len() > 1 && tally.disputed.is_none() {
            tally.disputed = Some(name);
        }
    }
    tally
}
