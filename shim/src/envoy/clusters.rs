use std::collections::HashMap;

use envoy_types::pb::envoy::config::cluster::v3::Cluster;
use envoy_types::pb::envoy::config::cluster::v3::cluster::{
    ClusterDiscoveryType, CustomClusterType, DiscoveryType, LbPolicy,
};
use envoy_types::pb::envoy::config::core::v3::{
    Address, EnvoyInternalAddress, Http1ProtocolOptions, Http2ProtocolOptions, TransportSocket,
    TypedExtensionConfig, UpstreamHttpProtocolOptions, address, envoy_internal_address::AddressNameSpecifier,
    transport_socket,
};
use envoy_types::pb::envoy::config::endpoint::v3::{
    ClusterLoadAssignment, Endpoint, LbEndpoint, LocalityLbEndpoints, lb_endpoint::HostIdentifier,
};
use envoy_types::pb::envoy::extensions::clusters::dynamic_forward_proxy::v3::{
    ClusterConfig, cluster_config::ClusterImplementationSpecifier,
};
use envoy_types::pb::envoy::extensions::common::dynamic_forward_proxy::v3::DnsCacheConfig;
use envoy_types::pb::envoy::extensions::network::dns_resolver::cares::v3::CaresDnsResolverConfig;
use envoy_types::pb::envoy::extensions::transport_sockets::internal_upstream::v3::InternalUpstreamTransport;
use envoy_types::pb::envoy::extensions::transport_sockets::raw_buffer::v3::RawBuffer;
use envoy_types::pb::envoy::extensions::upstreams::http::v3::{
    HttpProtocolOptions,
    http_protocol_options::{UpstreamProtocolOptions, UseDownstreamHttpConfig},
};
use envoy_types::pb::envoy::r#type::matcher::v3::AddressMatcher;
use envoy_types::pb::google::protobuf::{Any, Duration, UInt32Value};
use envoy_types::pb::xds::core::v3::CidrRange;

use super::{Settings, any, name};

/// As Open Service Mesh has it (Envoy's default).
const CONNECT_TIMEOUT: Duration = Duration { seconds: 5, nanos: 0 };

/// A cluster whose only host is the address that was dialled.
pub(super) fn original_dst(name: &str) -> Cluster {
    Cluster {
        name: name.to_owned(),
        connect_timeout: Some(CONNECT_TIMEOUT),
        lb_policy: LbPolicy::ClusterProvided.into(),
        cluster_discovery_type: Some(ClusterDiscoveryType::Type(DiscoveryType::OriginalDst.into())),
        typed_extension_protocol_options: http_options(),
        ..Default::default()
    }
}

/// The cluster whose hosts are the names that the filter allowed, resolved here.
pub(super) fn dns(settings: &Settings) -> Cluster {
    let config = ClusterConfig {
        cluster_implementation_specifier: Some(ClusterImplementationSpecifier::DnsCacheConfig(dns_cache(
            settings,
        ))),
        ..Default::default()
    };
    Cluster {
        name: name::DNS.to_owned(),
        connect_timeout: Some(CONNECT_TIMEOUT),
        lb_policy: LbPolicy::ClusterProvided.into(),
        cluster_discovery_type: Some(ClusterDiscoveryType::ClusterType(CustomClusterType {
            name: "envoy.clusters.dynamic_forward_proxy".to_owned(),
            typed_config: Some(any(&config)),
        })),
        typed_extension_protocol_options: http_options(),
        ..Default::default()
    }
}

/// The cluster that leads to the internal listener, where each request is decided.
pub(super) fn http() -> Cluster {
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
        name: name::HTTP.to_owned(),
        connect_timeout: Some(CONNECT_TIMEOUT),
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
        ..Default::default()
    }
}

/// The DNS cache that the cluster and the two filters before it share; Envoy wants it spelt the same
/// everywhere.
pub(super) fn dns_cache(settings: &Settings) -> DnsCacheConfig {
    let resolver = CaresDnsResolverConfig {
        resolvers: settings.dns_resolvers.iter().copied().map(super::address).collect(),
        ..Default::default()
    };
    let resolver = (!settings.dns_resolvers.is_empty()).then(|| TypedExtensionConfig {
        name: "envoy.network.dns_resolver.cares".to_owned(),
        typed_config: Some(any(&resolver)),
    });
    DnsCacheConfig {
        name: name::DNS.to_owned(),
        dns_lookup_family: envoy_types::pb::envoy::config::cluster::v3::cluster::DnsLookupFamily::V4Preferred
            .into(),
        typed_dns_resolver_config: resolver,
        resolved_address_filter: Some(AddressMatcher { ranges: never(), invert_match: false }),
        ..Default::default()
    }
}

/// Where a name must never lead, whoever controls it: the sidecar itself, its link, the cloud's metadata,
/// and what is no address of one host. `ipAddresses` in a rule can list them on purpose.
fn never() -> Vec<CidrRange> {
    [
        ("0.0.0.0", 8),
        ("127.0.0.0", 8),
        ("169.254.0.0", 16),
        ("224.0.0.0", 4),
        ("255.255.255.255", 32),
        ("::", 128),
        ("::1", 128),
        ("::ffff:0:0", 96),
        ("fe80::", 10),
        ("ff00::", 8),
    ]
    .into_iter()
    .map(|(prefix, length)| CidrRange {
        address_prefix: prefix.to_owned(),
        prefix_len: Some(UInt32Value { value: length }),
    })
    .collect()
}

/// The version of HTTP that the workload speaks is the one that the origin gets.
fn http_options() -> HashMap<String, Any> {
    let options = HttpProtocolOptions {
        // A dynamic forward proxy insists on both for any TLS upstream; there is none here.
        upstream_http_protocol_options: Some(UpstreamHttpProtocolOptions {
            auto_sni: true,
            auto_san_validation: true,
            ..Default::default()
        }),
        upstream_protocol_options: Some(UpstreamProtocolOptions::UseDownstreamProtocolConfig(
            UseDownstreamHttpConfig {
                http_protocol_options: Some(Http1ProtocolOptions::default()),
                http2_protocol_options: Some(Http2ProtocolOptions::default()),
                http3_protocol_options: None,
            },
        )),
        ..Default::default()
    };
    HashMap::from([("envoy.extensions.upstreams.http.v3.HttpProtocolOptions".to_owned(), any(&options))])
}
