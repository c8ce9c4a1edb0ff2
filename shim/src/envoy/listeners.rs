use std::net::{Ipv4Addr, SocketAddr};

use envoy_types::pb::envoy::config::common::mutation_rules::v3::{HeaderMutation, header_mutation::Action};
use envoy_types::pb::envoy::config::core::v3::{
    DataSource, SubstitutionFormatString, TrafficDirection, TypedExtensionConfig, data_source,
    substitution_format_string::Format,
};
use envoy_types::pb::envoy::config::listener::v3::{
    Filter, FilterChain, Listener, ListenerFilter, filter, listener::InternalListenerConfig,
    listener::ListenerSpecifier, listener_filter,
};
use envoy_types::pb::envoy::config::route::v3::{
    Route, RouteAction, RouteConfiguration, RouteMatch, VirtualHost, route, route_action, route_match,
};
use envoy_types::pb::envoy::extensions::filters::common::set_filter_state::v3::{
    FilterStateValue,
    filter_state_value::{Key, SharedWithUpstream, Value},
};
use envoy_types::pb::envoy::extensions::filters::http::dynamic_forward_proxy::v3::{
    FilterConfig as HttpDnsFilter, filter_config::ImplementationSpecifier,
};
use envoy_types::pb::envoy::extensions::filters::http::router::v3::Router;
use envoy_types::pb::envoy::extensions::filters::http::wasm::v3::Wasm as HttpWasm;
use envoy_types::pb::envoy::extensions::filters::listener::original_dst::v3::OriginalDst;
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3::{
    HttpConnectionManager, HttpFilter, http_connection_manager, http_filter,
};
use envoy_types::pb::envoy::extensions::filters::network::set_filter_state::v3::Config as SetFilterState;
use envoy_types::pb::envoy::extensions::filters::network::sni_dynamic_forward_proxy::v3::FilterConfig as DnsFilter;
use envoy_types::pb::envoy::extensions::filters::network::tcp_proxy::v3::{TcpProxy, tcp_proxy};
use envoy_types::pb::envoy::extensions::filters::network::wasm::v3::Wasm as NetworkWasm;
use envoy_types::pb::envoy::extensions::http::early_header_mutation::header_mutation::v3::HeaderMutation as EarlyHeaderMutation;
use envoy_types::pb::google::protobuf::{BoolValue, Duration, UInt32Value};
use prost::{Message, Name};

use super::{Settings, access_log, address, any, by_discovery, clusters, name};

/// The listener that outbound connections are redirected to.
pub(super) fn outbound(settings: &Settings) -> Listener {
    let tcp_proxy = TcpProxy {
        stat_prefix: name::PASSTHROUGH.to_owned(),
        cluster_specifier: Some(tcp_proxy::ClusterSpecifier::Cluster(name::PASSTHROUGH.to_owned())),
        // Without it tcp_proxy stops reading until it has an upstream, and the plugin, which waits
        // for the first bytes, would wait for ever.
        max_early_data_bytes: Some(UInt32Value { value: 65536 }),
        access_log: vec![access_log::connection()],
        ..Default::default()
    };
    let dns = DnsFilter { dns_cache_config: Some(clusters::dns_cache(settings)), ..Default::default() };
    Listener {
        name: name::LISTENER.to_owned(),
        address: Some(address(SocketAddr::from((Ipv4Addr::UNSPECIFIED, settings.listener_port)))),
        traffic_direction: TrafficDirection::Outbound.into(),
        listener_filters: vec![original_dst()],
        default_filter_chain: Some(FilterChain {
            name: name::FILTER_CHAIN.to_owned(),
            filters: vec![
                Filter {
                    name: name::NETWORK_PLUGIN.to_owned(),
                    config_type: Some(filter::ConfigType::ConfigDiscovery(by_discovery(
                        NetworkWasm::type_url(),
                    ))),
                },
                network_filter("egress-dialled-address", &remember_dialled_address()),
                network_filter("envoy.filters.network.sni_dynamic_forward_proxy", &dns),
                network_filter("envoy.filters.network.tcp_proxy", &tcp_proxy),
            ],
            ..Default::default()
        }),
        ..Default::default()
    }
}

/// The internal listener where each plaintext request is decided.
pub(super) fn http(settings: &Settings) -> Listener {
    Listener {
        name: name::HTTP.to_owned(),
        listener_specifier: Some(ListenerSpecifier::InternalListener(InternalListenerConfig {})),
        listener_filters: vec![original_dst()],
        default_filter_chain: Some(FilterChain {
            filters: vec![network_filter(
                "envoy.filters.network.http_connection_manager",
                &connection_manager(settings),
            )],
            ..Default::default()
        }),
        ..Default::default()
    }
}

fn connection_manager(settings: &Settings) -> HttpConnectionManager {
    use http_connection_manager::{PathWithEscapedSlashesAction, RouteSpecifier};
    let dns = HttpDnsFilter {
        implementation_specifier: Some(ImplementationSpecifier::DnsCacheConfig(clusters::dns_cache(
            settings,
        ))),
        allow_dynamic_host_from_filter_state: true,
        ..Default::default()
    };
    // The workload has no say in where a request goes.
    let early = EarlyHeaderMutation {
        mutations: vec![HeaderMutation { action: Some(Action::Remove(name::CLUSTER_HEADER.to_owned())) }],
    };
    HttpConnectionManager {
        stat_prefix: name::HTTP.to_owned(),
        generate_request_id: Some(BoolValue { value: false }),
        normalize_path: Some(BoolValue { value: true }),
        merge_slashes: true,
        path_with_escaped_slashes_action: PathWithEscapedSlashesAction::RejectRequest.into(),
        strip_trailing_host_dot: true,
        early_header_mutation_extensions: vec![TypedExtensionConfig {
            name: "envoy.http.early_header_mutation.header_mutation".to_owned(),
            typed_config: Some(any(&early)),
        }],
        access_log: vec![access_log::request()],
        http_filters: vec![
            HttpFilter {
                name: name::HTTP_PLUGIN.to_owned(),
                config_type: Some(http_filter::ConfigType::ConfigDiscovery(by_discovery(
                    HttpWasm::type_url(),
                ))),
                ..Default::default()
            },
            http_filter("envoy.filters.http.dynamic_forward_proxy", &dns),
            http_filter("envoy.filters.http.router", &Router::default()),
        ],
        route_specifier: Some(RouteSpecifier::RouteConfig(routes())),
        ..Default::default()
    }
}

/// One route: to the cluster that the plugin names. Without the plugin's header there is none.
fn routes() -> RouteConfiguration {
    let action = RouteAction {
        cluster_specifier: Some(route_action::ClusterSpecifier::ClusterHeader(
            name::CLUSTER_HEADER.to_owned(),
        )),
        timeout: Some(Duration::default()),
        ..Default::default()
    };
    let route = Route {
        r#match: Some(RouteMatch {
            path_specifier: Some(route_match::PathSpecifier::Prefix("/".to_owned())),
            ..Default::default()
        }),
        action: Some(route::Action::Route(action)),
        request_headers_to_remove: vec![name::CLUSTER_HEADER.to_owned()],
        ..Default::default()
    };
    RouteConfiguration {
        name: name::HTTP.to_owned(),
        virtual_hosts: vec![VirtualHost {
            name: "egress".to_owned(),
            domains: vec!["*".to_owned()],
            routes: vec![route],
            ..Default::default()
        }],
        ..Default::default()
    }
}

/// Tells the internal listener which address was dialled.
fn remember_dialled_address() -> SetFilterState {
    let format = SubstitutionFormatString {
        format: Some(Format::TextFormatSource(DataSource {
            specifier: Some(data_source::Specifier::InlineString("%DOWNSTREAM_LOCAL_ADDRESS%".to_owned())),
            ..Default::default()
        })),
        ..Default::default()
    };
    SetFilterState {
        on_new_connection: vec![FilterStateValue {
            key: Some(Key::ObjectKey("envoy.filters.listener.original_dst.local_ip".to_owned())),
            value: Some(Value::FormatString(format)),
            shared_with_upstream: SharedWithUpstream::Once.into(),
            ..Default::default()
        }],
        ..Default::default()
    }
}

fn original_dst() -> ListenerFilter {
    ListenerFilter {
        name: "envoy.filters.listener.original_dst".to_owned(),
        config_type: Some(listener_filter::ConfigType::TypedConfig(any(&OriginalDst {}))),
        ..Default::default()
    }
}

fn network_filter<M: Message + Name>(name: &str, config: &M) -> Filter {
    Filter { name: name.to_owned(), config_type: Some(filter::ConfigType::TypedConfig(any(config))) }
}

fn http_filter<M: Message + Name>(name: &str, config: &M) -> HttpFilter {
    HttpFilter {
        name: name.to_owned(),
        config_type: Some(http_filter::ConfigType::TypedConfig(any(config))),
        ..Default::default()
    }
}
