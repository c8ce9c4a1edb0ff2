//! The status of a policy, for those who do not ask an API server.

use serde::{Deserialize, Serialize};

/// The status of a policy, as `kubectl describe egress` shows it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PolicyStatus {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// `Accepted`, `Programmed`, and `Conflicts` where there are any.
    pub conditions: Vec<ConditionView>,
    /// The number of proxies that have it, of all, as `2/3`.
    pub programmed: String,
    /// True if these are the proxies of all control planes, and not of this one alone.
    pub of_all: bool,
}

/// A condition of a policy.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ConditionView {
    /// The type.
    #[serde(rename = "type")]
    pub kind: String,
    /// `True`, `False` or `Unknown`.
    pub status: String,
    /// The reason, as a word.
    pub reason: String,
    /// The same in a line.
    pub message: String,
}
