//! The proxies that told of a decision: of one that never did, nobody knows whether it decides anything.

use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};

use egress_policy::Identity;

/// More proxies than one control plane serves, with those of pods that are gone. Some 100 bytes each.
const MAX_REPORTERS: usize = 50_000;

/// The proxies that told of a decision, by identity and node id.
#[derive(Debug, Default)]
pub(super) struct Reporters(Mutex<BTreeSet<(String, String)>>);

impl Reporters {
    /// Notes that a proxy told of a decision.
    pub(super) fn add(&self, identity: &Identity, node: &str) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() < MAX_REPORTERS {
            known.insert((identity.to_string(), node.to_owned()));
        }
    }

    /// Whether a proxy told of one, or may have: there were more than are kept.
    pub(super) fn has(&self, identity: &str, node: &str) -> bool {
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.len() >= MAX_REPORTERS || known.contains(&(identity.to_owned(), node.to_owned()))
    }
}
