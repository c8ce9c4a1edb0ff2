//! Flows for people: a line each.

use std::fmt::Write;

use super::Flow;
use super::suggest::times;

/// The line of a flow. Nothing in it is more than text: what workloads chose was cleaned when it was taken in.
#[must_use]
pub fn line(flow: &Flow) -> String {
    let Flow { identity, decided, count, last_seen, .. } = flow;
    let last: String = last_seen.to_string().chars().take(19).collect();
    let mut text =
        format!("{last}Z  {:5}  {identity} -> {}  {}", decided.word(), flow.destination(), decided.refusal());
    if let (Some(policy), Some(rule)) = (&decided.policy, &decided.rule) {
        // Writing to a string cannot fail.
        let _ = write!(text, " by {policy} {rule}");
    }
    let _ = writeln!(text, "  {}", times(*count));
    text
}
