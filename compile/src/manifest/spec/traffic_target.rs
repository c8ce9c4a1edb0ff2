use serde::{Deserialize, Serialize};

use super::list;

/// `TrafficTarget`, `access.smi-spec.io/v1alpha3`: who may connect to whom in the mesh.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct TrafficTarget {
    /// To whom.
    pub destination: Subject,
    /// Who.
    #[serde(default, deserialize_with = "list", skip_serializing_if = "Option::is_none")]
    pub sources: Option<Vec<Subject>>,
    /// What. It is for the destination's sidecar to decide, which sees requests.
    #[serde(default, deserialize_with = "list", skip_serializing_if = "Option::is_none")]
    pub rules: Option<Vec<TargetRule>>,
}

/// A service account.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Subject {
    /// Only `ServiceAccount` is known.
    pub kind: String,
    /// Its name.
    pub name: String,
    /// Its namespace; where none is given, the object's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// The only port, where one is given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<i64>,
}

/// A reference to a route group or a TCP route.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct TargetRule {
    /// `HTTPRouteGroup` or `TCPRoute`.
    pub kind: String,
    /// Its name.
    pub name: String,
    /// Some of its matches.
    #[serde(default, deserialize_with = "list", skip_serializing_if = "Option::is_none")]
    pub matches: Option<Vec<String>>,
}
