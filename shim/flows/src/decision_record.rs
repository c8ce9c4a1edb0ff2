//! A decision as flows store it: made from the filter's record, with texts that are safe to show.

use std::str::FromStr;

use egress_policy::{ReasonCode, contract};
use serde::{Deserialize, Serialize};

use egress_core::sanitize;

/// The longest name of a policy or rule, in bytes: two names of Kubernetes objects and a separator.
const MAX_NAME_BYTES: usize = 520;

/// The verdict on a connection or request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// Allowed.
    Allow,
    /// Denied.
    Deny,
}

/// A logged decision: the verdict, the reason code, and the policy and rule behind it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DecisionRecord {
    /// The verdict.
    pub verdict: Verdict,
    /// The reason code.
    pub reason: String,
    /// The Egress object that decided, or came nearest to allowing it: `namespace/name`.
    pub policy: Option<String>,
    /// The rule of that object.
    pub rule: Option<String>,
    /// The reason code with which enforcement would deny it; only in audit mode.
    pub would_refuse: Option<String>,
}

impl DecisionRecord {
    /// Builds the record of a denial by Envoy itself. The filter may have allowed the request before: its policy and
    /// rule stay.
    pub(super) fn denied_by_envoy(reason: &str, filter_decision: Option<Self>) -> Option<Self> {
        let reason = parse_reason_code(reason)?.as_str().to_owned();
        let (policy, rule) =
            filter_decision.map(|decision| (decision.policy, decision.rule)).unwrap_or_default();
        Some(Self { verdict: Verdict::Deny, reason, policy, rule, would_refuse: None })
    }

    /// Returns true if only audit mode let it through.
    #[must_use]
    pub fn is_audited(&self) -> bool {
        self.would_refuse.is_some()
    }

    /// The reason code under enforcement: that of the denial, or of the denial that audit mode withheld.
    #[must_use]
    pub fn enforced_reason(&self) -> &str {
        self.would_refuse.as_deref().unwrap_or(&self.reason)
    }

    /// The verdict as a user filters by it: `allow`, `audit` or `deny`.
    #[must_use]
    pub fn verdict_label(&self) -> &'static str {
        match self.verdict {
            Verdict::Allow if self.is_audited() => "audit",
            Verdict::Allow => "allow",
            Verdict::Deny => "deny",
        }
    }
}

/// Parses a reason code.
pub(super) fn parse_reason_code(text: &str) -> Option<ReasonCode> {
    text.parse().ok()
}

impl From<contract::DecisionRecord<'_>> for DecisionRecord {
    fn from(record: contract::DecisionRecord<'_>) -> Self {
        let name = |name: &str| sanitize::text(name, MAX_NAME_BYTES);
        Self {
            verdict: match record.verdict {
                egress_policy::Verdict::Allow => Verdict::Allow,
                egress_policy::Verdict::Deny => Verdict::Deny,
            },
            reason: record.reason.as_str().to_owned(),
            policy: record.policy.as_deref().map(name),
            rule: record.rule.as_deref().map(name),
            would_refuse: record.would_refuse.map(|reason| reason.as_str().to_owned()),
        }
    }
}

/// Parses the text of a decision, for entries that have no columns.
impl FromStr for DecisionRecord {
    type Err = contract::DecisionRecordError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.parse::<contract::DecisionRecord<'_>>().map(Self::from)
    }
}
