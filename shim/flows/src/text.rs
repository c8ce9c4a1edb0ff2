//! The text form of flows: one line each.

use std::fmt::Write;

use super::Flow;
use super::suggest::format_count;

/// Formats a flow as a line. Its text is safe to print: text that a workload chose was sanitized when it was recorded.
#[must_use]
pub fn format_line(flow: &Flow) -> String {
    let Flow { identity, decision, count, last_seen, .. } = flow;
    let last: String = last_seen.to_string().chars().take(19).collect();
    let mut text = format!(
        "{last}Z  {:5}  {identity} -> {}  {}",
        decision.verdict_label(),
        flow.destination(),
        decision.enforced_reason()
    );
    if let (Some(policy), Some(rule)) = (&decision.policy, &decision.rule) {
        // Writing to a string cannot fail.
        let _ = write!(text, " by {policy} {rule}");
    }
    let _ = writeln!(text, "  {}", format_count(*count));
    text
}
