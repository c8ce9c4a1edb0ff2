//! The definitions of the objects, for an API server: those of Open Service Mesh and of SMI, field for field,
//! so that existing objects load unchanged. What never worked is refused: see `docs/kubernetes.md`.
//!
//! The schemas are written, not derived from our types: OSM's have sections that nothing here reads, and an
//! API server admits structural schemas only. A test holds them against the types.

mod mesh_config;
mod policy;
mod schema;
mod smi;
mod upstream;

use serde_json::{Value, json};

use egress_core::yaml;

/// All definitions, each with the name of its file.
#[must_use]
pub fn all() -> Vec<(&'static str, Value)> {
    vec![
        ("meshconfigs.yaml", mesh_config::definition()),
        ("egresses.yaml", policy::egress()),
        ("upstreamtrafficsettings.yaml", upstream::definition()),
        ("httproutegroups.yaml", smi::route_group()),
        ("traffictargets.yaml", smi::traffic_target()),
    ]
}

/// One definition as YAML.
#[must_use]
pub fn document(definition: &Value) -> String {
    yaml::text(definition)
}

/// All definitions in one text.
#[must_use]
pub fn yaml() -> String {
    all().iter().map(|(_, definition)| format!("---\n{}", document(definition))).collect()
}

/// The names of a kind, as kubectl takes them.
struct Names {
    group: &'static str,
    kind: &'static str,
    plural: &'static str,
    singular: &'static str,
    short: &'static str,
}

fn definition(names: &Names, versions: &[Value]) -> Value {
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
fn version(name: &str, spec: Value) -> Value {
    json!({
        "name": name, "served": true, "storage": true,
        "schema": { "openAPIV3Schema": schema::object(&["spec"], json!({ "spec": spec })) },
    })
}

/// A version of former times: an API server that stored objects of it does not let it be left out.
fn former(name: &str) -> Value {
    json!({
        "name": name, "served": false, "storage": false,
        "schema": { "openAPIV3Schema": schema::anything() },
    })
}

#[cfg(test)]
mod tests;
