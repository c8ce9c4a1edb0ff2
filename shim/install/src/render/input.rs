//! The input of rendering.

use k8s_openapi::ByteString;
use serde_json::Value;

use crate::certificates::PemPair;
use crate::names::Names;
use crate::values::Values;

/// The input of rendering.
#[derive(Debug)]
pub(crate) struct Input<'i> {
    pub(crate) values: &'i Values,
    /// The user's values, which the Deployment stores for the next upgrade.
    pub(crate) given: &'i Value,
    pub(crate) names: &'i Names,
    pub(crate) cluster: &'i ClusterFacts,
    pub(crate) secrets: TlsSecrets<'i>,
}

/// The facts about the cluster that rendering depends on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ClusterFacts {
    /// The API version of PodDisruptionBudget: v1 since Kubernetes 1.21, v1beta1 before.
    pub(crate) budget: &'static str,
    /// The ports of its API server.
    pub(crate) api_server_ports: Vec<u16>,
    /// True if every node runs native sidecars.
    pub(crate) native_sidecars: bool,
    /// True if it has ValidatingAdmissionPolicies: since Kubernetes 1.30.
    pub(crate) has_admission_policies: bool,
    /// True if definitions may have rules that existing objects need not satisfy: since Kubernetes 1.30.
    pub(crate) has_validation_rules: bool,
}

impl Default for ClusterFacts {
    fn default() -> Self {
        Self {
            budget: "policy/v1",
            api_server_ports: Vec::new(),
            native_sidecars: false,
            has_admission_policies: false,
            has_validation_rules: false,
        }
    }
}

/// The source of the control plane's certificate.
#[derive(Clone, Copy, Debug)]
pub(crate) enum TlsSecrets<'i> {
    /// Made by `install`.
    Generated { authority: &'i PemPair, server: &'i PemPair },
    /// Kept by another tool, such as cert-manager; this is its authority.
    External { authority: &'i str },
    /// None: the user fills in the Secret and the authority of the webhooks. For `deploy/osm-egress.yaml`.
    #[cfg(test)]
    Absent,
}

/// Encodes text as Kubernetes encodes bytes.
pub(super) fn encode_base64(text: &str) -> Value {
    serde_json::to_value(ByteString(text.as_bytes().to_vec())).unwrap_or_default()
}
