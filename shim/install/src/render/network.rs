//! The Service and the NetworkPolicy of the control plane.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::input::Input;
use crate::names::{ADMIN_PORT, NAME, Names, WEBHOOK_PORT, XDS_PORT};

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

/// The NetworkPolicy. It admits sidecars, and the API server from the address blocks of the values, since no selector matches
/// it. Users and Prometheus connect from the same namespace; every network plugin admits the probes of kubelets.
pub(super) fn policy(input: &Input<'_>) -> Value {
    let names = input.names;
    let tcp = |port: u16| json!({ "port": port, "protocol": "TCP" });
    let values = &input.values.osm.egress;
    let given = values.api_server_ports.iter().map(|port| port.get());
    let server: BTreeSet<u16> = given.chain(input.cluster.api_server_ports.iter().copied()).collect();
    let mut webhook = json!({ "ports": [tcp(WEBHOOK_PORT)] });
    if !values.api_server_cidrs.is_empty() {
        let blocks =
            values.api_server_cidrs.iter().map(|block| json!({ "ipBlock": { "cidr": canonical(block) } }));
        webhook["from"] = blocks.collect();
    }
    json!({
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": { "name": NAME, "namespace": names.namespace },
        "spec": {
            "podSelector": { "matchLabels": names.selector() },
            "policyTypes": ["Ingress", "Egress"],
            "ingress": [
                { "from": [{ "namespaceSelector": {} }], "ports": [tcp(XDS_PORT)] },
                webhook,
                { "from": [{ "podSelector": {} }], "ports": [tcp(ADMIN_PORT)] },
            ],
            "egress": [
                { "ports": server.into_iter().map(tcp).collect::<Vec<_>>() },
                { "ports": [{ "port": 53, "protocol": "UDP" }, tcp(53)] },
            ],
        },
    })
}

/// Formats an address block with its length, as Kubernetes requires. Values are validated before.
fn canonical(block: &str) -> String {
    egress_policy::Cidr::canonical(block).map_or_else(|_| block.to_owned(), |block| block.to_string())
}
