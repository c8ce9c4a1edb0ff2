//! A decision as text.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

use super::log_field;
use crate::{Decision, ReasonCode, Verdict};

/// The text for no policy and no rule.
const NONE: &str = "-";

/// A decision as the filter reports it: `VERDICT REASON POLICY RULE`, and in audit mode the reason of the refusal that
/// was not enforced. `-` stands for no policy and no rule.
///
/// `Display` and `FromStr` are inverses for names without spaces, which names of objects are.
///
/// ```
/// # fn main() -> Result<(), egress_policy::contract::DecisionRecordError> {
/// use egress_policy::contract::DecisionRecord;
/// use egress_policy::{ReasonCode, Verdict};
///
/// let record: DecisionRecord = "allow audit shop/cart spec.ports[0] no-rule".parse()?;
/// assert_eq!((record.verdict, record.would_refuse), (Verdict::Allow, Some(ReasonCode::NoRule)));
/// assert_eq!(record.to_string(), "allow audit shop/cart spec.ports[0] no-rule");
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DecisionRecord<'a> {
    /// The verdict.
    pub verdict: Verdict,
    /// The reason code.
    pub reason: ReasonCode,
    /// The Egress object that decided, or that nearly allowed it: `namespace/name`.
    pub policy: Option<Cow<'a, str>>,
    /// The part of that object.
    pub rule: Option<Cow<'a, str>>,
    /// In audit mode, the reason of the refusal that was not enforced.
    pub would_refuse: Option<ReasonCode>,
}

/// A reason why a text is not a [`DecisionRecord`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecisionRecordError {
    /// A word is missing, or there is one too many.
    #[error("a decision has the form `VERDICT REASON POLICY RULE`, and a reason more in audit mode")]
    Form,
    /// The verdict is not known.
    #[error("a verdict is `allow` or `deny`")]
    Verdict,
    /// The reason code is not known.
    #[error("a reason is a code of this release")]
    Reason,
}

impl<'a> DecisionRecord<'a> {
    /// Makes a record from the columns of an access log: `column` returns the text of a column, if it has one.
    ///
    /// # Errors
    /// When verdict or reason are absent or not known.
    pub fn from_columns(
        column: impl Fn(&'static str) -> Option<&'a str>,
    ) -> Result<Self, DecisionRecordError> {
        let name = |name| column(name).filter(|text| !text.is_empty() && *text != NONE).map(Cow::Borrowed);
        let verdict = parse_verdict(column(log_field::VERDICT.column).ok_or(DecisionRecordError::Form)?)?;
        let reason = parse_reason(column(log_field::REASON.column).ok_or(DecisionRecordError::Form)?)?;
        // A later decision about the same connection does not clear this column, and only audit mode sets it.
        let would_refuse = match column(log_field::WOULD_REFUSE.column) {
            Some(text) if reason == ReasonCode::Audit => Some(parse_reason(text)?),
            Some(_) | None => None,
        };
        Ok(Self {
            verdict,
            reason,
            policy: name(log_field::POLICY.column),
            rule: name(log_field::RULE.column),
            would_refuse,
        })
    }
}

impl<'a> From<&Decision<'a>> for DecisionRecord<'a> {
    fn from(decision: &Decision<'a>) -> Self {
        let rule = decision.rule();
        Self {
            verdict: decision.verdict(),
            reason: decision.reason(),
            policy: rule.map(|rule| Cow::Borrowed(rule.policy.as_str())),
            rule: rule.map(|rule| Cow::Borrowed(rule.name.as_str())),
            would_refuse: decision.would_refuse(),
        }
    }
}

impl fmt::Display for DecisionRecord<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { verdict, reason, policy, rule, would_refuse } = self;
        for text in [
            verdict.as_str(),
            " ",
            reason.as_str(),
            " ",
            policy.as_deref().unwrap_or(NONE),
            " ",
            rule.as_deref().unwrap_or(NONE),
        ] {
            f.write_str(text)?;
        }
        match would_refuse {
            Some(reason) => f.write_str(" ").and_then(|()| f.write_str(reason.as_str())),
            None => Ok(()),
        }
    }
}

impl FromStr for DecisionRecord<'static> {
    type Err = DecisionRecordError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut words = text.split(' ');
        let mut word = || words.next().ok_or(DecisionRecordError::Form);
        let verdict = parse_verdict(word()?)?;
        let reason = parse_reason(word()?)?;
        let name = |word: &str| (word != NONE).then(|| Cow::Owned(word.to_owned()));
        let (policy, rule) = (name(word()?), name(word()?));
        let would_refuse = words.next().map(parse_reason).transpose()?;
        match words.next() {
            None => Ok(Self { verdict, reason, policy, rule, would_refuse }),
            Some(_) => Err(DecisionRecordError::Form),
        }
    }
}

fn parse_verdict(text: &str) -> Result<Verdict, DecisionRecordError> {
    [Verdict::Allow, Verdict::Deny]
        .into_iter()
        .find(|verdict| verdict.as_str() == text)
        .ok_or(DecisionRecordError::Verdict)
}

fn parse_reason(text: &str) -> Result<ReasonCode, DecisionRecordError> {
    text.parse().map_err(|_| DecisionRecordError::Reason)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use proptest::sample::select;

    use super::*;

    fn record() -> impl Strategy<Value = DecisionRecord<'static>> {
        let name = || prop::option::of("[a-z0-9]{1,9}/[a-z.-]{0,9}").prop_map(|name| name.map(Cow::Owned));
        let reason = || select(ReasonCode::ALL);
        let verdict = select(vec![Verdict::Allow, Verdict::Deny]);
        (verdict, reason(), name(), name(), prop::option::of(reason())).prop_map(
            |(verdict, reason, policy, rule, would_refuse)| DecisionRecord {
                verdict,
                reason,
                policy,
                rule,
                would_refuse,
            },
        )
    }

    proptest! {
        #[test]
        fn display_and_from_str_are_inverses(record in record()) {
            prop_assert_eq!(record.to_string().parse(), Ok(record));
        }

        #[test]
        fn any_text_that_is_read_is_written_again(text in "(allow|deny|x)( (rule|audit|no-rule|-|a/b|)){0,5}") {
            if let Ok(record) = text.parse::<DecisionRecord<'_>>() {
                prop_assert_eq!(record.to_string(), text);
            }
        }
    }

    #[test]
    fn texts_that_are_no_decision_are_refused() {
        for (text, error) in [
            ("", DecisionRecordError::Verdict),
            ("allow", DecisionRecordError::Form),
            ("allow rule a/b", DecisionRecordError::Form),
            ("maybe rule a/b n", DecisionRecordError::Verdict),
            ("allow anything a/b n", DecisionRecordError::Reason),
            ("allow audit a/b n anything", DecisionRecordError::Reason),
            ("allow audit a/b n no-rule x", DecisionRecordError::Form),
        ] {
            assert_eq!(text.parse::<DecisionRecord<'_>>(), Err(error), "{text:?}");
        }
    }

    #[test]
    fn columns_and_text_are_equal() {
        for text in ["allow rule a/b n", "deny no-rule - -", "allow audit a/b n no-rule"] {
            let record: DecisionRecord<'_> = text.parse().expect("a decision");
            let words: Vec<&str> = text.split(' ').collect();
            let column = |name: &str| {
                let place =
                    ["verdict", "reason", "policy", "rule", "would_refuse"].iter().position(|c| *c == name);
                words.get(place?).copied()
            };
            assert_eq!(DecisionRecord::from_columns(column), Ok(record), "{text}");
        }
        // The column that audit mode had set stays when the connection is revoked.
        let revoked = |name: &str| match name {
            "verdict" => Some("deny"),
            "reason" => Some("revoked"),
            "would_refuse" => Some("no-rule"),
            _ => None,
        };
        assert_eq!(
            DecisionRecord::from_columns(revoked).expect("a decision").to_string(),
            "deny revoked - -"
        );
        assert_eq!(DecisionRecord::from_columns(|_| None), Err(DecisionRecordError::Form));
    }
}
