//! The bootstrap that makes a stock Envoy ask the control plane for everything else.

use std::fmt;
use std::str::FromStr;

use egress_policy::Identity;

use super::credentials::Security;
use super::versions;

/// A version of Envoy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct EnvoyVersion {
    /// Always 1 so far.
    pub major: u16,
    /// The release.
    pub minor: u16,
}

/// The oldest Envoy that has everything the listener needs.
pub const OLDEST: EnvoyVersion = EnvoyVersion { major: 1, minor: 39 };
/// The Envoy that the tests and the demo use.
pub const CURRENT: EnvoyVersion = EnvoyVersion { major: 1, minor: 40 };

/// Why a text is not a version of Envoy that works.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EnvoyVersionError {
    /// Not a version.
    #[error("`{0}` is not an Envoy version: write it as `1.40` or `1.40.0`")]
    Form(String),
    /// An Envoy that lacks what the listener needs.
    #[error("Envoy {0} is too old: the listener needs {OLDEST} or newer")]
    TooOld(EnvoyVersion),
}

impl FromStr for EnvoyVersion {
    type Err = EnvoyVersionError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let form = || EnvoyVersionError::Form(text.to_owned());
        let mut parts = text.strip_prefix('v').unwrap_or(text).split('.').map(str::parse);
        let (Some(Ok(major)), Some(Ok(minor))) = (parts.next(), parts.next()) else { return Err(form()) };
        if parts.next().is_some_and(|patch: Result<u16, _>| patch.is_err()) || parts.next().is_some() {
            return Err(form());
        }
        let version = Self { major, minor };
        if version < OLDEST { Err(EnvoyVersionError::TooOld(version)) } else { Ok(version) }
    }
}

impl fmt::Display for EnvoyVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

/// What a bootstrap is made for.
#[derive(Clone, Debug)]
pub struct Bootstrap {
    /// Whose sidecar it is; nothing where Envoy's command line says it.
    pub identity: Option<Identity>,
    /// The first part of the node id; tells the proxies of one identity apart.
    pub proxy: String,
    /// The Envoy that will read it.
    pub version: EnvoyVersion,
    /// How it and the control plane know each other.
    pub security: Security,
    /// The control plane's host.
    pub xds_host: String,
    /// The control plane's port.
    pub xds_port: u16,
    /// Envoy's admin port on loopback.
    pub admin_port: u16,
    /// Ask for changes only (delta), or for the state of the world.
    pub delta: bool,
    /// Where Envoy says that it has been told what to do, and what it counts.
    pub ready: Option<Ready>,
}

/// A listener that answers `GET /ready` once Envoy has been told what to do, and is not there before. It shows
/// Envoy's metrics too: nothing else of the admin interface, which can stop Envoy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ready {
    /// Its port, on all addresses.
    pub port: u16,
    /// Whether these are addresses of IPv6 too.
    pub ipv6: bool,
}

impl Ready {
    fn cluster(admin_port: u16) -> String {
        format!(
            "\n  - name: egress-admin\n    connect_timeout: 1s\n    load_assignment:\n      cluster_name: \
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
    filter_chains:
    - filters:
      - name: envoy.filters.network.http_connection_manager
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: ready
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
        let mut guards: String = versions::guards(*version)
            .map(|guard| format!("\n      {}: {}", guard.name, guard.value))
            .collect();
        if guards.is_empty() {
            guards = " {}".to_owned();
        }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions() {
        for (text, expected) in [
            ("1.40", Ok("1.40")),
            ("1.40.0", Ok("1.40")),
            ("v1.39.2", Ok("1.39")),
            ("1.38.1", Err("Envoy 1.38 is too old: the listener needs 1.39 or newer")),
            ("latest", Err("`latest` is not an Envoy version: write it as `1.40` or `1.40.0`")),
            ("1.40.0.1", Err("`1.40.0.1` is not an Envoy version: write it as `1.40` or `1.40.0`")),
        ] {
            let found = text.parse::<EnvoyVersion>();
            assert_eq!(
                found.map(|v| v.to_string()).map_err(|e| e.to_string()),
                expected.map(str::to_owned).map_err(str::to_owned)
            );
        }
    }
}
