//! The names that other parts of the system know. The listeners and the chain are Open Service Mesh's.

use egress_policy::contract;

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
pub const HTTP: &str = contract::cluster::HTTP;
/// The network plugin.
pub const NETWORK_PLUGIN: &str = contract::plugin::NETWORK;
/// The HTTP plugin.
pub const HTTP_PLUGIN: &str = contract::plugin::HTTP;
/// The header by which the HTTP plugin names the cluster of a request.
pub const CLUSTER_HEADER: &str = contract::header::CLUSTER;
/// The header that tells the workload why it was refused.
pub const DENIED_HEADER: &str = contract::header::DENIED;
