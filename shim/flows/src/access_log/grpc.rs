//! Entries of Envoy's gRPC access log.

use std::net::{IpAddr, SocketAddr};

use envoy_types::pb::envoy::config::core::v3::{
    Address, RequestMethod, address, socket_address::PortSpecifier,
};
use envoy_types::pb::envoy::data::accesslog::v3::{AccessLogCommon, HttpAccessLogEntry, TcpAccessLogEntry};
use prost::Message;

use crate::Observation;
use egress_envoy::FILTER_STATES;
use egress_envoy::name::DENIED_HEADER;

/// Reads the entry of a connection. Returns `None` if it holds no decision.
#[must_use]
pub fn read_connection(entry: &TcpAccessLogEntry) -> Option<Observation> {
    let common = entry.common_properties.as_ref()?;
    let [decision, resolved, server_name] = filter_states(common);
    Some(Observation::from_connection(
        decision?.parse().ok()?,
        original_destination(common)?,
        resolved.as_deref(),
        server_name.as_deref(),
    ))
}

/// Reads the entry of a request. Returns `None` if it holds no decision.
#[must_use]
pub fn read_request(entry: &HttpAccessLogEntry) -> Option<Observation> {
    let common = entry.common_properties.as_ref()?;
    let request = entry.request.as_ref()?;
    let [decision, ..] = filter_states(common);
    let method = RequestMethod::try_from(request.request_method).unwrap_or_default();
    // Envoy reports only the methods of its enum.
    let method = if method == RequestMethod::MethodUnspecified { "?" } else { method.as_str_name() };
    let upgrade = request.request_headers.get("upgrade").map(String::as_str);
    let denied_reason =
        entry.response.as_ref().and_then(|response| response.response_headers.get(DENIED_HEADER));
    let path = if request.original_path.is_empty() { &request.path } else { &request.original_path };
    Observation::from_request(
        decision.and_then(|text| text.parse().ok()),
        original_destination(common)?,
        &request.authority,
        (method, path, upgrade),
        denied_reason.map(String::as_str),
    )
}

fn original_destination(common: &AccessLogCommon) -> Option<SocketAddr> {
    let Address { address: Some(address::Address::SocketAddress(destination)) } =
        common.downstream_local_address.as_ref()?
    else {
        return None;
    };
    let Some(PortSpecifier::PortValue(port)) = destination.port_specifier else { return None };
    Some(SocketAddr::new(destination.address.parse::<IpAddr>().ok()?, u16::try_from(port).ok()?))
}

/// The values that the filter stores, in the order of [`FILTER_STATES`].
fn filter_states(common: &AccessLogCommon) -> [Option<String>; FILTER_STATES.len()] {
    FILTER_STATES.map(|key| {
        let state = common.filter_state_objects.get(key)?;
        // `BytesValue` and `StringValue` are the same on the wire.
        let WrappedValue { value } = WrappedValue::decode(state.value.as_slice()).ok()?;
        Some(String::from_utf8_lossy(&value).into_owned()).filter(|text| !text.is_empty())
    })
}

#[derive(Clone, PartialEq, prost::Message)]
struct WrappedValue {
    #[prost(bytes = "vec", tag = "1")]
    value: Vec<u8>,
}
