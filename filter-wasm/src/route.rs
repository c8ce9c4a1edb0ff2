//! Where an allowed connection goes, in Envoy's terms.

use egress_policy::{Destination, HostMatch, Permit};

/// The address that was dialled.
pub(crate) const ORIGINAL_DST: &str = "egress-original-dst";
/// The address that the sidecar resolves.
pub(crate) const DNS: &str = "egress-dns";
/// The same for names that only a wildcard lists: they lead to fewer addresses.
pub(crate) const DNS_WILDCARD: &str = "egress-dns-wildcard";
/// The internal listener where each request is decided.
pub(crate) const HTTP: &str = "egress-http";
/// Global egress.
pub(crate) const PASSTHROUGH: &str = "passthrough-outbound";

/// Overrides the cluster of `tcp_proxy`.
pub(crate) const TCP_CLUSTER: &str = "envoy.tcp_proxy.cluster";
/// The host that the dynamic forward proxy resolves.
pub(crate) const DYNAMIC_HOST: &str = "envoy.upstream.dynamic_host";
/// A name that a rule lists itself, for a TCP connection. A string without a meaning of its own in Envoy;
/// the listener makes it the dynamic host, when the filter for wildcards has passed.
pub(crate) const EXACT_NAME: &str = "envoy.string";
/// The port that goes with it.
pub(crate) const DYNAMIC_PORT: &str = "envoy.upstream.dynamic_port";

/// The cluster for what was allowed: the rule's own, or the one that all share.
pub(crate) fn cluster<'p>(permit: &Permit<'p>) -> &'p str {
    match (permit.cluster, &permit.to) {
        (Some(own), _) => own,
        (None, Destination::Original) => ORIGINAL_DST,
        (None, Destination::Resolved(_, HostMatch::Exact)) => DNS,
        (None, Destination::Resolved(_, HostMatch::Wildcard)) => DNS_WILDCARD,
        (None, Destination::Passthrough) => PASSTHROUGH,
    }
}
