//! The MeshConfig. As in Open Service Mesh, it is created once, and belongs to the user from then on.

use serde_json::{Map, Value, json};

use crate::names::{MESH_CONFIG, Names};
use crate::values::Values;

/// The fields of the MeshConfig by the key of their value.
const FIELDS: &[(&str, [&str; 2])] = &[
    ("enableEgress", ["traffic", "enableEgress"]),
    ("enablePermissiveTrafficPolicy", ["traffic", "enablePermissiveTrafficPolicyMode"]),
    ("outboundIPRangeExclusionList", ["traffic", "outboundIPRangeExclusionList"]),
    ("outboundIPRangeInclusionList", ["traffic", "outboundIPRangeInclusionList"]),
    ("outboundPortExclusionList", ["traffic", "outboundPortExclusionList"]),
    ("inboundPortExclusionList", ["traffic", "inboundPortExclusionList"]),
    ("networkInterfaceExclusionList", ["traffic", "networkInterfaceExclusionList"]),
    ("enablePrivilegedInitContainer", ["sidecar", "enablePrivilegedInitContainer"]),
    ("envoyLogLevel", ["sidecar", "logLevel"]),
    ("localProxyMode", ["sidecar", "localProxyMode"]),
    ("maxDataPlaneConnections", ["sidecar", "maxDataPlaneConnections"]),
];

pub(super) fn object(values: &Values, names: &Names) -> Value {
    let osm = serde_json::to_value(&values.osm).unwrap_or_default();
    let mut spec = json!({});
    for (key, [section, field]) in FIELDS {
        spec[section][field] = osm[key].clone();
    }
    json!({
        "apiVersion": "config.openservicemesh.io/v1alpha2",
        "kind": "MeshConfig",
        "metadata": { "name": MESH_CONFIG, "namespace": names.namespace },
        "spec": spec,
    })
}

/// Builds the patch that brings the given values into an existing MeshConfig. Returns `None` if it has them.
pub(crate) fn patch_for(given: &Value, existing: &Value) -> Option<Value> {
    let mut spec = Map::new();
    for (key, [section, field]) in FIELDS {
        let Some(wanted) = given["osm"].get(key) else { continue };
        if existing["spec"][section].get(field) != Some(wanted) {
            let section = spec.entry(*section).or_insert_with(|| json!({}));
            section[field] = wanted.clone();
        }
    }
    (!spec.is_empty()).then(|| json!({ "spec": spec }))
}
