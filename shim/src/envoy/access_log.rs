//! One JSON line per connection and per request, on Envoy's standard output.

use envoy_types::pb::envoy::config::accesslog::v3::{AccessLog, access_log::ConfigType};
use envoy_types::pb::envoy::extensions::access_loggers::stream::v3::StdoutAccessLog;
use envoy_types::pb::google::protobuf::Any;
use prost::{Message, Name};

/// What the filter says: `VERDICT REASON POLICY RULE`.
const DECISION: (&str, &str) = ("decision", "%FILTER_STATE(wasm.egress.decision:PLAIN)%");

const BOTH: [(&str, &str); 6] = [
    ("time", "%START_TIME%"),
    ("dialled", "%DOWNSTREAM_LOCAL_ADDRESS%"),
    ("upstream", "%UPSTREAM_HOST%"),
    ("sent", "%BYTES_RECEIVED%"),
    ("received", "%BYTES_SENT%"),
    ("duration_ms", "%DURATION%"),
];

const CONNECTION: [(&str, &str); 4] = [
    ("kind", "connection"),
    ("cluster", "%UPSTREAM_CLUSTER%"),
    ("flags", "%RESPONSE_FLAGS%"),
    ("closed", "%DOWNSTREAM_LOCAL_CLOSE_REASON%"),
];

const REQUEST: [(&str, &str); 8] = [
    ("kind", "request"),
    ("authority", "%REQ(:AUTHORITY)%"),
    ("method", "%REQ(:METHOD)%"),
    ("path", "%REQ(:PATH)%"),
    ("status", "%RESPONSE_CODE%"),
    ("flags", "%RESPONSE_FLAGS%"),
    ("details", "%RESPONSE_CODE_DETAILS%"),
    // Of refusals by Envoy itself too, which the plugin does not see.
    ("refused", "%RESP(x-egress-denied)%"),
];

/// The line of a connection.
pub(super) fn connection() -> AccessLog {
    stdout(CONNECTION.iter().chain(&BOTH).chain([&DECISION]))
}

/// The line of a request.
pub(super) fn request() -> AccessLog {
    stdout(REQUEST.iter().chain(&BOTH).chain([&DECISION]))
}

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
