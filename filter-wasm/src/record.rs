//! What is said about a decision: fields for the access log, and a counter.

use egress_policy::{Decision, Protocol};

use crate::host::Host;

/// The filter-state keys (behind the prefix `wasm.`) that access logs read.
pub(crate) mod field {
    pub(crate) const VERDICT: &str = "egress.verdict";
    pub(crate) const REASON: &str = "egress.reason";
    pub(crate) const POLICY: &str = "egress.policy";
    pub(crate) const RULE: &str = "egress.rule";
    pub(crate) const WOULD: &str = "egress.would";
}

/// Writes a decision down.
pub(crate) fn decision(host: &impl Host, decision: &Decision<'_>, protocol: Protocol) {
    let verdict = if decision.is_allowed() { "allow" } else { "deny" };
    let reason = decision.reason();
    host.note(field::VERDICT, verdict);
    host.note(field::REASON, reason.as_str());
    if let Some(rule) = decision.rule() {
        host.note(field::POLICY, &rule.policy);
        host.note(field::RULE, &rule.name);
    }
    if let Some(would) = decision.would_refuse() {
        host.note(field::WOULD, would.as_str());
    }
    host.count(verdict, reason, protocol);
}
