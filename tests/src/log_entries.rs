//! Entries of the access log service, as a sidecar sends them.

use std::collections::HashMap;
use std::net::SocketAddr;

use envoy_types::pb::envoy::config::core::v3::{
    Address, RequestMethod, SocketAddress, address, socket_address::PortSpecifier,
};
use envoy_types::pb::envoy::data::accesslog::v3::{
    AccessLogCommon, HttpAccessLogEntry, HttpRequestProperties, TcpAccessLogEntry,
};
use envoy_types::pb::envoy::service::accesslog::v3::stream_access_logs_message::{
    HttpAccessLogEntries, LogEntries, TcpAccessLogEntries,
};
use envoy_types::pb::google::protobuf::{Any, BytesValue};
use prost::Message;

/// A connection's entry, with the filter's decision and server name.
#[must_use]
pub fn connection(to: SocketAddr, decision: &[u8], server_name: Option<&[u8]>) -> TcpAccessLogEntry {
    let states =
        [("wasm.egress.decision", Some(decision)), ("wasm.egress.server_name", server_name)].into_iter();
    TcpAccessLogEntry {
        common_properties: Some(common(to, states.filter_map(|(key, bytes)| Some((key, bytes?))))),
        ..Default::default()
    }
}

/// A request's entry, with this upgrade.
#[must_use]
pub fn request(
    to: SocketAddr,
    decision: &[u8],
    authority: &str,
    path: &str,
    upgrade: &str,
) -> HttpAccessLogEntry {
    HttpAccessLogEntry {
        common_properties: Some(common(to, [("wasm.egress.decision", decision)].into_iter())),
        request: Some(HttpRequestProperties {
            request_method: RequestMethod::Get.into(),
            authority: authority.to_owned(),
            path: path.to_owned(),
            request_headers: HashMap::from([("upgrade".to_owned(), upgrade.to_owned())]),
            ..Default::default()
        }),
        ..Default::default()
    }
}

/// A message with entries of connections.
#[must_use]
pub fn connections(log_entry: Vec<TcpAccessLogEntry>) -> LogEntries {
    LogEntries::TcpLogs(TcpAccessLogEntries { log_entry })
}

/// A message with entries of requests.
#[must_use]
pub fn requests(log_entry: Vec<HttpAccessLogEntry>) -> LogEntries {
    LogEntries::HttpLogs(HttpAccessLogEntries { log_entry })
}

fn common<'a>(to: SocketAddr, states: impl Iterator<Item = (&'a str, &'a [u8])>) -> AccessLogCommon {
    let socket = SocketAddress {
        address: to.ip().to_string(),
        port_specifier: Some(PortSpecifier::PortValue(to.port().into())),
        ..Default::default()
    };
    let state = |(key, bytes): (&str, &[u8])| {
        let value = Any {
            type_url: "type.googleapis.com/google.protobuf.BytesValue".to_owned(),
            value: BytesValue { value: bytes.to_vec() }.encode_to_vec(),
        };
        (key.to_owned(), value)
    };
    AccessLogCommon {
        downstream_local_address: Some(Address { address: Some(address::Address::SocketAddress(socket)) }),
        filter_state_objects: states.map(state).collect(),
        ..Default::default()
    }
}
