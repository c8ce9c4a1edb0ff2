//! The common parts of all definitions.

use serde_json::{Value, json};

use super::schema;

/// The names of a kind for kubectl.
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

/// A served and stored version.
pub(super) fn version(name: &str, spec: Value) -> Value {
    json!({
        "name": name, "served": true, "storage": true,
        "schema": { "openAPIV3Schema": schema::object(&["spec"], json!({ "spec": spec })) },
    })
}

/// A former version, which is not served: an API server that has stored objects of it requires it in the definition.
pub(super) fn former(name: &str) -> Value {
    json!({
        "name": name, "served": false, "storage": false,
        "schema": { "openAPIV3Schema": schema::anything() },
    })
}
