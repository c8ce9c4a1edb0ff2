//! The definitions of the objects, for an API server: those of Open Service Mesh and of SMI, field for field,
//! so that existing objects load unchanged. What never worked is refused: see `docs/kubernetes.md`.
//!
//! The schemas are written, not derived from our types: OSM's have sections that nothing here reads, and an
//! API server admits structural schemas only. A test holds them against the types.

mod definition;
mod mesh_config;
mod policy;
mod schema;
mod smi;
mod upstream;

use serde_json::Value;

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

#[cfg(test)]
mod tests;
