//! The bootstrap that makes a stock Envoy ask the control plane for everything else.

use std::fmt;

use egress_policy::Identity;
use egress_standalone::{EnvoyVersion, versions};

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
    fn cluster(admin_port: u16) -> String {
        format!(
            "\n  - name: egress-admin\n    connect_timeout: 1s\n    circuit_breakers:\n      thresholds:\n      - \
             {{max_connections: {MAX_METRICS_REQUESTS}, max_requests: {MAX_METRICS_REQUESTS}, \
             max_pending_requests: {MAX_METRICS_REQUESTS}}}\n    load_assignment:\n      cluster_name: \
             egress-admin\n      endpoints:\n      - lb_endpoints:\n        - endpoint: {{address: \
             {{socket_address: {{address: 127.0.0.1, port_value: {admin_port}}}}}}}"
        )
    }

    fn listener(self) -> String {
        let Self { port, ipv6 } = self;
        let address = if ipv6 { "'::', ipv4_compat: true" } else { "0.0.0.0" };
        format!(
            r#"
  listeners:
  - name: ready
    address: {{socket_address: {{address: {address}, port_value: {port}}}}}
    per_connection_buffer_limit_bytes: 16384
    filter_chains:
    - filters:
      # Whoever reaches the pod reaches this port: no client has much of it, or has it for long.
      - name: envoy.filters.network.connection_limit
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.connection_limit.v3.ConnectionLimit
          stat_prefix: ready
          max_connections: {MAX_READY_CONNECTIONS}
      - name: envoy.filters.network.http_connection_manager
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: ready
          codec_type: HTTP1
          generate_request_id: false
          max_request_headers_kb: 4
          request_headers_timeout: 2s
          request_timeout: 5s
          delayed_close_timeout: 0.2s
          common_http_protocol_options: {{idle_timeout: 5s, max_stream_duration: 10s, max_headers_count: 64}}
          route_config:
            virtual_hosts:
            - name: ready
              domains: ['*']
              routes:
              - {{match: {{path: /ready}}, direct_response: {{status: 200}}}}
              - match: {{path: /stats/prometheus, headers: [{{name: ':method', string_match: {{exact: GET}}}}]}}
                route: {{cluster: egress-admin}}
          http_filters:
          - name: envoy.filters.http.router
            typed_config: {{"@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}}"#
        )
    }
}

impl fmt::Display for Bootstrap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { identity, proxy, version, security, xds_host, xds_port, admin_port, delta, ready } = self;
        if let Some(identity) = identity {
            let (namespace, service_account) = (identity.namespace(), identity.service_account());
            write!(
                f,
                "# Envoy {version} as the sidecar of {identity}. Made by `osm-egress bootstrap`.\n\
                 node:\n  id: {proxy}.{service_account}.{namespace}\n  cluster: {service_account}.{namespace}\n"
            )?;
        }
        // Whoever waits for `ready` waits until there is an answer.
        let wait = if ready.is_some() { ", initial_fetch_timeout: 0s" } else { "" };
        let admin = ready.map(|_| Ready::cluster(*admin_port)).unwrap_or_default();
        let ready = ready.map(Ready::listener).unwrap_or_default();
        let api_type = if *delta { "DELTA_GRPC" } else { "GRPC" };
        let guards: String = versions::guards(*version)
            .map(|guard| format!("\n      {}: {}", guard.name, guard.value))
            .collect();
        write!(
            f,
            r#"admin:
  address: {{socket_address: {{address: 127.0.0.1, port_value: {admin_port}}}}}
bootstrap_extensions:
- name: envoy.bootstrap.internal_listener
  typed_config:
    "@type": type.googleapis.com/envoy.extensions.bootstrap.internal_listener.v3.InternalListener
# The filter's counters carry their labels in their names.
stats_config:
  stats_tags:
  - {{tag_name: verdict, regex: '^wasmcustom\.egress_[a-z_]+_total.*?(\.verdict\.([a-z-]+))'}}
  - {{tag_name: reason, regex: '^wasmcustom\.egress_[a-z_]+_total.*?(\.reason\.([a-z-]+))'}}
  - {{tag_name: protocol, regex: '^wasmcustom\.egress_[a-z_]+_total.*?(\.protocol\.([a-z-]+))'}}
layered_runtime:
  layers:
  - name: egress
    static_layer:{guards}
dynamic_resources:
  ads_config:
    api_type: {api_type}
    transport_api_version: V3
    set_node_on_first_message_only: true
    grpc_services:
    - envoy_grpc: {{cluster_name: osm-egress}}
  cds_config: {{ads: {{}}, resource_api_version: V3{wait}}}
  lds_config: {{ads: {{}}, resource_api_version: V3{wait}}}
static_resources:{ready}
  clusters:{admin}
  - name: osm-egress
    type: STRICT_DNS
    connect_timeout: 5s
    load_assignment:
      cluster_name: osm-egress
      endpoints:
      - lb_endpoints:
        - endpoint: {{address: {{socket_address: {{address: "{xds_host}", port_value: {xds_port}}}}}}}
    upstream_connection_options:
      tcp_keepalive: {{keepalive_probes: 5, keepalive_time: 60, keepalive_interval: 5}}
    typed_extension_protocol_options:
      envoy.extensions.upstreams.http.v3.HttpProtocolOptions:
        "@type": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions
        explicit_http_config:
          http2_protocol_options:
            # A dead control plane is noticed, and the next one asked.
            connection_keepalive: {{interval: 30s, timeout: 5s}}
"#
        )?;
        security.write(f, xds_host)
    }
}
