use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::spec::{Egress, HttpRouteGroup, MeshConfig, UpstreamTrafficSetting};
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
}

impl Kind {
    /// Every kind.
    pub const ALL: [Self; 7] = [
        Self::MeshConfig,
        Self::Egress,
        Self::HttpRouteGroup,
        Self::UpstreamTrafficSetting,
        Self::Namespace,
        Self::ServiceAccount,
        Self::Service,
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
        }
    }

    /// The API group; empty for the core group.
    #[must_use]
    pub const fn group(self) -> &'static str {
        match self {
            Self::MeshConfig => "config.openservicemesh.io",
            Self::Egress | Self::UpstreamTrafficSetting => "policy.openservicemesh.io",
            Self::HttpRouteGroup => "specs.smi-spec.io",
            Self::Namespace | Self::ServiceAccount | Self::Service => "",
        }
    }

    /// The versions that are understood, the best one first.
    #[must_use]
    pub const fn versions(self) -> &'static [&'static str] {
        match self {
            Self::MeshConfig => &["v1alpha2", "v1alpha1"],
            Self::Egress | Self::UpstreamTrafficSetting => &["v1alpha1"],
            Self::HttpRouteGroup => &["v1alpha4"],
            Self::Namespace | Self::ServiceAccount | Self::Service => &["v1"],
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
}

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
    /// The specification as it was written.
    Service(serde_json::Value),
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
