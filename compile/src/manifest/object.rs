use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::spec::{
    Egress, Endpoints, HttpRouteGroup, MeshConfig, Service, TrafficTarget, UpstreamTrafficSetting, Workload,
};
use super::{Places, Position};

/// The kinds of objects that are looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub enum Kind {
    /// The mesh-wide settings.
    MeshConfig,
    /// What outside a set of service accounts may reach.
    Egress,
    /// Which HTTP requests.
    #[serde(rename = "HTTPRouteGroup")]
    HttpRouteGroup,
    /// How to connect.
    UpstreamTrafficSetting,
    /// Carries annotations.
    Namespace,
    /// Carries annotations.
    ServiceAccount,
    /// A destination in the mesh.
    Service,
    /// Where the pods of a service are.
    Endpoints,
    /// The same.
    EndpointSlice,
    /// Pods that a service stands for.
    Pod,
    /// What makes such pods.
    Deployment,
    /// The same.
    StatefulSet,
    /// The same.
    DaemonSet,
    /// Who may connect to whom in the mesh.
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

    /// The versions that are understood, the best one first.
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

    /// Whether objects of this kind live in a namespace.
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

/// Which object: there is at most one of each.
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
    /// Names an object.
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

/// What is read of an object's metadata besides its name.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Metadata {
    /// Labels.
    #[serde(default)]
    pub labels: Option<BTreeMap<String, String>>,
    /// Annotations.
    #[serde(default)]
    pub annotations: Option<BTreeMap<String, String>>,
    /// Counts changes of the specification, where a server keeps it.
    #[serde(default)]
    pub generation: Option<i64>,
    /// When a server made it, in a form whose order is that of time. Files may say anything here.
    #[serde(default, deserialize_with = "text_or_nothing", skip_serializing_if = "Option::is_none")]
    pub creation_timestamp: Option<String>,
    /// The state that was read, where a server keeps it.
    #[serde(skip)]
    pub revision: Revision,
}

fn text_or_nothing<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    Ok(serde_json::Value::deserialize(deserializer)?.as_str().map(str::to_owned))
}

/// The state of an object at its API server: names a change of it. An object that says the same is the same, whatever
/// its revision, so all are equal.
#[derive(Clone, Debug, Default)]
pub struct Revision {
    /// The identifier that no other object ever has.
    pub uid: String,
    /// The version with which the object began to say what it says.
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

/// What an object says, by kind.
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
    /// Where the pods of a service are, of either kind.
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

/// An object that was read, and where.
#[derive(Clone, Debug, PartialEq)]
pub struct Object {
    /// Which object it is.
    pub reference: ObjectRef,
    /// Its labels and annotations.
    pub metadata: Metadata,
    /// What it says.
    pub body: Body,
    /// The file that it stands in, or what else it came from.
    pub file: Arc<str>,
    /// Where its fields stand in that file.
    pub places: Places,
}

impl Object {
    /// Where a field stands; nothing where the object does not come from a text.
    #[must_use]
    pub fn position(&self, field: &str) -> Option<Position> {
        self.places.find(field)
    }
}
