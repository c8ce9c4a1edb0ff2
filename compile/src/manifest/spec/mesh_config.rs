use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::nullable_list;

/// `MeshConfig`, `config.openservicemesh.io/v1alpha1` and `v1alpha2`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct MeshConfig {
    /// The treatment of traffic by sidecars.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub traffic: Option<Traffic>,
    /// The configuration of sidecars.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sidecar: Option<Box<Sidecar>>,
    /// The other sections, as they are.
    #[serde(flatten)]
    pub other: BTreeMap<String, Value>,
}

/// The treatment of traffic in the whole mesh.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Traffic {
    /// Global egress: every destination may be reached, and policies are ignored.
    #[serde(default)]
    pub enable_egress: Option<bool>,
    /// Permissive mode: every service of the mesh may be reached.
    #[serde(default)]
    pub enable_permissive_traffic_policy_mode: Option<bool>,
    /// Address blocks excluded from interception.
    #[serde(default, rename = "outboundIPRangeExclusionList", deserialize_with = "nullable_list")]
    pub outbound_ip_range_exclusion_list: Option<Vec<String>>,
    /// The only address blocks that are intercepted.
    #[serde(default, rename = "outboundIPRangeInclusionList", deserialize_with = "nullable_list")]
    pub outbound_ip_range_inclusion_list: Option<Vec<String>>,
    /// Outbound ports excluded from interception.
    #[serde(default, deserialize_with = "nullable_list")]
    pub outbound_port_exclusion_list: Option<Vec<i64>>,
    /// Inbound ports excluded from interception.
    #[serde(default, deserialize_with = "nullable_list")]
    pub inbound_port_exclusion_list: Option<Vec<i64>>,
    /// Network interfaces excluded from interception.
    #[serde(default, deserialize_with = "nullable_list")]
    pub network_interface_exclusion_list: Option<Vec<String>>,
    /// For inbound traffic only.
    #[serde(default)]
    pub inbound_external_authorization: Option<ExternalAuthorization>,
}

/// The configuration of sidecars. Settings that only Open Service Mesh's own sidecars have are not read.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Sidecar {
    /// True if init containers run privileged.
    #[serde(default)]
    pub enable_privileged_init_container: Option<bool>,
    /// The most proxies that one control plane lets connect; 0 for any number.
    #[serde(default)]
    pub max_data_plane_connections: Option<i64>,
    /// The log level of Envoy.
    #[serde(default)]
    pub log_level: Option<String>,
    /// The image of Envoy.
    #[serde(default)]
    pub envoy_image: Option<String>,
    /// The image of the init container.
    #[serde(default)]
    pub init_container_image: Option<String>,
    /// The resources of a sidecar, as in a container.
    #[serde(default)]
    pub resources: Option<Value>,
    /// The other fields, as they are.
    #[serde(flatten)]
    pub other: BTreeMap<String, Value>,
}

/// An external authorization service for inbound requests.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ExternalAuthorization {
    /// True if the service is in use.
    #[serde(default)]
    pub enable: Option<bool>,
    /// The address.
    #[serde(default)]
    pub address: Option<String>,
    /// The port.
    #[serde(default)]
    pub port: Option<i64>,
    /// The prefix of its statistics.
    #[serde(default)]
    pub stat_prefix: Option<String>,
    /// The timeout, as in `1s`.
    #[serde(default)]
    pub timeout: Option<String>,
    /// True if a failure of the service allows the request.
    #[serde(default)]
    pub failure_mode_allow: Option<bool>,
}
