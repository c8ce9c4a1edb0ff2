use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::spec::{
    Egress, Endpoints, HttpRouteGroup, MeshConfig, Service, TrafficTarget, UpstreamTrafficSetting, Workload,
};
use super::{Position, SourceMap};

/// The kinds of objects that the compiler reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub enum Kind {
    /// Mesh-wide settings.
    MeshConfig,
    /// The destinations outside the mesh that some service accounts may reach.
    Egress,
    /// A set of HTTP routes.
    #[serde(rename = "HTTPRouteGroup")]
    HttpRouteGroup,
    /// Connection settings.
    UpstreamTrafficSetting,
    /// A namespace, read for its labels and annotations.
    Namespace,
    /// A service account, read for its annotations.
    ServiceAccount,
    /// A destination in the mesh.
    Service,
    /// The addresses of the pods of a service.
    Endpoints,
    /// A part of the addresses of the pods of a service.
    EndpointSlice,
    /// A pod.
    Pod,
    /// A template of pods.
    Deployment,
    /// A template of pods with stable names.
    StatefulSet,
    /// A template of pods, one per node.
    DaemonSet,
    /// A rule that lets service accounts connect to each other within the mesh.
    TrafficTarget,
}

impl Kind {
    /// Every kind.
    pub const ALL: [Self; 14] = [
        Self::MeshConfig,
        Self::Egress,
        Self::HttpRouteGroup,
        Self::UpstreamTrafficSetting,
        Self::Namespace,
        Self::ServiceAccount,
        Self::Service,
        Self::Endpoints,
        Self::EndpointSlice,
        Self::Pod,
        Self::Deployment,
        Self::StatefulSet,
        Self::DaemonSet,
        Self::TrafficTarget,
    ];

    /// The name in manifests.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::MeshConfig => "MeshConfig",
            Self::Egress => "Egress",
            Self::HttpRouteGroup => "HTTPRouteGroup",
            Self::UpstreamTrafficSetting => "UpstreamTrafficSetting",
            Self::Namespace => "Namespace",
            Self::ServiceAccount => "ServiceAccount",
            Self::Service => "Service",
            Self::Endpoints => "Endpoints",
            Self::EndpointSlice => "EndpointSlice",
            Self::Pod => "Pod",
            Self::Deployment => "Deployment",
            Self::StatefulSet => "StatefulSet",
            Self::DaemonSet => "DaemonSet",
            Self::TrafficTarget => "TrafficTarget",
        }
    }

    /// The API group; empty for the core group.
    #[must_use]
    pub const fn group(self) -> &'static str {
        match self {
            Self::MeshConfig => "config.openservicemesh.io",
            Self::Egress | Self::UpstreamTrafficSetting => "policy.openservicemesh.io",
            Self::HttpRouteGroup => "specs.smi-spec.io",
            Self::TrafficTarget => "access.smi-spec.io",
            Self::EndpointSlice => "discovery.k8s.io",
            Self::Deployment | Self::StatefulSet | Self::DaemonSet => "apps",
            Self::Namespace | Self::ServiceAccount | Self::Service | Self::Endpoints | Self::Pod => "",
        }
    }

    /// The supported versions, the preferred one first.
    #[must_use]
    pub const fn versions(self) -> &'static [&'static str] {
        match self {
            Self::MeshConfig => &["v1alpha2", "v1alpha1"],
            Self::Egress | Self::UpstreamTrafficSetting => &["v1alpha1"],
            Self::HttpRouteGroup => &["v1alpha4"],
            Self::TrafficTarget => &["v1alpha3"],
            Self::EndpointSlice => &["v1", "v1beta1"],
            Self::Deployment | Self::StatefulSet | Self::DaemonSet => &["v1"],
            Self::Namespace | Self::ServiceAccount | Self::Service | Self::Endpoints | Self::Pod => &["v1"],
        }
    }

    /// Returns true if objects of this kind belong to a namespace.
    #[must_use]
    pub const fn is_namespaced(self) -> bool {
        !matches!(self, Self::Namespace)
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A reference to an object by kind, namespace and name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct ObjectRef {
    /// Its kind.
    pub kind: Kind,
    /// Its namespace; empty for kinds that have none.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub namespace: String,
    /// Its name.
    pub name: String,
}

impl ObjectRef {
    /// Makes a reference.
    pub fn new(kind: Kind, namespace: impl Into<String>, name: impl Into<String>) -> Self {
        Self { kind, namespace: namespace.into(), name: name.into() }
    }
}

impl fmt::Display for ObjectRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ", self.kind)?;
        if !self.namespace.is_empty() {
            write!(f, "{}/", self.namespace)?;
        }
        f.write_str(&self.name)
    }
}

/// The metadata of an object, without its name.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Metadata {
    /// Labels.
    #[serde(default)]
    pub labels: Option<BTreeMap<String, String>>,
    /// Annotations.
    #[serde(default)]
    pub annotations: Option<BTreeMap<String, String>>,
    /// The generation: the server's count of changes of the specification.
    #[serde(default)]
    pub generation: Option<i64>,
    /// The creation time that a server sets, in a form that sorts by time. Files may contain anything here.
    #[serde(default, deserialize_with = "text_or_nothing", skip_serializing_if = "Option::is_none")]
    pub creation_timestamp: Option<String>,
    /// The revision that was read, if it comes from a server.
    #[serde(skip)]
    pub revision: Revision,
}

fn text_or_nothing<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    Ok(serde_json::Value::deserialize(deserializer)?.as_str().map(str::to_owned))
}

/// The revision of an object at its API server. Objects with the same content are equal whatever their
/// revision, so all revisions compare as equal.
#[derive(Clone, Debug, Default)]
pub struct Revision {
    /// The unique identifier of the object.
    pub uid: String,
    /// The first resource version with the current content.
    pub version: String,
}

impl PartialEq for Revision {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Eq for Revision {}

impl Metadata {
    /// The value of an annotation.
    #[must_use]
    pub fn annotation(&self, name: &str) -> Option<&str> {
        self.annotations.as_ref()?.get(name).map(String::as_str)
    }
}

/// The content of an object, by kind.
#[derive(Clone, Debug, PartialEq)]
pub enum Body {
    /// Mesh-wide settings.
    MeshConfig(MeshConfig),
    /// A policy.
    Egress(Egress),
    /// A set of routes.
    HttpRouteGroup(HttpRouteGroup),
    /// Connection settings.
    UpstreamTrafficSetting(UpstreamTrafficSetting),
    /// Nothing but metadata.
    Namespace,
    /// Nothing but metadata.
    ServiceAccount,
    /// A service.
    Service(Service),
    /// The addresses of the pods of a service, of either kind.
    Endpoints(Kind, Endpoints),
    /// Pods, of any kind.
    Workload(Kind, Workload),
    /// A rule of the mesh.
    TrafficTarget(TrafficTarget),
}

impl Body {
    /// The kind.
    #[must_use]
    pub const fn kind(&self) -> Kind {
        match self {
            Self::MeshConfig(_) => Kind::MeshConfig,
            Self::Egress(_) => Kind::Egress,
            Self::HttpRouteGroup(_) => Kind::HttpRouteGroup,
            Self::UpstreamTrafficSetting(_) => Kind::UpstreamTrafficSetting,
            Self::Namespace => Kind::Namespace,
            Self::ServiceAccount => Kind::ServiceAccount,
            Self::Service(_) => Kind::Service,
            Self::TrafficTarget(_) => Kind::TrafficTarget,
            Self::Endpoints(kind, _) | Self::Workload(kind, _) => *kind,
        }
    }
}

/// An object, and where it was read from.
#[derive(Clone, Debug, PartialEq)]
pub struct Object {
    /// Its kind, namespace and name.
    pub reference: ObjectRef,
    /// Its labels and annotations.
    pub metadata: Metadata,
    /// Its content.
    pub body: Body,
    /// The file that defines it, or another name of its origin.
    pub file: Arc<str>,
    /// The positions of its fields in that file.
    pub source_map: SourceMap,
}

impl Object {
    /// The position of a field; `None` if the object does not come from a text.
    #[must_use]
    pub fn position(&self, field: &str) -> Option<Position> {
        self.source_map.find(field)
    }
}
