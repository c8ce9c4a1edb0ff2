//! Small messages that many resources have in common.

use std::net::SocketAddr;

use crate::config;
use crate::value::Value;

/// A socket address.
pub(super) fn address(address: SocketAddr) -> Value {
    config!({"socket_address": {"address": address.ip().to_string(), "port_value": address.port()}})
}

/// The listener filter that reads the original destination.
pub(super) fn original_dst() -> Value {
    config!({
        "name": "envoy.filters.listener.original_dst",
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.filters.listener.original_dst.v3.OriginalDst",
        },
    })
}
