//! What is said about a decision: a field for the access log, and a counter.

use egress_policy::{Decision, Protocol};

use crate::host::Host;

/// The filter-state key (behind the prefix `wasm.`) that access logs read.
///
/// One field for everything, because each costs as much as the rest of the plugin together.
pub(crate) const DECISION: &str = "egress.decision";

/// The filter-state key of the server name in the ClientHello, where nothing else says it: a name that Envoy
/// resolves is a filter state already.
pub(crate) const SERVER_NAME: &str = "egress.server_name";

/// Writes down which server name a ClientHello has; `-` stands for none.
pub(crate) fn server_name(host: &impl Host, name: Option<&str>) {
    host.note(SERVER_NAME, name.unwrap_or("-"));
}

/// Writes a decision down: `VERDICT REASON POLICY RULE`, and in audit mode the reason for which it
/// would have been refused. `-` stands for no policy and no rule.
pub(crate) fn decision(host: &impl Host, decision: &Decision<'_>, protocol: Protocol) {
    let verdict = verdict(decision);
    let reason = decision.reason();
    let (policy, rule) = match decision.rule() {
        Some(rule) => (rule.policy.as_str(), rule.name.as_str()),
        None => ("-", "-"),
    };
    let mut text = [verdict, reason.as_str(), policy, rule].join(" ");
    if let Some(would) = decision.would_refuse() {
        text.push(' ');
        text.push_str(would.as_str());
    }
    host.note(DECISION, &text);
    host.count(verdict, reason, protocol);
}

/// Counts a ClientHello whose real name may be encrypted. Many browsers pretend to send one.
pub(crate) fn encrypted_hello(host: &impl Host, decision: &Decision<'_>) {
    host.count_encrypted_hello(verdict(decision));
}

fn verdict(decision: &Decision<'_>) -> &'static str {
    if decision.is_allowed() { "allow" } else { "deny" }
}
