//! The custom resource definitions of Open Service Mesh and SMI, field for field, so that existing objects load unchanged.
//! Values that never worked are refused: see `docs/kubernetes.md`.
//!
//! The schemas are written by hand, not derived from the types: OSM's schemas have sections that this project does not read,
//! and an API server accepts structural schemas only. A test compares them with the types.

mod definition;
mod mesh_config;
mod policy;
mod rules;
mod schema;
mod smi;
mod upstream;

use serde_json::Value;

use egress_core::yaml;

pub(crate) use self::rules::add_rules;

/// All definitions, each with its file name.
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

/// Formats a definition as YAML.
#[must_use]
pub fn format_yaml(definition: &Value) -> String {
    yaml::text(definition)
}

/// Formats all definitions as one YAML text.
#[must_use]
pub fn format_all() -> String {
    all().iter().map(|(_, definition)| format!("---\n{}", format_yaml(definition))).collect()
}

#[cfg(test)]
mod tests;
