//! The host: the traits through which the plugins use Envoy. Host calls concern the stream of the current callback,
//! unless another one was selected.

use std::net::SocketAddr;
use std::time::Duration;

use egress_policy::contract::LogField;
use egress_policy::{Protocol, ReasonCode, Verdict};

/// The host calls of every plugin.
pub(crate) trait Host {
    /// The original destination.
    fn original_destination(&self) -> Option<SocketAddr>;
    /// The address of the workload's end of the connection.
    fn source(&self) -> Option<SocketAddr>;
    /// Writes a field for access logs.
    fn set_log_field(&self, field: LogField, value: &str);
    /// Counts a decision.
    fn count_decision(&self, verdict: Verdict, reason: ReasonCode, protocol: Protocol);
    /// Counts a refusal that audit mode did not enforce.
    fn count_audited(&self, reason: ReasonCode, protocol: Protocol);
    /// Counts a ClientHello whose real name may be encrypted.
    fn count_encrypted_hello(&self, verdict: Verdict);
    /// The time in milliseconds, from any start.
    fn now(&self) -> u64;
    /// Sets the period of ticks of the plugin; zero stops them.
    fn set_tick_period(&self, period: Duration);
    /// Sets a well-known filter state, and returns whether Envoy accepted it.
    fn set_filter_state(&self, life_span: LifeSpan, key: &'static str, value: &str) -> bool;
}

/// The life span of a filter state. The numbers are Envoy's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LifeSpan {
    /// One HTTP request.
    Request = 1,
    /// The connection.
    Connection = 2,
}

/// The host calls of a TCP connection.
pub(crate) trait ConnectionHost: Host {
    /// Reads bytes of the buffer of what the workload sent.
    fn buffered_bytes(&self, start: usize, length: usize) -> Vec<u8>;
    /// Closes the connection, before any upstream connection is opened.
    fn close(&self);
    /// Continues a paused connection.
    fn resume(&self);
    /// Selects the stream that the following host calls concern, and returns whether it exists.
    fn select_stream(&self, id: u32) -> bool;
    /// Returns whether Envoy found no address to connect to.
    fn had_no_upstream(&self) -> bool;
    /// The two ends of the upstream connection, or of that of a request: its source and its destination.
    fn upstream_addresses(&self) -> Option<(SocketAddr, SocketAddr)>;
    /// Writes a warning to Envoy's log.
    fn log_warning(&self, text: &str);
}

/// The host calls of an HTTP request.
pub(crate) trait HttpHost: Host {
    /// The first field of a request header or pseudo-header.
    fn header(&self, name: &str) -> Option<Vec<u8>>;
    /// The values of all fields of a request header.
    fn header_values(&self, name: &str) -> Vec<Vec<u8>>;
    /// Sets a request header.
    fn set_header(&self, name: &str, value: &str);
    /// Answers instead of the origin.
    fn send_response(&self, status: u16, header: (&str, &str), body: &str);
}

/// The host calls of a plugin outside of any stream.
pub(crate) trait PluginHost: ConnectionHost {
    /// Resets the selected HTTP request.
    fn reset_request(&self);
    /// Writes an error to Envoy's log.
    fn log_error(&self, text: &str);
}

/// The action of a filter after a callback.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FilterAction {
    /// Envoy passes on what it has.
    Continue,
    /// Envoy waits.
    Pause,
}
