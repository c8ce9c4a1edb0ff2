//! Names of the clusters that all identities share. The first name is Open Service Mesh's.

/// The cluster for global egress. It exists only while global egress is on.
pub const PASSTHROUGH: &str = egress_policy::contract::cluster::PASSTHROUGH;
/// The cluster that connects to the original destination.
pub const ORIGINAL_DST: &str = egress_policy::contract::cluster::ORIGINAL_DST;
/// The cluster for names that the sidecar resolves.
pub const DNS: &str = egress_policy::contract::cluster::DNS;
/// The cluster for resolved names that only a wildcard lists.
pub const DNS_WILDCARD: &str = egress_policy::contract::cluster::DNS_WILDCARD;
