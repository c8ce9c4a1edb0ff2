//! `uninstall`: takes away what `install` made, in the other order, and nothing else.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Result, anyhow};
use serde_json::Value;

use super::cluster::{Cluster, wait};
use super::id::{Id, resource};
use super::names::{INSTANCE, NAME, Names};
use super::plan::{is_ours, look};
use super::{render, say, warn};
use egress_compile::MONITORED_LABEL;
use egress_kubernetes::REPORTS_LABEL;

/// What is asked for.
#[derive(Debug)]
pub struct Options {
    /// Which cluster; else kubectl's.
    pub kubeconfig: Option<PathBuf>,
    /// The mesh.
    pub names: Names,
    /// Whether definitions go with the user's objects in them.
    pub delete_definitions: bool,
    /// How long waiting may take.
    pub timeout: Duration,
}

/// Does it.
///
/// # Errors
/// When the API server refuses, or something does not go; with what is left.
pub async fn run(options: &Options) -> Result<()> {
    let cluster = Cluster::connect(options.kubeconfig.as_deref()).await?;
    let names = &options.names;
    let facts = look(&cluster).await?;
    let mut found = false;
    for id in render::ids(names, &facts).into_iter().rev() {
        let Some(object) = cluster.get(&id).await? else { continue };
        if !is_ours(&object) {
            say(format!("{id}: stays, since `osm-egress install` did not make it"));
            continue;
        }
        if object["metadata"]["labels"][INSTANCE].as_str().is_some_and(|mesh| mesh != names.mesh) {
            say(format!("{id}: stays, since it belongs to another mesh"));
            continue;
        }
        found = true;
        let reason = match id.kind.as_str() {
            "CustomResourceDefinition" if !options.delete_definitions => in_use(&cluster, &object).await?,
            "Namespace" => foreign(&cluster, names).await?,
            _ => None,
        };
        if let Some(reason) = reason {
            say(format!("{id}: stays, since {reason}"));
            continue;
        }
        let left =
            || anyhow!("`osm-egress uninstall` was not finished: mend this, and run the same command again");
        cluster.delete(&id).await.map_err(|error| left().context(error))?;
        until_gone(&cluster, &id, &object, options.timeout).await.map_err(|error| left().context(error))?;
        if id.kind == "Deployment" {
            until_pods_gone(&cluster, names, options.timeout).await?;
            delete_reports(&cluster, names).await?;
        }
        say(format!("{id}: deleted"));
    }
    if !found {
        say(format!("there was nothing of mesh {} in {}", names.mesh, cluster.server));
    }
    let monitored = format!("{MONITORED_LABEL}={}", names.mesh);
    let enrolled = cluster.list(&resource("v1", "Namespace"), None, &monitored).await?;
    if !enrolled.is_empty() {
        let list: Vec<&str> =
            enrolled.iter().filter_map(|namespace| namespace["metadata"]["name"].as_str()).collect();
        warn(format!(
            "these namespaces still say that they belong to the mesh, and pods in them that have sidecars keep the \
             policies that they had: {}; `osm-egress namespace remove` takes the label off",
            list.join(", ")
        ));
    }
    Ok(())
}

/// Objects of a definition that are the user's, if there are any.
async fn in_use(cluster: &Cluster, definition: &Value) -> Result<Option<String>> {
    let spec = &definition["spec"];
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let stored = spec["versions"].as_array().into_iter().flatten().find(|version| version["storage"] == true);
    let version = stored.map(|version| text(&version["name"])).unwrap_or_default();
    let mut kind = resource(&format!("{}/{version}", text(&spec["group"])), &text(&spec["names"]["kind"]));
    kind.plural = text(&spec["names"]["plural"]);
    let objects = cluster.list(&kind, None, "").await?;
    let first = objects.first().map(Id::of);
    Ok(first.map(|first| {
        let place = first.namespace.map(|namespace| format!("{namespace}/")).unwrap_or_default();
        format!(
            "objects of it are there ({}, the first is {place}{}); `--delete-crds` deletes it with them",
            objects.len(),
            first.name
        )
    }))
}

async fn until_gone(cluster: &Cluster, id: &Id, object: &Value, patience: Duration) -> Result<()> {
    wait(&format!("{id} is not gone"), patience, || async {
        let now = cluster.get(id).await?;
        Ok(now.is_none_or(|now| now["metadata"]["uid"] != object["metadata"]["uid"]))
    })
    .await
}

async fn until_pods_gone(cluster: &Cluster, names: &Names, patience: Duration) -> Result<()> {
    let labels = format!("app.kubernetes.io/name={NAME},{INSTANCE}={}", names.mesh);
    let what = format!("pods of Deployment {}/{NAME} are not gone", names.namespace);
    wait(&what, patience, || async { Ok(cluster.pods(&names.namespace, &labels).await?.is_empty()) }).await
}

/// What control planes told each other: one that was killed could not take it away.
async fn delete_reports(cluster: &Cluster, names: &Names) -> Result<()> {
    let labels = format!("{REPORTS_LABEL}={}", names.mesh);
    for report in cluster.list(&resource("v1", "ConfigMap"), Some(&names.namespace), &labels).await? {
        let name = report["metadata"]["name"].as_str().unwrap_or_default();
        cluster.delete(&Id::within("v1", "ConfigMap", &names.namespace, name)).await?;
    }
    Ok(())
}

/// What is in the namespace that neither `install` made nor the cluster by itself.
async fn foreign(cluster: &Cluster, names: &Names) -> Result<Option<String>> {
    let mut found = Vec::new();
    for kind in cluster.kinds().await?.into_iter().filter(|kind| kind.kind != "Event") {
        for object in cluster.list(&kind, Some(&names.namespace), "").await? {
            if !is_of_the_cluster(&kind.kind, &object) {
                let name = object["metadata"]["name"].as_str().unwrap_or_default();
                found.push(format!("{} {name}", kind.kind));
            }
        }
    }
    found.sort();
    found.dedup();
    Ok((!found.is_empty())
        .then(|| format!("it holds what `osm-egress install` did not make: {}", found.join(", "))))
}

/// What controllers put into every namespace, or made of our objects and take away by themselves.
fn is_of_the_cluster(kind: &str, object: &Value) -> bool {
    let name = object["metadata"]["name"].as_str().unwrap_or_default();
    let labels = &object["metadata"]["labels"];
    match (kind, name) {
        ("ConfigMap", "kube-root-ca.crt") | ("ServiceAccount", "default") => true,
        ("Secret", _) => {
            let account = &object["metadata"]["annotations"]["kubernetes.io/service-account.name"];
            object["type"] == "kubernetes.io/service-account-token"
                && (account == "default" || account == NAME)
        }
        ("Endpoints" | "EndpointSlice", _) => name == NAME || labels["kubernetes.io/service-name"] == NAME,
        ("Pod" | "ReplicaSet", _) => labels["app.kubernetes.io/name"] == NAME,
        _ => false,
    }
}
