//! The check of policies for hosts that only search domains would complete.

use std::collections::BTreeSet;

use anyhow::Result;
use egress_compile::lint::search_domains::{HostCompletion, complete_host};
use serde_json::Value;

use super::super::cluster::Cluster;
use super::super::object_id::api_resource;
use super::report::{Report, State};

/// Checks the policies in these namespaces.
pub(super) async fn check_hosts(cluster: &Cluster, namespaces: &[&str], report: &mut Report) -> Result<()> {
    let all = cluster.list(&api_resource("v1", "Namespace"), None, "").await?;
    let all: BTreeSet<&str> = all.iter().filter_map(|object| object["metadata"]["name"].as_str()).collect();
    let mut found = Vec::new();
    for namespace in namespaces {
        let kind = api_resource("policy.openservicemesh.io/v1alpha1", "Egress");
        for egress in cluster.list(&kind, Some(namespace), "").await? {
            found.extend(find_incomplete_hosts(&egress, &all));
        }
    }
    let wrong = if found.is_empty() {
        vec![]
    } else {
        vec![format!(
            "{} (sidecars resolve names without search domains: write the full name)",
            found.join(", ")
        )]
    };
    report.add_findings("names that need search domains", State::Warn, &wrong, "none");
    Ok(())
}

/// Finds the incomplete hosts of a policy, each with the full name.
fn find_incomplete_hosts(egress: &Value, namespaces: &BTreeSet<&str>) -> Vec<String> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let (metadata, spec) = (&egress["metadata"], &egress["spec"]);
    let own = spec["sources"][0]["namespace"].as_str();
    let hosts = spec["hosts"].as_array().into_iter().flatten().filter_map(Value::as_str);
    hosts
        .filter_map(|host| {
            let HostCompletion { complete, .. } = complete_host(host, own, namespaces)?;
            let (namespace, name) = (text(&metadata["namespace"]), text(&metadata["name"]));
            Some(format!("Egress {namespace}/{name}: `{host}`, perhaps `{complete}`"))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn incomplete_hosts_are_found() {
        let egress = json!({
            "metadata": { "namespace": "shop", "name": "web" },
            "spec": {
                "sources": [{ "kind": "ServiceAccount", "name": "cart", "namespace": "shop" }],
                "hosts": ["httpbin.org", "db", "db.store.svc", "db.store", "db.store.svc.cluster.local"],
            },
        });
        let found = find_incomplete_hosts(&egress, &["shop", "store"].into());
        assert_eq!(
            found,
            [
                "Egress shop/web: `db`, perhaps `db.shop.svc.cluster.local`",
                "Egress shop/web: `db.store.svc`, perhaps `db.store.svc.cluster.local`",
                "Egress shop/web: `db.store`, perhaps `db.store.svc.cluster.local`",
            ]
        );
    }
}
