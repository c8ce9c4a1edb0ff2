//! One JSON line per connection and per request on Envoy's standard output, and, where flows are remembered, an
//! entry for the control plane.

use std::fmt;
use std::time::Duration;

use egress_policy::contract::{LogField, filter_state, header, log_field};

use self::FormatString::{FilterState, ResponseHeader, Text};
use crate::settings::Settings;
use crate::value::{Object, Value};
use crate::{config, name};

/// A value of a field, as Envoy's format string.
#[derive(Clone, Copy)]
pub(super) enum FormatString {
    /// This text, with its command operators.
    Text(&'static str),
    /// The filter state of a key.
    FilterState(&'static str),
    /// A header of the response.
    ResponseHeader(&'static str),
}

impl fmt::Display for FormatString {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Text(text) => f.write_str(text),
            FilterState(key) => write!(f, "%FILTER_STATE({key}:PLAIN)%"),
            ResponseHeader(name) => write!(f, "%RESP({name})%"),
        }
    }
}

/// A field that the filter writes.
const fn column(field: LogField) -> (&'static str, FormatString) {
    (field.column, Text(field.format))
}

/// Of both kinds: `docs/access-log.md` says what they mean.
const BOTH: [(&str, FormatString); 16] = [
    ("time", Text("%START_TIME%")),
    column(log_field::IDENTITY),
    column(log_field::MODE),
    column(log_field::POLICY_VERSION),
    column(log_field::VERDICT),
    column(log_field::REASON),
    column(log_field::POLICY),
    column(log_field::RULE),
    column(log_field::WOULD_REFUSE),
    column(log_field::DECISION),
    ("dialled", Text("%DOWNSTREAM_LOCAL_ADDRESS%")),
    ("upstream", Text("%UPSTREAM_HOST%")),
    ("flags", Text("%RESPONSE_FLAGS%")),
    ("sent", Text("%BYTES_RECEIVED%")),
    ("received", Text("%BYTES_SENT%")),
    ("duration_ms", Text("%DURATION%")),
];

const CONNECTION: [(&str, FormatString); 7] = [
    ("kind", Text("connection")),
    column(log_field::PROTOCOL),
    // The name that the sidecar resolved (`filter_state::NAME`), and where it resolved none, the one that a ClientHello had.
    ("name", FilterState(filter_state::NAME)),
    column(log_field::SERVER_NAME),
    column(log_field::ENCRYPTED_HELLO),
    ("cluster", Text("%UPSTREAM_CLUSTER%")),
    ("closed", Text("%DOWNSTREAM_LOCAL_CLOSE_REASON%")),
];

const REQUEST: [(&str, FormatString); 9] = [
    ("kind", Text("request")),
    ("protocol", Text("http")),
    ("authority", Text("%REQ(:AUTHORITY)%")),
    ("method", Text("%REQ(:METHOD)%")),
    ("path", Text("%REQ(:PATH)%")),
    ("upgrade", Text("%REQ(UPGRADE)%")),
    ("status", Text("%RESPONSE_CODE%")),
    ("details", Text("%RESPONSE_CODE_DETAILS%")),
    // Of refusals by Envoy itself too, which the plugin does not see.
    ("refused", ResponseHeader(header::DENIED)),
];

/// The access logs of a connection: a line, and with `--flow-log` an entry for the control plane.
pub(super) fn connection(settings: &Settings) -> Value {
    let entry = settings.flow_log.then(|| {
        config!({
            "name": "envoy.access_loggers.tcp_grpc",
            "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.access_loggers.grpc.v3.TcpGrpcAccessLogConfig",
                "common_config": to_control_plane("connections"),
            },
        })
    });
    config!([line(CONNECTION.iter().chain(&BOTH)), entry])
}

/// The same for a request.
pub(super) fn request(settings: &Settings) -> Value {
    let entry = settings.flow_log.then(|| {
        config!({
            "name": "envoy.access_loggers.http_grpc",
            "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.access_loggers.grpc.v3.HttpGrpcAccessLogConfig",
                "common_config": to_control_plane("requests"),
                "additional_request_headers_to_log": ["upgrade"],
                "additional_response_headers_to_log": [name::DENIED_HEADER],
            },
        })
    });
    config!([line(REQUEST.iter().chain(&BOTH)), entry])
}

/// By the cluster, and so with the credentials, of xDS. What a control plane does not take in time, and what
/// happens while there is none, is dropped beyond this buffer, of which each worker has two.
fn to_control_plane(log: &str) -> Value {
    config!({
        "log_name": log,
        "grpc_service": {"envoy_grpc": {"cluster_name": name::CONTROL_PLANE}},
        "transport_api_version": "V3",
        "buffer_flush_interval": Duration::from_secs(1),
        "buffer_size_bytes": 64_u32 << 10,
        "filter_state_objects_to_log": FILTER_STATES.into_iter().collect::<Value>(),
    })
}

/// The filter states of an access log entry: the decision, the name that the sidecar resolved, and the one in a ClientHello.
pub const FILTER_STATES: [&str; 3] =
    [log_field::DECISION.filter_state, filter_state::NAME, log_field::SERVER_NAME.filter_state];

fn line<'a>(fields: impl Iterator<Item = &'a (&'a str, FormatString)>) -> Value {
    let mut format = Object::default();
    fields.for_each(|(name, value)| format.push("", name, value.to_string()));
    config!({
        "name": "envoy.access_loggers.stdout",
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.access_loggers.stream.v3.StdoutAccessLog",
            "log_format": {"json_format": format},
        },
    })
}
