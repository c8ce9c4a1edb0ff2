//! The DNS caches of the sidecar: one for names that rules list, one for names that only a wildcard lists, which may lead to
//! fewer addresses.

use std::time::Duration;

use egress_policy::HostMatch;
use ipnet::IpNet;

use crate::messages::address;
use crate::settings::Settings;
use crate::value::Value;
use crate::{config, name};

/// The most names in a cache. More are refused: each is asked for again and again while it is used.
const MAX_HOSTS: u32 = 16_384;

/// The first and the longest delay before a name that could not be resolved is asked for again. Until then it is refused, so
/// a minute, which is Envoy's, would shut a name for that long after its name server is back.
const FIRST_RETRY_DELAY: Duration = Duration::from_secs(1);
const MAX_RETRY_DELAY: Duration = Duration::from_secs(5);
/// The time before a name server is asked again, in seconds, and the number of tries. Envoy gives a name
/// 5 s: with its own values, a datagram that is lost is not sent again in that time, and a name server that answers for
/// IPv4 and never for IPv6 makes a name fail.
const QUERY_TIMEOUT: u32 = 1;
const QUERY_TRIES: u32 = 3;

/// The cluster of names that are listed so.
pub(super) const fn cluster(names: HostMatch) -> &'static str {
    match names {
        HostMatch::Exact => name::DNS,
        HostMatch::Wildcard => name::DNS_WILDCARD,
    }
}

/// The DNS cache that clusters and filters share; Envoy wants it spelt the same everywhere.
pub(super) fn cache(settings: &Settings, names: HostMatch) -> Value {
    // None: those of `/etc/resolv.conf`.
    let resolvers = settings.dns_resolvers.iter().copied().map(address);
    let ranges = settings.blocked.ranges(names).into_iter().map(cidr_range);
    config!({
        "name": cluster(names),
        /// All addresses of both families are tried, in turn and overlapping (RFC 8305).
        "dns_lookup_family": "ALL",
        /// Until a name without an address, or that could not be resolved, is asked for again, it is refused: Envoy's
        /// minute is long.
        "dns_refresh_rate": MAX_RETRY_DELAY,
        "dns_failure_refresh_rate": {"base_interval": FIRST_RETRY_DELAY, "max_interval": MAX_RETRY_DELAY},
        "max_hosts": MAX_HOSTS,
        /// The name and nothing else: with Kubernetes' search domains, which come first (`ndots:5`), whoever makes a
        /// Service could lead it.
        "typed_dns_resolver_config": {
            "name": "envoy.network.dns_resolver.cares",
            "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.network.dns_resolver.cares.v3.CaresDnsResolverConfig",
                "resolvers": (!settings.dns_resolvers.is_empty()).then(|| Value::from_iter(resolvers)),
                "dns_resolver_options": {"no_default_search_domain": true},
                /// A datagram that is lost is sent again within the 5 s that Envoy gives a name.
                "query_timeout_seconds": QUERY_TIMEOUT,
                "query_tries": QUERY_TRIES,
            },
        },
        /// Addresses to which a name never leads: this machine, its link, the clouds' metadata, and (for names that only
        /// a wildcard lists) private networks.
        "resolved_address_filter": {"ranges": Value::from_iter(ranges)},
    })
}

fn cidr_range(range: IpNet) -> Value {
    config!({"address_prefix": range.network().to_string(), "prefix_len": u32::from(range.prefix_len())})
}

/// The filter that resolves names for `tcp_proxy`, which cannot wait for a cluster to do so. It acts where
/// a connection has a dynamic host.
pub(super) fn filter(settings: &Settings, names: HostMatch) -> Value {
    config!({
        "name": "envoy.filters.network.sni_dynamic_forward_proxy",
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.filters.network.sni_dynamic_forward_proxy.v3.FilterConfig",
            "dns_cache_config": cache(settings, names),
        },
    })
}
