//! A whole configuration for an Envoy without a control plane: what `osm-egress compile --output envoy` prints.

use egress_policy::Identity;
use egress_standalone::versions::SUPPORTED;
use egress_standalone::{Configuration, EnvoyVersion, MODULE};
use serde_json::{Value, json};

use crate::compiled;

pub(crate) fn configuration(
    manifests: &str,
    identity: &str,
    version: &str,
    module: &str,
) -> Result<Value, String> {
    let identity: Identity = identity.trim().parse().map_err(|error| format!("`{identity}`: {error}"))?;
    let version: EnvoyVersion =
        version.parse().map_err(|error: egress_standalone::EnvoyVersionError| error.to_string())?;
    let module = module.trim();
    let (_, compiled) = compiled(manifests);
    let document = compiled.document(&identity);
    let configuration = Configuration {
        document: &document,
        clusters: compiled.clusters(&identity),
        module: if module.is_empty() { MODULE } else { module },
        version,
        never_resolve_to: &[],
    };
    Ok(json!({ "text": configuration.to_string() }))
}

/// The versions to choose from, the newest first.
pub(crate) fn versions() -> Value {
    SUPPORTED.iter().rev().map(ToString::to_string).collect()
}
