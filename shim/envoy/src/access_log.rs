//! One JSON line per connection and per request on Envoy's standard output, and, where flows are remembered, an
//! entry for the control plane.

use envoy_types::pb::envoy::config::accesslog::v3::{AccessLog, access_log::ConfigType};
use envoy_types::pb::envoy::config::core::v3::grpc_service::{EnvoyGrpc, TargetSpecifier};
use envoy_types::pb::envoy::config::core::v3::{ApiVersion, GrpcService};
use envoy_types::pb::envoy::extensions::access_loggers::grpc::v3::{
    CommonGrpcAccessLogConfig, HttpGrpcAccessLogConfig, TcpGrpcAccessLogConfig,
};
use envoy_types::pb::envoy::extensions::access_loggers::stream::v3::StdoutAccessLog;
use envoy_types::pb::google::protobuf::{Any, Duration, UInt32Value};
use prost::{Message, Name};

use super::messages::any;
use super::name;
use super::settings::Settings;

/// The filter state that holds the name that the plugin allowed, however a rule lists it.
pub(super) const RESOLVED_NAME: &str = "egress.name";

/// Of both kinds: `docs/access-log.md` says what they mean.
const BOTH: [(&str, &str); 16] = [
    ("time", "%START_TIME%"),
    ("identity", "%FILTER_STATE(wasm.egress.identity:PLAIN)%"),
    ("mode", "%FILTER_STATE(wasm.egress.mode:PLAIN)%"),
    ("policy_version", "%FILTER_STATE(wasm.egress.policy_version:PLAIN)%"),
    ("verdict", "%FILTER_STATE(wasm.egress.verdict:PLAIN)%"),
    ("reason", "%FILTER_STATE(wasm.egress.reason:PLAIN)%"),
    ("policy", "%FILTER_STATE(wasm.egress.policy:PLAIN)%"),
    ("rule", "%FILTER_STATE(wasm.egress.rule:PLAIN)%"),
    ("would_refuse", "%FILTER_STATE(wasm.egress.would_refuse:PLAIN)%"),
    ("decision", "%FILTER_STATE(wasm.egress.decision:PLAIN)%"),
    ("dialled", "%DOWNSTREAM_LOCAL_ADDRESS%"),
    ("upstream", "%UPSTREAM_HOST%"),
    ("flags", "%RESPONSE_FLAGS%"),
    ("sent", "%BYTES_RECEIVED%"),
    ("received", "%BYTES_SENT%"),
    ("duration_ms", "%DURATION%"),
];

const CONNECTION: [(&str, &str); 7] = [
    ("kind", "connection"),
    ("protocol", "%FILTER_STATE(wasm.egress.protocol:PLAIN)%"),
    // The name that the sidecar resolved (`RESOLVED_NAME`), and where it resolved none, the one that a ClientHello had.
    ("name", "%FILTER_STATE(egress.name:PLAIN)%"),
    ("server_name", "%FILTER_STATE(wasm.egress.server_name:PLAIN)%"),
    ("encrypted_hello", "%FILTER_STATE(wasm.egress.encrypted_hello:PLAIN)%"),
    ("cluster", "%UPSTREAM_CLUSTER%"),
    ("closed", "%DOWNSTREAM_LOCAL_CLOSE_REASON%"),
];

const REQUEST: [(&str, &str); 9] = [
    ("kind", "request"),
    ("protocol", "http"),
    ("authority", "%REQ(:AUTHORITY)%"),
    ("method", "%REQ(:METHOD)%"),
    ("path", "%REQ(:PATH)%"),
    ("upgrade", "%REQ(UPGRADE)%"),
    ("status", "%RESPONSE_CODE%"),
    ("details", "%RESPONSE_CODE_DETAILS%"),
    // Of refusals by Envoy itself too, which the plugin does not see.
    ("refused", "%RESP(x-egress-denied)%"),
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
pub const FILTER_STATES: [&str; 3] = ["wasm.egress.decision", RESOLVED_NAME, "wasm.egress.server_name"];

fn stdout<'a>(fields: impl Iterator<Item = &'a (&'a str, &'a str)>) -> AccessLog {
    let fields = fields.map(|(key, format)| ordered::Entry {
        key: (*key).to_owned(),
        value: Some(ordered::Value { string_value: (*format).to_owned() }),
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
