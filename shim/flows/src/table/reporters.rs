//! Proxies that have reported a decision. Nothing shows whether a proxy that never reported one decides anything.

use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};

use egress_policy::Identity;

/// The most proxies that are listed: more than one control plane serves, with those of pods that are gone. An entry is
/// some 100 bytes.
const MAX_REPORTERS: usize = 50_000;

/// The proxies that have reported a decision, by identity and node id.
#[derive(Debug, Default)]
pub(super) struct Reporters(Mutex<BTreeSet<(String, String)>>);

impl Reporters {
    /// Records that a proxy reported a decision.
    pub(super) fn add(&self, identity: &Identity, node: &str) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() < MAX_REPORTERS {
            known.insert((identity.to_string(), node.to_owned()));
        }
    }

    /// Returns true if a proxy has reported a decision, or may have: beyond the limit proxies are not listed.
    pub(super) fn contains(&self, identity: &str, node: &str) -> bool {
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.len() >= MAX_REPORTERS || known.contains(&(identity.to_owned(), node.to_owned()))
    }
}
