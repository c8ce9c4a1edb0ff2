//! Small messages that many resources have in common.

use std::net::SocketAddr;

use envoy_types::pb::envoy::config::core::v3::{
    Address, ExtensionConfigSource, SocketAddress, address, socket_address::PortSpecifier,
};
use envoy_types::pb::envoy::config::listener::v3::{Filter, ListenerFilter, filter, listener_filter};
use envoy_types::pb::envoy::extensions::filters::listener::original_dst::v3::OriginalDst;
use envoy_types::pb::google::protobuf::Any;
use prost::{Message, Name};

/// A message with its type.
pub(super) fn any<M: Message + Name>(message: &M) -> Any {
    Any { type_url: M::type_url(), value: message.encode_to_vec() }
}

/// A socket address.
pub(super) fn address(address: SocketAddr) -> Address {
    Address {
        address: Some(address::Address::SocketAddress(SocketAddress {
            address: address.ip().to_string(),
            port_specifier: Some(PortSpecifier::PortValue(u32::from(address.port()))),
            ..Default::default()
        })),
    }
}

/// A plugin's configuration by ECDS over the aggregated stream, with no default: until it is there,
/// Envoy closes connections.
pub(super) fn by_discovery(type_url: String) -> ExtensionConfigSource {
    use envoy_types::pb::envoy::config::core::v3::{
        AggregatedConfigSource, ApiVersion, ConfigSource, config_source::ConfigSourceSpecifier,
    };
    ExtensionConfigSource {
        config_source: Some(ConfigSource {
            resource_api_version: ApiVersion::V3.into(),
            config_source_specifier: Some(ConfigSourceSpecifier::Ads(AggregatedConfigSource {})),
            ..Default::default()
        }),
        type_urls: vec![type_url],
        ..Default::default()
    }
}

/// The listener filter that reads the original destination.
pub(super) fn original_dst() -> ListenerFilter {
    ListenerFilter {
        name: "envoy.filters.listener.original_dst".to_owned(),
        config_type: Some(listener_filter::ConfigType::TypedConfig(any(&OriginalDst {}))),
        ..Default::default()
    }
}

/// A network filter.
pub(super) fn network_filter<M: Message + Name>(name: &str, config: &M) -> Filter {
    Filter { name: name.to_owned(), config_type: Some(filter::ConfigType::TypedConfig(any(config))) }
}
