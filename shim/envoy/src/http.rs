//! The internal listener where each plaintext request is decided.

use envoy_types::pb::envoy::config::accesslog::v3::{
    AccessLogFilter, ExtensionFilter, access_log_filter, extension_filter,
};
use envoy_types::pb::envoy::config::common::mutation_rules::v3::{
    HeaderMutation, header_mutation::Action, header_mutation::RemoveOnMatch,
};
use envoy_types::pb::envoy::config::core::v3::{
    DataSource, HeaderValue, HeaderValueOption, Http1ProtocolOptions, TypedExtensionConfig, data_source,
    header_value_option::HeaderAppendAction,
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
    PathWithEscapedSlashesAction, RouteSpecifier, ServerHeaderTransformation, UpgradeConfig,
};
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3::{
    HttpConnectionManager, HttpFilter, LocalReplyConfig, ResponseMapper, http_filter,
};
use envoy_types::pb::envoy::extensions::http::early_header_mutation::header_mutation::v3::HeaderMutation as EarlyHeaderMutation;
use envoy_types::pb::envoy::r#type::matcher::v3::{StringMatcher, string_matcher::MatchPattern};
use envoy_types::pb::google::protobuf::{BoolValue, Duration, UInt32Value};
use egress_standalone::refusals::{EnvoyRefusal, REFUSALS};
use prost::Name;

use super::messages::{any, by_discovery, network_filter, original_dst};
use super::settings::Settings;
use super::{access_log, name, traffic};

/// The time that the headers of a request may take from their first byte to their last. Envoy holds them until then;
/// the filter bounds their number and bytes. Web servers wait for less (nginx 60 s, Apache 20 to 40 s).
const HEADERS_TIMEOUT: Duration = Duration { seconds: 60, nanos: 0 };

/// The header that Envoy adds to requests without it.
const FORWARDED_PROTO: &str = "x-forwarded-proto";
/// The header that keeps what the workload sent as that.
const SENT_PROTO: &str = "x-egress-forwarded-proto";

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
        config_type: Some(http_filter::ConfigType::TypedConfig(any(&Router {
            suppress_envoy_headers: true,
            ..Default::default()
        }))),
        ..Default::default()
    };
    // Others are answered by Envoy before any filter; these are for the plugin to decide.
    let upgrade = |kind: &str| UpgradeConfig { upgrade_type: kind.to_owned(), ..Default::default() };
    HttpConnectionManager {
        stat_prefix: name::HTTP.to_owned(),
        generate_request_id: Some(BoolValue { value: false }),
        // Silence has no limit here: the outer connection's ends with it.
        stream_idle_timeout: Some(traffic::UNLIMITED),
        common_http_protocol_options: Some(traffic::requests()),
        max_request_headers_kb: Some(traffic::max_request_headers()),
        http_protocol_options: Some(Http1ProtocolOptions {
            accept_http_10: true,
            // Offers that nobody has to take (RFC 9110 §7.8); Apache HttpClient 5.4 makes the first with each request.
            // Envoy ignores the second by itself, but not in a list with others.
            ignore_http_11_upgrade: [
                MatchPattern::Prefix("TLS/".to_owned()),
                MatchPattern::Exact("h2c".to_owned()),
            ]
            .map(|pattern| StringMatcher { match_pattern: Some(pattern), ignore_case: true })
            .to_vec(),
            allow_custom_methods: settings.allow_custom_methods,
            ..traffic::http1()
        }),
        server_header_transformation: ServerHeaderTransformation::PassThrough.into(),
        proxy_100_continue: true,
        // How long a connection whose request was reset is kept, so that an answer is read before the rest
        // of an upload meets a closed door. Envoy's second is too long for what a policy change forbids.
        delayed_close_timeout: Some(Duration { seconds: 0, nanos: 200_000_000 }),
        request_headers_timeout: Some(HEADERS_TIMEOUT),
        normalize_path: Some(BoolValue { value: true }),
        merge_slashes: true,
        // The plugin decides: only rules with routes look at the path.
        path_with_escaped_slashes_action: PathWithEscapedSlashesAction::KeepUnchanged.into(),
        early_header_mutation_extensions: vec![without_routing_headers()],
        upgrade_configs: ["websocket", "CONNECT"].map(upgrade).to_vec(),
        local_reply_config: Some(LocalReplyConfig {
            mappers: REFUSALS.iter().map(|refusal| mapper(settings, refusal)).collect(),
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
            // Envoy adds it to what has none, and the route restores what was sent.
            HeaderMutation { action: Some(Action::Remove(SENT_PROTO.to_owned())) },
            HeaderMutation { action: Some(Action::Append(copy(FORWARDED_PROTO, SENT_PROTO))) },
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
fn mapper(settings: &Settings, refusal: &EnvoyRefusal) -> ResponseMapper {
    let EnvoyRefusal { condition, reason, by_policy } = refusal;
    let expression = ExpressionFilter { expression: (*condition).to_owned(), ..Default::default() };
    let filter = ExtensionFilter {
        name: "envoy.access_loggers.extension_filters.cel".to_owned(),
        config_type: Some(extension_filter::ConfigType::TypedConfig(any(&expression))),
    };
    ResponseMapper {
        filter: Some(AccessLogFilter {
            filter_specifier: Some(access_log_filter::FilterSpecifier::ExtensionFilter(filter)),
        }),
        status_code: by_policy.then(|| UInt32Value { value: settings.http_deny_status.into() }),
        body: Some(DataSource {
            specifier: Some(data_source::Specifier::InlineString(refusal.body())),
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

/// Sets a header to what another one holds, where that one is there.
fn copy(from: &str, to: &str) -> HeaderValueOption {
    HeaderValueOption {
        header: Some(HeaderValue {
            key: to.to_owned(),
            value: format!("%REQ({from})%"),
            ..Default::default()
        }),
        append_action: HeaderAppendAction::OverwriteIfExistsOrAdd.into(),
        ..Default::default()
    }
}

/// One route: to the cluster that the plugin names. Without the plugin's header there is none.
fn routes() -> RouteConfiguration {
    let action = RouteAction {
        cluster_specifier: Some(route_action::ClusterSpecifier::ClusterHeader(
            name::CLUSTER_HEADER.to_owned(),
        )),
        timeout: Some(traffic::UNLIMITED),
        idle_timeout: Some(traffic::UNLIMITED),
        ..Default::default()
    };
    let route = Route {
        r#match: Some(RouteMatch {
            path_specifier: Some(route_match::PathSpecifier::Prefix("/".to_owned())),
            ..Default::default()
        }),
        action: Some(route::Action::Route(action)),
        // Envoy calls a request internal by the `x-forwarded-for` that the workload sent.
        request_headers_to_remove: [name::CLUSTER_HEADER, FORWARDED_PROTO, "x-envoy-internal"]
            .map(str::to_owned)
            .to_vec(),
        request_headers_to_add: vec![copy(SENT_PROTO, FORWARDED_PROTO)],
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
            // After the route has read it.
            request_headers_to_remove: vec![SENT_PROTO.to_owned()],
            ..Default::default()
        }],
        ..Default::default()
    }
}
