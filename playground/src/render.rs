//! Rendering of the policy document and of an Envoy configuration without a control plane, as `osm-egress
//! compile` prints them.

use egress_compile::blocked_ranges::BlockedRanges;
use egress_policy::Identity;
use egress_standalone::versions::SUPPORTED;
use egress_standalone::{Configuration, EnvoyVersion, EnvoyVersionError, MODULE};
use serde_json::{Value, json};

use crate::compile_manifests;

pub(crate) fn render_config(
    manifests: &str,
    identity: &str,
    version: &str,
    module: &str,
) -> Result<Value, String> {
    let identity: Identity = identity.parse().map_err(|error| format!("`{identity}`: {error}"))?;
    let version: EnvoyVersion = version.parse().map_err(|error: EnvoyVersionError| error.to_string())?;
    let module = module.trim();
    let (_, compiled) = compile_manifests(manifests);
    let document = compiled.document(&identity);
    let configuration = Configuration {
        document: &document,
        clusters: compiled.clusters(&identity),
        module: if module.is_empty() { MODULE } else { module },
        version,
        blocked: &BlockedRanges::default(),
    };
    let document = serde_json::to_string_pretty(&*document).map_err(|error| error.to_string())?;
    Ok(json!({ "document": document + "\n", "envoy": configuration.to_string() }))
}

/// Lists the versions of Envoy to choose from, the newest first, and the default path of the module.
pub(crate) fn list_choices() -> Value {
    let versions: Vec<_> = SUPPORTED.iter().rev().map(ToString::to_string).collect();
    json!({ "versions": versions, "module": MODULE })
}
