//! What `/flows` can be asked for.

use std::fmt::Write;

use egress_policy::Identity;
use serde::{Deserialize, Deserializer};

use crate::{Decided, Verdict};

/// Which flows are wanted, and how many at once.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Filter {
    /// Of this identity.
    #[serde(default, deserialize_with = "parsed")]
    pub identity: Option<Identity>,
    /// With this verdict.
    pub verdict: Option<Wanted>,
    /// Those that changed after this.
    #[serde(default)]
    pub after: u64,
    /// How many in one answer.
    #[serde(default)]
    pub limit: Limit,
    /// The last ones and the newest first, instead of the first ones and the oldest first.
    #[serde(default)]
    pub newest: bool,
}

/// A verdict to filter by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Wanted {
    /// Allowed by a rule, by the mesh or by global egress.
    Allow,
    /// Let through by audit mode alone.
    Audit,
    /// Refused.
    Deny,
}

/// How many flows there are in one answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limit(usize);

impl Filter {
    /// How a control plane is asked for this.
    #[must_use]
    pub fn path(&self) -> String {
        let Self { identity, verdict, after, limit, newest } = self;
        let mut path = format!("/flows?after={after}&limit={}&newest={newest}", limit.get());
        // Writing to a string cannot fail.
        if let Some(identity) = identity {
            let _ = write!(path, "&identity={identity}");
        }
        if let Some(verdict) = verdict {
            let _ = write!(path, "&verdict={}", verdict.word());
        }
        path
    }
}

impl Wanted {
    /// That of a decision.
    #[must_use]
    pub fn of(decided: &Decided) -> Self {
        match decided.verdict {
            Verdict::Allow if decided.is_audited() => Self::Audit,
            Verdict::Allow => Self::Allow,
            Verdict::Deny => Self::Deny,
        }
    }

    /// The word that `/flows` knows.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Allow => "allow",
            Self::Audit => "audit",
            Self::Deny => "deny",
        }
    }
}

impl Limit {
    /// As many as there may be: some megabytes.
    pub const MOST: Self = Self(10_000);

    /// The number.
    #[must_use]
    pub fn get(self) -> usize {
        self.0
    }
}

impl Default for Limit {
    fn default() -> Self {
        Self(1_000)
    }
}

impl TryFrom<usize> for Limit {
    type Error = String;

    fn try_from(number: usize) -> Result<Self, String> {
        if (1..=Self::MOST.0).contains(&number) {
            Ok(Self(number))
        } else {
            Err(format!("must be 1 to {}", Self::MOST.0))
        }
    }
}

impl<'de> Deserialize<'de> for Limit {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::try_from(usize::deserialize(deserializer)?).map_err(serde::de::Error::custom)
    }
}

fn parsed<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Identity>, D::Error> {
    let text = String::deserialize(deserializer)?;
    text.parse().map(Some).map_err(serde::de::Error::custom)
}
