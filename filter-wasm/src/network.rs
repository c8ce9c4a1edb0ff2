//! The network plugin: one connection from accept to verdict.

use std::net::SocketAddr;

use egress_policy::client_hello::{HelloError, Progress, Reader};
use egress_policy::{Decision, Destination, OnConnection, OnOpening, Opening, Policy, Protocol, ReasonCode};

use crate::config::Config;
use crate::host::{Connection, Flow};
use crate::{record, steer};

/// One outbound connection.
pub(crate) struct Network<H> {
    pub(crate) host: H,
    config: Option<Config>,
    state: State,
}

enum State {
    /// The first bytes decide.
    Reading(SocketAddr, Box<Reader>),
    /// Decided and let through: the bytes are none of our business.
    Open,
    /// Refused, or not asked about yet.
    Closed,
}

impl<H: Connection> Network<H> {
    /// A connection under a configuration; `None` refuses.
    pub(crate) fn new(host: H, config: Option<Config>) -> Self {
        Self { host, config, state: State::Closed }
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
            OnConnection::Decided(decision) => self.act(&decision, to, Protocol::Tcp),
            OnConnection::NeedFirstBytes => {
                self.state = State::Reading(to, Box::default());
                Flow::Wait
            }
        }
    }

    /// `length` bytes lie in the connection's buffer; `end` says that no more will come.
    pub(crate) fn on_data(&mut self, length: usize, end: bool) -> Flow {
        let (to, reader) = match &mut self.state {
            State::Open => return Flow::Continue,
            State::Closed => return Flow::Wait,
            State::Reading(to, reader) => (*to, reader),
        };
        let seen = reader.consumed();
        let bytes = match length.checked_sub(seen) {
            Some(0) | None => Vec::new(),
            Some(fresh) => self.host.bytes(seen, fresh),
        };
        let progress = match reader.feed(&bytes) {
            Progress::More if end => Progress::Malformed(HelloError::Malformed("the connection ended")),
            progress => progress,
        };
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

    fn open(&mut self, policy: &Policy, to: SocketAddr, opening: Opening<'_>) -> Flow {
        match policy.opening(to, opening) {
            OnOpening::Decided(decision) => {
                let protocol = if opening == Opening::NotTls { Protocol::Tcp } else { Protocol::Https };
                self.act(&decision, to, protocol)
            }
            OnOpening::EachRequest => self.steer(steer::HTTP),
        }
    }

    fn act(&mut self, decision: &Decision<'_>, to: SocketAddr, protocol: Protocol) -> Flow {
        record::decision(&self.host, decision, protocol);
        match decision {
            Decision::Deny(_) => self.close(),
            Decision::Allow(permit) => match &permit.to {
                // The cluster that `tcp_proxy` has anyway.
                Destination::Passthrough => self.let_through(),
                Destination::Dialled => self.steer(steer::cluster(&permit.to)),
                Destination::Resolved(name) => {
                    let set = self.host.set_filter_state(steer::DYNAMIC_HOST, name.as_str())
                        && self.host.set_filter_state(steer::DYNAMIC_PORT, &to.port().to_string());
                    if set { self.steer(steer::cluster(&permit.to)) } else { self.close() }
                }
            },
        }
    }

    fn refuse(&mut self, reason: ReasonCode) -> Flow {
        record::decision(&self.host, &Decision::Deny(reason.into()), Protocol::Tcp);
        self.close()
    }

    fn steer(&mut self, cluster: &str) -> Flow {
        if self.host.set_filter_state(steer::TCP_CLUSTER, cluster) { self.let_through() } else { self.close() }
    }

    fn let_through(&mut self) -> Flow {
        self.state = State::Open;
        Flow::Continue
    }

    fn close(&mut self) -> Flow {
        self.state = State::Closed;
        self.host.close();
        Flow::Wait
    }
}
