//! A decision as the filter writes it down: `VERDICT REASON POLICY RULE`, and in audit mode a fifth word.

use egress_policy::ReasonCode;
use serde::{Deserialize, Serialize};

use egress_core::sanitize;

/// Names of objects and of their parts are no longer than this.
const LONGEST: usize = 520;

/// Whether something was let through.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// It was.
    Allow,
    /// It was not.
    Deny,
}

/// What was decided, and by what.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Decided {
    /// Whether it was let through.
    pub verdict: Verdict,
    /// The reason code.
    pub reason: String,
    /// The Egress object that decided, or came nearest: `namespace/name`.
    pub policy: Option<String>,
    /// The part of it.
    pub rule: Option<String>,
    /// In audit mode, the reason for which it would be refused.
    pub would_refuse: Option<String>,
}

impl Decided {
    /// Reads what the filter wrote; `None`: it is no decision.
    #[must_use]
    pub fn read(text: &str) -> Option<Self> {
        let mut words = text.split(' ');
        let verdict = match words.next()? {
            "allow" => Verdict::Allow,
            "deny" => Verdict::Deny,
            _ => return None,
        };
        let reason = known(words.next()?)?;
        let mut name =
            || Some(words.next()?).filter(|word| *word != "-").map(|word| sanitize::text(word, LONGEST));
        let (policy, rule) = (name(), name());
        let would_refuse = match words.next() {
            Some(word) => Some(known(word)?),
            None => None,
        };
        Some(Self { verdict, reason, policy, rule, would_refuse })
    }

    /// A refusal by Envoy itself, perhaps after the filter allowed it.
    pub(super) fn refused(reason: &str, by_filter: Option<Self>) -> Option<Self> {
        let reason = known(reason)?;
        let (policy, rule) = by_filter.map(|decided| (decided.policy, decided.rule)).unwrap_or_default();
        Some(Self { verdict: Verdict::Deny, reason, policy, rule, would_refuse: None })
    }

    /// Whether only audit mode let it through.
    #[must_use]
    pub fn is_audited(&self) -> bool {
        self.would_refuse.is_some()
    }

    /// The reason for which it was refused, or would have been; the reason code where neither is so.
    #[must_use]
    pub fn refusal(&self) -> &str {
        self.would_refuse.as_deref().unwrap_or(&self.reason)
    }

    /// The verdict as people filter by it: `allow`, `audit` or `deny`.
    #[must_use]
    pub fn word(&self) -> &'static str {
        match self.verdict {
            Verdict::Allow if self.is_audited() => "audit",
            Verdict::Allow => "allow",
            Verdict::Deny => "deny",
        }
    }
}

/// The reason code of this text.
pub(super) fn code(text: &str) -> Option<ReasonCode> {
    ReasonCode::ALL.iter().copied().find(|code| code.as_str() == text)
}

fn known(text: &str) -> Option<String> {
    code(text).map(|code| code.as_str().to_owned())
}
