//! The only file that calls the SDK: what the plugins need of Envoy, and the entry points.
//!
//! Most host calls of the SDK panic on a status they do not know, and a panic is a trap that ends
//! every connection of the worker. So the calls that return a `Result` are used, directly.

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::{Duration, UNIX_EPOCH};

use egress_policy::{Plugin, Protocol, ReasonCode};
use proxy_wasm::hostcalls;
use proxy_wasm::traits::{Context, HttpContext, RootContext, StreamContext};
use proxy_wasm::types::{Action, BufferType, Bytes, ContextType, LogLevel, MapType, MetricType, PeerType};

use crate::config::Config;
use crate::http::Http;
use crate::network::{Network, PluginHandle};
use crate::open_connections::revocation;
use crate::scope::{self, ActionKind, NEXT_TICK, Scope};
use crate::{network, record};

/// What every plugin needs.
pub(crate) trait Host {
    /// The dialled address.
    fn destination(&self) -> Option<SocketAddr>;
    /// The address that the workload dialled from.
    fn source(&self) -> Option<SocketAddr>;
    /// Writes a field that access logs can read.
    fn note(&self, field: &'static str, value: &str);
    /// Counts a decision.
    fn count(&self, verdict: &'static str, reason: ReasonCode, protocol: Protocol);
    /// Counts what only audit mode let through.
    fn count_audited(&self, reason: ReasonCode, protocol: Protocol);
    /// Counts a ClientHello whose real name may be encrypted.
    fn count_encrypted_hello(&self, verdict: &'static str);
    /// The time in milliseconds, from any start.
    fn now(&self) -> u64;
    /// Asks for ticks.
    fn ask_for_ticks(&self, period: Duration);
    /// Sets a well-known filter state; says whether Envoy took it.
    fn set_filter_state(&self, span: Span, key: &'static str, value: &str) -> bool;
}

/// How long a filter state lives. The numbers are Envoy's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Span {
    /// For one HTTP request.
    Request = 1,
    /// For the connection.
    Connection = 2,
}

/// A TCP connection.
pub(crate) trait Connection: Host {
    /// Bytes of the buffer of what the workload sent.
    fn bytes(&self, start: usize, length: usize) -> Vec<u8>;
    /// Closes the connection, before any upstream is opened.
    fn close(&self);
    /// Goes on with a connection that was waited on.
    fn resume(&self);
    /// Makes the host calls that follow concern another stream; says whether it is there.
    fn concern(&self, id: u32) -> bool;
    /// Whether Envoy found no address to connect to.
    fn had_no_upstream(&self) -> bool;
    /// Where its upstream connection, or that of a request, comes from and goes to.
    fn upstream_pair(&self) -> Option<(SocketAddr, SocketAddr)>;
    /// Warns in Envoy's log.
    fn warn(&self, text: &str);
}

/// An HTTP request.
pub(crate) trait Exchange: Host {
    /// A request header or pseudo-header.
    fn header(&self, name: &str) -> Option<Vec<u8>>;
    /// The values of all fields of a request header.
    fn header_values(&self, name: &str) -> Vec<Vec<u8>>;
    /// Sets a request header.
    fn set_header(&self, name: &str, value: &str);
    /// Answers in place of the origin.
    fn respond(&self, status: u16, header: (&str, &str), body: &str);
}

/// Whether Envoy goes on with what it has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Flow {
    Continue,
    Wait,
}

impl From<Flow> for Action {
    fn from(flow: Flow) -> Self {
        match flow {
            Flow::Continue => Self::Continue,
            Flow::Wait => Self::Pause,
        }
    }
}

/// Envoy, in the context of the current callback.
pub(crate) struct Envoy;

/// What a counter counts. The bootstrap's `stats_tags` turn the parts of its name into labels.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Counter {
    Decisions(&'static str, ReasonCode, Protocol),
    Audited(ReasonCode, Protocol),
    EncryptedHellos(&'static str),
}

thread_local! {
    /// Counters by label. Defined once per VM: every definition takes a lock in Envoy and a map entry.
    static COUNTERS: RefCell<Vec<(Counter, u32)>> = const { RefCell::new(Vec::new()) };
}

impl Counter {
    fn name(self) -> String {
        match self {
            Self::Decisions(verdict, reason, protocol) => [
                "egress_decisions_total.verdict.",
                verdict,
                ".reason.",
                reason.as_str(),
                ".protocol.",
                protocol.as_str(),
            ]
            .concat(),
            Self::Audited(reason, protocol) => {
                ["egress_audited_total.reason.", reason.as_str(), ".protocol.", protocol.as_str()].concat()
            }
            Self::EncryptedHellos(verdict) => ["egress_encrypted_hellos_total.verdict.", verdict].concat(),
        }
    }

    fn increment(self) {
        let id = COUNTERS.with_borrow_mut(|counters| {
            if let Some((_, id)) = counters.iter().find(|(counter, _)| *counter == self) {
                return Some(*id);
            }
            let id = hostcalls::define_metric(MetricType::Counter, &self.name()).ok()?;
            counters.push((self, id));
            Some(id)
        });
        if let Some(id) = id {
            let _ = hostcalls::increment_metric(id, 1);
        }
    }
}

impl Host for Envoy {
    fn destination(&self) -> Option<SocketAddr> {
        address(vec!["destination", "address"])
    }

    fn source(&self) -> Option<SocketAddr> {
        address(vec!["source", "address"])
    }

    fn note(&self, field: &'static str, value: &str) {
        // A log field that is missing must not change a verdict.
        let _ = hostcalls::set_property(vec![field], Some(value.as_bytes()));
    }

    fn count(&self, verdict: &'static str, reason: ReasonCode, protocol: Protocol) {
        Counter::Decisions(verdict, reason, protocol).increment();
    }

    fn count_audited(&self, reason: ReasonCode, protocol: Protocol) {
        Counter::Audited(reason, protocol).increment();
    }

    fn count_encrypted_hello(&self, verdict: &'static str) {
        Counter::EncryptedHellos(verdict).increment();
    }

    fn now(&self) -> u64 {
        let now = hostcalls::get_current_time().unwrap_or(UNIX_EPOCH);
        now.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
    }

    fn ask_for_ticks(&self, period: Duration) {
        let _ = hostcalls::set_tick_period(period);
    }

    fn set_filter_state(&self, span: Span, key: &'static str, value: &str) -> bool {
        let arguments = filter_state_arguments(span, key, value);
        hostcalls::call_foreign_function("set_envoy_filter_state", Some(&arguments)).is_ok()
    }
}

/// A property that is an address and a port.
fn address(property: Vec<&str>) -> Option<SocketAddr> {
    let text = hostcalls::get_property(property).ok()??;
    std::str::from_utf8(&text).ok()?.parse().ok()
}

/// Envoy's `SetEnvoyFilterStateArguments`: path = 1, value = 2, span = 3.
fn filter_state_arguments(span: Span, key: &str, value: &str) -> Vec<u8> {
    let mut message = Vec::with_capacity(key.len().saturating_add(value.len()).saturating_add(8));
    for (tag, text) in [(0x0a, key), (0x12, value)] {
        message.push(tag);
        let mut length = text.len();
        while length > 0x7f {
            message.push((length & 0x7f) as u8 | 0x80);
            length >>= 7;
        }
        message.push(length as u8);
        message.extend_from_slice(text.as_bytes());
    }
    message.extend_from_slice(&[0x18, span as u8]);
    message
}

impl Connection for Envoy {
    fn bytes(&self, start: usize, length: usize) -> Vec<u8> {
        hostcalls::get_buffer(BufferType::DownstreamData, start, length).ok().flatten().unwrap_or_default()
    }

    fn close(&self) {
        let _ = hostcalls::close_downstream();
    }

    fn resume(&self) {
        let _ = hostcalls::resume_downstream();
    }

    fn concern(&self, id: u32) -> bool {
        hostcalls::set_effective_context(id).is_ok()
    }

    fn had_no_upstream(&self) -> bool {
        // Envoy's response flag NoHealthyUpstream ("UH").
        const NO_HEALTHY_UPSTREAM: u8 = 2;
        let flags = hostcalls::get_property(vec!["response", "flags"]).ok().flatten();
        flags.is_some_and(|flags| flags.first().is_some_and(|low| low & NO_HEALTHY_UPSTREAM != 0))
    }

    fn upstream_pair(&self) -> Option<(SocketAddr, SocketAddr)> {
        address(vec!["upstream", "local_address"]).zip(address(vec!["upstream", "address"]))
    }

    fn warn(&self, text: &str) {
        let _ = hostcalls::log(LogLevel::Warn, text);
    }
}

impl Exchange for Envoy {
    fn header(&self, name: &str) -> Option<Bytes> {
        // As bytes: the SDK's text form panics on what is not UTF-8.
        hostcalls::get_map_value_bytes(MapType::HttpRequestHeaders, name).ok()?
    }

    fn header_values(&self, name: &str) -> Vec<Bytes> {
        // Of several fields of one name, Envoy shows the first one only where it is asked for a name.
        let all = hostcalls::get_map_bytes(MapType::HttpRequestHeaders).unwrap_or_default();
        all.into_iter().filter(|(other, _)| other == name).map(|(_, value)| value).collect()
    }

    fn set_header(&self, name: &str, value: &str) {
        let _ = hostcalls::set_map_value(MapType::HttpRequestHeaders, name, Some(value));
    }

    fn respond(&self, status: u16, header: (&str, &str), body: &str) {
        let headers = vec![header, ("content-type", "text/plain; charset=utf-8")];
        let _ = hostcalls::send_http_response(u32::from(status), headers, Some(body.as_bytes()));
    }
}

#[derive(Default)]
struct Root {
    config: Option<Config>,
    plugin: Option<PluginHandle>,
}

impl Root {
    /// What a stream gets; `None` refuses it.
    fn plugin_of_stream(&self) -> Option<PluginHandle> {
        let (config, plugin) = self.config.as_ref().zip(self.plugin.clone())?;
        if plugin.scope.notice_return(config, || Envoy.now()) {
            plugin.ticking.set(true);
            let _ = hostcalls::set_tick_period(NEXT_TICK);
        }
        Some(plugin)
    }
}

impl Context for Root {}

impl RootContext for Root {
    fn on_configure(&mut self, _size: usize) -> bool {
        let bytes = hostcalls::get_buffer(BufferType::PluginConfiguration, 0, usize::MAX).ok().flatten();
        match Config::read(&bytes.unwrap_or_default()) {
            Ok(config) => {
                let scope = Scope::configure(&config, Envoy.now());
                // What is open is looked at then, because host calls here concern no stream.
                let _ = hostcalls::set_tick_period(NEXT_TICK);
                self.plugin = Some(PluginHandle { scope, ticking: Rc::new(Cell::new(true)) });
                self.config = Some(config);
                true
            }
            // Envoy rejects the update and keeps what it had; without any it closes connections.
            Err(error) => {
                let _ = hostcalls::log(LogLevel::Error, &format!("egress: configuration refused: {error}"));
                *self = Self::default();
                false
            }
        }
    }

    fn on_tick(&mut self) {
        let Some(PluginHandle { scope, ticking }) = &self.plugin else { return };
        let due = scope.due(Envoy.now());
        // First of all: below, host calls concern a stream.
        let _ = hostcalls::set_tick_period(due.next.unwrap_or(Duration::ZERO));
        ticking.set(due.next.is_some());
        for action in due.actions {
            // It may be gone.
            if Envoy.concern(action.id) {
                act(scope, &action);
            }
        }
    }

    // Envoy asks for the type even when the configuration could not be read.
    fn get_type(&self) -> Option<ContextType> {
        match self.config.as_ref().map(|config| config.plugin) {
            Some(Plugin::Http) => Some(ContextType::HttpContext),
            Some(Plugin::Network) | None => Some(ContextType::StreamContext),
        }
    }

    fn create_stream_context(&self, id: u32) -> Option<Box<dyn StreamContext>> {
        Some(Box::new(Stream(Network::new(Envoy, id, self.plugin_of_stream()))))
    }

    fn create_http_context(&self, id: u32) -> Option<Box<dyn HttpContext>> {
        Some(Box::new(HttpStream(Http::new(Envoy, id, self.plugin_of_stream()))))
    }
}

/// Acts on the stream that host calls concern.
fn act(scope: &Scope, action: &scope::Action) {
    let policy = scope.newest().policy;
    match action.kind {
        ActionKind::TimedOut | ActionKind::Evict | ActionKind::Decide => {
            network::end_wait(&Envoy, scope, action.place, action.kind);
        }
        ActionKind::EvictPartial => network::evict_partial(&Envoy, scope),
        ActionKind::CloseConnection(protocol) => {
            record::decision(&Envoy, Some(&policy), &revocation(), protocol);
            Envoy.close();
        }
        ActionKind::ResetRequest => {
            record::decision(&Envoy, Some(&policy), &revocation(), Protocol::Http);
            let _ = hostcalls::reset_http_request();
        }
    }
}

struct Stream(Network<Envoy>);

impl Context for Stream {}

impl StreamContext for Stream {
    fn on_new_connection(&mut self) -> Action {
        self.0.on_new_connection().into()
    }

    fn on_downstream_data(&mut self, length: usize, end: bool) -> Action {
        self.0.on_data(length, end).into()
    }

    fn on_downstream_close(&mut self, _by: PeerType) {
        self.0.on_close();
    }
}

struct HttpStream(Http<Envoy>);

impl Context for HttpStream {}

impl Drop for HttpStream {
    // Envoy deletes it when its stream has ended.
    fn drop(&mut self) {
        self.0.on_end();
    }
}

impl HttpContext for HttpStream {
    fn on_http_request_headers(&mut self, _count: usize, _end: bool) -> Action {
        self.0.on_request_headers().into()
    }
}

#[expect(unsafe_code, reason = "the SDK's entry point is an exported C symbol")]
mod entry {

    /// Called once per VM by Envoy.
    #[unsafe(no_mangle)]
    extern "C" fn _initialize() {
        proxy_wasm::set_root_context(|_| Box::new(super::Root::default()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filter_state_arguments_are_protobuf() {
        assert_eq!(
            filter_state_arguments(Span::Connection, "k", "vv"),
            [0x0a, 1, b'k', 0x12, 2, b'v', b'v', 0x18, 2]
        );
        let long = filter_state_arguments(Span::Connection, "k", &"x".repeat(300));
        assert_eq!(long.get(3..6), Some([0x12, 0xac, 0x02].as_slice()));
    }
}
