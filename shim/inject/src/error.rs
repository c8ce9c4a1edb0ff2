/// Reason why a pod cannot have a sidecar.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InjectionError {
    /// A port in an annotation is invalid. The text is Open Service Mesh's.
    #[error("Invalid port value '{value}' specified for annotation '{annotation}'")]
    InvalidPort {
        /// Value of the annotation.
        value: String,
        /// Annotation.
        annotation: &'static str,
    },
    /// An address block in an annotation is invalid. The text is Open Service Mesh's.
    #[error("Invalid IP range '{value}' specified for annotation '{annotation}'")]
    InvalidBlock {
        /// Value of the annotation.
        value: String,
        /// Annotation.
        annotation: &'static str,
    },
    /// An annotation neither enables nor disables. The text is Open Service Mesh's.
    #[error("invalid annotation value for key \"{annotation}\": {value}")]
    InvalidSwitch {
        /// Value of the annotation.
        value: String,
        /// Annotation.
        annotation: &'static str,
    },
    /// An administrator does not permit the annotation.
    #[error(
        "pods may not change interception by annotation `{annotation}` here: remove it, or have someone who may write the namespace annotate it with `{switch}: {value}`",
        switch = super::POD_ANNOTATIONS_ANNOTATION,
        value = if *change == super::InterceptionChange::Extend { "tighten" } else { "all" }
    )]
    ForbiddenAnnotation {
        /// Annotation.
        annotation: &'static str,
        /// InterceptionChange that it would make.
        change: super::InterceptionChange,
    },
    /// A field of the MeshConfig is invalid.
    #[error("MeshConfig {field}: {problem}")]
    InvalidMeshConfig {
        /// Field.
        field: String,
        /// Problem and remedy.
        problem: String,
    },
    /// The image has an unsupported Envoy.
    #[error("image `{image}`: {problem}")]
    UnsupportedImage {
        /// Image.
        image: String,
        /// Problem.
        problem: String,
    },
    /// A container or volume of another sidecar has this name.
    #[error(
        "the pod already has a {what} `{name}` that osm-egress did not create: remove or rename it, or annotate the pod with `{}: disabled`",
        super::INJECTION_ANNOTATION
    )]
    NameTaken {
        /// Container or volume.
        what: &'static str,
        /// Name.
        name: String,
    },
    /// A container mounts a volume of the sidecar.
    #[error(
        "container `{container}` mounts volume `{volume}`, which belongs to the sidecar: remove the mount"
    )]
    ForbiddenMount {
        /// Container.
        container: String,
        /// Volume.
        volume: String,
    },
    /// The pod overrides names, and that is refused.
    #[error("{0}")]
    NameOverrides(String),
    /// A container runs as the sidecar's uid, so its connections would pass as the sidecar's.
    #[error(
        "container `{0}` runs as uid {uid}, which is the sidecar's, so its connections would not be intercepted: set another `securityContext.runAsUser`",
        uid = crate::interception::PROXY_UID
    )]
    ProxyUid(String),
    /// An update changes the image of the container with the sidecar's uid.
    #[error(
        "container `{0}` runs as the sidecar's uid, so its image cannot be changed in a running pod: set `spec.sidecar.envoyImage` of the MeshConfig and recreate the pod"
    )]
    SidecarImageChange(String),
    /// The service account's name makes the node ID ambiguous.
    #[error(
        "service account `{0}` has a dot in its name, so the sidecar's node ID would be ambiguous: use a name without dots"
    )]
    DottedServiceAccount(String),
    /// Interception would change the node's network.
    #[error(
        "a pod with `hostNetwork` cannot be intercepted, because it shares its node's network: remove `hostNetwork`, or annotate the pod with `{}: disabled`",
        super::INJECTION_ANNOTATION
    )]
    HostNetwork,
    /// Windows has no iptables.
    #[error(
        "a Windows pod cannot be intercepted: annotate it with `{}: disabled`",
        super::INJECTION_ANNOTATION
    )]
    Windows,
    /// A field of the pod has the wrong type or is missing.
    #[error("`{0}` is missing or invalid: correct the pod")]
    InvalidField(&'static str),
}
