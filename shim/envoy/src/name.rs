//! The names that other parts of the system know. The listeners and the chain are Open Service Mesh's.

/// The cluster of the control plane, in the bootstrap.
pub const CONTROL_PLANE: &str = "osm-egress";
/// The listener that outbound connections are redirected to.
pub const LISTENER: &str = "outbound-listener";
/// The same for IPv6.
pub const LISTENER_IPV6: &str = "outbound-listener-ipv6";
/// Their filter chain.
pub const FILTER_CHAIN: &str = "outbound-egress-filter-chain";
/// Clusters.
pub use egress_compile::cluster::{DNS, DNS_WILDCARD, ORIGINAL_DST, PASSTHROUGH};
/// The cluster and internal listener where HTTP requests are decided.
pub const HTTP: &str = "egress-http";
/// The network plugin.
pub const NETWORK_PLUGIN: &str = "egress-policy";
/// The HTTP plugin.
pub const HTTP_PLUGIN: &str = "egress-http-policy";
/// The header by which the HTTP plugin names the cluster of a request.
pub const CLUSTER_HEADER: &str = "x-egress-cluster";
/// The header that tells the workload why it was refused.
pub const DENIED_HEADER: &str = "x-egress-denied";
