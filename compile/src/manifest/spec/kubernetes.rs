//! The fields that are read of Kubernetes' own objects. Other fields are ignored.

use std::collections::{BTreeMap, BTreeSet};

use egress_policy::{Address, Port};
use serde::{Deserialize, Serialize};

/// `Service`, `v1`: its specification.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Service {
    /// The type. A service of type `ExternalName` is an alias with neither addresses nor pods.
    #[serde(default, rename = "type")]
    pub service_type: Option<String>,
    /// The cluster IP. A headless service has the text `None` here.
    #[serde(default, rename = "clusterIP")]
    pub cluster_ip: Option<String>,
    /// The cluster IPs of both families.
    #[serde(default, rename = "clusterIPs")]
    pub cluster_ips: Option<Vec<String>>,
    /// The ports.
    #[serde(default)]
    pub ports: Option<Vec<ServicePort>>,
    /// The labels of its pods.
    #[serde(default)]
    pub selector: Option<BTreeMap<String, String>>,
    /// The backends that its source found in a cluster. `None` for files, which are trusted: there the compiler
    /// uses their EndpointSlices and pods.
    #[serde(skip)]
    pub backends: Option<Backends>,
}

/// The backends of a service.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Backends {
    /// The service accounts of the pods that it selects.
    pub accounts: BTreeSet<String>,
    /// The addresses of its pods, with their ports: what a headless service stands for.
    pub endpoints: Vec<(Vec<Address>, Vec<Port>)>,
    /// The first reason why some endpoints may not be pods. Nodes may then forward its cluster IP anywhere.
    pub untrusted_reason: Option<String>,
}

impl ServicePort {
    /// Collects the TCP ports of a list, each once.
    #[must_use]
    pub fn tcp(ports: Option<&[Self]>) -> Vec<Port> {
        let tcp = |port: &&Self| port.protocol.as_deref().is_none_or(|protocol| protocol == "TCP");
        let number = |port: &Self| Port::new(u16::try_from(port.port?).ok()?);
        let found: BTreeSet<Port> = ports.unwrap_or_default().iter().filter(tcp).filter_map(number).collect();
        found.into_iter().collect()
    }
}

impl Service {
    /// The cluster IPs. A headless service has none.
    #[must_use]
    pub fn addresses(&self) -> BTreeSet<Address> {
        let texts = self.cluster_ips.iter().flatten().chain(&self.cluster_ip);
        texts.filter_map(|text| text.parse().ok()).collect()
    }

    /// Returns true if it is an alias of a DNS name.
    #[must_use]
    pub fn is_alias(&self) -> bool {
        self.service_type.as_deref() == Some("ExternalName")
    }

    /// Returns true if it selects pods with these labels. Without a selector it selects none.
    #[must_use]
    pub fn selects(&self, labels: &BTreeMap<String, String>) -> bool {
        let mut pairs = self.selector.iter().flatten().peekable();
        pairs.peek().is_some()
            && pairs.all(|(key, value)| labels.get(key).is_some_and(|other| other == value))
    }
}

/// A port of a service or of its endpoints.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServicePort {
    /// The number.
    #[serde(default)]
    pub port: Option<i64>,
    /// The protocol; `TCP` if absent.
    #[serde(default)]
    pub protocol: Option<String>,
}

/// `Endpoints`, `v1`, and `EndpointSlice`, `discovery.k8s.io/v1`: the addresses of the pods of a service.
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
#[serde(rename_all = "camelCase")]
pub struct Endpoint {
    /// The addresses.
    pub addresses: Vec<String>,
    /// The object with these addresses, according to the author of the endpoint.
    #[serde(default)]
    pub target_ref: Option<TargetRef>,
}

/// The object behind an endpoint.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TargetRef {
    /// The kind.
    #[serde(default)]
    pub kind: Option<String>,
    /// The namespace.
    #[serde(default)]
    pub namespace: Option<String>,
    /// The name.
    #[serde(default)]
    pub name: Option<String>,
}

impl TargetRef {
    /// The name of the referenced pod, if it is in this namespace.
    #[must_use]
    pub fn pod_of(&self, namespace: &str) -> Option<&str> {
        let is_pod = self.kind.as_deref() == Some("Pod") && self.namespace.as_deref() == Some(namespace);
        self.name.as_deref().filter(|_| is_pod)
    }
}

/// A pod (`Pod`) or a template of pods (`Deployment`, `StatefulSet`, `DaemonSet`), with its service account.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Workload {
    /// The labels.
    pub labels: BTreeMap<String, String>,
    /// The service account.
    pub service_account: String,
    /// The pod's own addresses, as reported by its kubelet. Empty if it has ended or has those of its node.
    pub addresses: Vec<Address>,
    /// True if the pod has the addresses of its node.
    pub host_network: bool,
}

/// The specification of a pod.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(in crate::manifest) struct PodSpec {
    #[serde(default)]
    pub(in crate::manifest) service_account_name: Option<String>,
    #[serde(default)]
    pub(in crate::manifest) host_network: Option<bool>,
}

/// The status of a pod. Only kubelets may write it.
#[derive(Clone, Debug, Default, Deserialize)]
pub(in crate::manifest) struct PodStatus {
    #[serde(default)]
    phase: Option<String>,
    #[serde(default, rename = "podIPs")]
    pod_ips: Option<Vec<SubsetAddress>>,
}

/// The specification of an object with a template of pods.
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
    /// Makes a workload. Kubernetes gives pods without a service account the one called `default`.
    pub(in crate::manifest) fn new(labels: Option<BTreeMap<String, String>>, spec: PodSpec) -> Self {
        Self {
            labels: labels.unwrap_or_default(),
            service_account: spec.service_account_name.unwrap_or_else(|| "default".to_owned()),
            addresses: Vec::new(),
            host_network: spec.host_network.unwrap_or_default(),
        }
    }

    /// Adds the addresses of a pod. After it has ended, another pod may have them.
    pub(in crate::manifest) fn with_status(mut self, status: &PodStatus) -> Self {
        let has_ended = matches!(status.phase.as_deref(), Some("Succeeded" | "Failed"));
        if !has_ended && !self.host_network {
            let texts = status.pod_ips.iter().flatten();
            self.addresses = texts.filter_map(|address| address.ip.parse().ok()).collect();
        }
        self
    }
}
