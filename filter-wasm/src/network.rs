//! The network plugin: one connection from accept to verdict.

use std::net::SocketAddr;

use egress_policy::client_hello::{HelloError, Progress, Reader};
use egress_policy::{
    Decision, Destination, Grant, HostMatch, OnConnection, OnOpening, Opening, Policy, Protocol, ReasonCode,
    Refusal,
};

use crate::config::Config;
use crate::host::{Connection, Flow, Span};
use crate::live::{self, Live, Seen};
use crate::waiting::{self, Late};
use crate::{record, steer};

/// One outbound connection.
pub(crate) struct Network<H> {
    pub(crate) host: H,
    id: u32,
    config: Option<Config>,
    state: State,
}

enum State {
    /// The first bytes decide.
    Reading { to: SocketAddr, reader: Box<Reader>, wait: waiting::Entry },
    /// Decided and let through: the bytes are none of our business.
    Open(live::Entry),
    /// Refused, or not asked about yet.
    Closed,
}

impl<H: Connection> Network<H> {
    /// A connection under a configuration; `None` refuses.
    pub(crate) fn new(host: H, id: u32, config: Option<Config>) -> Self {
        Self { host, id, config, state: State::Closed }
    }

    /// The connection was accepted.
    pub(crate) fn on_new_connection(&mut self) -> Flow {
        let Some(config) = self.config.clone() else {
            return self.refuse(ReasonCode::PolicyInvalid);
        };
        // A destination that is the listener itself is no destination: nobody intercepted this.
        let Some(to) = self.host.destination().filter(|to| to.port() != config.listener_port) else {
            return self.refuse(ReasonCode::NotIntercepted);
        };
        match config.policy.connection(to) {
            OnConnection::Decided(decision) => {
                let entry = act(&self.host, self.id, &config.policy, &decision, to, Seen::Nothing);
                self.settle(entry)
            }
            OnConnection::NeedFirstBytes => {
                let limit = config.first_bytes_timeout_ms;
                let deadline = self.host.now().saturating_add(limit.into());
                let wait = waiting::begin(self.id, to, config.policy, deadline);
                if !config.ticking.replace(true) {
                    self.host.ask_for_ticks(limit);
                }
                self.state = State::Reading { to, reader: Box::default(), wait };
                Flow::Wait
            }
        }
    }

    /// `length` bytes lie in the connection's buffer; `end` says that no more will come.
    pub(crate) fn on_data(&mut self, length: usize, end: bool) -> Flow {
        let (to, reader) = match &mut self.state {
            State::Open(_) => return Flow::Continue,
            State::Closed => return Flow::Wait,
            State::Reading { to, reader, wait } => {
                if let Some(outcome) = wait.outcome() {
                    return self.settle(outcome);
                }
                (*to, reader)
            }
        };
        let seen = reader.consumed();
        let bytes = match length.checked_sub(seen) {
            Some(0) | None => Vec::new(),
            Some(fresh) => self.host.bytes(seen, fresh),
        };
        let mut progress = reader.feed(&bytes);
        if end && progress == Progress::More {
            progress = Progress::Malformed(HelloError::Malformed("the connection ended"));
        }
        let Some(policy) = self.config.as_ref().map(|config| config.policy.clone()) else {
            return self.refuse(ReasonCode::PolicyInvalid);
        };
        match progress {
            Progress::More => Flow::Wait,
            Progress::NotTls => self.open(&policy, to, Opening::NotTls),
            Progress::Malformed(HelloError::Oversize) => {
                self.open(&policy, to, Opening::BrokenTls(ReasonCode::TlsOversize))
            }
            Progress::Malformed(HelloError::Malformed(_)) => {
                self.open(&policy, to, Opening::BrokenTls(ReasonCode::TlsMalformed))
            }
            Progress::Hello(hello) => {
                let opening =
                    Opening::Tls { server_name: hello.server_name.as_deref(), encrypted: hello.encrypted };
                self.open(&policy, to, opening)
            }
        }
    }

    /// The connection has ended.
    pub(crate) fn on_close(&mut self) {
        // Where a name leads is Envoy's to find out, after the decision.
        if let State::Open(entry) = std::mem::replace(&mut self.state, State::Closed)
            && let Some(live) = entry.live().filter(|live| matches!(live.opening, Seen::Tls { .. }))
            && self.host.had_no_upstream()
            && let Some(config) = &self.config
            && let OnOpening::Decided(Decision::Allow(permit)) =
                config.policy.opening(live.to, live.opening.as_opening())
            && let (Destination::Resolved(..), Grant::Rule(rule)) = (permit.to, permit.by)
        {
            let refusal = Refusal { reason: ReasonCode::AddressForbidden, rule: Some(rule) };
            record::decision(&self.host, Some(&config.policy), &Decision::Deny(refusal), Protocol::Https);
        }
    }

    fn open(&mut self, policy: &Policy, to: SocketAddr, opening: Opening<'_>) -> Flow {
        let entry = match policy.opening(to, opening) {
            OnOpening::Decided(decision) => {
                let seen = match opening {
                    Opening::Tls { server_name, encrypted } => {
                        if encrypted {
                            record::encrypted_hello(&self.host, &decision);
                        }
                        if !leads_to_a_name(&decision) {
                            record::server_name(&self.host, server_name);
                        }
                        Seen::Tls { server_name: server_name.map(Into::into), encrypted }
                    }
                    Opening::BrokenTls(_) => Seen::Tls { server_name: None, encrypted: false },
                    Opening::NotTls => Seen::Plain,
                    Opening::Late => Seen::Nothing,
                };
                act(&self.host, self.id, policy, &decision, to, seen)
            }
            OnOpening::EachRequest => {
                record::each_request(&self.host, policy);
                steer_to(&self.host, self.id, steer::HTTP, Live { to, opening: Seen::Plain })
            }
        };
        self.settle(entry)
    }

    fn refuse(&mut self, reason: ReasonCode) -> Flow {
        let policy = self.config.as_ref().map(|config| &*config.policy);
        record::decision(&self.host, policy, &Decision::Deny(reason.into()), Protocol::Tcp);
        self.host.close();
        self.settle(None)
    }

    fn settle(&mut self, entry: Option<live::Entry>) -> Flow {
        match entry {
            Some(entry) => {
                self.state = State::Open(entry);
                Flow::Continue
            }
            None => {
                self.state = State::Closed;
                Flow::Wait
            }
        }
    }
}

/// Whether Envoy resolves the name, and so knows it.
fn leads_to_a_name(decision: &Decision<'_>) -> bool {
    matches!(decision, Decision::Allow(permit) if matches!(permit.to, Destination::Resolved(..)))
}

/// A connection has waited too long for its first bytes.
pub(crate) fn give_up(host: &impl Connection, late: &Late) {
    let OnOpening::Decided(decision) = late.policy.opening(late.to, Opening::Late) else {
        return host.close();
    };
    // In audit mode it goes on, and so may a server that speaks first.
    if let Some(entry) = act(host, late.id, &late.policy, &decision, late.to, Seen::Nothing) {
        waiting::let_through(late, entry);
        host.resume();
    }
}

/// Acts on a decision: the connection is steered and listed, or closed.
fn act(
    host: &impl Connection,
    id: u32,
    policy: &Policy,
    decision: &Decision<'_>,
    to: SocketAddr,
    seen: Seen,
) -> Option<live::Entry> {
    let live = Live { to, opening: seen };
    record::decision(host, Some(policy), decision, live.protocol());
    let Decision::Allow(permit) = decision else {
        host.close();
        return None;
    };
    match &permit.to {
        // The cluster that `tcp_proxy` has anyway.
        Destination::Passthrough => return Some(live::opened(id, live)),
        Destination::Dialled => {}
        Destination::Resolved(name, matched) => {
            let port = to.port().to_string();
            let key = match matched {
                HostMatch::Exact => steer::EXACT_NAME,
                HostMatch::Wildcard => steer::DYNAMIC_HOST,
            };
            let set = host.set_filter_state(Span::Connection, key, name.as_str())
                && host.set_filter_state(Span::Connection, steer::DYNAMIC_PORT, &port);
            if !set {
                host.close();
                return None;
            }
        }
    }
    steer_to(host, id, steer::cluster(permit), live)
}

fn steer_to(host: &impl Connection, id: u32, cluster: &str, live: Live) -> Option<live::Entry> {
    if host.set_filter_state(Span::Connection, steer::TCP_CLUSTER, cluster) {
        return Some(live::opened(id, live));
    }
    host.close();
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fake::{Fake, config};

    fn connect(rules: &str, mode: &str, to: &str) -> Network<Fake> {
        let host = Fake { destination: to.parse().ok(), ..Fake::default() };
        Network::new(host, 1, Some(config("network", mode, rules)))
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
            assert_eq!(connection.host.ticks.get(), Some(5000), "{to}");
            // Half a hello helps nobody.
            connection.host.buffer.borrow_mut().extend_from_slice(&hello_for("a.org")[..20]);
            if to.ends_with("443") {
                assert_eq!(connection.on_data(20, false), Flow::Wait);
            }
            let (late, others) = waiting::late(5099);
            assert!(late.is_empty() && others, "{late:?}");
            let (late, others) = waiting::late(5100);
            assert!(late.len() == 1 && !others, "{late:?}");
            give_up(&connection.host, &late[0]);
            assert_eq!(connection.host.resumed.get(), mode == "audit");
            let flow = connection.on_data(40, false);
            assert_eq!(outcome(&connection, flow), expected, "{mode} {to}");
            assert!(waiting::late(u64::MAX).0.is_empty(), "once is enough");
        }
    }

    #[test]
    fn a_name_that_leads_nowhere() {
        for (no_upstream, expected) in
            [(false, "allow rule a/tls n"), (true, "deny address-forbidden a/tls n")]
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
