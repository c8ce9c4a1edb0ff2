//! Injection: adds to a pod its sidecar, and an init container that redirects its connections.
//!
//! [`inject_sidecar`] is pure: it takes a pod, the control plane's settings and the MeshConfig, and returns the pod with its
//! sidecar. [`review_pod`] uses it to answer an API server, [`documents`] to rewrite manifests.

mod annotations;
mod bootstrap;
mod bypass;
mod containers;
mod decision;
pub mod documents;
mod error;
mod exclusions;
pub mod interception;
mod name_override;
mod pod;
pub mod pod_security;
mod review;
mod user;
mod validation;
mod workload;

use egress_envoy::IpFamilies;
use egress_envoy::credentials::Authority;

pub use annotations::parse_enabled;
pub use bypass::find_bypasses;
pub use error::InjectionError;
pub use name_override::{NameOverride, PodDns, find_name_overrides};
pub use pod::{InjectedPod, inject_sidecar};
pub use review::review_pod;
pub use user::has_proxy_uid;
pub use validation::{InvalidArguments, VALIDATE_COMMAND, VALIDATOR_UID, expected_interception};

/// Open Service Mesh's annotation that enables or disables injection for a pod or for the pods of a namespace.
pub const INJECTION_ANNOTATION: &str = "openservicemesh.io/sidecar-injection";
/// Annotation of a namespace that limits how far annotations of its pods may change interception.
pub const POD_ANNOTATIONS_ANNOTATION: &str = "openservicemesh.io/pod-annotations";
/// Annotation that makes the sidecar a native one: an init container that keeps running (Kubernetes 1.29 or newer).
pub const NATIVE_ANNOTATION: &str = "openservicemesh.io/native-sidecar";
/// Annotation of a namespace: the CNI plugin intercepts its pods, and no init container with NET_ADMIN.
pub const CNI_ANNOTATION: &str = "openservicemesh.io/egress-cni";
/// Label of pods with an injected sidecar.
pub const INJECTED_LABEL: &str = "openservicemesh.io/egress-sidecar";
/// Name of the sidecar's container.
pub const SIDECAR_CONTAINER: &str = "envoy";
/// Name of the init container that sets up interception, or proves it.
pub const INIT_CONTAINER: &str = "osm-init";
/// Volume with the token that identifies the sidecar.
pub const TOKEN_VOLUME: &str = "osm-egress-token";
/// Volume with the sidecar's own hosts file.
pub const HOSTS_VOLUME: &str = "osm-egress-hosts";
/// Path where the kubelet mounts the pod's hosts file into each container that mounts nothing there itself.
pub const HOSTS_PATH: &str = "/etc/hosts";

/// Injection settings that are the same for all pods and not in the MeshConfig.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Envoy image, unless the MeshConfig names one.
    pub sidecar_image: String,
    /// Image with `osm-egress` and iptables, unless the MeshConfig names one.
    pub init_image: String,
    /// Host of the control plane.
    pub xds_host: String,
    /// Port of the control plane.
    pub xds_port: u16,
    /// Authority of the control plane's certificate. Without it there is no TLS, and no token is sent.
    pub xds_ca: Option<Authority>,
    /// Audience of the token.
    pub token_audience: String,
    /// Address families that are intercepted.
    pub ip_families: IpFamilies,
    /// Worker threads of the sidecar.
    pub concurrency: u16,
    /// Makes sidecars native unless a pod's annotation says otherwise.
    pub native_sidecar: bool,
    /// Leaves the rules to the CNI plugin unless the namespace's annotation says otherwise.
    pub cni: bool,
    /// AnnotationChanges that annotations of pods may make, unless their namespace says otherwise.
    pub pod_annotations: PodAnnotations,
    /// Treatment of pods that override names by `hostAliases` and `dnsConfig`.
    pub pod_dns: PodDns,
}

/// AnnotationChanges that annotations of pods may make to their interception.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum PodAnnotations {
    /// No changes.
    None,
    /// Changes that intercept more.
    Tighten,
    /// All changes, as in Open Service Mesh.
    #[default]
    All,
}

impl PodAnnotations {
    /// Parses the annotation of a namespace; `None` for an unknown value.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        clap::ValueEnum::from_str(text, false).ok()
    }

    /// Returns true if a change is permitted.
    #[must_use]
    pub fn permits(self, change: InterceptionChange) -> bool {
        match self {
            Self::None => false,
            Self::Tighten => change == InterceptionChange::Extend,
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

/// InterceptionChange of interception by an annotation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InterceptionChange {
    /// More is intercepted.
    Extend,
    /// Less is intercepted.
    Reduce,
}

#[cfg(test)]
mod tests;
