use serde::{Deserialize, Serialize};

use super::{nullable_list, required_nullable_list};

/// `Egress`, `policy.openservicemesh.io/v1alpha1`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Egress {
    /// The workloads that it applies to.
    #[serde(deserialize_with = "required_nullable_list")]
    pub sources: Vec<Source>,
    /// The host names that may be reached.
    #[serde(default, deserialize_with = "nullable_list", skip_serializing_if = "Option::is_none")]
    pub hosts: Option<Vec<String>>,
    /// The blocks of addresses that may be reached.
    #[serde(default, deserialize_with = "nullable_list", skip_serializing_if = "Option::is_none")]
    pub ip_addresses: Option<Vec<String>>,
    /// The ports that may be reached, and their protocols.
    #[serde(deserialize_with = "required_nullable_list")]
    pub ports: Vec<PortSpec>,
    /// References to the route groups that requests must match, and to connection settings.
    #[serde(default, deserialize_with = "nullable_list", skip_serializing_if = "Option::is_none")]
    pub matches: Option<Vec<MatchRef>>,
}

/// A set of workloads that the policy applies to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Source {
    /// The kind; only `ServiceAccount` is supported.
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
    /// The number, as written.
    pub number: i64,
    /// `http`, `https`, `tcp` or `tcp-server-first`, in any case.
    pub protocol: String,
}

/// A reference to an object in the policy's own namespace.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct MatchRef {
    /// The group and version. Other references of Kubernetes hold the group alone.
    pub api_group: String,
    /// `HTTPRouteGroup` or `UpstreamTrafficSetting`.
    pub kind: String,
    /// The object's name.
    pub name: String,
}
