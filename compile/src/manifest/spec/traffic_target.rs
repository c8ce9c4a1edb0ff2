use serde::{Deserialize, Serialize};

use super::nullable_list;

/// `TrafficTarget`, `access.smi-spec.io/v1alpha3`: lets service accounts connect to another within the mesh.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct TrafficTarget {
    /// The service account that accepts connections.
    pub destination: Subject,
    /// The service accounts that may connect.
    #[serde(default, deserialize_with = "nullable_list", skip_serializing_if = "Option::is_none")]
    pub sources: Option<Vec<Subject>>,
    /// The rules for requests. The destination's sidecar applies them, because it sees the requests.
    #[serde(default, deserialize_with = "nullable_list", skip_serializing_if = "Option::is_none")]
    pub rules: Option<Vec<TargetRule>>,
}

/// A service account.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Subject {
    /// The kind; only `ServiceAccount` is supported.
    pub kind: String,
    /// The name.
    pub name: String,
    /// The namespace; by default that of the object.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// The only allowed port; by default any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<i64>,
}

/// A reference to a route group or a TCP route.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct TargetRule {
    /// `HTTPRouteGroup` or `TCPRoute`.
    pub kind: String,
    /// The name.
    pub name: String,
    /// The names of some of its matches; by default all.
    #[serde(default, deserialize_with = "nullable_list", skip_serializing_if = "Option::is_none")]
    pub matches: Option<Vec<String>>,
}
