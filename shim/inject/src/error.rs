/// Why a pod gets no sidecar.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Open Service Mesh's text.
    #[error("Invalid port value '{value}' specified for annotation '{annotation}'")]
    Port {
        /// What stands there.
        value: String,
        /// The annotation.
        annotation: &'static str,
    },
    /// Open Service Mesh's text.
    #[error("Invalid IP range '{value}' specified for annotation '{annotation}'")]
    Block {
        /// What stands there.
        value: String,
        /// The annotation.
        annotation: &'static str,
    },
    /// Open Service Mesh's text.
    #[error("invalid annotation value for key \"{annotation}\": {value}")]
    Switch {
        /// What stands there.
        value: String,
        /// The annotation.
        annotation: &'static str,
    },
    /// What an administrator does not permit.
    #[error(
        "pods may not change what is intercepted by annotation `{annotation}` here: remove it, or let whoever may write the namespace annotate that with `{switch}: {value}`",
        switch = super::POD_ANNOTATIONS_ANNOTATION,
        value = if *change == super::Change::More { "tighten" } else { "all" }
    )]
    Annotation {
        /// The annotation.
        annotation: &'static str,
        /// What it would change.
        change: super::Change,
    },
    /// Something in the MeshConfig.
    #[error("MeshConfig {field}: {problem}")]
    MeshConfig {
        /// The field.
        field: String,
        /// What is wrong with it.
        problem: String,
    },
    /// An Envoy that does not work.
    #[error("image `{image}`: {problem}")]
    Image {
        /// The image.
        image: String,
        /// What is wrong with it.
        problem: String,
    },
    /// Somebody else's sidecar, or one by hand.
    #[error(
        "the pod has a {what} `{name}` already, and not from osm-egress: remove or rename it, or annotate the pod with `{}: disabled`",
        super::INJECTION_ANNOTATION
    )]
    Taken {
        /// Container or volume.
        what: &'static str,
        /// Its name.
        name: String,
    },
    /// What the sidecar has is not for others.
    #[error("container `{container}` mounts the volume `{volume}`, which is the sidecar's: remove the mount")]
    Mount {
        /// The container.
        container: String,
        /// The volume.
        volume: String,
    },
    /// The pod leads names elsewhere.
    #[error("{0}")]
    LedNames(String),
    /// What it sends would pass for the sidecar's.
    #[error(
        "container `{0}` runs as uid {uid}, which is the sidecar's: what it sends would not be intercepted; give it another `securityContext.runAsUser`",
        uid = crate::interception::PROXY_UID
    )]
    ProxyUid(String),
    /// Another image would pass for the sidecar.
    #[error(
        "container `{0}` has the sidecar's uid, so its image cannot be changed in a pod that runs: set `spec.sidecar.envoyImage` of the MeshConfig, and make the pod anew"
    )]
    Sidecar(String),
    /// Its proxy would seem to be somebody else's.
    #[error(
        "service account `{0}` has a dot in its name, and so a proxy cannot say whose it is: use one without"
    )]
    ServiceAccount(String),
    /// Interception would change the node.
    #[error("a pod with `hostNetwork` cannot be intercepted: it shares the network of its node")]
    HostNetwork,
    /// There is no iptables there.
    #[error("a pod for Windows cannot be intercepted")]
    Windows,
    /// What is there is no pod.
    #[error("`{0}` is not what a pod has there")]
    Shape(&'static str),
}
