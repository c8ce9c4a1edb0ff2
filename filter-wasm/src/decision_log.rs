//! What is said about a decision: a field for the access log, and a counter.

use egress_policy::{Decision, Policy, Protocol};

use crate::host::Host;

/// The filter-state keys (behind the prefix `wasm.`) that access logs read. Each costs Envoy about a microsecond.
pub(crate) const DECISION: &str = "egress.decision";
const IDENTITY: &str = "egress.identity";
const MODE: &str = "egress.mode";
const VERSION: &str = "egress.policy_version";
const VERDICT: &str = "egress.verdict";
const REASON: &str = "egress.reason";
const POLICY: &str = "egress.policy";
const RULE: &str = "egress.rule";
const WOULD_REFUSE: &str = "egress.would_refuse";
const PROTOCOL: &str = "egress.protocol";
/// Of the server name in the ClientHello, where nothing else says it: a name that Envoy resolves is a filter
/// state already.
const SERVER_NAME: &str = "egress.server_name";

/// Whether a ClientHello carries an encrypted one, or pretends to: written down where it does.
const ENCRYPTED_HELLO: &str = "egress.encrypted_hello";

/// Writes down which server name a ClientHello has; `-` stands for none.
pub(crate) fn server_name(host: &impl Host, name: Option<&str>) {
    host.note(SERVER_NAME, name.unwrap_or("-"));
}

/// Writes a decision down, by which policy it was made, and counts it.
pub(crate) fn decision(
    host: &impl Host,
    policy: Option<&Policy>,
    decision: &Decision<'_>,
    protocol: Protocol,
) {
    let verdict = verdict(decision);
    let reason = decision.reason();
    host.note(DECISION, &in_words(decision));
    host.note(VERDICT, verdict);
    host.note(REASON, reason.as_str());
    // A decision that takes another one back names none, and so the log says what had allowed it.
    if let Some(rule) = decision.rule() {
        host.note(POLICY, &rule.policy);
        host.note(RULE, &rule.name);
    }
    if let Some(would) = decision.would_refuse() {
        host.note(WOULD_REFUSE, would.as_str());
        host.count_audited(would, protocol);
    }
    // The log of requests knows that they are HTTP.
    if protocol != Protocol::Http {
        host.note(PROTOCOL, protocol.as_str());
    }
    whose(host, policy);
    host.count(verdict, reason, protocol);
}

/// Writes down of a connection that its requests are decided.
pub(crate) fn each_request(host: &impl Host, policy: &Policy) {
    host.note(PROTOCOL, Protocol::Http.as_str());
    whose(host, Some(policy));
}

fn whose(host: &impl Host, policy: Option<&Policy>) {
    let Some(policy) = policy else { return };
    let identity = policy.identity();
    host.note(IDENTITY, &[identity.namespace(), "/", identity.service_account()].concat());
    host.note(MODE, policy.mode().as_str());
    host.note(VERSION, policy.version());
}

/// `VERDICT REASON POLICY RULE`, and in audit mode the reason for which it would have been refused. `-` stands
/// for no policy and no rule.
fn in_words(decision: &Decision<'_>) -> String {
    let (policy, rule) = match decision.rule() {
        Some(rule) => (rule.policy.as_str(), rule.name.as_str()),
        None => ("-", "-"),
    };
    let mut text = [verdict(decision), decision.reason().as_str(), policy, rule].join(" ");
    if let Some(would) = decision.would_refuse() {
        text.push(' ');
        text.push_str(would.as_str());
    }
    text
}

/// Writes down and counts a ClientHello whose real name may be encrypted. Browsers pretend to send one (GREASE).
pub(crate) fn encrypted_hello(host: &impl Host, decision: &Decision<'_>) {
    host.note(ENCRYPTED_HELLO, "true");
    host.count_encrypted_hello(verdict(decision));
}

fn verdict(decision: &Decision<'_>) -> &'static str {
    if decision.is_allowed() { "allow" } else { "deny" }
}
