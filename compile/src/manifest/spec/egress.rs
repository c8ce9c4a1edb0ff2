use serde::{Deserialize, Serialize};

use super::{list, required_list};

/// `Egress`, `policy.openservicemesh.io/v1alpha1`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Egress {
    /// The workloads that it applies to.
    #[serde(deserialize_with = "required_list")]
    pub sources: Vec<Source>,
    /// The names that may be reached.
    #[serde(default, deserialize_with = "list", skip_serializing_if = "Option::is_none")]
    pub hosts: Option<Vec<String>>,
    /// The blocks of addresses that may be reached.
    #[serde(default, deserialize_with = "list", skip_serializing_if = "Option::is_none")]
    pub ip_addresses: Option<Vec<String>>,
    /// The ports that may be reached, and what is spoken there.
    #[serde(deserialize_with = "required_list")]
    pub ports: Vec<PortSpec>,
    /// The route groups that requests must match, and the settings of connections.
    #[serde(default, deserialize_with = "list", skip_serializing_if = "Option::is_none")]
    pub matches: Option<Vec<MatchRef>>,
}

/// A set of workloads.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Source {
    /// Only `ServiceAccount` is known.
    pub kind: String,
    /// The service account's name.
    pub name: String,
    /// The service account's namespace.
    pub namespace: String,
}

/// A port.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PortSpec {
    /// Its number, as written.
    pub number: i64,
    /// `http`, `https`, `tcp` or `tcp-server-first`, in any case.
    pub protocol: String,
}

/// A reference to an object in the policy's own namespace.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct MatchRef {
    /// Group and version, unlike in other references.
    pub api_group: String,
    /// `HTTPRouteGroup` or `UpstreamTrafficSetting`.
    pub kind: String,
    /// The object's name.
    pub name: String,
}
