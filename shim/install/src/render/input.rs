//! The input of rendering.

use k8s_openapi::ByteString;
use serde_json::Value;

use crate::certificates::Pair;
use crate::names::Names;
use crate::values::Values;

/// What is rendered.
#[derive(Debug)]
pub(crate) struct Input<'i> {
    pub(crate) values: &'i Values,
    /// What the user gave, to be kept.
    pub(crate) given: &'i Value,
    pub(crate) names: &'i Names,
    pub(crate) cluster: &'i Facts,
    pub(crate) secrets: Secrets<'i>,
}

/// What the cluster is like.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Facts {
    /// The version of PodDisruptionBudget that it serves: v1 since 1.21, v1beta1 before.
    pub(crate) budget: &'static str,
    /// Ports of its API server.
    pub(crate) api_server_ports: Vec<u16>,
}

impl Default for Facts {
    fn default() -> Self {
        Self { budget: "policy/v1", api_server_ports: Vec::new() }
    }
}

/// Where the control plane's certificate comes from.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Secrets<'i> {
    /// Ours.
    Made { authority: &'i Pair, server: &'i Pair },
    /// Somebody else keeps the secret; this is its authority.
    Theirs { authority: &'i str },
    /// Nobody yet: the secret, and the authority in webhooks, are to be filled in. For `deploy/osm-egress.yaml`.
    #[cfg(test)]
    Missing,
}

/// As Kubernetes writes bytes.
pub(super) fn encoded(text: &str) -> Value {
    serde_json::to_value(ByteString(text.as_bytes().to_vec())).unwrap_or_default()
}
