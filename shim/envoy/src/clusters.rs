use std::collections::HashMap;

use egress_compile::{Limits, OwnCluster};
use egress_policy::{HostMatch, HostPattern};
use envoy_types::pb::envoy::config::cluster::v3::circuit_breakers::Thresholds;
use envoy_types::pb::envoy::config::cluster::v3::cluster::{
    ClusterDiscoveryType, CustomClusterType, DiscoveryType, LbPolicy,
};
use envoy_types::pb::envoy::config::cluster::v3::{CircuitBreakers, Cluster, UpstreamConnectionOptions};
use envoy_types::pb::envoy::config::core::v3::{
    Address, EnvoyInternalAddress, Http2ProtocolOptions, TransportSocket, UpstreamHttpProtocolOptions,
    address, envoy_internal_address::AddressNameSpecifier, transport_socket,
};
use envoy_types::pb::envoy::config::endpoint::v3::{
    ClusterLoadAssignment, Endpoint, LbEndpoint, LocalityLbEndpoints, lb_endpoint::HostIdentifier,
};
use envoy_types::pb::envoy::extensions::clusters::dynamic_forward_proxy::v3::{
    ClusterConfig, cluster_config::ClusterImplementationSpecifier,
};
use envoy_types::pb::envoy::extensions::transport_sockets::internal_upstream::v3::InternalUpstreamTransport;
use envoy_types::pb::envoy::extensions::transport_sockets::raw_buffer::v3::RawBuffer;
use envoy_types::pb::envoy::extensions::upstreams::http::v3::{
    HttpProtocolOptions,
    http_protocol_options::{UpstreamProtocolOptions, UseDownstreamHttpConfig},
};
use envoy_types::pb::google::protobuf::{Any, Duration, UInt32Value};

use super::messages::any;
use super::settings::Settings;
use super::{dns, name, traffic};

/// As Open Service Mesh has it (Envoy's default).
const CONNECT_TIMEOUT: Duration = Duration { seconds: 5, nanos: 0 };

/// A cluster whose only host is the address that was dialled.
pub(super) fn original_dst(name: &str, settings: &Settings, limits: &Limits) -> Cluster {
    Cluster {
        lb_policy: LbPolicy::ClusterProvided.into(),
        cluster_discovery_type: Some(ClusterDiscoveryType::Type(DiscoveryType::OriginalDst.into())),
        ..limited(name, settings, limits)
    }
}

/// A cluster whose hosts are names that the filter allowed, resolved here.
pub(super) fn resolving(name: &str, settings: &Settings, names: HostMatch, limits: &Limits) -> Cluster {
    let config = ClusterConfig {
        cluster_implementation_specifier: Some(ClusterImplementationSpecifier::DnsCacheConfig(dns::cache(
            settings, names,
        ))),
        ..Default::default()
    };
    Cluster {
        lb_policy: LbPolicy::ClusterProvided.into(),
        cluster_discovery_type: Some(ClusterDiscoveryType::ClusterType(CustomClusterType {
            name: "envoy.clusters.dynamic_forward_proxy".to_owned(),
            typed_config: Some(any(&config)),
        })),
        ..limited(name, settings, limits)
    }
}

/// The cluster of rules with connection settings.
pub(super) fn own(cluster: &OwnCluster, settings: &Settings) -> Cluster {
    let OwnCluster { name, host, limits } = cluster;
    match host {
        None => original_dst(name, settings, limits),
        Some(host) => {
            let names = match host {
                HostPattern::Exact(_) => HostMatch::Exact,
                HostPattern::Below(_) => HostMatch::Wildcard,
            };
            // Open Service Mesh's statistics have this name.
            let alt_stat_name = name.replace(['.', ':'], "_");
            Cluster { alt_stat_name, ..resolving(name, settings, names, limits) }
        }
    }
}

/// A cluster with limits. Without, there are none: what Envoy has by default (1,024 connections) is for one
/// service, and these are for everything.
fn limited(name: &str, settings: &Settings, limits: &Limits) -> Cluster {
    let most = |limit: Option<u32>| Some(UInt32Value { value: limit.unwrap_or(u32::MAX) });
    let timeout = limits.connect_timeout.map(traffic::duration);
    Cluster {
        name: name.to_owned(),
        connect_timeout: Some(timeout.unwrap_or(CONNECT_TIMEOUT)),
        circuit_breakers: Some(CircuitBreakers {
            thresholds: vec![Thresholds {
                max_connections: most(limits.max_connections),
                max_pending_requests: most(limits.max_pending_requests),
                max_requests: most(limits.max_requests),
                max_retries: most(limits.max_retries),
                track_remaining: true,
                ..Default::default()
            }],
            ..Default::default()
        }),
        // What belongs to a connection, such as a login (NTLM, Negotiate), is its client's. With a limit on connections
        // clients share them: Envoy gives each pool a first one whatever the limit, so that a pool for each client would
        // be a limit for none.
        connection_pool_per_downstream_connection: limits.max_connections.is_none(),
        upstream_connection_options: Some(UpstreamConnectionOptions {
            tcp_keepalive: Some(traffic::keepalive()),
            ..Default::default()
        }),
        typed_extension_protocol_options: http_options(settings, limits),
        ..Default::default()
    }
}

/// The cluster that leads to the internal listener, where each request is decided.
pub(super) fn http(settings: &Settings) -> Cluster {
    let raw = TransportSocket {
        name: "envoy.transport_sockets.raw_buffer".to_owned(),
        config_type: Some(transport_socket::ConfigType::TypedConfig(any(&RawBuffer {}))),
    };
    let transport = InternalUpstreamTransport { transport_socket: Some(raw), ..Default::default() };
    let listener = Address {
        address: Some(address::Address::EnvoyInternalAddress(EnvoyInternalAddress {
            address_name_specifier: Some(AddressNameSpecifier::ServerListenerName(name::HTTP.to_owned())),
            ..Default::default()
        })),
    };
    let endpoint = LbEndpoint {
        host_identifier: Some(HostIdentifier::Endpoint(Endpoint {
            address: Some(listener),
            ..Default::default()
        })),
        ..Default::default()
    };
    Cluster {
        typed_extension_protocol_options: HashMap::new(),
        // It leads to no socket.
        upstream_connection_options: None,
        connection_pool_per_downstream_connection: false,
        cluster_discovery_type: Some(ClusterDiscoveryType::Type(DiscoveryType::Static.into())),
        load_assignment: Some(ClusterLoadAssignment {
            cluster_name: name::HTTP.to_owned(),
            endpoints: vec![LocalityLbEndpoints { lb_endpoints: vec![endpoint], ..Default::default() }],
            ..Default::default()
        }),
        transport_socket: Some(TransportSocket {
            name: "envoy.transport_sockets.internal_upstream".to_owned(),
            config_type: Some(transport_socket::ConfigType::TypedConfig(any(&transport))),
        }),
        ..limited(name::HTTP, settings, &Limits::default())
    }
}

/// The version of HTTP that the workload speaks is the one that the origin gets.
fn http_options(settings: &Settings, limits: &Limits) -> HashMap<String, Any> {
    let options = HttpProtocolOptions {
        common_http_protocol_options: Some(traffic::responses(
            settings.upstream_idle_timeout,
            limits.max_requests_per_connection,
        )),
        // A dynamic forward proxy insists on both for any TLS upstream; there is none here.
        upstream_http_protocol_options: Some(UpstreamHttpProtocolOptions {
            auto_sni: true,
            auto_san_validation: true,
            ..Default::default()
        }),
        upstream_protocol_options: Some(UpstreamProtocolOptions::UseDownstreamProtocolConfig(
            UseDownstreamHttpConfig {
                http_protocol_options: Some(traffic::http1()),
                http2_protocol_options: Some(Http2ProtocolOptions::default()),
                http3_protocol_options: None,
            },
        )),
        ..Default::default()
    };
    HashMap::from([("envoy.extensions.upstreams.http.v3.HttpProtocolOptions".to_owned(), any(&options))])
}
