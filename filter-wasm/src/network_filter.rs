//! The network filter: one connection from accept to close.

use std::net::SocketAddr;

use egress_policy::client_hello::{HelloError, Progress, Reader};
use egress_policy::{
    ConnectionOutcome, ConnectionStart, Decision, Destination, Grant, Protocol, ReasonCode, Refusal,
    StartOutcome,
};

use crate::decision_log;
use crate::enforcement::{Enforcer, end_wait, evict_partial_headers, is_self_intercepted};
use crate::host::{ConnectionHost, FilterAction};
use crate::open_connections::{FirstBytes, OpenConnection};
use crate::pending_connections::{PendingConnection, PendingState};
use crate::plaintext_connections::PlaintextConnection;
use crate::route::Route;
use crate::scope::{PluginHandle, Scope};
use crate::table::Guard;
use crate::tick::MAX_ACTIONS;

/// The network filter of one outbound connection.
pub(crate) struct NetworkFilter<H> {
    pub(crate) host: H,
    id: u32,
    plugin: Option<PluginHandle>,
    state: State,
}

/// The state of a connection.
enum State {
    /// The first bytes decide.
    Reading { to: SocketAddr, reader: Box<Reader>, pending: Guard<PendingConnection> },
    /// Allowed: the filter ignores further bytes.
    Open(Guard<OpenConnection>),
    /// Each request is decided: bytes are counted until the HTTP filter has the headers.
    Plaintext { _open: Guard<OpenConnection>, plaintext: Guard<PlaintextConnection> },
    /// Refused, or not decided yet.
    Closed,
}

impl<H: ConnectionHost> NetworkFilter<H> {
    /// Makes the filter of a connection; without a plugin it refuses.
    pub(crate) fn new(host: H, id: u32, plugin: Option<PluginHandle>) -> Self {
        Self { host, id, plugin, state: State::Closed }
    }

    /// Decides an accepted connection by its original destination, or waits for its first bytes.
    pub(crate) fn on_new_connection(&mut self) -> FilterAction {
        let Some(PluginHandle { scope, is_ticking }) = self.plugin.clone() else {
            return self.refuse(ReasonCode::PolicyInvalid);
        };
        let config = scope.newest();
        // A connection to the listener itself was not intercepted, and has no other destination.
        let to = self.host.original_destination().filter(|to| to.port() != config.listener_port);
        let Some(to) = to else {
            return self.refuse(ReasonCode::NotIntercepted);
        };
        if is_self_intercepted(&self.host, &scope, &config.policy, self.id) {
            return self.refuse(ReasonCode::SelfIntercepted);
        }
        match config.policy.decide_connection(to) {
            ConnectionOutcome::Decided(decision) => {
                let enforcer = Enforcer { host: &self.host, id: self.id, scope: &scope, to };
                let open = enforcer.enforce(&config.policy, &decision, FirstBytes::Unseen);
                self.finish(open)
            }
            ConnectionOutcome::NeedFirstBytes => {
                let deadline = self.host.now().saturating_add(config.first_bytes_timeout_ms.into());
                let pending = scope.pending.insert(self.id, to, deadline);
                if !is_ticking.replace(true) {
                    self.host.set_tick_period(scope.tick_period());
                }
                self.evict_excess_pending(&scope);
                self.state = State::Reading { to, reader: Box::default(), pending };
                FilterAction::Pause
            }
        }
    }

    /// Reads the first bytes, of which `length` are in the connection's buffer; `end` is true if no more follow.
    pub(crate) fn on_data(&mut self, length: usize, end: bool) -> FilterAction {
        if let State::Plaintext { plaintext, .. } = &self.state {
            self.count_plaintext(plaintext, length);
        }
        let (to, reader, pending) = match &mut self.state {
            State::Open(_) | State::Plaintext { .. } => return FilterAction::Continue,
            State::Closed => return FilterAction::Pause,
            State::Reading { to, reader, pending } => (*to, reader, pending),
        };
        // A tick may have decided in the meantime.
        let decided = pending.with(|pending| match &mut pending.state {
            PendingState::Waiting => None,
            PendingState::Decided(open) => Some(open.take()),
        });
        if let Some(open) = decided.flatten() {
            return self.finish(open);
        }
        let read = reader.consumed();
        let bytes = match length.checked_sub(read) {
            Some(0) | None => Vec::new(),
            Some(fresh) => self.host.buffered_bytes(read, fresh),
        };
        let mut progress = reader.feed(&bytes);
        if end && progress == Progress::More {
            progress = Progress::Malformed(HelloError::Malformed("the connection ended"));
        }
        let held = reader.consumed();
        let Some(PluginHandle { scope, .. }) = &self.plugin else {
            return self.refuse(ReasonCode::PolicyInvalid);
        };
        let start = match &progress {
            Progress::More => {
                pending.with(|pending| pending.held_bytes.set(held));
                self.evict_excess_pending(scope);
                return FilterAction::Pause;
            }
            Progress::NotTls => ConnectionStart::NotTls,
            Progress::Malformed(HelloError::Oversize) => ConnectionStart::BrokenTls(ReasonCode::TlsOversize),
            Progress::Malformed(HelloError::Malformed(_)) => {
                ConnectionStart::BrokenTls(ReasonCode::TlsMalformed)
            }
            Progress::Hello(hello) => {
                ConnectionStart::Tls { server_name: hello.server_name.as_deref(), encrypted: hello.encrypted }
            }
        };
        let open = Enforcer { host: &self.host, id: self.id, scope, to }.decide_start(start);
        let is_http =
            open.as_ref().and_then(|open| open.with(|open| open.route == Route::EachRequest)) == Some(true);
        match (open, self.host.source()) {
            (Some(open), Some(source)) if is_http => {
                let plaintext = scope.plaintext.insert(self.id, source);
                self.count_plaintext(&plaintext, length);
                self.state = State::Plaintext { _open: open, plaintext };
                FilterAction::Continue
            }
            (open, _) => self.finish(open),
        }
    }

    /// Logs a name that was not resolved. Envoy resolves the name after the decision, and does not report to a network filter why
    /// it found no address.
    pub(crate) fn on_close(&mut self) {
        if let State::Open(open) = std::mem::replace(&mut self.state, State::Closed)
            && let Some(open) = open.with(|open| open.clone())
            && matches!(open.first_bytes, FirstBytes::Tls { .. })
            && self.host.had_no_upstream()
            && let Some(PluginHandle { scope, .. }) = &self.plugin
        {
            let policy = scope.newest().policy;
            if let StartOutcome::Decided(Decision::Allow(permit)) =
                policy.decide_start(open.to, open.first_bytes.as_start())
                && let (Destination::Resolved(..), Grant::Rule(rule)) = (permit.to, permit.by)
            {
                let refusal = Refusal { reason: ReasonCode::NameUnresolved, rule: Some(rule) };
                let decision = Decision::Deny(refusal);
                decision_log::log_decision(&self.host, Some(&policy), &decision, Protocol::Https);
            }
        }
    }

    /// Counts the headers in bytes of a plaintext connection that Envoy passes on.
    fn count_plaintext(&self, connection: &Guard<PlaintextConnection>, length: usize) {
        let Some(PluginHandle { scope, .. }) = &self.plugin else { return };
        scope.plaintext.count(connection, length, |start, length| self.host.buffered_bytes(start, length));
        let excess = scope.plaintext.excess(MAX_ACTIONS);
        if excess.is_empty() {
            return;
        }
        for (id, _) in excess {
            if self.host.select_stream(id) {
                evict_partial_headers(&self.host, scope);
            }
        }
        self.host.select_stream(self.id);
    }

    fn evict_excess_pending(&self, scope: &Scope) {
        let excess = scope.pending.excess();
        if excess.is_empty() {
            return;
        }
        for action in &excess {
            if self.host.select_stream(action.id) {
                end_wait(&self.host, scope, action.key, action.kind);
            }
        }
        self.host.select_stream(self.id);
    }

    fn refuse(&mut self, reason: ReasonCode) -> FilterAction {
        let config = self.plugin.as_ref().map(|plugin| plugin.scope.newest());
        let policy = config.as_ref().map(|config| &*config.policy);
        decision_log::log_decision(&self.host, policy, &Decision::Deny(reason.into()), Protocol::Tcp);
        self.host.close();
        self.finish(None)
    }

    fn finish(&mut self, open: Option<Guard<OpenConnection>>) -> FilterAction {
        match open {
            Some(open) => {
                self.state = State::Open(open);
                FilterAction::Continue
            }
            None => {
                self.state = State::Closed;
                FilterAction::Pause
            }
        }
    }
}

#[cfg(test)]
mod tests;
