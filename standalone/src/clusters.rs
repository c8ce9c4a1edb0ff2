//! Clusters that only some configurations have. Aliases (`*name`) refer to anchors in `envoy/standalone.yaml`.

use std::time::Duration;

use egress_compile::{Limits, OwnCluster};
use egress_policy::HostPattern;
use egress_policy::contract::cluster;

use crate::quoted;

/// Formats the cluster for global egress.
pub(super) fn passthrough() -> String {
    format!(
        "  - name: {}
    type: ORIGINAL_DST
    lb_policy: CLUSTER_PROVIDED
    connect_timeout: 5s
    connection_pool_per_downstream_connection: true
    upstream_connection_options: *probed
    circuit_breakers: *unlimited
    typed_extension_protocol_options: *http
",
        cluster::PASSTHROUGH
    )
}

/// The connect timeout of Open Service Mesh.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Formats the cluster of rules with connection settings.
pub(super) fn own(cluster: &OwnCluster) -> String {
    let OwnCluster { name, host, limits } = cluster;
    let (statistics, kind) = match host {
        None => (String::new(), "    type: ORIGINAL_DST\n".to_owned()),
        Some(host) => {
            let cache = match host {
                HostPattern::Exact(_) => "*dns",
                HostPattern::Below(_) => "*dns_wildcard",
            };
            let kind = format!(
                "    cluster_type:\n      name: envoy.clusters.dynamic_forward_proxy\n      typed_config:\n        \
                 \"@type\": type.googleapis.com/envoy.extensions.clusters.dynamic_forward_proxy.v3.ClusterConfig\n        \
                 dns_cache_config: {cache}\n"
            );
            // Open Service Mesh uses this name for statistics.
            (format!("    alt_stat_name: {}\n", quoted(&name.replace(['.', ':'], "_"))), kind)
        }
    };
    format!(
        "  - name: {}\n{statistics}    lb_policy: CLUSTER_PROVIDED\n{}{kind}",
        quoted(name),
        limited(limits)
    )
}

fn limited(limits: &Limits) -> String {
    let Limits {
        connect_timeout,
        max_connections,
        max_requests,
        max_pending_requests,
        max_retries,
        max_requests_per_connection,
    } = limits;
    let timeout = connect_timeout.unwrap_or(CONNECT_TIMEOUT);
    // A duration has at most nine digits after the point.
    let timeout = format!("{}.{:09}", timeout.as_secs(), timeout.subsec_nanos());
    let timeout = timeout.trim_end_matches('0').trim_end_matches('.');
    let most = |limit: &Option<u32>| limit.unwrap_or(u32::MAX);
    let breakers = format!(
        "    circuit_breakers:\n      thresholds:\n      - {{max_connections: {}, max_pending_requests: {}, \
         max_requests: {}, max_retries: {}, track_remaining: true}}\n",
        most(max_connections),
        most(max_pending_requests),
        most(max_requests),
        most(max_retries)
    );
    let options = match max_requests_per_connection {
        None => "    typed_extension_protocol_options: *http\n".to_owned(),
        Some(most) => format!(
            "    typed_extension_protocol_options:\n      envoy.extensions.upstreams.http.v3.HttpProtocolOptions:\n        \
             \"@type\": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions\n        \
             common_http_protocol_options: {{idle_timeout: 60s, max_headers_count: 10000, \
             max_response_headers_kb: 8192, max_requests_per_connection: {most}}}\n        \
             upstream_http_protocol_options: {{auto_sni: true, auto_san_validation: true}}\n        \
             use_downstream_protocol_config: *protocol\n"
        ),
    };
    // With a limit, clients share connections: Envoy gives each pool a first one whatever the limit.
    let pool = match max_connections {
        None => "    connection_pool_per_downstream_connection: true\n",
        Some(_) => "",
    };
    format!(
        "    connect_timeout: {timeout}s\n{pool}    upstream_connection_options: *probed\n{breakers}{options}"
    )
}
