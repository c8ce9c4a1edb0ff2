//! How the control plane is reached, and what it reaches.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::Input;
use crate::install::names::{ADMIN_PORT, NAME, Names, WEBHOOK_PORT, XDS_PORT};

pub(super) fn service(names: &Names) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": { "name": NAME, "namespace": names.namespace },
        "spec": {
            "selector": names.selector(),
            "ports": [
                { "name": "xds", "port": XDS_PORT, "targetPort": "xds", "protocol": "TCP" },
                { "name": "webhook", "port": 443, "targetPort": "webhook", "protocol": "TCP" },
            ],
        },
    })
}

/// Sidecars may connect, and the API server, which no selector describes. People and Prometheus come from the
/// same namespace; kubelets, who probe, are let through by every plugin.
pub(super) fn policy(input: &Input<'_>) -> Value {
    let names = input.names;
    let tcp = |port: u16| json!({ "port": port, "protocol": "TCP" });
    let given = input.values.osm.egress.api_server_ports.iter().map(|port| port.get());
    let server: BTreeSet<u16> = given.chain(input.cluster.api_server_ports.iter().copied()).collect();
    json!({
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": { "name": NAME, "namespace": names.namespace },
        "spec": {
            "podSelector": { "matchLabels": names.selector() },
            "policyTypes": ["Ingress", "Egress"],
            "ingress": [
                { "from": [{ "namespaceSelector": {} }], "ports": [tcp(XDS_PORT)] },
                { "ports": [tcp(WEBHOOK_PORT)] },
                { "from": [{ "podSelector": {} }], "ports": [tcp(ADMIN_PORT)] },
            ],
            "egress": [
                { "ports": server.into_iter().map(tcp).collect::<Vec<_>>() },
                { "ports": [{ "port": 53, "protocol": "UDP" }, tcp(53)] },
            ],
        },
    })
}
