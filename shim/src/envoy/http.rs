//! The internal listener where each plaintext request is decided.

use envoy_types::pb::envoy::config::accesslog::v3::{
    AccessLogFilter, ExtensionFilter, access_log_filter, extension_filter,
};
use envoy_types::pb::envoy::config::common::mutation_rules::v3::{
    HeaderMutation, header_mutation::Action, header_mutation::RemoveOnMatch,
};
use envoy_types::pb::envoy::config::core::v3::{
    DataSource, HeaderValue, HeaderValueOption, TypedExtensionConfig, data_source,
};
use envoy_types::pb::envoy::config::listener::v3::{
    FilterChain, Listener, listener::InternalListenerConfig, listener::ListenerSpecifier,
};
use envoy_types::pb::envoy::config::route::v3::{
    Route, RouteAction, RouteConfiguration, RouteMatch, VirtualHost, route, route_action, route_match,
};
use envoy_types::pb::envoy::extensions::access_loggers::filters::cel::v3::ExpressionFilter;
use envoy_types::pb::envoy::extensions::filters::http::router::v3::Router;
use envoy_types::pb::envoy::extensions::filters::http::wasm::v3::Wasm as HttpWasm;
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3::http_connection_manager::{
    PathWithEscapedSlashesAction, RouteSpecifier, UpgradeConfig,
};
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3::{
    HttpConnectionManager, HttpFilter, LocalReplyConfig, ResponseMapper, http_filter,
};
use envoy_types::pb::envoy::extensions::http::early_header_mutation::header_mutation::v3::HeaderMutation as EarlyHeaderMutation;
use envoy_types::pb::envoy::r#type::matcher::v3::{StringMatcher, string_matcher::MatchPattern};
use envoy_types::pb::google::protobuf::{BoolValue, Duration, UInt32Value};
use egress_policy::ReasonCode;
use prost::Name;

use super::listeners::{network_filter, original_dst};
use super::{Settings, access_log, any, by_discovery, name};

/// How long the headers of a request may take from their first byte to their last. Envoy holds them until then;
/// the filter bounds their number and bytes. Web servers wait for less (nginx 60 s, Apache 20 to 40 s).
const HEADERS_TIMEOUT: Duration = Duration { seconds: 60, nanos: 0 };

/// The listener.
pub(super) fn listener(settings: &Settings) -> Listener {
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
    let plugin = HttpFilter {
        name: name::HTTP_PLUGIN.to_owned(),
        config_type: Some(http_filter::ConfigType::ConfigDiscovery(by_discovery(HttpWasm::type_url()))),
        ..Default::default()
    };
    let router = HttpFilter {
        name: "envoy.filters.http.router".to_owned(),
        config_type: Some(http_filter::ConfigType::TypedConfig(any(&Router::default()))),
        ..Default::default()
    };
    // Others are answered by Envoy before any filter; these are for the plugin to decide.
    let upgrade = |kind: &str| UpgradeConfig { upgrade_type: kind.to_owned(), ..Default::default() };
    HttpConnectionManager {
        stat_prefix: name::HTTP.to_owned(),
        generate_request_id: Some(BoolValue { value: false }),
        // How long a connection whose request was reset is kept, so that an answer is read before the rest
        // of an upload meets a closed door. Envoy's second is too long for what a policy change forbids.
        delayed_close_timeout: Some(Duration { seconds: 0, nanos: 200_000_000 }),
        request_headers_timeout: Some(HEADERS_TIMEOUT),
        normalize_path: Some(BoolValue { value: true }),
        merge_slashes: true,
        path_with_escaped_slashes_action: PathWithEscapedSlashesAction::RejectRequest.into(),
        early_header_mutation_extensions: vec![without_routing_headers()],
        upgrade_configs: ["websocket", "CONNECT"].map(upgrade).to_vec(),
        local_reply_config: Some(LocalReplyConfig {
            mappers: vec![
                refusal(settings, "response.code_details == 'upgrade_failed'", ReasonCode::UpgradeRefused),
                refusal(
                    settings,
                    "response.code_details == 'request_header_timeout'",
                    ReasonCode::FirstBytesTimeout,
                ),
                refusal(
                    settings,
                    "response.code_details.contains('address_denied')",
                    ReasonCode::AddressForbidden,
                ),
            ],
            ..Default::default()
        }),
        access_log: access_log::request(settings),
        http_filters: vec![plugin, router],
        route_specifier: Some(RouteSpecifier::RouteConfig(routes())),
        ..Default::default()
    }
}

/// The workload has no say in where a request goes, nor in how Envoy treats it.
fn without_routing_headers() -> TypedExtensionConfig {
    let envoy = StringMatcher {
        match_pattern: Some(MatchPattern::Prefix("x-envoy-".to_owned())),
        ..Default::default()
    };
    let early = EarlyHeaderMutation {
        mutations: vec![
            HeaderMutation { action: Some(Action::Remove(name::CLUSTER_HEADER.to_owned())) },
            HeaderMutation {
                action: Some(Action::RemoveOnMatch(RemoveOnMatch { key_matcher: Some(envoy) })),
            },
        ],
    };
    TypedExtensionConfig {
        name: "envoy.http.early_header_mutation.header_mutation".to_owned(),
        typed_config: Some(any(&early)),
    }
}

/// Makes an answer of Envoy's own a refusal as the plugin gives it.
fn refusal(settings: &Settings, condition: &str, reason: ReasonCode) -> ResponseMapper {
    let expression = ExpressionFilter { expression: condition.to_owned(), ..Default::default() };
    let filter = ExtensionFilter {
        name: "envoy.access_loggers.extension_filters.cel".to_owned(),
        config_type: Some(extension_filter::ConfigType::TypedConfig(any(&expression))),
    };
    let body = format!("egress denied: {reason}: {}\n", reason.meaning().trim());
    ResponseMapper {
        filter: Some(AccessLogFilter {
            filter_specifier: Some(access_log_filter::FilterSpecifier::ExtensionFilter(filter)),
        }),
        status_code: Some(UInt32Value { value: settings.http_deny_status.into() }),
        body: Some(DataSource {
            specifier: Some(data_source::Specifier::InlineString(body)),
            ..Default::default()
        }),
        headers_to_add: vec![HeaderValueOption {
            header: Some(HeaderValue {
                key: name::DENIED_HEADER.to_owned(),
                value: reason.as_str().to_owned(),
                ..Default::default()
            }),
            ..Default::default()
        }],
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
        // No origin speaks for us.
        response_headers_to_remove: vec![name::DENIED_HEADER.to_owned()],
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
