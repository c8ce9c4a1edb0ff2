//! The bootstrap that makes a stock Envoy ask the control plane for everything else.

use std::fmt;
use std::time::Duration;

use egress_policy::Identity;
use egress_standalone::{EnvoyVersion, Value, config, name, process, yaml};

use super::credentials::Security;

/// The settings of a bootstrap.
#[derive(Clone, Debug)]
pub struct Bootstrap {
    /// The identity of the sidecar; nothing where Envoy's command line has it.
    pub identity: Option<Identity>,
    /// The first part of the node id; tells the proxies of one identity apart.
    pub proxy: String,
    /// The Envoy that will read it.
    pub version: EnvoyVersion,
    /// The way in which Envoy and the control plane authenticate each other.
    pub security: Security,
    /// The control plane's host.
    pub xds_host: String,
    /// The control plane's port.
    pub xds_port: u16,
    /// Envoy's admin port on loopback.
    pub admin_port: u16,
    /// Ask for changes only (delta), or for the state of the world.
    pub delta: bool,
    /// The port at which Envoy reports that it is ready, and its metrics.
    pub ready: Option<Ready>,
}

/// A listener that answers `GET /ready` once Envoy has been told what to do, and is not there before. It shows
/// Envoy's metrics too: nothing else of the admin interface, which can stop Envoy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ready {
    /// Its port, on all addresses.
    pub port: u16,
    /// True if these are addresses of IPv6 too.
    pub ipv6: bool,
}

/// The most connections to that listener. Whoever reaches the pod can open them; a kubelet and Prometheus have one each.
/// So many, because while they are all taken the kubelet is refused too: each lasts some seconds and 20 kB at most.
const MAX_READY_CONNECTIONS: u16 = 2048;
/// The most requests for metrics at a time: an answer has some hundred kB, which Envoy holds until it is read.
const MAX_METRICS_REQUESTS: u16 = 16;

impl Ready {
    /// The cluster that leads to Envoy's own metrics.
    fn cluster(admin_port: u16) -> Value {
        config!({
            "name": "egress-admin",
            "connect_timeout": Duration::from_secs(1),
            "circuit_breakers": {
                "thresholds": [{
                    "max_connections": MAX_METRICS_REQUESTS,
                    "max_requests": MAX_METRICS_REQUESTS,
                    "max_pending_requests": MAX_METRICS_REQUESTS,
                }],
            },
            "load_assignment": endpoint("egress-admin", "127.0.0.1", admin_port),
        })
    }

    fn listener(self) -> Value {
        let Self { port, ipv6 } = self;
        let address = match ipv6 {
            true => config!({"address": "::", "ipv4_compat": true, "port_value": port}),
            false => config!({"address": "0.0.0.0", "port_value": port}),
        };
        config!({
            "name": "ready",
            "address": {"socket_address": address},
            "per_connection_buffer_limit_bytes": 16384_u32,
            "filter_chains": [{
                "filters": [
                    /// Whoever reaches the pod reaches this port: no client has much of it, or has it for long.
                    {
                        "name": "envoy.filters.network.connection_limit",
                        "typed_config": {
                            "@type": "type.googleapis.com/envoy.extensions.filters.network.connection_limit.v3.ConnectionLimit",
                            "stat_prefix": "ready",
                            "max_connections": MAX_READY_CONNECTIONS,
                        },
                    },
                    {
                        "name": "envoy.filters.network.http_connection_manager",
                        "typed_config": Self::connection_manager(),
                    },
                ],
            }],
        })
    }

    fn connection_manager() -> Value {
        config!({
            "@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
            "stat_prefix": "ready",
            "codec_type": "HTTP1",
            "generate_request_id": false,
            "max_request_headers_kb": 4_u32,
            "request_headers_timeout": Duration::from_secs(2),
            "request_timeout": Duration::from_secs(5),
            "delayed_close_timeout": Duration::from_millis(200),
            "common_http_protocol_options": {
                "idle_timeout": Duration::from_secs(5),
                "max_stream_duration": Duration::from_secs(10),
                "max_headers_count": 64_u32,
            },
            "route_config": {
                "virtual_hosts": [{
                    "name": "ready",
                    "domains": ["*"],
                    "routes": [
                        {"match": {"path": "/ready"}, "direct_response": {"status": 200_u32}},
                        {
                            "match": {
                                "path": "/stats/prometheus",
                                "headers": [{"name": ":method", "string_match": {"exact": "GET"}}],
                            },
                            "route": {"cluster": "egress-admin"},
                        },
                    ],
                }],
            },
            "http_filters": [{
                "name": "envoy.filters.http.router",
                "typed_config": {"@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"},
            }],
        })
    }
}

/// One address as the endpoints of a cluster.
fn endpoint(cluster: &str, address: &str, port: u16) -> Value {
    config!({
        "cluster_name": cluster,
        "endpoints": [{
            "lb_endpoints": [{
                "endpoint": {"address": {"socket_address": {"address": address, "port_value": port}}},
            }],
        }],
    })
}

impl Bootstrap {
    /// The bootstrap.
    #[must_use]
    pub fn value(&self) -> Value {
        let Self { identity, proxy, version, security, xds_host, xds_port, admin_port, delta, ready } = self;
        let node = identity.as_ref().map(|identity| {
            let (namespace, service_account) = (identity.namespace(), identity.service_account());
            config!({
                "id": format!("{proxy}.{service_account}.{namespace}"),
                "cluster": format!("{service_account}.{namespace}"),
            })
        });
        let resources = || {
            config!({
                "ads": {},
                "resource_api_version": "V3",
                // Whoever waits for `ready` waits until there is an answer.
                "initial_fetch_timeout": ready.map(|_| Duration::ZERO),
            })
        };
        let listeners = ready.map(|ready| config!([ready.listener()]));
        let admin = ready.map(|_| Ready::cluster(*admin_port));
        config!({
            "node": node,
            "admin": {"address": {"socket_address": {"address": "127.0.0.1", "port_value": *admin_port}}},
            ..process::extensions(),
            ..process::stats(),
            ..process::runtime(*version),
            "dynamic_resources": {
                "ads_config": {
                    "api_type": if *delta { "DELTA_GRPC" } else { "GRPC" },
                    "transport_api_version": "V3",
                    "set_node_on_first_message_only": true,
                    "grpc_services": [{"envoy_grpc": {"cluster_name": name::CONTROL_PLANE}}],
                },
                "cds_config": resources(),
                "lds_config": resources(),
            },
            "static_resources": {
                "listeners": listeners,
                "clusters": [admin, control_plane(security, xds_host, *xds_port)],
            },
        })
    }
}

/// The cluster of the control plane.
fn control_plane(security: &Security, host: &str, port: u16) -> Value {
    config!({
        "name": name::CONTROL_PLANE,
        "type": "STRICT_DNS",
        "connect_timeout": Duration::from_secs(5),
        "load_assignment": endpoint(name::CONTROL_PLANE, host, port),
        "upstream_connection_options": {
            "tcp_keepalive": {"keepalive_probes": 5_u32, "keepalive_time": 60_u32, "keepalive_interval": 5_u32},
        },
        "typed_extension_protocol_options": {
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
                "explicit_http_config": {
                    "http2_protocol_options": {
                        /// A dead control plane is noticed, and the next one asked.
                        "connection_keepalive": {"interval": Duration::from_secs(30), "timeout": Duration::from_secs(5)},
                    },
                },
                ..security.http_options(),
            },
        },
        "transport_socket": security.transport_socket(host),
    })
}

impl fmt::Display for Bootstrap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(identity) = &self.identity {
            let version = self.version;
            writeln!(f, "# Envoy {version} as the sidecar of {identity}. Made by `osm-egress bootstrap`.")?;
        }
        f.write_str(&yaml::text(&self.value()))
    }
}
