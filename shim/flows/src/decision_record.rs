//! A decision as the filter logs it: `VERDICT REASON POLICY RULE`, and in audit mode a fifth word.

use egress_policy::ReasonCode;
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
    /// Parses the text that the filter logs. Returns `None` for any other text.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let mut words = text.split(' ');
        let verdict = match words.next()? {
            "allow" => Verdict::Allow,
            "deny" => Verdict::Deny,
            _ => return None,
        };
        let reason = validate_reason(words.next()?)?;
        let mut name = || {
            Some(words.next()?).filter(|word| *word != "-").map(|word| sanitize::text(word, MAX_NAME_BYTES))
        };
        let (policy, rule) = (name(), name());
        let would_refuse = match words.next() {
            Some(word) => Some(validate_reason(word)?),
            None => None,
        };
        Some(Self { verdict, reason, policy, rule, would_refuse })
    }

    /// Builds the record of a denial by Envoy itself. The filter may have allowed the request before: its policy and
    /// rule stay.
    pub(super) fn denied_by_envoy(reason: &str, filter_decision: Option<Self>) -> Option<Self> {
        let reason = validate_reason(reason)?;
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
    ReasonCode::ALL.iter().copied().find(|code| code.as_str() == text)
}

fn validate_reason(text: &str) -> Option<String> {
    parse_reason_code(text).map(|code| code.as_str().to_owned())
}
