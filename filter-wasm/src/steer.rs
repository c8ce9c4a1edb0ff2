//! Where an allowed connection goes, in Envoy's terms.

use egress_policy::Destination;

/// The address that was dialled.
pub(crate) const ORIGINAL_DST: &str = "egress-original-dst";
/// The address that the sidecar resolves.
pub(crate) const DNS: &str = "egress-dns";
/// The internal listener where each request is decided.
pub(crate) const HTTP: &str = "egress-http";
/// Global egress.
pub(crate) const PASSTHROUGH: &str = "passthrough-outbound";

/// Overrides the cluster of `tcp_proxy`.
pub(crate) const TCP_CLUSTER: &str = "envoy.tcp_proxy.cluster";
/// The host that the dynamic forward proxy resolves.
pub(crate) const DYNAMIC_HOST: &str = "envoy.upstream.dynamic_host";
/// The port that goes with it.
pub(crate) const DYNAMIC_PORT: &str = "envoy.upstream.dynamic_port";

/// The cluster for a destination.
pub(crate) fn cluster(to: &Destination) -> &'static str {
    match to {
        Destination::Dialled => ORIGINAL_DST,
        Destination::Resolved(_) => DNS,
        Destination::Passthrough => PASSTHROUGH,
    }
}
