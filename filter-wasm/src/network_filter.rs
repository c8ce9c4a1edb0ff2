//! The network plugin: one connection from accept to verdict.

use std::cell::Cell;
use std::net::SocketAddr;
use std::rc::Rc;

use egress_policy::client_hello::{HelloError, Progress, Reader};
use egress_policy::{
    Decision, Destination, Grant, HostMatch, ConnectionOutcome, StartOutcome, ConnectionStart, Policy, Protocol, ReasonCode,
    Refusal,
};

use crate::host::{Connection, Flow, Span};
use crate::open_connections::{FirstBytes, OpenConnection};
use crate::partial_headers::Listed;
use crate::pending::{PendingConnection, PendingState};
use crate::review::Route;
use crate::scope::{ActionKind, MAX_ACTIONS, Scope};
use crate::table::Guard;
use crate::{record, steer};

/// What a plugin gives its connections.
#[derive(Debug, Clone)]
pub(crate) struct PluginHandle {
    pub(crate) scope: Rc<Scope>,
    /// Whether the plugin gets ticks.
    pub(crate) ticking: Rc<Cell<bool>>,
}

/// One outbound connection.
pub(crate) struct Network<H> {
    pub(crate) host: H,
    id: u32,
    plugin: Option<PluginHandle>,
    state: State,
}

enum State {
    /// The first bytes decide.
    Reading { to: SocketAddr, reader: Box<Reader>, pending: Guard<PendingConnection> },
    /// Decided and let through: the bytes are none of our business.
    Open(Guard<OpenConnection>),
    /// Each request is decided: the bytes are counted until the HTTP plugin has the headers.
    Plaintext { _open: Guard<OpenConnection>, listed: Listed },
    /// Refused, or not asked about yet.
    Closed,
}

/// A connection that is decided about.
struct Candidate<'a, H> {
    host: &'a H,
    id: u32,
    scope: &'a Scope,
    /// The original destination.
    to: SocketAddr,
}

impl<H: Connection> Network<H> {
    /// A connection of a plugin; `None` refuses.
    pub(crate) fn new(host: H, id: u32, plugin: Option<PluginHandle>) -> Self {
        Self { host, id, plugin, state: State::Closed }
    }

    /// The connection was accepted.
    pub(crate) fn on_new_connection(&mut self) -> Flow {
        let Some(PluginHandle { scope, ticking }) = self.plugin.clone() else {
            return self.refuse(ReasonCode::PolicyInvalid);
        };
        let config = scope.newest();
        // A destination that is the listener itself is no destination: nobody intercepted this.
        let Some(to) = self.host.destination().filter(|to| to.port() != config.listener_port) else {
            return self.refuse(ReasonCode::NotIntercepted);
        };
        if let Some(own) = scope.recent.find_own(&self.host, self.id) {
            // The new one comes of it, or will come to the same end.
            if own != self.id && self.host.concern(own) {
                self_intercepted(&self.host, &config.policy);
                self.host.concern(self.id);
            }
            self.host.warn(SELF_INTERCEPTED);
            return self.refuse(ReasonCode::SelfIntercepted);
        }
        match config.policy.decide_connection(to) {
            ConnectionOutcome::Decided(decision) => {
                let candidate = Candidate { host: &self.host, id: self.id, scope: &scope, to };
                let open = candidate.act(&config.policy, &decision, FirstBytes::Unseen);
                self.settle(open)
            }
            ConnectionOutcome::NeedFirstBytes => {
                let deadline = self.host.now().saturating_add(config.first_bytes_timeout_ms.into());
                let pending = scope.wait(self.id, to, deadline);
                if !ticking.replace(true) {
                    self.host.ask_for_ticks(scope.tick_period());
                }
                self.evict_excess(&scope);
                self.state = State::Reading { to, reader: Box::default(), pending };
                Flow::Wait
            }
        }
    }

    /// `length` bytes lie in the connection's buffer; `end` says that no more will come.
    pub(crate) fn on_data(&mut self, length: usize, end: bool) -> Flow {
        if let State::Plaintext { listed, .. } = &self.state {
            self.pass(listed, length);
        }
        let (to, reader, pending) = match &mut self.state {
            State::Open(_) | State::Plaintext { .. } => return Flow::Continue,
            State::Closed => return Flow::Wait,
            State::Reading { to, reader, pending } => (*to, reader, pending),
        };
        // A tick may have decided meanwhile.
        let over = pending.with(|pending| match &mut pending.state {
            PendingState::Waiting => None,
            PendingState::Over(open) => Some(open.take()),
        });
        if let Some(open) = over.flatten() {
            return self.settle(open);
        }
        let seen = reader.consumed();
        let bytes = match length.checked_sub(seen) {
            Some(0) | None => Vec::new(),
            Some(fresh) => self.host.bytes(seen, fresh),
        };
        let mut progress = reader.feed(&bytes);
        if end && progress == Progress::More {
            progress = Progress::Malformed(HelloError::Malformed("the connection ended"));
        }
        let held = reader.consumed();
        let Some(PluginHandle { scope, .. }) = &self.plugin else {
            return self.refuse(ReasonCode::PolicyInvalid);
        };
        let opening = match &progress {
            Progress::More => {
                pending.with(|pending| pending.held.set(held));
                self.evict_excess(scope);
                return Flow::Wait;
            }
            Progress::NotTls => ConnectionStart::NotTls,
            Progress::Malformed(HelloError::Oversize) => ConnectionStart::BrokenTls(ReasonCode::TlsOversize),
            Progress::Malformed(HelloError::Malformed(_)) => ConnectionStart::BrokenTls(ReasonCode::TlsMalformed),
            Progress::Hello(hello) => {
                ConnectionStart::Tls { server_name: hello.server_name.as_deref(), encrypted: hello.encrypted }
            }
        };
        let open = Candidate { host: &self.host, id: self.id, scope, to }.decide(opening);
        let each_request =
            open.as_ref().and_then(|open| open.with(|open| open.route == Route::EachRequest)) == Some(true);
        match (open, self.host.source()) {
            (Some(open), Some(source)) if each_request => {
                let listed = scope.plaintext.insert(self.id, source);
                self.pass(&listed, length);
                self.state = State::Plaintext { _open: open, listed };
                Flow::Continue
            }
            (open, _) => self.settle(open),
        }
    }

    /// Notes bytes of a plaintext connection that go on.
    fn pass(&self, listed: &Listed, length: usize) {
        let Some(PluginHandle { scope, .. }) = &self.plugin else { return };
        scope.plaintext.pass(listed, length, |start, length| self.host.bytes(start, length));
        let excess = scope.plaintext.excess(MAX_ACTIONS);
        if excess.is_empty() {
            return;
        }
        for (id, _) in excess {
            if self.host.concern(id) {
                evict_partial(&self.host, scope);
            }
        }
        self.host.concern(self.id);
    }

    fn evict_excess(&self, scope: &Scope) {
        let excess = scope.excess();
        if excess.is_empty() {
            return;
        }
        for action in &excess {
            if self.host.concern(action.id) {
                end_wait(&self.host, scope, action.place, action.kind);
            }
        }
        self.host.concern(self.id);
    }

    /// The connection has ended.
    pub(crate) fn on_close(&mut self) {
        // Where a name leads is Envoy's to find out, after the decision; why it leads nowhere, Envoy tells no filter of
        // connections.
        if let State::Open(open) = std::mem::replace(&mut self.state, State::Closed)
            && let Some(open) = open.with(|open| open.clone())
            && matches!(open.first_bytes, FirstBytes::Tls { .. })
            && self.host.had_no_upstream()
            && let Some(PluginHandle { scope, .. }) = &self.plugin
        {
            let policy = scope.newest().policy;
            if let StartOutcome::Decided(Decision::Allow(permit)) =
                policy.decide_start(open.to, open.first_bytes.as_opening())
                && let (Destination::Resolved(..), Grant::Rule(rule)) = (permit.to, permit.by)
            {
                let refusal = Refusal { reason: ReasonCode::NameUnresolved, rule: Some(rule) };
                record::decision(&self.host, Some(&policy), &Decision::Deny(refusal), Protocol::Https);
            }
        }
    }

    fn refuse(&mut self, reason: ReasonCode) -> Flow {
        let config = self.plugin.as_ref().map(|plugin| plugin.scope.newest());
        let policy = config.as_ref().map(|config| &*config.policy);
        record::decision(&self.host, policy, &Decision::Deny(reason.into()), Protocol::Tcp);
        self.host.close();
        self.settle(None)
    }

    fn settle(&mut self, open: Option<Guard<OpenConnection>>) -> Flow {
        match open {
            Some(open) => {
                self.state = State::Open(open);
                Flow::Continue
            }
            None => {
                self.state = State::Closed;
                Flow::Wait
            }
        }
    }
}

/// Ends a connection that holds the oldest of too many headers which have not ended. Host calls concern it.
pub(crate) fn evict_partial(host: &impl Connection, scope: &Scope) {
    let excess = Decision::Deny(ReasonCode::TooManyPending.into());
    record::decision(host, Some(&scope.newest().policy), &excess, Protocol::Http);
    host.close();
}

/// Said once for each refusal: there are few, and nothing else works.
const SELF_INTERCEPTED: &str = "egress: this Envoy gets its own connections back, and refuses them: it runs as another \
    user than the one whose connections are left alone (`osm-egress iptables --proxy-uid`, 1500 unless it says otherwise)";

/// Closes a connection that Envoy opened itself. Host calls concern it.
fn self_intercepted(host: &impl Connection, policy: &Policy) {
    let refusal = Decision::Deny(ReasonCode::SelfIntercepted.into());
    record::decision(host, Some(policy), &refusal, Protocol::Tcp);
    host.close();
}

/// Ends the wait of a pending connection without its first bytes, by the newest policy. Host calls concern it.
pub(crate) fn end_wait(host: &impl Connection, scope: &Scope, place: usize, kind: ActionKind) {
    let waiting = scope.pending(place, |pending| {
        pending.is_waiting().then(|| {
            pending.state = PendingState::Over(None);
            pending.held.set(0);
            (pending.id, pending.to)
        })
    });
    let Some((id, to)) = waiting.flatten() else { return };
    let opening = if kind == ActionKind::Evict { ConnectionStart::Evicted } else { ConnectionStart::TimedOut };
    // In audit mode it goes on, and so may a server that speaks first.
    if let Some(open) = (Candidate { host, id, scope, to }).decide(opening) {
        scope.pending(place, |pending| pending.state = PendingState::Over(Some(open)));
        host.resume();
    }
}

impl<H: Connection> Candidate<'_, H> {
    /// Decides by the first bytes, or without them where a policy that came meanwhile needs none.
    fn decide(&self, opening: ConnectionStart<'_>) -> Option<Guard<OpenConnection>> {
        let policy = self.scope.newest().policy;
        let policy = &*policy;
        if let ConnectionOutcome::Decided(decision) = policy.decide_connection(self.to) {
            return self.act(policy, &decision, FirstBytes::Unseen);
        }
        let decision = match policy.decide_start(self.to, opening) {
            StartOutcome::Decided(decision) => decision,
            StartOutcome::EachRequest => {
                record::each_request(self.host, policy);
                return self.steer_to(steer::HTTP, FirstBytes::Plain, Route::EachRequest);
            }
        };
        let first_bytes = match opening {
            ConnectionStart::Tls { server_name, encrypted } => {
                if encrypted {
                    record::encrypted_hello(self.host, &decision);
                }
                if !leads_to_a_name(&decision) {
                    record::server_name(self.host, server_name);
                }
                FirstBytes::Tls { server_name: server_name.map(Into::into), encrypted }
            }
            ConnectionStart::BrokenTls(reason) => FirstBytes::BrokenTls(reason),
            ConnectionStart::NotTls => FirstBytes::Plain,
            ConnectionStart::TimedOut | ConnectionStart::Evicted => FirstBytes::Unseen,
        };
        self.act(policy, &decision, first_bytes)
    }

    /// Acts on a decision: the connection is steered and listed, or closed.
    fn act(
        &self,
        policy: &Policy,
        decision: &Decision<'_>,
        first_bytes: FirstBytes,
    ) -> Option<Guard<OpenConnection>> {
        record::decision(self.host, Some(policy), decision, first_bytes.protocol());
        let Decision::Allow(permit) = decision else {
            self.host.close();
            return None;
        };
        let route = Route::from(&permit.to);
        match &permit.to {
            // The cluster that `tcp_proxy` has anyway.
            Destination::Passthrough => return Some(self.open(first_bytes, route)),
            Destination::Original => {}
            Destination::Resolved(name, matched) => {
                let port = self.to.port().to_string();
                let key = match matched {
                    HostMatch::Exact => steer::EXACT_NAME,
                    HostMatch::Wildcard => steer::DYNAMIC_HOST,
                };
                let set = self.host.set_filter_state(Span::Connection, key, name.as_str())
                    && self.host.set_filter_state(Span::Connection, steer::DYNAMIC_PORT, &port);
                if !set {
                    self.host.close();
                    return None;
                }
            }
        }
        self.steer_to(steer::cluster(permit), first_bytes, route)
    }

    fn steer_to(
        &self,
        cluster: &str,
        first_bytes: FirstBytes,
        route: Route,
    ) -> Option<Guard<OpenConnection>> {
        if self.host.set_filter_state(Span::Connection, steer::TCP_CLUSTER, cluster) {
            return Some(self.open(first_bytes, route));
        }
        self.host.close();
        None
    }

    fn open(&self, first_bytes: FirstBytes, route: Route) -> Guard<OpenConnection> {
        self.scope.recent.add_connection(self.id);
        self.scope.open.insert(OpenConnection { id: self.id, to: self.to, first_bytes, route })
    }
}

/// Whether Envoy resolves the name, and so knows it.
fn leads_to_a_name(decision: &Decision<'_>) -> bool {
    matches!(decision, Decision::Allow(permit) if matches!(permit.to, Destination::Resolved(..)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fake::{Fake, config, scope};
    use crate::scope::Action;

    fn connect(rules: &str, mode: &str, to: &str) -> Network<Fake> {
        let host = Fake { destination: to.parse().ok(), ..Fake::default() };
        Network::new(host, 1, Some(plugin(mode, rules)))
    }

    fn plugin(mode: &str, rules: &str) -> PluginHandle {
        PluginHandle { scope: scope("network", mode, rules), ticking: Rc::default() }
    }

    fn scope_of(connection: &Network<Fake>) -> Rc<Scope> {
        Rc::clone(&connection.plugin.as_ref().expect("a plugin").scope)
    }

    /// What the root does at a tick.
    fn tick(connection: &Network<Fake>, now: u64) -> Vec<Action> {
        let scope = scope_of(connection);
        let due = scope.due(now);
        for action in &due.actions {
            end_wait(&connection.host, &scope, action.place, action.kind);
        }
        due.actions
    }

    fn outcome(connection: &Network<Fake>, flow: Flow) -> String {
        let fake = &connection.host;
        let notes = fake.notes.borrow();
        let cluster = fake.state.borrow().get(steer::TCP_CLUSTER).cloned().unwrap_or_default();
        let state = fake.state.borrow();
        let name = state.get(steer::DYNAMIC_HOST).or(state.get(steer::EXACT_NAME));
        let host = name.cloned().unwrap_or_default();
        let port = fake.state.borrow().get(steer::DYNAMIC_PORT).cloned().unwrap_or_default();
        let decision = notes.get(record::DECISION).cloned().unwrap_or_default();
        format!("{flow:?} closed={} {decision} cluster={cluster} {host}:{port}", fake.closed.get())
    }

    const RULES: &str = r#"[
        {"policy":"a/tcp","name":"n","port":22,"protocol":"tcp"},
        {"policy":"a/tls","name":"n","port":443,"protocol":"https","hosts":["a.org"]},
        {"policy":"a/web","name":"n","port":80,"protocol":"http","hosts":["a.org"]}]"#;

    #[test]
    fn decided_at_once() {
        for (mode, to, expected) in [
            (
                "enforce",
                "1.2.3.4:22",
                "Continue closed=false allow rule a/tcp n cluster=egress-original-dst :",
            ),
            ("enforce", "1.2.3.4:25", "Wait closed=true deny no-rule - - cluster= :"),
            ("enforce", "1.2.3.4:15001", "Wait closed=true deny not-intercepted - - cluster= :"),
            ("passthrough", "1.2.3.4:15001", "Wait closed=true deny not-intercepted - - cluster= :"),
            ("enforce", "nothing", "Wait closed=true deny not-intercepted - - cluster= :"),
            ("passthrough", "1.2.3.4:25", "Continue closed=false allow passthrough - - cluster= :"),
            (
                "audit",
                "1.2.3.4:25",
                "Continue closed=false allow audit - - no-rule cluster=egress-original-dst :",
            ),
            ("enforce", "1.2.3.4:443", "Wait closed=false  cluster= :"),
        ] {
            let mut connection = connect(RULES, mode, to);
            let flow = connection.on_new_connection();
            assert_eq!(outcome(&connection, flow), expected, "{mode} {to}");
        }
    }

    #[test]
    fn without_a_policy_everything_is_refused() {
        let mut connection =
            Network::new(Fake { destination: "1.2.3.4:22".parse().ok(), ..Fake::default() }, 1, None);
        let flow = connection.on_new_connection();
        assert_eq!(outcome(&connection, flow), "Wait closed=true deny policy-invalid - - cluster= :");
        assert_eq!(connection.on_data(10, false), Flow::Wait);
    }

    #[test]
    fn decided_by_the_first_bytes() {
        let hello = |name: &str| hello_for(name);
        for (case, to, bytes, expected) in [
            (
                "allowed",
                "1.2.3.4:443",
                hello("a.org"),
                "Continue closed=false allow rule a/tls n cluster=egress-dns a.org:443",
            ),
            (
                "refused",
                "1.2.3.4:443",
                hello("b.org"),
                "Wait closed=true deny sni-not-allowed - - cluster= :",
            ),
            (
                "plaintext",
                "1.2.3.4:443",
                b"GET / HTTP/1.1
"
                .to_vec(),
                "Wait closed=true deny tls-required - - cluster= :",
            ),
            ("http", "1.2.3.4:80", b"G".to_vec(), "Continue closed=false  cluster=egress-http :"),
            (
                "cut off",
                "1.2.3.4:443",
                hello("a.org")[..20].to_vec(),
                "Wait closed=true deny tls-malformed - - cluster= :",
            ),
            ("nothing", "1.2.3.4:443", vec![], "Wait closed=true deny tls-malformed - - cluster= :"),
        ] {
            // All at once, and byte by byte; Envoy keeps what a plugin waits on in its buffer.
            for step in [bytes.len().max(1), 1] {
                let mut connection = connect(RULES, "enforce", to);
                assert_eq!(connection.on_new_connection(), Flow::Wait, "{case}");
                let mut flow = Flow::Wait;
                for part in bytes.chunks(step) {
                    connection.host.buffer.borrow_mut().extend_from_slice(part);
                    let length = connection.host.buffer.borrow().len();
                    flow = connection.on_data(length, false);
                }
                if flow == Flow::Wait && !connection.host.closed.get() {
                    flow = connection.on_data(bytes.len(), true);
                }
                assert_eq!(outcome(&connection, flow), expected, "{case}, {step} bytes at a time");
            }
        }
    }

    #[test]
    fn envoy_refuses_the_steering() {
        for (to, bytes) in
            [("1.2.3.4:22", vec![]), ("1.2.3.4:443", hello_for("a.org")), ("1.2.3.4:80", b"GET".to_vec())]
        {
            let mut connection = connect(RULES, "enforce", to);
            connection.host.stubborn = true;
            if connection.on_new_connection() == Flow::Wait && !connection.host.closed.get() {
                connection.host.buffer.borrow_mut().extend_from_slice(&bytes);
                assert_eq!(connection.on_data(bytes.len(), false), Flow::Wait, "{to}");
            }
            assert!(connection.host.closed.get(), "{to}");
        }
    }

    #[test]
    fn nobody_is_waited_for_for_ever() {
        for (mode, to, expected) in [
            ("enforce", "1.2.3.4:443", "Wait closed=true deny first-bytes-timeout - - cluster= :"),
            ("enforce", "1.2.3.4:80", "Wait closed=true deny first-bytes-timeout - - cluster= :"),
            (
                "audit",
                "1.2.3.4:443",
                "Continue closed=false allow audit - - first-bytes-timeout cluster=egress-original-dst :",
            ),
        ] {
            let mut connection = connect(RULES, mode, to);
            connection.host.now.set(100);
            assert_eq!(connection.on_new_connection(), Flow::Wait);
            assert_eq!(connection.host.ticks.get(), Some(std::time::Duration::from_millis(250)), "{to}");
            // Half a hello helps nobody.
            connection.host.buffer.borrow_mut().extend_from_slice(&hello_for("a.org")[..20]);
            if to.ends_with("443") {
                assert_eq!(connection.on_data(20, false), Flow::Wait);
            }
            assert_eq!(tick(&connection, 5099), []);
            assert!(scope_of(&connection).due(5099).next.is_some());
            assert_eq!(tick(&connection, 5100).len(), 1);
            assert_eq!(connection.host.resumed.get(), mode == "audit");
            let flow = connection.on_data(40, false);
            assert_eq!(outcome(&connection, flow), expected, "{mode} {to}");
            assert_eq!(tick(&connection, u64::MAX), [], "once is enough");
        }
    }

    #[test]
    fn the_newest_policy_decides_what_waits() {
        let name = |host: &str| {
            format!(r#"[{{"policy":"a/new","name":"n","port":443,"protocol":"https","hosts":["{host}"]}}]"#)
        };
        let tcp = r#"[{"policy":"a/tcp","name":"n","port":443,"protocol":"tcp"}]"#.to_owned();
        for (mode, rules, at_the_tick, then) in [
            // Nothing to say yet, and then the new rules count.
            ("enforce", name("a.org"), "", "allow rule a/new n cluster=egress-dns a.org:443"),
            ("enforce", name("b.org"), "", "deny sni-not-allowed - - cluster= :"),
            ("audit", "[]".to_owned(), "allow audit - - no-policy cluster=egress-original-dst :", ""),
            // Decided without first bytes.
            ("enforce", "[]".to_owned(), "deny no-policy - - cluster= :", ""),
            ("enforce", tcp.clone(), "allow rule a/tcp n cluster=egress-original-dst :", ""),
            ("passthrough", "[]".to_owned(), "allow passthrough - - cluster= :", ""),
        ] {
            for ticks in [true, false] {
                let mut connection = connect(RULES, "enforce", "1.2.3.4:443");
                assert_eq!(connection.on_new_connection(), Flow::Wait);
                let hello = hello_for("a.org");
                connection.host.buffer.borrow_mut().extend_from_slice(&hello);
                assert_eq!(connection.on_data(20, false), Flow::Wait);
                scope_of(&connection).renew(&config("network", mode, &rules), 0);
                if ticks {
                    let _ = tick(&connection, 1);
                    assert!(outcome(&connection, Flow::Wait).contains(at_the_tick), "{mode} {rules}");
                    assert_eq!(connection.host.resumed.get(), at_the_tick.starts_with("allow"));
                }
                let flow = connection.on_data(hello.len(), false);
                let expected = if then.is_empty() { at_the_tick } else { then };
                let found = outcome(&connection, flow);
                assert!(found.contains(expected), "{mode} {rules}: {found}");
            }
        }
    }

    #[test]
    fn a_time_out_is_judged_by_the_newest_policy() {
        for (before, after, expected) in [
            ("enforce", "audit", "allow audit - - first-bytes-timeout cluster=egress-original-dst"),
            ("audit", "enforce", "Wait closed=true deny first-bytes-timeout"),
        ] {
            let mut connection = connect(RULES, before, "1.2.3.4:443");
            assert_eq!(connection.on_new_connection(), Flow::Wait);
            scope_of(&connection).renew(&config("network", after, RULES), 0);
            assert_eq!(tick(&connection, 1), []);
            assert_eq!(tick(&connection, 5000).len(), 1);
            let flow = connection.on_data(0, false);
            let found = outcome(&connection, flow);
            assert!(found.contains(expected), "{before} to {after}: {found}");
        }
    }

    #[test]
    fn the_oldest_of_too_many_goes() {
        use crate::pending::{MAX_PENDING, MAX_PENDING_BYTES};
        let plugin = plugin("enforce", RULES);
        let connect = |id: u32, now: u64| {
            let host = Fake { destination: "1.2.3.4:443".parse().ok(), ..Fake::default() };
            host.now.set(now);
            let mut connection = Network::new(host, id, Some(plugin.clone()));
            assert_eq!(connection.on_new_connection(), Flow::Wait);
            connection
        };
        let excess = || plugin.scope.excess();
        let most = u32::try_from(MAX_PENDING).expect("few");
        let mut connections: Vec<_> = (0..most).map(|id| connect(id, 100)).collect();
        assert_eq!(excess(), []);
        connections.remove(5);
        connections.extend([connect(most, 100), connect(most + 1, 100), connect(most + 2, 100)]);
        let newest = connections.last().expect("many");
        assert_eq!(*newest.host.concerned.borrow(), [0, 1, most + 2], "the oldest, and itself again");
        let evicted = excess();
        assert_eq!(evicted.iter().map(|action| action.id).collect::<Vec<_>>(), [0, 1]);
        for action in &evicted {
            let connection = &connections[usize::try_from(action.id).expect("few")];
            end_wait(&connection.host, &plugin.scope, action.place, action.kind);
            assert!(outcome(connection, Flow::Wait).contains("closed=true deny too-many-pending"));
        }
        assert_eq!(excess(), [], "they wait no more, and are about to end");
        drop(connections.drain(..2));

        // Fewer that hold much.
        let mut hello = hello_for("a.org");
        hello[3..9].copy_from_slice(&[0x40, 0, 1, 0, 0x3f, 0xfc]);
        hello.resize(16000, 0);
        let big = MAX_PENDING_BYTES / hello.len() + 1;
        for connection in &mut connections[10..10 + big] {
            connection.host.buffer.borrow_mut().extend_from_slice(&hello);
            assert_eq!(connection.on_data(hello.len(), false), Flow::Wait);
        }
        let evicted = excess();
        assert_eq!(evicted.iter().map(|action| action.id).collect::<Vec<_>>(), [13], "not who holds nothing");
        connections.clear();
        assert!(excess().is_empty() && plugin.scope.due(u64::MAX).next.is_none());
    }

    #[test]
    fn a_name_that_leads_nowhere() {
        for (no_upstream, expected) in [(false, "allow rule a/tls n"), (true, "deny name-unresolved a/tls n")]
        {
            let mut connection = connect(RULES, "enforce", "1.2.3.4:443");
            connection.host.no_upstream = no_upstream;
            let _ = connection.on_new_connection();
            connection.host.buffer.borrow_mut().extend_from_slice(&hello_for("a.org"));
            let length = connection.host.buffer.borrow().len();
            assert_eq!(connection.on_data(length, false), Flow::Continue);
            connection.on_close();
            assert_eq!(connection.host.notes.borrow()[record::DECISION], expected);
        }
    }

    /// The least that is a ClientHello.
    fn hello_for(name: &str) -> Vec<u8> {
        let vector16 =
            |data: &[u8]| [&u16::try_from(data.len()).expect("short").to_be_bytes(), data].concat();
        let name = vector16(&[vec![0], vector16(name.as_bytes())].concat());
        let extensions = vector16(&[vec![0, 0], vector16(&name)].concat());
        let body = [vec![3, 3], vec![0; 33], vec![0, 2, 0x13, 1, 1, 0], extensions].concat();
        let length = u32::try_from(body.len()).expect("short").to_be_bytes();
        let message = [&[1], &length[1..], &body].concat();
        [vec![22, 3, 1], vector16(&message)].concat()
    }
}
