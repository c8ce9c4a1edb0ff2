//! The log fields and counters of decisions. Each log field costs Envoy about a microsecond.

use egress_policy::contract::{DecisionRecord, log_field};
use egress_policy::{Decision, Policy, Protocol};

use crate::host::Host;

/// Logs the server name of a ClientHello; `-` stands for none.
pub(crate) fn log_server_name(host: &impl Host, name: Option<&str>) {
    host.set_log_field(log_field::SERVER_NAME, name.unwrap_or("-"));
}

/// Logs a decision with the policy that made it, and counts it.
pub(crate) fn log_decision(
    host: &impl Host,
    policy: Option<&Policy>,
    decision: &Decision<'_>,
    protocol: Protocol,
) {
    host.set_log_field(log_field::DECISION, &DecisionRecord::from(decision).to_string());
    let (verdict, reason) = (decision.verdict(), decision.reason());
    host.set_log_field(log_field::VERDICT, verdict.as_str());
    host.set_log_field(log_field::REASON, reason.as_str());
    // A revocation names no rule, and so the log keeps the one that had allowed the connection.
    if let Some(rule) = decision.rule() {
        host.set_log_field(log_field::POLICY, &rule.policy);
        host.set_log_field(log_field::RULE, &rule.name);
    }
    if let Some(would_refuse) = decision.would_refuse() {
        host.set_log_field(log_field::WOULD_REFUSE, would_refuse.as_str());
        host.count_audited(would_refuse, protocol);
    }
    // The log of requests has a constant for it.
    if protocol != Protocol::Http {
        host.set_log_field(log_field::PROTOCOL, protocol.as_str());
    }
    log_identity(host, policy);
    host.count_decision(verdict, reason, protocol);
}

/// Logs that each request of a connection is decided.
pub(crate) fn log_http_connection(host: &impl Host, policy: &Policy) {
    host.set_log_field(log_field::PROTOCOL, Protocol::Http.as_str());
    log_identity(host, Some(policy));
}

fn log_identity(host: &impl Host, policy: Option<&Policy>) {
    let Some(policy) = policy else { return };
    let identity = policy.identity();
    host.set_log_field(
        log_field::IDENTITY,
        &[identity.namespace(), "/", identity.service_account()].concat(),
    );
    host.set_log_field(log_field::MODE, policy.mode().as_str());
    host.set_log_field(log_field::POLICY_VERSION, policy.version());
}

/// Logs and counts a ClientHello whose real name may be encrypted. Browsers pretend to send one (GREASE).
pub(crate) fn log_encrypted_hello(host: &impl Host, decision: &Decision<'_>) {
    host.set_log_field(log_field::ENCRYPTED_HELLO, "true");
    host.count_encrypted_hello(decision.verdict());
}
