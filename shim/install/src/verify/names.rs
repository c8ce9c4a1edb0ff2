//! Hosts of policies that only search domains complete.

use std::collections::BTreeSet;

use anyhow::Result;
use egress_compile::lint::search_domains::{HostCompletion, complete_host};
use serde_json::Value;

use super::super::cluster::Cluster;
use super::super::id::resource;
use super::report::{Report, State};

/// Looks at the policies of these namespaces.
pub(super) async fn look(cluster: &Cluster, namespaces: &[&str], report: &mut Report) -> Result<()> {
    let all = cluster.list(&resource("v1", "Namespace"), None, "").await?;
    let all: BTreeSet<&str> = all.iter().filter_map(|object| object["metadata"]["name"].as_str()).collect();
    let mut found = Vec::new();
    for namespace in namespaces {
        let kind = resource("policy.openservicemesh.io/v1alpha1", "Egress");
        for egress in cluster.list(&kind, Some(namespace), "").await? {
            found.extend(hosts(&egress, &all));
        }
    }
    let wrong = if found.is_empty() {
        vec![]
    } else {
        vec![format!("{} (sidecars ask for names as they stand: write the whole name)", found.join(", "))]
    };
    report.sum("names that need search domains", State::Warn, &wrong, "none");
    Ok(())
}

/// The hosts of a policy that are no whole names, each with the whole one.
fn hosts(egress: &Value, namespaces: &BTreeSet<&str>) -> Vec<String> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let (metadata, spec) = (&egress["metadata"], &egress["spec"]);
    let own = spec["sources"][0]["namespace"].as_str();
    let hosts = spec["hosts"].as_array().into_iter().flatten().filter_map(Value::as_str);
    hosts
        .filter_map(|host| {
            let HostCompletion { complete, .. } = complete_host(host, own, namespaces)?;
            let (namespace, name) = (text(&metadata["namespace"]), text(&metadata["name"]));
            Some(format!("Egress {namespace}/{name}: `{host}`, which may be `{complete}`"))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn hosts_that_are_not_whole() {
        let egress = json!({
            "metadata": { "namespace": "shop", "name": "web" },
            "spec": {
                "sources": [{ "kind": "ServiceAccount", "name": "cart", "namespace": "shop" }],
                "hosts": ["httpbin.org", "db", "db.store.svc", "db.store", "db.store.svc.cluster.local"],
            },
        });
        let found = hosts(&egress, &["shop", "store"].into());
        assert_eq!(
            found,
            [
                "Egress shop/web: `db`, which may be `db.shop.svc.cluster.local`",
                "Egress shop/web: `db.store.svc`, which may be `db.store.svc.cluster.local`",
                "Egress shop/web: `db.store`, which may be `db.store.svc.cluster.local`",
            ]
        );
    }
}
