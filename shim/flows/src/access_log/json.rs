//! Lines of Envoy's JSON access log, as the proxy writes them to its standard output.

use std::collections::HashMap;
use std::net::SocketAddr;

use egress_policy::{ReasonCode, contract, contract::log_field};
use serde::Deserialize;
use serde_json::Value;

use crate::{DecisionRecord, Observation};

#[derive(Debug, Deserialize)]
struct LogLine {
    kind: LineKind,
    dialled: SocketAddr,
    name: Option<String>,
    authority: Option<String>,
    method: Option<String>,
    path: Option<String>,
    upgrade: Option<String>,
    refused: Option<String>,
    /// The other columns; the filter writes some of them.
    #[serde(flatten)]
    columns: HashMap<String, Value>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum LineKind {
    Connection,
    Request,
}

/// A reason why a line is no observation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Skipped {
    /// Not a line of this access log: one of Envoy's own messages, or a log of another format.
    OtherFormat,
    /// A connection without a verdict: it carried plaintext requests, which have lines of their own, or ended before
    /// its first bytes came.
    Undecided,
    /// A decision that this release cannot read, because another release wrote it.
    UnknownDecision,
}

impl Skipped {
    /// The reason as text, after a number of lines.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::OtherFormat => "not in the format of the access log",
            Self::Undecided => "without a decision",
            Self::UnknownDecision => "with a decision that this version cannot read",
        }
    }
}

/// Reads a line.
///
/// # Errors
/// When the line is no observation.
pub fn read_line(line: &str) -> Result<Observation, Skipped> {
    let line: LogLine = serde_json::from_str(line.trim()).map_err(|_| Skipped::OtherFormat)?;
    let decision = line.decision();
    let LogLine { kind, dialled, name, authority, method, path, upgrade, refused, columns } = line;
    match kind {
        LineKind::Connection => {
            let server_name = columns.get(log_field::SERVER_NAME.column).and_then(Value::as_str);
            Ok(Observation::from_connection(decision?, dialled, name.as_deref(), server_name))
        }
        LineKind::Request => {
            let (decision, skipped) = match decision {
                Ok(decision) => (Some(decision), Skipped::UnknownDecision),
                Err(skipped) => (None, skipped),
            };
            Observation::from_request(
                decision,
                dialled,
                &authority.unwrap_or_default(),
                (&method.unwrap_or_default(), &path.unwrap_or_default(), upgrade.as_deref()),
                refused.as_deref(),
            )
            .ok_or(if refused.is_some() { Skipped::UnknownDecision } else { skipped })
        }
    }
}

impl LogLine {
    /// The decision, from its columns. Lines of earlier versions have no such columns, but the decision as one text.
    fn decision(&self) -> Result<DecisionRecord, Skipped> {
        let column = |name: &str| self.columns.get(name).and_then(Value::as_str);
        if !self.columns.contains_key(log_field::VERDICT.column) {
            let text = column(log_field::DECISION.column).ok_or(Skipped::Undecided)?;
            return text.parse().map_err(|_| Skipped::UnknownDecision);
        }
        column(log_field::VERDICT.column).ok_or(Skipped::Undecided)?;
        let mut record =
            contract::DecisionRecord::from_columns(column).map_err(|_| Skipped::UnknownDecision)?;
        // The columns of a revoked connection keep the rule that had allowed it. A flow names the rule that decided, and
        // a revocation has none; so flows of this log equal those that proxies report.
        if record.reason == ReasonCode::Revoked {
            (record.policy, record.rule) = (None, None);
        }
        Ok(record.into())
    }
}
