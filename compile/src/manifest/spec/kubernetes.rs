//! What is read of Kubernetes' own objects. Other fields are none of our business.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// `Service`, `v1`: its specification.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Service {
    /// Its address; `None` in words where it has none.
    #[serde(default, rename = "clusterIP")]
    pub cluster_ip: Option<String>,
    /// Its addresses of both families.
    #[serde(default, rename = "clusterIPs")]
    pub cluster_ips: Option<Vec<String>>,
    /// Its ports.
    #[serde(default)]
    pub ports: Option<Vec<ServicePort>>,
    /// Which pods it stands for.
    #[serde(default)]
    pub selector: Option<BTreeMap<String, String>>,
}

/// A port of a service or of its endpoints.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServicePort {
    /// Its number.
    #[serde(default)]
    pub port: Option<i64>,
    /// `TCP` where nothing is said.
    #[serde(default)]
    pub protocol: Option<String>,
}

/// `Endpoints`, `v1`, and `EndpointSlice`, `discovery.k8s.io/v1`: where the pods of a service are.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Endpoints {
    /// The subsets of an `Endpoints`.
    #[serde(default)]
    pub subsets: Option<Vec<Subset>>,
    /// The endpoints of an `EndpointSlice`.
    #[serde(default)]
    pub endpoints: Option<Vec<Endpoint>>,
    /// The ports of an `EndpointSlice`.
    #[serde(default)]
    pub ports: Option<Vec<ServicePort>>,
}

/// Addresses with ports in common.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Subset {
    /// The addresses.
    #[serde(default)]
    pub addresses: Option<Vec<SubsetAddress>>,
    /// The ports.
    #[serde(default)]
    pub ports: Option<Vec<ServicePort>>,
}

/// An address of an `Endpoints`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SubsetAddress {
    /// The address.
    pub ip: String,
}

/// An endpoint of an `EndpointSlice`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Endpoint {
    /// Its addresses.
    pub addresses: Vec<String>,
}

/// Pods, alone (`Pod`) or as a template (`Deployment`, `StatefulSet`, `DaemonSet`): whose they are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Workload {
    /// Their labels.
    pub labels: BTreeMap<String, String>,
    /// Their service account.
    pub service_account: String,
}

/// The specification of a pod.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(in crate::manifest) struct PodSpec {
    #[serde(default)]
    pub(in crate::manifest) service_account_name: Option<String>,
}

/// The specification of what makes pods.
#[derive(Clone, Debug, Default, Deserialize)]
pub(in crate::manifest) struct WorkloadSpec {
    #[serde(default)]
    pub(in crate::manifest) template: Template,
}

#[derive(Clone, Debug, Default, Deserialize)]
pub(in crate::manifest) struct Template {
    #[serde(default)]
    pub(in crate::manifest) metadata: TemplateMetadata,
    #[serde(default)]
    pub(in crate::manifest) spec: PodSpec,
}

#[derive(Clone, Debug, Default, Deserialize)]
pub(in crate::manifest) struct TemplateMetadata {
    #[serde(default)]
    pub(in crate::manifest) labels: Option<BTreeMap<String, String>>,
}

impl Workload {
    /// Kubernetes gives pods that name no service account the one called `default`.
    pub(in crate::manifest) fn new(labels: Option<BTreeMap<String, String>>, spec: PodSpec) -> Self {
        Self {
            labels: labels.unwrap_or_default(),
            service_account: spec.service_account_name.unwrap_or_else(|| "default".to_owned()),
        }
    }
}
