//! The listeners that outbound connections are redirected to, one for each family.
//!
//! Two, and not one with two addresses: where a machine has no IPv6, Envoy refuses the second one alone.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use egress_policy::HostMatch;
use envoy_types::pb::envoy::config::core::v3::{
    DataSource, SubstitutionFormatString, TrafficDirection, data_source, substitution_format_string::Format,
};
use envoy_types::pb::envoy::config::listener::v3::{
    Filter, FilterChain, Listener, ListenerFilter, filter, listener_filter,
};
use envoy_types::pb::envoy::extensions::filters::common::set_filter_state::v3::{
    FilterStateValue,
    filter_state_value::{Key, SharedWithUpstream, Value},
};
use envoy_types::pb::envoy::extensions::filters::listener::original_dst::v3::OriginalDst;
use envoy_types::pb::envoy::extensions::filters::network::set_filter_state::v3::Config as SetFilterState;
use envoy_types::pb::envoy::extensions::filters::network::tcp_proxy::v3::{TcpProxy, tcp_proxy};
use envoy_types::pb::envoy::extensions::filters::network::wasm::v3::Wasm as NetworkWasm;
use envoy_types::pb::google::protobuf::UInt32Value;
use prost::{Message, Name};

use super::{IpFamilies, Settings, access_log, address, any, by_discovery, name, names};

/// All of them.
pub(super) fn outbound(settings: &Settings) -> Vec<Listener> {
    let ipv4 = (name::LISTENER, IpAddr::V4(Ipv4Addr::UNSPECIFIED));
    let ipv6 = (name::LISTENER_IPV6, IpAddr::V6(Ipv6Addr::UNSPECIFIED));
    let wanted = match settings.ip_families {
        IpFamilies::Ipv4 => vec![ipv4],
        IpFamilies::Dual => vec![ipv4, ipv6],
    };
    wanted
        .into_iter()
        .map(|(name, ip)| listener(name, SocketAddr::new(ip, settings.listener_port), settings))
        .collect()
}

fn listener(name: &str, at: SocketAddr, settings: &Settings) -> Listener {
    let tcp_proxy = TcpProxy {
        stat_prefix: name::PASSTHROUGH.to_owned(),
        cluster_specifier: Some(tcp_proxy::ClusterSpecifier::Cluster(name::PASSTHROUGH.to_owned())),
        // Without it tcp_proxy stops reading until it has an upstream, and the plugin, which waits
        // for the first bytes, would wait for ever.
        max_early_data_bytes: Some(UInt32Value { value: 65536 }),
        access_log: access_log::connection(settings),
        ..Default::default()
    };
    let plugin = Filter {
        name: name::NETWORK_PLUGIN.to_owned(),
        config_type: Some(filter::ConfigType::ConfigDiscovery(by_discovery(NetworkWasm::type_url()))),
    };
    Listener {
        name: name.to_owned(),
        address: Some(address(at)),
        traffic_direction: TrafficDirection::Outbound.into(),
        // An Envoy that gets its own connections back would accept one after the other, and never hear of an upstream
        // connection of its own, by which the plugin notices it. Envoy's documentation sees no cost in it.
        max_connections_to_accept_per_socket_event: Some(UInt32Value { value: 1 }),
        listener_filters: vec![original_dst()],
        default_filter_chain: Some(FilterChain {
            name: name::FILTER_CHAIN.to_owned(),
            filters: vec![
                plugin,
                // A name that only a wildcard lists is the dynamic host by now, and any other only after
                // this filter: else each would be resolved for both caches.
                names::filter(settings, HostMatch::Wildcard),
                network_filter("egress-state", &state()),
                names::filter(settings, HostMatch::Exact),
                network_filter("envoy.filters.network.tcp_proxy", &tcp_proxy),
            ],
            ..Default::default()
        }),
        ..Default::default()
    }
}

/// Tells the internal listener which address was dialled, and makes the name that the plugin allowed the
/// dynamic host.
fn state() -> SetFilterState {
    let value = |key: &str, format: &str| FilterStateValue {
        key: Some(Key::ObjectKey(key.to_owned())),
        value: Some(Value::FormatString(SubstitutionFormatString {
            omit_empty_values: true,
            format: Some(Format::TextFormatSource(DataSource {
                specifier: Some(data_source::Specifier::InlineString(format.to_owned())),
                ..Default::default()
            })),
            ..Default::default()
        })),
        skip_if_empty: true,
        ..Default::default()
    };
    let dialled = "envoy.filters.listener.original_dst.local_ip";
    SetFilterState {
        on_new_connection: vec![
            FilterStateValue {
                shared_with_upstream: SharedWithUpstream::Once.into(),
                ..value(dialled, "%DOWNSTREAM_LOCAL_ADDRESS%")
            },
            value("envoy.upstream.dynamic_host", "%FILTER_STATE(envoy.string:PLAIN)%"),
        ],
        ..Default::default()
    }
}

pub(super) fn original_dst() -> ListenerFilter {
    ListenerFilter {
        name: "envoy.filters.listener.original_dst".to_owned(),
        config_type: Some(listener_filter::ConfigType::TypedConfig(any(&OriginalDst {}))),
        ..Default::default()
    }
}

pub(super) fn network_filter<M: Message + Name>(name: &str, config: &M) -> Filter {
    Filter { name: name.to_owned(), config_type: Some(filter::ConfigType::TypedConfig(any(config))) }
}
