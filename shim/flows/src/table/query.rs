//! The query parameters of `/flows`.

use std::fmt::Write;

use egress_policy::Identity;
use serde::{Deserialize, Deserializer};

use crate::{DecisionRecord, Verdict};

/// A selection of flows, and the most that one answer may hold.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FlowQuery {
    /// Only flows of this identity.
    #[serde(default, deserialize_with = "parse_identity")]
    pub identity: Option<Identity>,
    /// Only flows with this verdict.
    pub verdict: Option<VerdictFilter>,
    /// Only flows that changed after this sequence number.
    #[serde(default)]
    pub after: u64,
    /// The most flows of one answer.
    #[serde(default)]
    pub limit: PageLimit,
    /// The last flows, newest first, instead of the first flows, oldest first.
    #[serde(default)]
    pub newest: bool,
}

/// A verdict to filter by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum VerdictFilter {
    /// Allowed by a rule, as traffic of the mesh, or by global egress.
    Allow,
    /// Allowed by audit mode alone.
    Audit,
    /// Denied.
    Deny,
}

/// The most flows of one answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PageLimit(usize);

impl FlowQuery {
    /// The query for all flows of an identity.
    #[must_use]
    pub fn for_identity(identity: Identity) -> Self {
        Self { identity: Some(identity), ..Self::default() }
    }

    /// The path and query of the request to a control plane.
    #[must_use]
    pub fn path(&self) -> String {
        let Self { identity, verdict, after, limit, newest } = self;
        let mut path = format!("/flows?after={after}&limit={}&newest={newest}", limit.get());
        // Writing to a string cannot fail.
        if let Some(identity) = identity {
            let _ = write!(path, "&identity={identity}");
        }
        if let Some(verdict) = verdict {
            let _ = write!(path, "&verdict={}", verdict.label());
        }
        path
    }
}

impl VerdictFilter {
    /// The filter that a decision matches.
    #[must_use]
    pub fn matching(decision: &DecisionRecord) -> Self {
        match decision.verdict {
            Verdict::Allow if decision.is_audited() => Self::Audit,
            Verdict::Allow => Self::Allow,
            Verdict::Deny => Self::Deny,
        }
    }

    /// The value of the query parameter.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::Allow => "allow",
            Self::Audit => "audit",
            Self::Deny => "deny",
        }
    }
}

impl PageLimit {
    /// The highest limit. So many flows are some megabytes of JSON.
    pub const MAX: Self = Self(10_000);

    /// The number of flows.
    #[must_use]
    pub fn get(self) -> usize {
        self.0
    }
}

impl Default for PageLimit {
    fn default() -> Self {
        Self(1_000)
    }
}

impl TryFrom<usize> for PageLimit {
    type Error = String;

    fn try_from(number: usize) -> Result<Self, String> {
        if (1..=Self::MAX.0).contains(&number) {
            Ok(Self(number))
        } else {
            Err(format!("must be 1 to {}", Self::MAX.0))
        }
    }
}

impl<'de> Deserialize<'de> for PageLimit {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::try_from(usize::deserialize(deserializer)?).map_err(serde::de::Error::custom)
    }
}

fn parse_identity<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Identity>, D::Error> {
    let text = String::deserialize(deserializer)?;
    text.parse().map(Some).map_err(serde::de::Error::custom)
}
