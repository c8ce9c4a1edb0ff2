//! The policy document, which the control plane writes and the filter reads. JSON, camelCase.
//!
//! Unknown fields are refused, because a rule that was read without one of its fields could allow more than its author
//! wrote. An absent list means "any"; an empty list means "none".

mod intersection;

use std::fmt;
use std::num::NonZeroU16;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::strict::{self, Object};
use crate::{Address, Cidr, HostPattern, Identity};

/// The format of documents that this release writes and reads. See decision 170 for when it changes.
pub const API_VERSION: &str = "egress-policy/v1";

/// The longest part of a foreign `apiVersion` that an error repeats.
const MAX_SHOWN_VERSION_CHARS: usize = 64;

/// The policy of one identity.
///
/// ```
/// # fn main() -> Result<(), egress_policy::DocumentError> {
/// let document = egress_policy::Document::from_json(
///     r#"{
///         "apiVersion": "egress-policy/v1",
///         "identity": {"namespace": "shop", "serviceAccount": "cart"},
///         "version": "7",
///         "mode": "enforce",
///         "rules": [{"policy": "shop/cart", "name": "spec.ports[0]", "port": 443, "protocol": "https", "hosts": ["api.example.com"]}]
///     }"#,
/// )?;
/// assert_eq!(document.identity.to_string(), "shop/cart");
/// assert!(egress_policy::Document::from_json(r#"{"apiVersion": "egress-policy/v2"}"#).is_err());
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[cfg_attr(feature = "schema", schemars(description = "The policy of one identity."))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Document {
    /// The format of this document.
    #[serde(deserialize_with = "strict::word")]
    pub api_version: ApiVersion,
    /// The service account that this policy governs.
    pub identity: Identity,
    /// A name of this content: equal content has an equal version.
    pub version: String,
    /// The treatment of connections and requests that no rule allows.
    #[serde(deserialize_with = "strict::word")]
    pub mode: Mode,
    /// The permissions. Rules only add permission; their order decides which of several is named.
    // Shared, because one object may name a thousand identities.
    #[serde(deserialize_with = "strict::objects")]
    #[cfg_attr(feature = "schema", schemars(with = "Vec<Rule>"))]
    pub rules: Vec<Arc<Rule>>,
    /// Destinations in the mesh. They are not egress: rules and modes neither open nor close them.
    // Shared, because most identities of a mesh see the same.
    #[serde(default, skip_serializing_if = "is_empty", deserialize_with = "strict::objects")]
    #[cfg_attr(feature = "schema", schemars(with = "Vec<InMesh>"))]
    pub in_mesh: Arc<[InMesh]>,
}

/// A reason why a text is not a [`Document`].
#[derive(Debug, thiserror::Error)]
pub enum DocumentError {
    /// The document has the format of another release.
    #[error(
        "the policy document has the format `{0}`, and this release reads `{API_VERSION}`: use the filter module and the control plane of one release"
    )]
    Format(String),
    /// The text is not JSON, or not a policy document.
    #[error(transparent)]
    Malformed(#[from] serde_json::Error),
}

impl Document {
    /// Reads a document from a complete JSON text.
    ///
    /// # Errors
    /// When the text is not JSON, has another format, lacks a field or has one that is not known. Then nothing of it
    /// counts.
    pub fn from_json(text: &str) -> Result<Self, DocumentError> {
        serde_json::from_str::<Object<Self>>(text).map(|Object(document)| document).map_err(|error| {
            match foreign_format(text) {
                Some(format) => DocumentError::Format(format),
                None => DocumentError::Malformed(error),
            }
        })
    }
}

/// Reads the format of a document that cannot be read, where it is another one: then that is the reason, and not the
/// first field that is not known here.
fn foreign_format(text: &str) -> Option<String> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Format {
        api_version: String,
    }

    let Object(Format { api_version }) = serde_json::from_str(text).ok()?;
    (api_version != API_VERSION).then(|| api_version.chars().take(MAX_SHOWN_VERSION_CHARS).collect())
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
    /// The mesh lets this identity connect to it.
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

/// The treatment of connections and requests that no rule allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum Mode {
    /// They are refused.
    Enforce,
    /// They are let through and recorded.
    Audit,
    /// Rules are not evaluated: everything goes through the cluster `passthrough-outbound`.
    Passthrough,
}

/// The protocol of a port.
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
    /// The Egress object that the rule comes from: `namespace/name`.
    pub policy: String,
    /// The part of that object, as a field path: `spec.ports[0]`.
    pub name: String,
    /// The port of the original destination.
    pub port: Port,
    /// The protocol that the bytes must have.
    #[serde(deserialize_with = "strict::word")]
    pub protocol: Protocol,
    /// The blocks that must contain the original destination. Absent: any address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    // These lists are shared among the ports of one object.
    #[cfg_attr(feature = "schema", schemars(with = "Option<Vec<String>>"))]
    pub addresses: Option<Arc<[Cidr]>>,
    /// The names that are allowed (`https`: SNI, `http`: authority). Absent: any name. Not for `tcp`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "schema", schemars(with = "Option<Vec<String>>"))]
    pub hosts: Option<Arc<[HostPattern]>>,
    /// The routes of which one must match the request. Absent: any request. Only for `http`.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "strict::optional_objects")]
    // A route is shared among all policies that name its group.
    #[cfg_attr(feature = "schema", schemars(with = "Option<Vec<Route>>"))]
    pub routes: Option<Arc<[Arc<Route>]>>,
    /// Upgrades that a request may ask for. Only for `http`.
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "strict::words")]
    pub upgrades: Vec<Upgrade>,
    /// The treatment of a ClientHello that carries an encrypted one. Only for `https`.
    #[serde(default, skip_serializing_if = "EncryptedHello::is_refused", deserialize_with = "strict::word")]
    pub encrypted_hello: EncryptedHello,
    /// The Envoy cluster for connections and requests that this rule allows. Absent: the one that all rules share.
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

/// The treatment of a ClientHello whose real name may be encrypted (RFC 9849).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum EncryptedHello {
    /// The rule does not allow it, because the visible name need not be the destination.
    #[default]
    Refuse,
    /// The rule decides by the visible name.
    AllowOuter,
}

impl EncryptedHello {
    fn is_refused(&self) -> bool {
        *self == Self::Refuse
    }
}

/// The conditions of an HTTP request, which must all hold.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Route {
    /// The route group and match that the route comes from: `group/match`.
    pub name: String,
    /// A regular expression for the whole path without query. Absent: any path.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// The methods that are allowed. Absent: any method.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub methods: Option<Vec<String>>,
    /// Headers that must all match.
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "strict::objects")]
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
    /// Makes a port; `None` for 0.
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
