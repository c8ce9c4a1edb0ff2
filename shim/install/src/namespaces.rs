//! `namespace add|remove|list`, as Open Service Mesh's: which namespaces belong to the mesh.

use std::path::Path;

use anyhow::{Result, bail};
use serde_json::{Value, json};

use super::cluster::Cluster;
use super::id::{Id, resource};
use super::{say, warn};
use egress_compile::{IGNORE_LABEL, MONITORED_LABEL};
use egress_inject::INJECTION_ANNOTATION;

/// Never part of a mesh: what is in them keeps the cluster running.
const NEVER: [&str; 3] = ["kube-system", "kube-public", "kube-node-lease"];

/// Which mesh.
#[derive(Debug)]
pub struct Mesh<'m> {
    /// Which cluster; else kubectl's.
    pub kubeconfig: Option<&'m Path>,
    /// Its name.
    pub name: &'m str,
    /// Namespace of its control plane.
    pub namespace: &'m str,
}

fn id(name: &str) -> Id {
    Id::global("v1", "Namespace", name)
}

fn mesh_of(namespace: &Value) -> Option<&str> {
    namespace["metadata"]["labels"][MONITORED_LABEL].as_str()
}

async fn read(cluster: &Cluster, name: &str) -> Result<Value> {
    match cluster.get(&id(name)).await? {
        Some(namespace) => Ok(namespace),
        None => bail!("there is no namespace {name} in {}: create it first", cluster.server),
    }
}

/// Adds namespaces. All are looked at before the first is changed.
///
/// # Errors
/// When one is not there, may not belong to a mesh, or belongs to another.
pub async fn add(mesh: &Mesh<'_>, namespaces: &[String], inject: bool) -> Result<()> {
    let cluster = Cluster::connect(mesh.kubeconfig).await?;
    for name in namespaces {
        if name == mesh.namespace {
            bail!(
                "{name} is the control plane's own namespace: its pods cannot have sidecars that wait for it"
            );
        }
        if NEVER.contains(&name.as_str()) {
            bail!(
                "{name} is the cluster's own namespace: without it nothing runs, and it must not wait for a sidecar"
            );
        }
        let namespace = read(&cluster, name).await?;
        if let Some(other) = mesh_of(&namespace).filter(|other| *other != mesh.name) {
            bail!(
                "namespace {name} belongs to mesh {other}: remove it there first, or pass `--mesh-name {other}`"
            );
        }
        if !namespace["metadata"]["labels"][IGNORE_LABEL].is_null() {
            bail!("namespace {name} has the label {IGNORE_LABEL}: remove that first");
        }
    }
    let injection = if inject { "enabled" } else { "disabled" };
    let patch = json!({ "metadata": {
        "labels": { MONITORED_LABEL: mesh.name },
        "annotations": { INJECTION_ANNOTATION: injection },
    }});
    for name in namespaces {
        cluster.patch(&id(name), &patch).await?;
        say(format!(
            "Namespace [{name}] successfully added to mesh [{}], sidecar injection {injection}",
            mesh.name
        ));
    }
    if inject {
        say(
            "pods that run get a sidecar when they are made anew: `kubectl rollout restart deployment -n NAMESPACE`",
        );
    }
    Ok(())
}

/// Removes namespaces.
///
/// # Errors
/// When one is not there, or belongs to another mesh.
pub async fn remove(mesh: &Mesh<'_>, namespaces: &[String]) -> Result<()> {
    let cluster = Cluster::connect(mesh.kubeconfig).await?;
    for name in namespaces {
        let namespace = read(&cluster, name).await?;
        match mesh_of(&namespace) {
            Some(other) if other != mesh.name => {
                bail!(
                    "namespace {name} belongs to mesh {other}, not to {}: pass `--mesh-name {other}`",
                    mesh.name
                );
            }
            Some(_) => {}
            None => warn(format!("namespace {name} belongs to no mesh")),
        }
    }
    let patch = json!({ "metadata": {
        "labels": { MONITORED_LABEL: null },
        "annotations": { INJECTION_ANNOTATION: null },
    }});
    for name in namespaces {
        cluster.patch(&id(name), &patch).await?;
        say(format!("Namespace [{name}] successfully removed from mesh [{}]", mesh.name));
    }
    say("pods that run keep their sidecars, whose policies no longer count: make them anew");
    Ok(())
}

/// Lists the namespaces of a mesh, or of all.
///
/// # Errors
/// When the API server does not say.
pub async fn list(kubeconfig: Option<&Path>, mesh: Option<&str>, as_json: bool) -> Result<()> {
    let cluster = Cluster::connect(kubeconfig).await?;
    let selector =
        mesh.map_or_else(|| MONITORED_LABEL.to_owned(), |mesh| format!("{MONITORED_LABEL}={mesh}"));
    let found = cluster.list(&resource("v1", "Namespace"), None, &selector).await?;
    let rows: Vec<[&str; 3]> = found
        .iter()
        .map(|namespace| {
            let metadata = &namespace["metadata"];
            [
                metadata["name"].as_str().unwrap_or_default(),
                mesh_of(namespace).unwrap_or_default(),
                metadata["annotations"][INJECTION_ANNOTATION].as_str().unwrap_or("-"),
            ]
        })
        .collect();
    if as_json {
        let rows: Vec<Value> = rows
            .iter()
            .map(|[name, mesh, injection]| json!({ "namespace": name, "mesh": mesh, "sidecarInjection": injection }))
            .collect();
        say(format!("{:#}", Value::Array(rows)));
        return Ok(());
    }
    if rows.is_empty() {
        say(mesh.map_or_else(
            || "no namespace belongs to a mesh".to_owned(),
            |mesh| format!("no namespace belongs to mesh [{mesh}]"),
        ));
        return Ok(());
    }
    let head = ["NAMESPACE", "MESH", "SIDECAR-INJECTION"];
    let width = |column: usize| rows.iter().chain([&head]).map(|row| row[column].len()).max().unwrap_or(0);
    let (first, second) = (width(0), width(1));
    for [name, mesh, injection] in [head].iter().chain(&rows) {
        say(format!("{name:first$}  {mesh:second$}  {injection}"));
    }
    Ok(())
}
