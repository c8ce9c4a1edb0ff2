//! The names of the clusters that all identities share. The first is Open Service Mesh's.

/// The cluster of global egress; it exists only while that is on.
pub const PASSTHROUGH: &str = egress_policy::contract::cluster::PASSTHROUGH;
/// The cluster of dialled addresses.
pub const ORIGINAL_DST: &str = egress_policy::contract::cluster::ORIGINAL_DST;
/// The cluster of names that the sidecar resolves.
pub const DNS: &str = egress_policy::contract::cluster::DNS;
/// The same for names that only a wildcard lists.
pub const DNS_WILDCARD: &str = egress_policy::contract::cluster::DNS_WILDCARD;
