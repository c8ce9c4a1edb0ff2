//! `uninstall`: deletes the objects that `install` made, in reverse order, and no others.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Result, anyhow};
use serde_json::Value;

use super::cluster::{Cluster, wait_until};
use super::names::{CNI_NAME, INSTANCE_LABEL, NAME, Names};
use super::object_id::{ObjectId, api_resource};
use super::plan::{is_managed, read_cluster_facts};
use super::{print_line, print_warning, render};
use egress_compile::MONITORED_LABEL;
use egress_kubernetes::REPORTS_LABEL;

/// The options of `uninstall`.
#[derive(Debug)]
pub struct Options {
    /// The kubeconfig of the cluster; kubectl's if there is none.
    pub kubeconfig: Option<PathBuf>,
    /// The names of the mesh and its namespace.
    pub names: Names,
    /// Deletes definitions even if there are objects of the user, which are lost.
    pub delete_definitions: bool,
    /// The longest time to wait for a deletion.
    pub timeout: Duration,
}

/// Uninstalls the control plane.
///
/// # Errors
/// Fails when the API server refuses a deletion, or an object does not disappear in time.
pub async fn run(options: &Options) -> Result<()> {
    let cluster = Cluster::connect(options.kubeconfig.as_deref()).await?;
    let names = &options.names;
    let facts = read_cluster_facts(&cluster).await?;
    let mut found = false;
    for id in render::possible_ids(names, &facts).into_iter().rev() {
        let Some(object) = cluster.get(&id).await? else { continue };
        if !is_managed(&object) {
            print_line(format!("{id}: stays, since `osm-egress install` did not make it"));
            continue;
        }
        if object["metadata"]["labels"][INSTANCE_LABEL].as_str().is_some_and(|mesh| mesh != names.mesh) {
            print_line(format!("{id}: stays, since it belongs to another mesh"));
            continue;
        }
        found = true;
        let reason = match id.kind.as_str() {
            "CustomResourceDefinition" if !options.delete_definitions => {
                find_user_objects(&cluster, &object).await?
            }
            "Namespace" => find_unmanaged_objects(&cluster, &id.name).await?,
            _ => None,
        };
        if let Some(reason) = reason {
            print_line(format!("{id}: stays, since {reason}"));
            continue;
        }
        let unfinished = || {
            anyhow!("`osm-egress uninstall` did not finish: fix the problem, and run the same command again")
        };
        cluster.delete(&id).await.map_err(|error| unfinished().context(error))?;
        wait_until_deleted(&cluster, &id, &object, options.timeout)
            .await
            .map_err(|error| unfinished().context(error))?;
        if id.kind == "Deployment" {
            wait_until_pods_deleted(&cluster, (&names.namespace, NAME), names, options.timeout).await?;
            delete_reports(&cluster, names).await?;
        }
        if id.kind == "DaemonSet" {
            // Its pods take the plugin off their nodes, and need their permissions to know that they must.
            let place = (&*names.cni_namespace(), CNI_NAME);
            wait_until_pods_deleted(&cluster, place, names, options.timeout).await?;
        }
        print_line(format!("{id}: deleted"));
    }
    if !found {
        print_line(format!("there was nothing of mesh {} in {}", names.mesh, cluster.server));
    }
    let monitored = format!("{MONITORED_LABEL}={}", names.mesh);
    let enrolled = cluster.list(&api_resource("v1", "Namespace"), None, &monitored).await?;
    if !enrolled.is_empty() {
        let list: Vec<&str> =
            enrolled.iter().filter_map(|namespace| namespace["metadata"]["name"].as_str()).collect();
        print_warning(format!(
            "these namespaces still have the label of the mesh, and their pods with sidecars keep the last policies: \
             {}. Remove the label with `osm-egress namespace remove`",
            list.join(", ")
        ));
    }
    Ok(())
}

/// Finds objects of a definition, and describes them as the reason to keep it.
async fn find_user_objects(cluster: &Cluster, definition: &Value) -> Result<Option<String>> {
    let spec = &definition["spec"];
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let stored = spec["versions"].as_array().into_iter().flatten().find(|version| version["storage"] == true);
    let version = stored.map(|version| text(&version["name"])).unwrap_or_default();
    let mut kind =
        api_resource(&format!("{}/{version}", text(&spec["group"])), &text(&spec["names"]["kind"]));
    kind.plural = text(&spec["names"]["plural"]);
    let objects = cluster.list(&kind, None, "").await?;
    let first = objects.first().map(ObjectId::from_object);
    Ok(first.map(|first| {
        let place = first.namespace.map(|namespace| format!("{namespace}/")).unwrap_or_default();
        format!(
            "objects of it exist ({}, the first is {place}{}); `--delete-crds` deletes them too",
            objects.len(),
            first.name
        )
    }))
}

async fn wait_until_deleted(
    cluster: &Cluster,
    id: &ObjectId,
    object: &Value,
    timeout: Duration,
) -> Result<()> {
    wait_until(&format!("{id} is not deleted"), timeout, || async {
        let now = cluster.get(id).await?;
        Ok(now.is_none_or(|now| now["metadata"]["uid"] != object["metadata"]["uid"]))
    })
    .await
}

async fn wait_until_pods_deleted(
    cluster: &Cluster,
    (namespace, name): (&str, &str),
    names: &Names,
    timeout: Duration,
) -> Result<()> {
    let labels = format!("app.kubernetes.io/name={name},{INSTANCE_LABEL}={}", names.mesh);
    let pending = format!("pods of {namespace}/{name} are not deleted");
    wait_until(&pending, timeout, || async { Ok(cluster.list_pods(namespace, &labels).await?.is_empty()) })
        .await
}

/// Deletes the reports of the control planes, which a killed one leaves behind.
async fn delete_reports(cluster: &Cluster, names: &Names) -> Result<()> {
    let labels = format!("{REPORTS_LABEL}={}", names.mesh);
    for report in cluster.list(&api_resource("v1", "ConfigMap"), Some(&names.namespace), &labels).await? {
        let name = report["metadata"]["name"].as_str().unwrap_or_default();
        cluster.delete(&ObjectId::namespaced("v1", "ConfigMap", &names.namespace, name)).await?;
    }
    Ok(())
}

/// Finds objects in the namespace that neither `install` nor the cluster made, and describes them as the reason to keep it.
async fn find_unmanaged_objects(cluster: &Cluster, namespace: &str) -> Result<Option<String>> {
    let mut found = Vec::new();
    for kind in cluster.list_kinds().await?.into_iter().filter(|kind| kind.kind != "Event") {
        for object in cluster.list(&kind, Some(namespace), "").await? {
            if !is_made_by_cluster(&kind.kind, &object) {
                let name = object["metadata"]["name"].as_str().unwrap_or_default();
                found.push(format!("{} {name}", kind.kind));
            }
        }
    }
    found.sort();
    found.dedup();
    Ok((!found.is_empty())
        .then(|| format!("it contains objects that `osm-egress install` did not make: {}", found.join(", "))))
}

/// Returns true for objects that controllers put into every namespace, or derive from managed objects and delete
/// themselves.
fn is_made_by_cluster(kind: &str, object: &Value) -> bool {
    let name = object["metadata"]["name"].as_str().unwrap_or_default();
    let labels = &object["metadata"]["labels"];
    match (kind, name) {
        ("ConfigMap", "kube-root-ca.crt") | ("ServiceAccount", "default") => true,
        ("Secret", _) => {
            let account = &object["metadata"]["annotations"]["kubernetes.io/service-account.name"];
            object["type"] == "kubernetes.io/service-account-token"
                && (account == "default" || account == NAME || account == CNI_NAME)
        }
        ("Endpoints" | "EndpointSlice", _) => name == NAME || labels["kubernetes.io/service-name"] == NAME,
        ("Pod" | "ReplicaSet" | "ControllerRevision", _) => {
            let name = &labels["app.kubernetes.io/name"];
            name == NAME || name == CNI_NAME
        }
        _ => false,
    }
}
