//! A host for tests that records what the plugins ask of it.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use egress_policy::{Protocol, ReasonCode};

use crate::config::Config;
use crate::host::{Connection, Exchange, Host, Span};
use crate::scope::Scope;

#[derive(Default)]
pub(crate) struct Fake {
    pub(crate) destination: Option<SocketAddr>,
    pub(crate) buffer: RefCell<Vec<u8>>,
    pub(crate) headers: RefCell<BTreeMap<String, Vec<u8>>>,
    /// More fields of the same names.
    pub(crate) repeated: Vec<(&'static str, Vec<u8>)>,
    pub(crate) notes: RefCell<BTreeMap<&'static str, String>>,
    pub(crate) state: RefCell<BTreeMap<&'static str, String>>,
    pub(crate) counted: RefCell<Vec<String>>,
    pub(crate) response: RefCell<Option<(u16, String)>>,
    pub(crate) closed: Cell<bool>,
    pub(crate) resumed: Cell<bool>,
    pub(crate) now: Cell<u64>,
    pub(crate) concerned: RefCell<Vec<u32>>,
    pub(crate) ticks: Cell<Option<Duration>>,
    pub(crate) no_upstream: bool,
    /// Where upstream connections go to.
    pub(crate) upstream: Option<SocketAddr>,
    /// Other streams: where they come from, and where their upstream connections do.
    pub(crate) streams: BTreeMap<u32, (SocketAddr, SocketAddr)>,
    /// Envoy takes no filter state.
    pub(crate) stubborn: bool,
}

impl Host for Fake {
    fn destination(&self) -> Option<SocketAddr> {
        self.destination
    }

    fn source(&self) -> Option<SocketAddr> {
        self.streams.get(self.concerned.borrow().last()?).map(|(source, _)| *source)
    }

    fn note(&self, field: &'static str, value: &str) {
        self.notes.borrow_mut().insert(field, value.to_owned());
    }

    fn count(&self, verdict: &'static str, reason: ReasonCode, protocol: Protocol) {
        self.counted.borrow_mut().push(format!("{verdict} {reason} {}", protocol.as_str()));
    }

    fn count_audited(&self, reason: ReasonCode, protocol: Protocol) {
        self.counted.borrow_mut().push(format!("audited {reason} {}", protocol.as_str()));
    }

    fn count_encrypted_hello(&self, verdict: &'static str) {
        self.counted.borrow_mut().push(format!("encrypted hello {verdict}"));
    }

    fn now(&self) -> u64 {
        self.now.get()
    }

    fn ask_for_ticks(&self, period: Duration) {
        self.ticks.set(Some(period));
    }

    fn set_filter_state(&self, _span: Span, key: &'static str, value: &str) -> bool {
        if !self.stubborn {
            self.state.borrow_mut().insert(key, value.to_owned());
        }
        !self.stubborn
    }
}

impl Connection for Fake {
    fn bytes(&self, start: usize, length: usize) -> Vec<u8> {
        self.buffer.borrow().iter().skip(start).take(length).copied().collect()
    }

    fn close(&self) {
        assert!(!self.closed.replace(true), "closed twice");
    }

    fn resume(&self) {
        assert!(!self.resumed.replace(true), "resumed twice");
    }

    fn concern(&self, id: u32) -> bool {
        self.concerned.borrow_mut().push(id);
        // Others have a host of their own.
        self.streams.contains_key(&id)
    }

    fn had_no_upstream(&self) -> bool {
        self.no_upstream
    }

    fn upstream_pair(&self) -> Option<(SocketAddr, SocketAddr)> {
        let source = self.streams.get(self.concerned.borrow().last()?).map(|(_, upstream)| *upstream);
        source.zip(self.upstream)
    }

    fn warn(&self, _text: &str) {}
}

impl Exchange for Fake {
    fn header(&self, name: &str) -> Option<Vec<u8>> {
        self.headers.borrow().get(name).cloned()
    }

    fn header_values(&self, name: &str) -> Vec<Vec<u8>> {
        let repeated = self.repeated.iter().filter(|(other, _)| *other == name);
        self.header(name).into_iter().chain(repeated.map(|(_, value)| value.clone())).collect()
    }

    fn set_header(&self, name: &str, value: &str) {
        self.headers.borrow_mut().insert(name.to_owned(), value.as_bytes().to_vec());
    }

    fn respond(&self, status: u16, header: (&str, &str), _body: &str) {
        *self.response.borrow_mut() = Some((status, header.1.to_owned()));
    }
}

/// A configuration with these rules.
pub(crate) fn config(plugin: &str, mode: &str, rules: &str) -> Config {
    let text = format!(
        r#"{{"plugin":"{plugin}","version":"v","policy":{{"apiVersion":"egress-policy/v1",
        "identity":{{"namespace":"ns","serviceAccount":"sa"}},"version":"v","mode":"{mode}","rules":{rules}}}}}"#
    );
    Config::read(text.as_bytes()).expect("valid")
}

/// A scope of its own whose newest configuration has these rules.
pub(crate) fn scope(plugin: &str, mode: &str, rules: &str) -> Rc<Scope> {
    Scope::create(&config(plugin, mode, rules))
}
