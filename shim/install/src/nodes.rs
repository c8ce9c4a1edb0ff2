//! The versions of the nodes: native sidecars need Kubernetes 1.29 on each.

use anyhow::Result;
use serde_json::Value;

use super::cluster::Cluster;
use super::object_id::api_resource;
use super::render::ClusterFacts;
use super::values::NativeSidecar;

/// The first version whose kubelets run native sidecars without a feature gate.
const NATIVE_VERSION: (u32, u32) = (1, 29);

/// Returns true if the API server and every node run native sidecars. A cluster without nodes shows no versions.
pub(super) async fn run_native_sidecars(cluster: &Cluster) -> Result<bool> {
    let nodes = cluster.list(&api_resource("v1", "Node"), None, "").await?;
    Ok(is_native(&cluster.version) && !nodes.is_empty() && find_old_nodes(&nodes).is_empty())
}

/// Finds nodes that do not run native sidecars, with their versions.
pub(super) fn find_old_nodes(nodes: &[Value]) -> Vec<String> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let all = nodes
        .iter()
        .map(|node| (text(&node["metadata"]["name"]), text(&node["status"]["nodeInfo"]["kubeletVersion"])));
    all.filter(|(_, version)| !is_native(version))
        .map(|(name, version)| format!("{name} ({version})"))
        .collect()
}

/// A note for users who choose native sidecars that some nodes do not run.
pub(super) fn native_note(chosen: NativeSidecar, facts: &ClusterFacts) -> Option<String> {
    (chosen == NativeSidecar::Enabled && !facts.native_sidecars).then(|| {
        "`osm.egress.nativeSidecar` is enabled, but not every node is known to run Kubernetes 1.29 or newer: on older ones, \
         injected pods do not start"
            .to_owned()
    })
}

/// Tests a version such as `v1.29.3-eks-1`.
fn is_native(version: &str) -> bool {
    let mut parts = version.trim_start_matches('v').split('.');
    let mut number = || {
        let digits = parts.next()?;
        let end = digits.find(|c: char| !c.is_ascii_digit()).unwrap_or(digits.len());
        digits.get(..end)?.parse::<u32>().ok()
    };
    matches!((number(), number()), (Some(major), Some(minor)) if (major, minor) >= NATIVE_VERSION)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn one_old_or_unknown_node_is_enough() {
        let node = |version: &str| json!({"metadata": {"name": "n"}, "status": {"nodeInfo": {"kubeletVersion": version}}});
        for (version, expected) in [
            ("v1.29.0", true),
            ("v1.36.2", true),
            ("v1.29.3-eks-1552ad0", true),
            ("v1.30+", true),
            ("v2.0.0", true),
            ("v1.28.9", false),
            ("v1.9.0", false),
            ("", false),
            ("v1", false),
            ("unknown", false),
        ] {
            assert_eq!(find_old_nodes(&[node(version)]).is_empty(), expected, "{version}");
        }
        assert_eq!(find_old_nodes(&[node("v1.36.0"), node("v1.28.1")]), ["n (v1.28.1)"]);
        assert_eq!(find_old_nodes(&[json!({})]), [" ()"]);
    }
}
