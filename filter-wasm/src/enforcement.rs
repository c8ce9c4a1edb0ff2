//! The enforcement of decisions on connections: a connection is steered to a cluster and tracked, or closed.

use std::net::SocketAddr;

use egress_policy::contract::{cluster, filter_state};
use egress_policy::{
    ConnectionOutcome, ConnectionStart, Decision, Destination, HostMatch, Policy, Protocol, ReasonCode,
    StartOutcome,
};

use crate::decision_log;
use crate::host::{ConnectionHost, LifeSpan};
use crate::open_connections::{FirstBytes, OpenConnection};
use crate::pending_connections::PendingState;
use crate::route::{Route, select_cluster};
use crate::scope::Scope;
use crate::table::Guard;
use crate::tick::ActionKind;

/// The warning for each connection of this Envoy that comes back to it: there are few, and nothing else works.
const SELF_INTERCEPTED: &str = "egress: this Envoy gets its own connections back, and refuses them: it runs as another \
    user than the one whose connections are left alone (`osm-egress iptables --proxy-uid`, 1500 unless it says otherwise)";

/// The enforcer of decisions on one connection. Host calls must concern it.
#[derive(Debug)]
pub(crate) struct Enforcer<'a, H> {
    pub(crate) host: &'a H,
    pub(crate) id: u32,
    pub(crate) scope: &'a Scope,
    /// The original destination.
    pub(crate) to: SocketAddr,
}

impl<H: ConnectionHost> Enforcer<'_, H> {
    /// Decides by the start of the connection, or without it where a newer policy needs no first bytes.
    pub(crate) fn decide_start(&self, start: ConnectionStart<'_>) -> Option<Guard<OpenConnection>> {
        let policy = self.scope.newest().policy;
        let policy = &*policy;
        if let ConnectionOutcome::Decided(decision) = policy.decide_connection(self.to) {
            return self.enforce(policy, &decision, FirstBytes::Unseen);
        }
        let decision = match policy.decide_start(self.to, start) {
            StartOutcome::Decided(decision) => decision,
            StartOutcome::EachRequest => {
                decision_log::log_http_connection(self.host, policy);
                return self.steer_to(cluster::HTTP, FirstBytes::Plain, Route::EachRequest);
            }
        };
        let first_bytes = match start {
            ConnectionStart::Tls { server_name, encrypted } => {
                if encrypted {
                    decision_log::log_encrypted_hello(self.host, &decision);
                }
                if !leads_to_a_name(&decision) {
                    decision_log::log_server_name(self.host, server_name);
                }
                FirstBytes::Tls { server_name: server_name.map(Into::into), encrypted }
            }
            ConnectionStart::BrokenTls(reason) => FirstBytes::BrokenTls(reason),
            ConnectionStart::NotTls => FirstBytes::Plain,
            ConnectionStart::TimedOut | ConnectionStart::Evicted => FirstBytes::Unseen,
        };
        self.enforce(policy, &decision, first_bytes)
    }

    /// Enforces a decision: the connection is steered and tracked, or closed.
    pub(crate) fn enforce(
        &self,
        policy: &Policy,
        decision: &Decision<'_>,
        first_bytes: FirstBytes,
    ) -> Option<Guard<OpenConnection>> {
        decision_log::log_decision(self.host, Some(policy), decision, first_bytes.protocol());
        let Decision::Allow(permit) = decision else {
            self.host.close();
            return None;
        };
        let route = Route::from(&permit.to);
        match &permit.to {
            // The cluster that `tcp_proxy` has without steering.
            Destination::Passthrough => return Some(self.track(first_bytes, route)),
            Destination::Original => {}
            Destination::Resolved(name, matched) => {
                let port = self.to.port().to_string();
                let key = match matched {
                    HostMatch::Exact => filter_state::EXACT_NAME,
                    HostMatch::Wildcard => filter_state::DYNAMIC_HOST,
                };
                let is_set = self.host.set_filter_state(LifeSpan::Connection, key, name.as_str())
                    && self.host.set_filter_state(LifeSpan::Connection, filter_state::DYNAMIC_PORT, &port);
                if !is_set {
                    self.host.close();
                    return None;
                }
            }
        }
        self.steer_to(select_cluster(permit), first_bytes, route)
    }

    fn steer_to(
        &self,
        cluster: &str,
        first_bytes: FirstBytes,
        route: Route,
    ) -> Option<Guard<OpenConnection>> {
        if self.host.set_filter_state(LifeSpan::Connection, filter_state::TCP_CLUSTER, cluster) {
            return Some(self.track(first_bytes, route));
        }
        self.host.close();
        None
    }

    fn track(&self, first_bytes: FirstBytes, route: Route) -> Guard<OpenConnection> {
        self.scope.recent.add_connection(self.id);
        self.scope.open.insert(OpenConnection { id: self.id, to: self.to, first_bytes, route })
    }
}

/// Returns whether Envoy resolves the name, and so logs it.
fn leads_to_a_name(decision: &Decision<'_>) -> bool {
    matches!(decision, Decision::Allow(permit) if matches!(permit.to, Destination::Resolved(..)))
}

/// Ends the wait of a pending connection without its first bytes, by the newest policy. Host calls must concern it.
pub(crate) fn end_wait(host: &impl ConnectionHost, scope: &Scope, key: usize, kind: ActionKind) {
    let table = scope.pending.table();
    let waiting = table.with(key, |pending| {
        pending.is_waiting().then(|| {
            pending.state = PendingState::Decided(None);
            pending.held_bytes.set(0);
            (pending.id, pending.to)
        })
    });
    let Some((id, to)) = waiting.flatten() else { return };
    let start = if kind == ActionKind::Evict { ConnectionStart::Evicted } else { ConnectionStart::TimedOut };
    // In audit mode it continues, so a server that speaks first may.
    if let Some(open) = (Enforcer { host, id, scope, to }).decide_start(start) {
        table.with(key, |pending| pending.state = PendingState::Decided(Some(open)));
        host.resume();
    }
}

/// Closes a connection with the oldest of too many headers that have not ended. Host calls must concern it.
pub(crate) fn evict_partial_headers(host: &impl ConnectionHost, scope: &Scope) {
    let refusal = Decision::Deny(ReasonCode::TooManyPending.into());
    decision_log::log_decision(host, Some(&scope.newest().policy), &refusal, Protocol::Http);
    host.close();
}

/// Returns whether this Envoy opened a connection itself, and closes the earlier one that led to it. Host calls
/// concern the new one afterwards.
pub(crate) fn is_self_intercepted(
    host: &impl ConnectionHost,
    scope: &Scope,
    policy: &Policy,
    id: u32,
) -> bool {
    let Some(own) = scope.recent.find_own(host, id) else { return false };
    // The new one is opened by the earlier one, or will be found in turn.
    if own != id && host.select_stream(own) {
        let refusal = Decision::Deny(ReasonCode::SelfIntercepted.into());
        decision_log::log_decision(host, Some(policy), &refusal, Protocol::Tcp);
        host.close();
        host.select_stream(id);
    }
    host.log_warning(SELF_INTERCEPTED);
    true
}
