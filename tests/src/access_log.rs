//! Reads Envoy's access log.

use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::Value;

use crate::envoy::Envoy;
use crate::wait::wait_for;

/// Waits for a line that meets a condition. A line is written when its connection or request has ended.
///
/// # Errors
/// Fails if there is none in time; with the lines that there are.
pub fn wait_for_line(envoy: &Envoy<'_>, what: &str, wanted: impl Fn(&Value) -> bool) -> Result<Value> {
    let mut found = None;
    let waited = wait_for(what, Duration::from_secs(5), || {
        found = envoy.access_log().into_iter().find(&wanted);
        found.is_some()
    });
    waited.with_context(|| {
        let lines: Vec<String> = envoy.access_log().iter().rev().take(20).map(Value::to_string).collect();
        format!("the last lines of the access log, newest first:\n{}", lines.join("\n"))
    })?;
    found.context("no line")
}

/// Waits for the line of a connection or request with this decision and this upstream address.
///
/// # Errors
/// Fails if there is none in time.
pub fn wait_for_decision(envoy: &Envoy<'_>, decision: &str, upstream: &str) -> Result<Value> {
    wait_for_line(envoy, &format!("`{decision}` to {upstream}"), |line| {
        line["decision"] == decision && line["upstream"] == upstream
    })
}

/// Formats the decision's columns like the field `decision`.
#[must_use]
pub fn format_columns(line: &Value) -> String {
    let column = |name: &str| line[name].as_str().unwrap_or("-").to_owned();
    let mut words = ["verdict", "reason", "policy", "rule"].map(column).to_vec();
    words.extend(line["would_refuse"].as_str().map(str::to_owned));
    words.join(" ")
}

/// A number in a line. Envoy 1.39 writes some as `1000000.0`.
#[must_use]
pub fn number(line: &Value, field: &str) -> Option<u64> {
    let value = &line[field];
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a count, far below 2^53")]
    value.as_u64().or_else(|| value.as_f64().filter(|number| *number >= 0.0).map(|number| number as u64))
}
