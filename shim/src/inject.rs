//! Injection: a pod gets its sidecar, and an init container that intercepts what the pod sends.
//!
//! [`mutate`] is pure: a pod, what the control plane's settings and the MeshConfig say, and the pod with
//! its sidecar. [`review`] answers an API server with it, [`documents`] rewrites manifests with it.

mod bootstrap;
mod containers;
pub mod documents;
mod lists;
mod pod;
mod pod_dns;
mod refusal;
mod review;

use crate::envoy::IpFamilies;
use crate::envoy::credentials::Authority;

pub use pod::{Injected, mutate};
pub use pod_dns::{LedName, PodDns, led_names};
pub use refusal::Refusal;
pub use review::{Choice, choice, review};

/// Whether a pod, or the pods of a namespace, get a sidecar: Open Service Mesh's annotation.
pub const INJECTION_ANNOTATION: &str = "openservicemesh.io/sidecar-injection";
/// Whether the sidecar is an init container that goes on running, for API servers from 1.29 on.
pub const NATIVE_ANNOTATION: &str = "openservicemesh.io/native-sidecar";
/// The label of pods that have a sidecar of ours.
pub const INJECTED_LABEL: &str = "openservicemesh.io/egress-sidecar";
/// The sidecar's container.
pub const SIDECAR: &str = "envoy";
/// The container that intercepts.
pub const INIT: &str = "osm-init";
/// The volume with the token that says who the sidecar is.
pub const TOKEN_VOLUME: &str = "osm-egress-token";
/// The volume with the sidecar's own hosts file.
pub const HOSTS_VOLUME: &str = "osm-egress-hosts";
/// Where the kubelet mounts the pod's hosts file into every container that mounts nothing there itself.
pub const HOSTS_PATH: &str = "/etc/hosts";

/// What is the same for all pods, and not in the MeshConfig.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Envoy, unless the MeshConfig says otherwise.
    pub sidecar_image: String,
    /// What has `osm-egress` and iptables in it, unless the MeshConfig says otherwise.
    pub init_image: String,
    /// The control plane's host.
    pub xds_host: String,
    /// The control plane's port.
    pub xds_port: u16,
    /// Whose certificate the control plane has. Without it there is no TLS, and no token is sent.
    pub xds_ca: Option<Authority>,
    /// Whom the token is for.
    pub token_audience: String,
    /// What is intercepted.
    pub ip_families: IpFamilies,
    /// The sidecar's worker threads.
    pub concurrency: u16,
    /// Whether sidecars are init containers that go on running, where a pod does not say.
    pub native_sidecar: bool,
    /// What becomes of pods that lead names by `hostAliases` and `dnsConfig`.
    pub pod_dns: PodDns,
}

#[cfg(test)]
mod tests;
