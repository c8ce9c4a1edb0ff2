//! Injection: a pod gets its sidecar, and an init container that intercepts what the pod sends.
//!
//! [`mutate`] is pure: a pod, what the control plane's settings and the MeshConfig say, and the pod with
//! its sidecar. [`review`] answers an API server with it, [`documents`] rewrites manifests with it.

mod annotations;
mod bootstrap;
mod bypass;
mod containers;
pub mod documents;
pub mod interception;
mod exclusions;
mod pod;
mod name_override;
mod error;
mod review;
mod user;

use egress_envoy::IpFamilies;
use egress_envoy::credentials::Authority;

pub use annotations::{Choice, choice};
pub use bypass::bypasses;
pub use pod::{Injected, mutate};
pub use name_override::{LedName, PodDns, led_names};
pub use error::Refusal;
pub use review::review;
pub use user::has_proxy_uid;

/// Whether a pod, or the pods of a namespace, get a sidecar: Open Service Mesh's annotation.
pub const INJECTION_ANNOTATION: &str = "openservicemesh.io/sidecar-injection";
/// What the annotations of pods may change, where a namespace says it: whoever may write namespaces.
pub const POD_ANNOTATIONS_ANNOTATION: &str = "openservicemesh.io/pod-annotations";
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
    /// What the annotations of pods may change, where their namespace does not say.
    pub pod_annotations: PodAnnotations,
    /// What becomes of pods that lead names by `hostAliases` and `dnsConfig`.
    pub pod_dns: PodDns,
}

/// What the annotations of pods may change about their interception.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum PodAnnotations {
    /// Nothing.
    None,
    /// They may have more intercepted.
    Tighten,
    /// They may have less intercepted too, as in Open Service Mesh.
    #[default]
    All,
}

impl PodAnnotations {
    /// Reads the annotation of a namespace; nothing where it is none of the words.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        clap::ValueEnum::from_str(text, false).ok()
    }

    /// Whether a change is permitted.
    #[must_use]
    pub fn permits(self, change: Change) -> bool {
        match self {
            Self::None => false,
            Self::Tighten => change == Change::More,
            Self::All => true,
        }
    }
}

impl std::fmt::Display for PodAnnotations {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::None => "none",
            Self::Tighten => "tighten",
            Self::All => "all",
        })
    }
}

/// What an annotation changes about what is intercepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// More is intercepted.
    More,
    /// Less is.
    Less,
}

#[cfg(test)]
mod tests;
