//! The policy document: what the control plane writes and the filter reads. JSON, camelCase.
//!
//! Unknown fields are refused. An absent list means "any"; an empty list means "none".

mod intersection;
mod read;

use std::fmt;
use std::num::NonZeroU16;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::{Address, Cidr, HostPattern, Identity};

/// The only `apiVersion` there is.
pub const API_VERSION: &str = "egress-policy/v1";

/// Everything that decides the egress of one identity.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Document {
    /// The format of this document.
    pub api_version: ApiVersion,
    /// Whose egress this is.
    pub identity: Identity,
    /// Names this content: equal content has an equal version.
    pub version: String,
    /// What happens to what no rule allows.
    pub mode: Mode,
    /// What is allowed. Rules only add permission; their order decides which of several is named.
    // Shared, because one object may name a thousand identities.
    #[cfg_attr(feature = "schema", schemars(with = "Vec<Rule>"))]
    pub rules: Vec<Arc<Rule>>,
    /// Destinations in the mesh. They are not egress: rules and modes neither open nor close them.
    // Shared, because most identities of a mesh see the same.
    #[serde(default, skip_serializing_if = "is_empty")]
    #[cfg_attr(feature = "schema", schemars(with = "Vec<InMesh>"))]
    pub in_mesh: Arc<[InMesh]>,
}

fn is_empty(services: &Arc<[InMesh]>) -> bool {
    services.is_empty()
}

/// A service of the mesh.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct InMesh {
    /// The Service object: `namespace/name`.
    pub service: String,
    /// Its addresses.
    #[cfg_attr(feature = "schema", schemars(with = "Vec<String>"))]
    pub addresses: Vec<Address>,
    /// Its ports.
    pub ports: Vec<Port>,
    /// Whether the mesh lets this identity connect to it.
    pub allowed: bool,
}

/// `egress-policy/v1`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub enum ApiVersion {
    /// The first version.
    #[default]
    #[serde(rename = "egress-policy/v1")]
    V1,
}

/// What happens to what no rule allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum Mode {
    /// It is refused.
    Enforce,
    /// It is let through and recorded.
    Audit,
    /// Rules are not looked at: everything goes through the cluster `passthrough-outbound`.
    Passthrough,
}

/// What the bytes on a port are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum Protocol {
    /// Anything: decided by port and address alone.
    Tcp,
    /// TLS: decided by the name in the first ClientHello.
    Https,
    /// Plaintext HTTP: each request is decided by its authority, path, method and headers.
    Http,
}

/// A TCP port, never 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(transparent)]
pub struct Port(NonZeroU16);

/// One permission.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Rule {
    /// The Egress object it comes from: `namespace/name`.
    pub policy: String,
    /// Which part of that object, as a field path: `spec.ports[0]`.
    pub name: String,
    /// The port that is dialled.
    pub port: Port,
    /// What the bytes must be.
    pub protocol: Protocol,
    /// The blocks that the dialled address must lie in. Absent: any address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    // These lists are shared among the ports of one object.
    #[cfg_attr(feature = "schema", schemars(with = "Option<Vec<String>>"))]
    pub addresses: Option<Arc<[Cidr]>>,
    /// The names that are allowed (`https`: SNI, `http`: authority). Absent: any name. Not for `tcp`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "schema", schemars(with = "Option<Vec<String>>"))]
    pub hosts: Option<Arc<[HostPattern]>>,
    /// Of which one must match the request. Absent: any request. Only for `http`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    // And a route among all policies that name its group.
    #[cfg_attr(feature = "schema", schemars(with = "Option<Vec<Route>>"))]
    pub routes: Option<Arc<[Arc<Route>]>>,
    /// Upgrades that a request may ask for. Only for `http`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub upgrades: Vec<Upgrade>,
    /// What becomes of a ClientHello that carries an encrypted one. Only for `https`.
    #[serde(default, skip_serializing_if = "EncryptedHello::is_refused")]
    pub encrypted_hello: EncryptedHello,
    /// The Envoy cluster that carries what this rule allows. Absent: the one that all share.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cluster: Option<String>,
}

/// An HTTP upgrade (RFC 9110 §7.8): after it, the connection is opaque.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum Upgrade {
    /// RFC 6455.
    Websocket,
}

/// What becomes of a ClientHello whose real name may be encrypted (RFC 9849).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum EncryptedHello {
    /// The visible name need not be the destination: the rule does not allow it.
    #[default]
    Refuse,
    /// The visible name counts.
    AllowOuter,
}

impl EncryptedHello {
    fn is_refused(&self) -> bool {
        *self == Self::Refuse
    }
}

/// What a request must look like: all that is given must match.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Route {
    /// The route group and match it comes from: `group/match`.
    pub name: String,
    /// A regular expression for the whole path without query. Absent: any path.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// The methods that are allowed. Absent: any method.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub methods: Option<Vec<String>>,
    /// Headers that must all match.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub headers: Vec<HeaderMatch>,
}

/// A header that must be present with a value that matches.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct HeaderMatch {
    /// The header's name in lower case; `host` stands for the authority.
    pub name: String,
    /// A regular expression for the whole value.
    pub value: String,
}

impl Port {
    /// The port of this number; `None` for 0.
    #[must_use]
    pub fn new(number: u16) -> Option<Self> {
        NonZeroU16::new(number).map(Self)
    }

    /// The number.
    #[must_use]
    pub fn get(self) -> u16 {
        self.0.get()
    }
}

impl fmt::Display for Port {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl Protocol {
    /// Every protocol.
    pub const ALL: [Self; 3] = [Self::Tcp, Self::Https, Self::Http];

    /// The name in documents, logs and metrics.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Https => "https",
            Self::Http => "http",
        }
    }
}

impl Mode {
    /// Every mode.
    pub const ALL: [Self; 3] = [Self::Enforce, Self::Audit, Self::Passthrough];

    /// The name in documents, logs and metrics.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Enforce => "enforce",
            Self::Audit => "audit",
            Self::Passthrough => "passthrough",
        }
    }
}
