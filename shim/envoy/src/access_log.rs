//! One JSON line per connection and per request on Envoy's standard output, and, where flows are remembered, an
//! entry for the control plane.

use std::fmt;

use egress_policy::contract::{LogField, filter_state, header, log_field};
use envoy_types::pb::envoy::config::accesslog::v3::{AccessLog, access_log::ConfigType};
use envoy_types::pb::envoy::config::core::v3::grpc_service::{EnvoyGrpc, TargetSpecifier};
use envoy_types::pb::envoy::config::core::v3::{ApiVersion, GrpcService};
use envoy_types::pb::envoy::extensions::access_loggers::grpc::v3::{
    CommonGrpcAccessLogConfig, HttpGrpcAccessLogConfig, TcpGrpcAccessLogConfig,
};
use envoy_types::pb::envoy::extensions::access_loggers::stream::v3::StdoutAccessLog;
use envoy_types::pb::google::protobuf::{Any, Duration, UInt32Value};
use prost::{Message, Name};

use self::FormatString::{FilterState, ResponseHeader, Text};
use super::messages::any;
use super::name;
use super::settings::Settings;

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
pub(super) fn connection(settings: &Settings) -> Vec<AccessLog> {
    let line = stdout(CONNECTION.iter().chain(&BOTH));
    let entry = settings.flow_log.then(|| {
        let config = TcpGrpcAccessLogConfig { common_config: Some(to_control_plane("connections")) };
        entry("envoy.access_loggers.tcp_grpc", &config)
    });
    [line].into_iter().chain(entry).collect()
}

/// The same for a request.
pub(super) fn request(settings: &Settings) -> Vec<AccessLog> {
    let line = stdout(REQUEST.iter().chain(&BOTH));
    let entry = settings.flow_log.then(|| {
        let config = HttpGrpcAccessLogConfig {
            common_config: Some(to_control_plane("requests")),
            additional_request_headers_to_log: vec!["upgrade".to_owned()],
            additional_response_headers_to_log: vec![name::DENIED_HEADER.to_owned()],
            ..Default::default()
        };
        entry("envoy.access_loggers.http_grpc", &config)
    });
    [line].into_iter().chain(entry).collect()
}

fn entry<M: Message + Name>(name: &str, config: &M) -> AccessLog {
    AccessLog {
        name: name.to_owned(),
        config_type: Some(ConfigType::TypedConfig(any(config))),
        ..Default::default()
    }
}

/// By the cluster, and so with the credentials, of xDS. What a control plane does not take in time, and what
/// happens while there is none, is dropped beyond this buffer, of which each worker has two.
fn to_control_plane(log: &str) -> CommonGrpcAccessLogConfig {
    let control_plane = EnvoyGrpc { cluster_name: name::CONTROL_PLANE.to_owned(), ..Default::default() };
    CommonGrpcAccessLogConfig {
        log_name: log.to_owned(),
        grpc_service: Some(GrpcService {
            target_specifier: Some(TargetSpecifier::EnvoyGrpc(control_plane)),
            ..Default::default()
        }),
        transport_api_version: ApiVersion::V3.into(),
        buffer_flush_interval: Some(Duration { seconds: 1, nanos: 0 }),
        buffer_size_bytes: Some(UInt32Value { value: 64 << 10 }),
        filter_state_objects_to_log: FILTER_STATES.map(str::to_owned).to_vec(),
        ..Default::default()
    }
}

/// The filter states of an access log entry: the decision, the name that the sidecar resolved, and the one in a ClientHello.
pub const FILTER_STATES: [&str; 3] =
    [log_field::DECISION.filter_state, filter_state::NAME, log_field::SERVER_NAME.filter_state];

fn stdout<'a>(fields: impl Iterator<Item = &'a (&'a str, FormatString)>) -> AccessLog {
    let fields = fields.map(|(key, format)| ordered::Entry {
        key: (*key).to_owned(),
        value: Some(ordered::Value { string_value: format.to_string() }),
    });
    let config = ordered::Log {
        log_format: Some(ordered::Format { json_format: Some(ordered::Struct { fields: fields.collect() }) }),
    };
    AccessLog {
        name: "envoy.access_loggers.stdout".to_owned(),
        config_type: Some(ConfigType::TypedConfig(Any {
            type_url: StdoutAccessLog::type_url(),
            value: config.encode_to_vec(),
        })),
        ..Default::default()
    }
}

/// `StdoutAccessLog` with its format's fields in order: the generated type holds them in a hash map,
/// and equal input must give equal bytes. A protobuf map is a repeated message on the wire.
mod ordered {
    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct Log {
        #[prost(message, optional, tag = "1")]
        pub(super) log_format: Option<Format>,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct Format {
        #[prost(message, optional, tag = "2")]
        pub(super) json_format: Option<Struct>,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct Struct {
        #[prost(message, repeated, tag = "1")]
        pub(super) fields: Vec<Entry>,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct Entry {
        #[prost(string, tag = "1")]
        pub(super) key: String,
        #[prost(message, optional, tag = "2")]
        pub(super) value: Option<Value>,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct Value {
        #[prost(string, tag = "3")]
        pub(super) string_value: String,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_a_control_plane_the_same_is_logged() {
        let text = include_str!("../../../envoy/standalone.yaml");
        let logs: Vec<&str> = text.split("json_format:\n").skip(1).collect();
        assert_eq!(logs.len(), 2);
        for (log, own) in logs.into_iter().zip([&CONNECTION[..], &REQUEST]) {
            let line = log.lines().next().unwrap_or_default();
            let indent = line.len() - line.trim_start().len();
            let of_format = |line: &&str| line.len() - line.trim_start().len() == indent;
            let mut found: Vec<_> =
                log.lines().take_while(of_format).map(|line| line.trim().replace('"', "")).collect();
            let mut expected: Vec<_> =
                own.iter().chain(&BOTH).map(|(key, format)| format!("{key}: {format}")).collect();
            found.sort();
            expected.sort();
            assert_eq!(found, expected);
        }
    }
}
