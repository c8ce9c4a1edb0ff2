//! A host for unit tests that records the plugins' host calls.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use egress_policy::contract::LogField;
use egress_policy::{Protocol, ReasonCode, Verdict};

use crate::config::Config;
use crate::host::{ConnectionHost, Host, HttpHost, LifeSpan, PluginHost};
use crate::scope::Scope;

#[derive(Default)]
pub(crate) struct FakeHost {
    pub(crate) original_destination: Option<SocketAddr>,
    pub(crate) buffer: RefCell<Vec<u8>>,
    pub(crate) headers: RefCell<BTreeMap<String, Vec<u8>>>,
    /// More fields of the same names.
    pub(crate) repeated: Vec<(&'static str, Vec<u8>)>,
    /// Log fields by column.
    pub(crate) log_fields: RefCell<BTreeMap<&'static str, String>>,
    /// Lines of Envoy's log.
    pub(crate) log: RefCell<Vec<String>>,
    pub(crate) state: RefCell<BTreeMap<&'static str, String>>,
    pub(crate) counted: RefCell<Vec<String>>,
    pub(crate) response: RefCell<Option<(u16, String)>>,
    pub(crate) closed: Cell<bool>,
    pub(crate) resumed: Cell<bool>,
    pub(crate) now: Cell<u64>,
    /// The selected streams, in order.
    pub(crate) selected: RefCell<Vec<u32>>,
    pub(crate) tick_period: Cell<Option<Duration>>,
    pub(crate) no_upstream: bool,
    /// The destination of upstream connections.
    pub(crate) upstream: Option<SocketAddr>,
    /// Other streams: their source, and the source of their upstream connections.
    pub(crate) streams: BTreeMap<u32, (SocketAddr, SocketAddr)>,
    /// Envoy rejects filter state.
    pub(crate) rejects_filter_state: bool,
}

impl Host for FakeHost {
    fn original_destination(&self) -> Option<SocketAddr> {
        self.original_destination
    }

    fn source(&self) -> Option<SocketAddr> {
        self.streams.get(self.selected.borrow().last()?).map(|(source, _)| *source)
    }

    fn set_log_field(&self, field: LogField, value: &str) {
        self.log_fields.borrow_mut().insert(field.column, value.to_owned());
    }

    fn count_decision(&self, verdict: Verdict, reason: ReasonCode, protocol: Protocol) {
        self.counted.borrow_mut().push(format!("{} {reason} {}", verdict.as_str(), protocol.as_str()));
    }

    fn count_audited(&self, reason: ReasonCode, protocol: Protocol) {
        self.counted.borrow_mut().push(format!("audited {reason} {}", protocol.as_str()));
    }

    fn count_encrypted_hello(&self, verdict: Verdict) {
        self.counted.borrow_mut().push(format!("encrypted hello {}", verdict.as_str()));
    }

    fn now(&self) -> u64 {
        self.now.get()
    }

    fn set_tick_period(&self, period: Duration) {
        self.tick_period.set(Some(period));
    }

    fn set_filter_state(&self, _life_span: LifeSpan, key: &'static str, value: &str) -> bool {
        if !self.rejects_filter_state {
            self.state.borrow_mut().insert(key, value.to_owned());
        }
        !self.rejects_filter_state
    }
}

impl ConnectionHost for FakeHost {
    fn buffered_bytes(&self, start: usize, length: usize) -> Vec<u8> {
        self.buffer.borrow().iter().skip(start).take(length).copied().collect()
    }

    fn close(&self) {
        assert!(!self.closed.replace(true), "closed twice");
    }

    fn resume(&self) {
        assert!(!self.resumed.replace(true), "resumed twice");
    }

    fn select_stream(&self, id: u32) -> bool {
        self.selected.borrow_mut().push(id);
        // Others have a host of their own.
        self.streams.contains_key(&id)
    }

    fn had_no_upstream(&self) -> bool {
        self.no_upstream
    }

    fn upstream_addresses(&self) -> Option<(SocketAddr, SocketAddr)> {
        let source = self.streams.get(self.selected.borrow().last()?).map(|(_, upstream)| *upstream);
        source.zip(self.upstream)
    }

    fn log_warning(&self, text: &str) {
        self.log.borrow_mut().push(text.to_owned());
    }
}

impl PluginHost for FakeHost {
    fn reset_request(&self) {
        self.close();
    }

    fn log_error(&self, text: &str) {
        self.log.borrow_mut().push(text.to_owned());
    }
}

impl FakeHost {
    /// The value of a log field, by its column; empty where it was not set.
    pub(crate) fn log_field(&self, column: &str) -> String {
        self.log_fields.borrow().get(column).cloned().unwrap_or_default()
    }
}

impl HttpHost for FakeHost {
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

    fn send_response(&self, status: u16, header: (&str, &str), _body: &str) {
        *self.response.borrow_mut() = Some((status, header.1.to_owned()));
    }
}

/// Writes a configuration with these rules.
pub(crate) fn config_text(plugin: &str, mode: &str, rules: &str) -> String {
    format!(
        r#"{{"plugin":"{plugin}","version":"v","policy":{{"apiVersion":"egress-policy/v1",
        "identity":{{"namespace":"ns","serviceAccount":"sa"}},"version":"v","mode":"{mode}","rules":{rules}}}}}"#
    )
}

/// Reads a configuration with these rules.
pub(crate) fn config(plugin: &str, mode: &str, rules: &str) -> Config {
    Config::read(config_text(plugin, mode, rules).as_bytes()).expect("valid")
}

/// Makes a scope whose newest configuration has these rules.
pub(crate) fn scope(plugin: &str, mode: &str, rules: &str) -> Rc<Scope> {
    Scope::create(&config(plugin, mode, rules))
}
