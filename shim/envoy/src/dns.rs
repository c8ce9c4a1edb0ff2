//! The DNS caches of the sidecar: one for names that rules list, one for names that only a wildcard lists, which may lead to
//! fewer addresses.

use egress_policy::HostMatch;
use envoy_types::pb::envoy::config::cluster::v3::cluster::{DnsLookupFamily, RefreshRate};
use envoy_types::pb::envoy::config::core::v3::{DnsResolverOptions, TypedExtensionConfig};
use envoy_types::pb::envoy::config::listener::v3::Filter;
use envoy_types::pb::envoy::extensions::common::dynamic_forward_proxy::v3::DnsCacheConfig;
use envoy_types::pb::envoy::extensions::filters::network::sni_dynamic_forward_proxy::v3::FilterConfig;
use envoy_types::pb::envoy::extensions::network::dns_resolver::cares::v3::CaresDnsResolverConfig;
use envoy_types::pb::envoy::r#type::matcher::v3::AddressMatcher;
use envoy_types::pb::google::protobuf::{Duration, UInt32Value, UInt64Value};
use envoy_types::pb::xds::core::v3::CidrRange;
use ipnet::IpNet;

use super::messages::{address, any, network_filter};
use super::name;
use super::settings::Settings;

/// The most names in a cache. More are refused: each is asked for again and again while it is used.
const MAX_HOSTS: u32 = 16_384;

/// The first and the longest delay before a name that could not be resolved is asked for again. Until then it is refused, so
/// a minute, which is Envoy's, would shut a name for that long after its name server is back.
const FIRST_RETRY_DELAY: Duration = Duration { seconds: 1, nanos: 0 };
const MAX_RETRY_DELAY: Duration = Duration { seconds: 5, nanos: 0 };
/// The time before a name server is asked again, in seconds, and the number of tries. Envoy gives a name
/// 5 s: with its own values, a datagram that is lost is not sent again in that time, and a name server that answers for
/// IPv4 and never for IPv6 makes a name fail.
const QUERY_TIMEOUT: u64 = 1;
const QUERY_TRIES: u32 = 3;

/// The cluster of names that are listed so.
pub(super) const fn cluster(names: HostMatch) -> &'static str {
    match names {
        HostMatch::Exact => name::DNS,
        HostMatch::Wildcard => name::DNS_WILDCARD,
    }
}

/// The DNS cache that clusters and filters share; Envoy wants it spelt the same everywhere.
pub(super) fn cache(settings: &Settings, names: HostMatch) -> DnsCacheConfig {
    let resolver = CaresDnsResolverConfig {
        // None: those of `/etc/resolv.conf`.
        resolvers: settings.dns_resolvers.iter().copied().map(address).collect(),
        // Kubernetes' search domains come first (`ndots:5`), and whoever makes a Service below one would lead the
        // name.
        dns_resolver_options: Some(DnsResolverOptions {
            no_default_search_domain: true,
            ..Default::default()
        }),
        query_timeout_seconds: Some(UInt64Value { value: QUERY_TIMEOUT }),
        query_tries: Some(UInt32Value { value: QUERY_TRIES }),
        ..Default::default()
    };
    DnsCacheConfig {
        name: cluster(names).to_owned(),
        // All addresses of both families are tried, in turn and overlapping (RFC 8305).
        dns_lookup_family: DnsLookupFamily::All.into(),
        // Of names that have no address: an answer that says so is no failure for Envoy. Others are asked for when
        // their time to live is over.
        dns_refresh_rate: Some(MAX_RETRY_DELAY),
        dns_failure_refresh_rate: Some(RefreshRate {
            base_interval: Some(FIRST_RETRY_DELAY),
            max_interval: Some(MAX_RETRY_DELAY),
        }),
        max_hosts: Some(UInt32Value { value: MAX_HOSTS }),
        typed_dns_resolver_config: Some(TypedExtensionConfig {
            name: "envoy.network.dns_resolver.cares".to_owned(),
            typed_config: Some(any(&resolver)),
        }),
        resolved_address_filter: Some(resolved_address_filter(settings, names)),
        ..Default::default()
    }
}

/// The filter that drops addresses in blocked ranges from every answer.
fn resolved_address_filter(settings: &Settings, names: HostMatch) -> AddressMatcher {
    AddressMatcher {
        ranges: settings.blocked.ranges(names).into_iter().map(cidr_range).collect(),
        invert_match: false,
    }
}

fn cidr_range(range: IpNet) -> CidrRange {
    CidrRange {
        address_prefix: range.network().to_string(),
        prefix_len: Some(UInt32Value { value: range.prefix_len().into() }),
    }
}

/// The filter that resolves names for `tcp_proxy`, which cannot wait for a cluster to do so. It acts where
/// a connection has a dynamic host.
pub(super) fn filter(settings: &Settings, names: HostMatch) -> Filter {
    let config = FilterConfig { dns_cache_config: Some(cache(settings, names)), ..Default::default() };
    network_filter("envoy.filters.network.sni_dynamic_forward_proxy", &config)
}
