//! Limits of connections and headers, and the form of HTTP/1.1: as if there were no
//! sidecar, as far as Envoy permits.

use std::time::Duration;

use crate::value::{Object, Value};
use crate::{config, object};

/// The largest headers that Envoy can be told to take, in KiB. Its own 60 KiB refuse what web servers with large
/// buffers take.
pub(super) const MAX_HEADERS_KIB: u32 = 8192;
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
pub(super) const UNLIMITED: Duration = Duration::ZERO;

/// Finds peers that are gone, where no time limit on silence does.
pub(super) fn keepalive() -> Value {
    config!({
        "keepalive_probes": KEEPALIVE_PROBES,
        "keepalive_time": KEEPALIVE_TIME,
        "keepalive_interval": KEEPALIVE_INTERVAL,
    })
}

/// HTTP/1.1 as the other side wrote it: header names in their case, the reason phrase, trailers.
pub(super) fn http1() -> Object {
    object!({
        "enable_trailers": true,
        "header_key_format": {
            "stateful_formatter": {
                "name": "preserve_case",
                "typed_config": {
                    "@type": "type.googleapis.com/envoy.extensions.http.header_formatters.preserve_case.v3.PreserveCaseFormatterConfig",
                    "forward_reason_phrase": true,
                },
            },
        },
    })
}

/// The limits of requests.
pub(super) fn requests() -> Value {
    config!({"idle_timeout": UNLIMITED, "max_headers_count": MAX_HEADERS})
}

/// The limits of responses, and the time that a connection to an origin is kept without a request.
pub(super) fn responses(idle: Duration, max_requests: Option<u32>) -> Value {
    config!({
        "idle_timeout": idle,
        "max_headers_count": MAX_HEADERS,
        "max_response_headers_kb": MAX_HEADERS_KIB,
        "max_requests_per_connection": max_requests,
    })
}
