//! Names of the clusters that all identities share. The first name is Open Service Mesh's.

/// The cluster for global egress. It exists only while global egress is on.
pub const PASSTHROUGH: &str = "passthrough-outbound";
/// The cluster that connects to the original destination.
pub const ORIGINAL_DST: &str = "egress-original-dst";
/// The cluster for names that the sidecar resolves.
pub const DNS: &str = "egress-dns";
/// The cluster for resolved names that only a wildcard lists.
pub const DNS_WILDCARD: &str = "egress-dns-wildcard";
