use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::list;

/// `MeshConfig`, `config.openservicemesh.io/v1alpha1` and `v1alpha2`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct MeshConfig {
    /// What sidecars do with traffic.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub traffic: Option<Traffic>,
    /// How sidecars are made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sidecar: Option<Box<Sidecar>>,
    /// The other sections, as they are.
    #[serde(flatten)]
    pub other: BTreeMap<String, Value>,
}

/// How traffic is treated in the whole mesh.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Traffic {
    /// Whether everything outside may be reached, and policies are not looked at.
    #[serde(default)]
    pub enable_egress: Option<bool>,
    /// Whether everything in the mesh may be reached.
    #[serde(default)]
    pub enable_permissive_traffic_policy_mode: Option<bool>,
    /// Blocks of addresses that the sidecar does not see.
    #[serde(default, rename = "outboundIPRangeExclusionList", deserialize_with = "list")]
    pub outbound_ip_range_exclusion_list: Option<Vec<String>>,
    /// The only blocks of addresses that the sidecar sees.
    #[serde(default, rename = "outboundIPRangeInclusionList", deserialize_with = "list")]
    pub outbound_ip_range_inclusion_list: Option<Vec<String>>,
    /// Ports outside that the sidecar does not see.
    #[serde(default, deserialize_with = "list")]
    pub outbound_port_exclusion_list: Option<Vec<i64>>,
    /// Ports of the workload that the sidecar does not see.
    #[serde(default, deserialize_with = "list")]
    pub inbound_port_exclusion_list: Option<Vec<i64>>,
    /// Network interfaces that the sidecar does not see.
    #[serde(default, deserialize_with = "list")]
    pub network_interface_exclusion_list: Option<Vec<String>>,
    /// For inbound traffic only.
    #[serde(default)]
    pub inbound_external_authorization: Option<ExternalAuthorization>,
}

/// How sidecars are made. What only Open Service Mesh's own sidecars have is not read.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Sidecar {
    /// Whether init containers run privileged.
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
    /// What a sidecar may use, as in a container.
    #[serde(default)]
    pub resources: Option<Value>,
    /// The other fields, as they are.
    #[serde(flatten)]
    pub other: BTreeMap<String, Value>,
}

/// Who is asked about inbound requests.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ExternalAuthorization {
    /// Whether anybody is.
    #[serde(default)]
    pub enable: Option<bool>,
    /// Its address.
    #[serde(default)]
    pub address: Option<String>,
    /// Its port.
    #[serde(default)]
    pub port: Option<i64>,
    /// The prefix of its statistics.
    #[serde(default)]
    pub stat_prefix: Option<String>,
    /// How long to wait, as in `1s`.
    #[serde(default)]
    pub timeout: Option<String>,
    /// Whether no answer means yes.
    #[serde(default)]
    pub failure_mode_allow: Option<bool>,
}
