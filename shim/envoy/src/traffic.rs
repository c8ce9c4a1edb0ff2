//! Limits of connections and headers, and the form of HTTP/1.1: as if there were no
//! sidecar, as far as Envoy permits.

use std::time::Duration;

use envoy_types::pb::envoy::config::core::v3::http1_protocol_options::HeaderKeyFormat;
use envoy_types::pb::envoy::config::core::v3::http1_protocol_options::header_key_format::HeaderFormat;
use envoy_types::pb::envoy::config::core::v3::{
    Http1ProtocolOptions, HttpProtocolOptions, TcpKeepalive, TypedExtensionConfig,
};
use envoy_types::pb::envoy::extensions::http::header_formatters::preserve_case::v3::PreserveCaseFormatterConfig;
use envoy_types::pb::google::protobuf::{Duration as ProtoDuration, UInt32Value};

use super::messages::any;

/// The largest headers that Envoy can be told to take, in KiB. Its own 60 KiB refuse what web servers with large
/// buffers take.
const MAX_HEADERS_KIB: u32 = 8192;
/// More headers than any client or server sends; Envoy's own 100 are few. Envoy looks a header up by walking through
/// all of them.
const MAX_HEADERS: u32 = 10_000;

/// The time after which a silent connection is probed, in seconds: before the gateways of clouds forget
/// it (Azure 240 s, AWS 350 s).
const KEEPALIVE_TIME: u32 = 180;
/// The interval of probes, in seconds.
const KEEPALIVE_INTERVAL: u32 = 30;
/// The number of probes without an answer after which it is closed: five and a half minutes after the peer went.
const KEEPALIVE_PROBES: u32 = 5;

/// No limit, in the words of Envoy's timeouts.
pub(super) const UNLIMITED: ProtoDuration = ProtoDuration { seconds: 0, nanos: 0 };

/// A duration as Envoy has it.
pub(super) fn duration(time: Duration) -> ProtoDuration {
    ProtoDuration {
        seconds: i64::try_from(time.as_secs()).unwrap_or(i64::MAX),
        nanos: i32::try_from(time.subsec_nanos()).unwrap_or_default(),
    }
}

/// Finds peers that are gone, where no time limit on silence does.
pub(super) fn keepalive() -> TcpKeepalive {
    let value = |value| Some(UInt32Value { value });
    TcpKeepalive {
        keepalive_probes: value(KEEPALIVE_PROBES),
        keepalive_time: value(KEEPALIVE_TIME),
        keepalive_interval: value(KEEPALIVE_INTERVAL),
    }
}

/// HTTP/1.1 as the other side wrote it: header names in their case, the reason phrase, trailers.
pub(super) fn http1() -> Http1ProtocolOptions {
    let formatter = PreserveCaseFormatterConfig { forward_reason_phrase: true, ..Default::default() };
    Http1ProtocolOptions {
        header_key_format: Some(HeaderKeyFormat {
            header_format: Some(HeaderFormat::StatefulFormatter(TypedExtensionConfig {
                name: "preserve_case".to_owned(),
                typed_config: Some(any(&formatter)),
            })),
        }),
        enable_trailers: true,
        ..Default::default()
    }
}

/// The largest requests.
pub(super) const fn max_request_headers() -> UInt32Value {
    UInt32Value { value: MAX_HEADERS_KIB }
}

/// The limits of requests.
pub(super) fn requests() -> HttpProtocolOptions {
    HttpProtocolOptions {
        idle_timeout: Some(UNLIMITED),
        max_headers_count: Some(UInt32Value { value: MAX_HEADERS }),
        ..Default::default()
    }
}

/// The limits of responses, and the time that a connection to an origin is kept without a request.
pub(super) fn responses(idle: Duration, max_requests: Option<u32>) -> HttpProtocolOptions {
    HttpProtocolOptions {
        idle_timeout: Some(duration(idle)),
        max_headers_count: Some(UInt32Value { value: MAX_HEADERS }),
        max_response_headers_kb: Some(UInt32Value { value: MAX_HEADERS_KIB }),
        max_requests_per_connection: max_requests.map(|value| UInt32Value { value }),
        ..Default::default()
    }
}
