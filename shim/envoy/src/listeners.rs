//! The listeners that outbound connections are redirected to, one for each family.
//!
//! Two, and not one with two addresses: where a machine has no IPv6, Envoy refuses the second one alone.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use egress_policy::HostMatch;
use egress_policy::contract::filter_state;
use envoy_types::pb::envoy::config::core::v3::{
    DataSource, SubstitutionFormatString, TrafficDirection, data_source, substitution_format_string::Format,
};
use envoy_types::pb::envoy::config::listener::v3::{Filter, FilterChain, Listener, filter};
use envoy_types::pb::envoy::extensions::filters::common::set_filter_state::v3::{
    FilterStateValue,
    filter_state_value::{Key, SharedWithUpstream, Value},
};
use envoy_types::pb::envoy::extensions::filters::network::set_filter_state::v3::Config as SetFilterState;
use envoy_types::pb::envoy::extensions::filters::network::tcp_proxy::v3::{TcpProxy, tcp_proxy};
use envoy_types::pb::envoy::extensions::filters::network::wasm::v3::Wasm as NetworkWasm;
use envoy_types::pb::google::protobuf::UInt32Value;
use prost::Name;

use super::access_log::FormatString;
use super::messages::{address, by_discovery, network_filter, original_dst};
use super::settings::{IpFamilies, Settings};
use super::{access_log, dns, name, traffic};

/// The outbound listeners.
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
        // Envoy's hour is shorter than what some pools of database connections are silent for.
        idle_timeout: Some(settings.idle_timeout.map_or(traffic::UNLIMITED, traffic::duration)),
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
        tcp_keepalive: Some(traffic::keepalive()),
        // An Envoy that gets its own connections back would accept one after the other, and never hear of an upstream
        // connection of its own, by which the plugin notices it. Envoy's documentation sees no cost in it.
        max_connections_to_accept_per_socket_event: Some(UInt32Value { value: 1 }),
        listener_filters: vec![original_dst()],
        default_filter_chain: Some(FilterChain {
            name: name::FILTER_CHAIN.to_owned(),
            filters: vec![
                plugin,
                // A name that only a wildcard lists is the dynamic host for this filter alone, and any other for the
                // second one alone: else each would be resolved for both caches, one after the other.
                dns::filter(settings, HostMatch::Wildcard),
                network_filter("egress-state", &state()),
                dns::filter(settings, HostMatch::Exact),
                network_filter("egress-name", &dynamic_host()),
                network_filter("envoy.filters.network.tcp_proxy", &tcp_proxy),
            ],
            ..Default::default()
        }),
        ..Default::default()
    }
}

/// Envoy's factory of filter state that is a string. By chance it has the text of the key [`filter_state::EXACT_NAME`].
const STRING_FACTORY: &str = "envoy.string";

/// Tells the internal listener which address was dialled and from which, keeps the name that the plugin allowed, and makes it the
/// dynamic host where a rule lists it itself. What only a wildcard lists was resolved before, and is none until the next
/// filter has passed.
fn state() -> SetFilterState {
    let by_wildcard = FormatString::FilterState(filter_state::DYNAMIC_HOST).to_string();
    let exact = FormatString::FilterState(filter_state::EXACT_NAME).to_string();
    SetFilterState {
        on_new_connection: vec![
            shared("envoy.filters.listener.original_dst.local_ip", "%DOWNSTREAM_LOCAL_ADDRESS%"),
            shared("envoy.filters.listener.original_dst.remote_ip", "%DOWNSTREAM_REMOTE_ADDRESS%"),
            FilterStateValue {
                factory_key: STRING_FACTORY.to_owned(),
                ..value(filter_state::NAME, &format!("{exact}{by_wildcard}"))
            },
            FilterStateValue { skip_if_empty: false, ..value(filter_state::DYNAMIC_HOST, &exact) },
        ],
        ..Default::default()
    }
}

/// Makes every name that the plugin allowed the dynamic host, which is how clusters find its addresses.
fn dynamic_host() -> SetFilterState {
    SetFilterState {
        on_new_connection: vec![value(
            filter_state::DYNAMIC_HOST,
            &FormatString::FilterState(filter_state::NAME).to_string(),
        )],
        ..Default::default()
    }
}

/// A value that the internal listener has as well.
fn shared(key: &str, format: &str) -> FilterStateValue {
    FilterStateValue { shared_with_upstream: SharedWithUpstream::Once.into(), ..value(key, format) }
}

fn value(key: &str, format: &str) -> FilterStateValue {
    FilterStateValue {
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
    }
}
