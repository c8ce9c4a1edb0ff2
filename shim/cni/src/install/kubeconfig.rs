//! The kubeconfig of the plugin: the credentials of the DaemonSet's service account.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use serde_json::json;

/// File name of the kubeconfig. Container runtimes read other endings.
pub(super) const FILE_NAME: &str = "osm-egress-cni.kubeconfig";

/// Renders the kubeconfig from a folder with `token` and `ca.crt`.
pub(super) fn render(server: &str, folder: &Path) -> Result<String> {
    let read = |name: &str| -> Result<String> {
        let path = folder.join(name);
        let text =
            std::fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        let text = text.trim().to_owned();
        ensure!(!text.is_empty(), "{} is empty", path.display());
        Ok(text)
    };
    let (token, authority) = (read("token")?, read("ca.crt")?);
    let authority = serde_json::to_value(k8s_openapi::ByteString(authority.into_bytes()))?;
    let name = "osm-egress-cni";
    let config = json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": name, "cluster": {"server": server, "certificate-authority-data": authority}}],
        "users": [{"name": name, "user": {"token": token}}],
        "contexts": [{"name": name, "context": {"cluster": name, "user": name}}],
        "current-context": name,
    });
    // JSON is YAML.
    Ok(format!("{config:#}\n"))
}
