//! Clusters: those that every configuration has, and those of rules with connection settings.

use std::time::Duration;

use egress_compile::{Limits, OwnCluster};
use egress_policy::{HostMatch, HostPattern};

use crate::settings::Settings;
use crate::value::{Object, Value};
use crate::{config, dns, name, object, traffic};

/// As Open Service Mesh has it (Envoy's default).
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// The clusters that every configuration has.
#[must_use]
pub fn constant(settings: &Settings) -> Vec<Value> {
    let limits = Limits::default();
    let resolving = |names| Value::Object(resolving(dns::cluster(names), None, settings, names, &limits));
    vec![
        Value::Object(original_dst(name::ORIGINAL_DST, settings, &limits)),
        resolving(HostMatch::Exact),
        resolving(HostMatch::Wildcard),
        http(),
    ]
}

/// The cluster of global egress, to which connections go that the filter does not steer.
#[must_use]
pub fn passthrough(settings: &Settings) -> Value {
    Value::Object(original_dst(name::PASSTHROUGH, settings, &Limits::default()))
}

/// The cluster of rules with connection settings.
#[must_use]
pub fn own(cluster: &OwnCluster, settings: &Settings) -> Value {
    let OwnCluster { name, host, limits } = cluster;
    Value::Object(match host {
        None => original_dst(name, settings, limits),
        Some(host) => {
            let names = match host {
                HostPattern::Exact(_) => HostMatch::Exact,
                HostPattern::Below(_) => HostMatch::Wildcard,
            };
            // Open Service Mesh's statistics have this name.
            let alt_stat_name = name.replace(['.', ':'], "_");
            resolving(name, Some(alt_stat_name), settings, names, limits)
        }
    })
}

/// A cluster whose only host is the address that was dialled.
fn original_dst(name: &str, settings: &Settings, limits: &Limits) -> Object {
    object!({
        "name": name,
        "type": "ORIGINAL_DST",
        "lb_policy": "CLUSTER_PROVIDED",
        ..limited(limits),
        ..upstream(settings, limits),
    })
}

/// A cluster whose hosts are names that the filter allowed, resolved here.
fn resolving(
    name: &str,
    alt_stat_name: Option<String>,
    settings: &Settings,
    names: HostMatch,
    limits: &Limits,
) -> Object {
    object!({
        "name": name,
        "alt_stat_name": alt_stat_name,
        "lb_policy": "CLUSTER_PROVIDED",
        ..limited(limits),
        ..upstream(settings, limits),
        "cluster_type": {
            "name": "envoy.clusters.dynamic_forward_proxy",
            "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.clusters.dynamic_forward_proxy.v3.ClusterConfig",
                "dns_cache_config": dns::cache(settings, names),
            },
        },
    })
}

/// The limits of a cluster.
fn limited(limits: &Limits) -> Object {
    let most = |limit: Option<u32>| limit.unwrap_or(u32::MAX);
    object!({
        "connect_timeout": limits.connect_timeout.unwrap_or(CONNECT_TIMEOUT),
        /// Without a limit of a policy there is none: Envoy's 1024 are for one service, and these are for everything.
        "circuit_breakers": {
            "thresholds": [{
                "max_connections": most(limits.max_connections),
                "max_pending_requests": most(limits.max_pending_requests),
                "max_requests": most(limits.max_requests),
                "max_retries": most(limits.max_retries),
                "track_remaining": true,
            }],
        },
    })
}

/// The connections of a cluster that leaves the machine.
fn upstream(settings: &Settings, limits: &Limits) -> Object {
    object!({
        // With a limit on connections clients share them: Envoy gives each pool a first one whatever the limit, so that
        // a pool for each client would be a limit for none.
        /// A login (NTLM, Negotiate), and all else that belongs to a connection, is its client's.
        "connection_pool_per_downstream_connection": limits.max_connections.is_none().then_some(true),
        "upstream_connection_options": {"tcp_keepalive": traffic::keepalive()},
        "typed_extension_protocol_options": {
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
                /// A connection whose client has gone ends after this.
                "common_http_protocol_options": traffic::responses(
                    settings.upstream_idle_timeout,
                    limits.max_requests_per_connection,
                ),
                /// A dynamic forward proxy insists on both for any TLS upstream; there is none here.
                "upstream_http_protocol_options": {"auto_sni": true, "auto_san_validation": true},
                /// The version of HTTP that the workload speaks is the one that the origin gets.
                "use_downstream_protocol_config": {
                    "http_protocol_options": traffic::http1(),
                    "http2_protocol_options": {},
                },
            },
        },
    })
}

/// The cluster that leads to the internal listener, where each request is decided. It leads to no socket.
fn http() -> Value {
    config!({
        "name": name::HTTP,
        "type": "STATIC",
        ..limited(&Limits::default()),
        "transport_socket": {
            "name": "envoy.transport_sockets.internal_upstream",
            "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.transport_sockets.internal_upstream.v3.InternalUpstreamTransport",
                "transport_socket": {
                    "name": "envoy.transport_sockets.raw_buffer",
                    "typed_config": {
                        "@type": "type.googleapis.com/envoy.extensions.transport_sockets.raw_buffer.v3.RawBuffer",
                    },
                },
            },
        },
        "load_assignment": {
            "cluster_name": name::HTTP,
            "endpoints": [{
                "lb_endpoints": [{
                    "endpoint": {"address": {"envoy_internal_address": {"server_listener_name": name::HTTP}}},
                }],
            }],
        },
    })
}
