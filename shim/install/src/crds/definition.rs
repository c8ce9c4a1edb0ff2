//! The parts that all definitions have.

use serde_json::{Value, json};

use super::schema;

/// The names of a kind, as kubectl takes them.
pub(super) struct Names {
    pub(super) group: &'static str,
    pub(super) kind: &'static str,
    pub(super) plural: &'static str,
    pub(super) singular: &'static str,
    pub(super) short: &'static str,
}

pub(super) fn definition(names: &Names, versions: &[Value]) -> Value {
    let Names { group, kind, plural, singular, short } = names;
    json!({
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {
            "name": format!("{plural}.{group}"),
            "labels": { "app.kubernetes.io/name": "openservicemesh.io" },
        },
        "spec": {
            "group": group,
            "scope": "Namespaced",
            "names": {
                "kind": kind, "listKind": format!("{kind}List"),
                "plural": plural, "singular": singular, "shortNames": [short],
            },
            "conversion": { "strategy": "None" },
            "versions": versions,
        },
    })
}

/// A version that is served and stored.
pub(super) fn version(name: &str, spec: Value) -> Value {
    json!({
        "name": name, "served": true, "storage": true,
        "schema": { "openAPIV3Schema": schema::object(&["spec"], json!({ "spec": spec })) },
    })
}

/// A version of former times: an API server that stored objects of it does not let it be left out.
pub(super) fn former(name: &str) -> Value {
    json!({
        "name": name, "served": false, "storage": false,
        "schema": { "openAPIV3Schema": schema::anything() },
    })
}
