//! The internal listener where each plaintext request is decided.

use std::time::Duration;

use crate::messages::original_dst;
use crate::refusals::{EnvoyRefusal, REFUSALS};
use crate::settings::Settings;
use crate::value::Value;
use crate::{access_log, config, name, traffic};

/// The time that the headers of a request may take from their first byte to their last. Envoy holds them until then;
/// the filter bounds their number and bytes. Web servers wait for less (nginx 60 s, Apache 20 to 40 s).
const HEADERS_TIMEOUT: Duration = Duration::from_secs(60);

/// The header that Envoy adds to requests without it.
const FORWARDED_PROTO: &str = "x-forwarded-proto";
/// The header that keeps what the workload sent as that.
const SENT_PROTO: &str = "x-egress-forwarded-proto";

/// The time that a connection whose request was reset is kept, so that an answer is read before the rest of an upload
/// meets a closed door. Envoy's second is too long for what a policy change forbids.
const DELAYED_CLOSE: Duration = Duration::from_millis(200);

/// The listener, with the HTTP plugin as its first filter.
#[must_use]
pub fn listener(settings: &Settings, plugin: Value) -> Value {
    config!({
        "name": name::HTTP,
        "internal_listener": {},
        "listener_filters": [original_dst()],
        "default_filter_chain": {
            "filters": [{
                "name": "envoy.filters.network.http_connection_manager",
                "typed_config": connection_manager(settings, plugin),
            }],
        },
    })
}

fn connection_manager(settings: &Settings, plugin: Value) -> Value {
    config!({
        "@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": name::HTTP,
        "generate_request_id": false,
        "delayed_close_timeout": DELAYED_CLOSE,
        "request_headers_timeout": HEADERS_TIMEOUT,
        // The outer connection's ends with it.
        /// Silence has no limit.
        "stream_idle_timeout": traffic::UNLIMITED,
        /// As large as Envoy permits, and as the other side wrote it.
        "common_http_protocol_options": traffic::requests(),
        "max_request_headers_kb": traffic::MAX_HEADERS_KIB,
        "http_protocol_options": {
            "accept_http_10": true,
            // RFC 9110 §7.8. Envoy ignores the second by itself, but not in a list with others.
            /// Offers that nobody has to take; Apache HttpClient 5.4 makes the first with each request.
            "ignore_http_11_upgrade": [{"prefix": "TLS/", "ignore_case": true}, {"exact": "h2c", "ignore_case": true}],
            "allow_custom_methods": settings.allow_custom_methods.then_some(true),
            ..traffic::http1(),
        },
        "server_header_transformation": "PASS_THROUGH",
        "proxy_100_continue": true,
        "normalize_path": true,
        "merge_slashes": true,
        /// The filter decides: only rules with routes look at the path.
        "path_with_escaped_slashes_action": "KEEP_UNCHANGED",
        /// The workload has no say in where a request goes, nor in how Envoy treats it.
        "early_header_mutation_extensions": [{
            "name": "envoy.http.early_header_mutation.header_mutation",
            "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.http.early_header_mutation.header_mutation.v3.HeaderMutation",
                "mutations": [
                    {"remove": name::CLUSTER_HEADER},
                    /// Envoy adds `x-forwarded-proto` to what has none, and the route restores what was sent.
                    {"remove": SENT_PROTO},
                    {"append": copy(FORWARDED_PROTO, SENT_PROTO)},
                    {"remove_on_match": {"key_matcher": {"prefix": "x-envoy-"}}},
                ],
            },
        }],
        /// Others are answered by Envoy before any filter; these are for the filter to decide.
        "upgrade_configs": [{"upgrade_type": "websocket"}, {"upgrade_type": "CONNECT"}],
        /// Envoy's own answers, before or after the filter, as the filter would give them.
        "local_reply_config": {"mappers": REFUSALS.iter().map(|refusal| mapper(settings, refusal)).collect::<Value>()},
        "access_log": access_log::request(settings),
        "http_filters": [plugin, router()],
        "route_config": routes(),
    })
}

fn router() -> Value {
    config!({
        "name": "envoy.filters.http.router",
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router",
            "suppress_envoy_headers": true,
        },
    })
}

/// Makes an answer of Envoy's own a refusal as the plugin gives it.
fn mapper(settings: &Settings, refusal: &EnvoyRefusal) -> Value {
    let EnvoyRefusal { condition, reason, by_policy } = refusal;
    config!({
        "filter": {
            "extension_filter": {
                "name": "envoy.access_loggers.extension_filters.cel",
                "typed_config": {
                    "@type": "type.googleapis.com/envoy.extensions.access_loggers.filters.cel.v3.ExpressionFilter",
                    "expression": *condition,
                },
            },
        },
        "status_code": by_policy.then_some(settings.http_deny_status),
        "body": {"inline_string": refusal.body()},
        "headers_to_add": [{"header": {"key": name::DENIED_HEADER, "value": reason.as_str()}}],
    })
}

/// Sets a header to what another one holds, where that one is there.
fn copy(from: &str, to: &str) -> Value {
    config!({
        "header": {"key": to, "value": format!("%REQ({from})%")},
        "append_action": "OVERWRITE_IF_EXISTS_OR_ADD",
    })
}

fn routes() -> Value {
    config!({
        "name": name::HTTP,
        "virtual_hosts": [{
            "name": "egress",
            "domains": ["*"],
            /// After the route has read it.
            "request_headers_to_remove": [SENT_PROTO],
            "routes": [
                /// The filter names the cluster in this header; without it there is no route.
                {
                    "match": {"prefix": "/"},
                    "route": {
                        "cluster_header": name::CLUSTER_HEADER,
                        "timeout": traffic::UNLIMITED,
                        "idle_timeout": traffic::UNLIMITED,
                    },
                    // Envoy calls a request internal by the `x-forwarded-for` that the workload sent.
                    "request_headers_to_remove": [name::CLUSTER_HEADER, FORWARDED_PROTO, "x-envoy-internal"],
                    "request_headers_to_add": [copy(SENT_PROTO, FORWARDED_PROTO)],
                    /// No origin speaks for us.
                    "response_headers_to_remove": [name::DENIED_HEADER],
                },
            ],
        }],
    })
}
