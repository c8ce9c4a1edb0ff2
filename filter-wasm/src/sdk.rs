//! The only file that uses the SDK: Envoy as the host, its counters, and the entry points.
//!
//! Most host calls of the SDK panic on a status that they do not know, and a panic is a trap that ends every connection
//! of the worker. So this file uses the functions that return a `Result`.

use std::cell::RefCell;
use std::net::SocketAddr;
use std::time::{Duration, UNIX_EPOCH};

use egress_policy::contract::LogField;
use egress_policy::{Plugin, Protocol, ReasonCode, Verdict};
use proxy_wasm::hostcalls;
use proxy_wasm::traits::{Context, HttpContext, RootContext, StreamContext};
use proxy_wasm::types::{Action, BufferType, Bytes, ContextType, LogLevel, MapType, MetricType, PeerType};

use crate::host::{ConnectionHost, FilterAction, Host, HttpHost, LifeSpan, PluginHost};
use crate::http_filter::HttpFilter;
use crate::network_filter::NetworkFilter;
use crate::plugin::PluginRoot;

/// Envoy, in the context of the current callback.
#[derive(Debug, Clone, Copy, Default)]
struct Envoy;

/// A counter by its labels. The bootstrap's `stats_tags` turn the parts of its name into labels.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Counter {
    Decisions(Verdict, ReasonCode, Protocol),
    Audited(ReasonCode, Protocol),
    EncryptedHellos(Verdict),
}

thread_local! {
    /// The counters that were defined, with Envoy's ids. Defined once per VM: a definition takes a lock in Envoy.
    static COUNTERS: RefCell<Vec<(Counter, u32)>> = const { RefCell::new(Vec::new()) };
}

impl Counter {
    fn name(self) -> String {
        match self {
            Self::Decisions(verdict, reason, protocol) => [
                "egress_decisions_total.verdict.",
                verdict.as_str(),
                ".reason.",
                reason.as_str(),
                ".protocol.",
                protocol.as_str(),
            ]
            .concat(),
            Self::Audited(reason, protocol) => {
                ["egress_audited_total.reason.", reason.as_str(), ".protocol.", protocol.as_str()].concat()
            }
            Self::EncryptedHellos(verdict) => {
                ["egress_encrypted_hellos_total.verdict.", verdict.as_str()].concat()
            }
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
    fn original_destination(&self) -> Option<SocketAddr> {
        read_address(vec!["destination", "address"])
    }

    fn source(&self) -> Option<SocketAddr> {
        read_address(vec!["source", "address"])
    }

    fn set_log_field(&self, field: LogField, value: &str) {
        // A log field that is missing must not change a verdict.
        let _ = hostcalls::set_property(vec![field.property], Some(value.as_bytes()));
    }

    fn count_decision(&self, verdict: Verdict, reason: ReasonCode, protocol: Protocol) {
        Counter::Decisions(verdict, reason, protocol).increment();
    }

    fn count_audited(&self, reason: ReasonCode, protocol: Protocol) {
        Counter::Audited(reason, protocol).increment();
    }

    fn count_encrypted_hello(&self, verdict: Verdict) {
        Counter::EncryptedHellos(verdict).increment();
    }

    fn now(&self) -> u64 {
        let now = hostcalls::get_current_time().unwrap_or(UNIX_EPOCH);
        now.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
    }

    fn set_tick_period(&self, period: Duration) {
        let _ = hostcalls::set_tick_period(period);
    }

    fn set_filter_state(&self, life_span: LifeSpan, key: &'static str, value: &str) -> bool {
        let arguments = filter_state_arguments(life_span, key, value);
        hostcalls::call_foreign_function("set_envoy_filter_state", Some(&arguments)).is_ok()
    }
}

/// Reads a property that is an address and a port.
fn read_address(property: Vec<&str>) -> Option<SocketAddr> {
    let text = hostcalls::get_property(property).ok()??;
    std::str::from_utf8(&text).ok()?.parse().ok()
}

/// Encodes Envoy's `SetEnvoyFilterStateArguments`: path = 1, value = 2, span = 3.
fn filter_state_arguments(life_span: LifeSpan, key: &str, value: &str) -> Vec<u8> {
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
    message.extend_from_slice(&[0x18, life_span as u8]);
    message
}

impl ConnectionHost for Envoy {
    fn buffered_bytes(&self, start: usize, length: usize) -> Vec<u8> {
        hostcalls::get_buffer(BufferType::DownstreamData, start, length).ok().flatten().unwrap_or_default()
    }

    fn close(&self) {
        let _ = hostcalls::close_downstream();
    }

    fn resume(&self) {
        let _ = hostcalls::resume_downstream();
    }

    fn select_stream(&self, id: u32) -> bool {
        hostcalls::set_effective_context(id).is_ok()
    }

    fn had_no_upstream(&self) -> bool {
        // Envoy's response flag NoHealthyUpstream ("UH").
        const NO_HEALTHY_UPSTREAM: u8 = 2;
        let flags = hostcalls::get_property(vec!["response", "flags"]).ok().flatten();
        flags.is_some_and(|flags| flags.first().is_some_and(|low| low & NO_HEALTHY_UPSTREAM != 0))
    }

    fn upstream_addresses(&self) -> Option<(SocketAddr, SocketAddr)> {
        read_address(vec!["upstream", "local_address"]).zip(read_address(vec!["upstream", "address"]))
    }

    fn log_warning(&self, text: &str) {
        let _ = hostcalls::log(LogLevel::Warn, text);
    }
}

impl HttpHost for Envoy {
    fn header(&self, name: &str) -> Option<Bytes> {
        // As bytes: the SDK's text form panics on text that is not UTF-8.
        hostcalls::get_map_value_bytes(MapType::HttpRequestHeaders, name).ok()?
    }

    fn header_values(&self, name: &str) -> Vec<Bytes> {
        // Of several fields of one name, Envoy returns only the first for a look-up by name.
        let all = hostcalls::get_map_bytes(MapType::HttpRequestHeaders).unwrap_or_default();
        all.into_iter().filter(|(other, _)| other == name).map(|(_, value)| value).collect()
    }

    fn set_header(&self, name: &str, value: &str) {
        let _ = hostcalls::set_map_value(MapType::HttpRequestHeaders, name, Some(value));
    }

    fn send_response(&self, status: u16, header: (&str, &str), body: &str) {
        let headers = vec![header, ("content-type", "text/plain; charset=utf-8")];
        let _ = hostcalls::send_http_response(u32::from(status), headers, Some(body.as_bytes()));
    }
}

impl PluginHost for Envoy {
    fn reset_request(&self) {
        let _ = hostcalls::reset_http_request();
    }

    fn log_error(&self, text: &str) {
        let _ = hostcalls::log(LogLevel::Error, text);
    }
}

impl From<FilterAction> for Action {
    fn from(action: FilterAction) -> Self {
        match action {
            FilterAction::Continue => Self::Continue,
            FilterAction::Pause => Self::Pause,
        }
    }
}

#[derive(Default)]
struct Root(PluginRoot<Envoy>);

impl Context for Root {}

impl RootContext for Root {
    fn on_configure(&mut self, _size: usize) -> bool {
        let bytes = hostcalls::get_buffer(BufferType::PluginConfiguration, 0, usize::MAX).ok().flatten();
        self.0.configure(&bytes.unwrap_or_default())
    }

    fn on_tick(&mut self) {
        self.0.on_tick();
    }

    // Envoy asks for the type even when the configuration could not be read.
    fn get_type(&self) -> Option<ContextType> {
        match self.0.plugin() {
            Some(Plugin::Http) => Some(ContextType::HttpContext),
            Some(Plugin::Network) | None => Some(ContextType::StreamContext),
        }
    }

    fn create_stream_context(&self, id: u32) -> Option<Box<dyn StreamContext>> {
        Some(Box::new(Stream(NetworkFilter::new(Envoy, id, self.0.handle_for_stream()))))
    }

    fn create_http_context(&self, id: u32) -> Option<Box<dyn HttpContext>> {
        Some(Box::new(HttpStream(HttpFilter::new(Envoy, id, self.0.handle_for_stream()))))
    }
}

struct Stream(NetworkFilter<Envoy>);

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

struct HttpStream(HttpFilter<Envoy>);

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

    /// Registers the plugins. Envoy calls it once per VM.
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
            filter_state_arguments(LifeSpan::Connection, "k", "vv"),
            [0x0a, 1, b'k', 0x12, 2, b'v', b'v', 0x18, 2]
        );
        let long = filter_state_arguments(LifeSpan::Connection, "k", &"x".repeat(300));
        assert_eq!(long.get(3..6), Some([0x12, 0xac, 0x02].as_slice()));
    }
}
