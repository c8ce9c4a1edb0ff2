//! The names of the clusters that all identities share. The first is Open Service Mesh's.

/// The cluster of global egress; it exists only while that is on.
pub const PASSTHROUGH: &str = "passthrough-outbound";
/// The cluster of dialled addresses.
pub const ORIGINAL_DST: &str = "egress-original-dst";
/// The cluster of names that the sidecar resolves.
pub const DNS: &str = "egress-dns";
/// The same for names that only a wildcard lists.
pub const DNS_WILDCARD: &str = "egress-dns-wildcard";
