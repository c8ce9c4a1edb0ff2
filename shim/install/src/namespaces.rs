//! `namespace add|remove|list`: membership of namespaces in a mesh, as in Open Service Mesh.

use std::path::Path;

use anyhow::{Result, bail};
use serde_json::{Value, json};

use super::cluster::Cluster;
use super::names::Names;
use super::object_id::{ObjectId, api_resource};
use super::verify::interception::{InjectionFlags, find_namespace_refusal};
use super::{print_line, print_warning};
use egress_compile::{IGNORE_LABEL, MONITORED_LABEL};
use egress_inject::INJECTION_ANNOTATION;

/// Namespaces that cannot join a mesh, since their workloads keep the cluster running.
const SYSTEM_NAMESPACES: [&str; 3] = ["kube-system", "kube-public", "kube-node-lease"];

/// A reference to a mesh.
#[derive(Debug)]
pub struct MeshRef<'m> {
    /// The kubeconfig of the cluster; kubectl's if there is none.
    pub kubeconfig: Option<&'m Path>,
    /// The name of the mesh.
    pub name: &'m str,
    /// The namespace of its control plane.
    pub namespace: &'m str,
}

fn namespace_id(name: &str) -> ObjectId {
    ObjectId::cluster_scoped("v1", "Namespace", name)
}

fn mesh_of(namespace: &Value) -> Option<&str> {
    namespace["metadata"]["labels"][MONITORED_LABEL].as_str()
}

async fn read_namespace(cluster: &Cluster, name: &str) -> Result<Value> {
    match cluster.get(&namespace_id(name)).await? {
        Some(namespace) => Ok(namespace),
        None => bail!("there is no namespace {name} in {}: create it first", cluster.server),
    }
}

/// Adds namespaces to a mesh. All are checked before the first is changed.
///
/// # Errors
/// Fails when one does not exist, cannot join a mesh, or belongs to another.
pub async fn add(mesh: &MeshRef<'_>, namespaces: &[String], inject: bool) -> Result<()> {
    let cluster = Cluster::connect(mesh.kubeconfig).await?;
    let names = Names { mesh: mesh.name.to_owned(), namespace: mesh.namespace.to_owned() };
    // Whoever may not read the control plane gets no warning, instead of a wrong one.
    let cni = InjectionFlags::read(&cluster, &names).await.map_or(true, |flags| flags.cni);
    let mut refusals = Vec::new();
    for name in namespaces {
        if name == mesh.namespace {
            bail!(
                "{name} is the control plane's own namespace and cannot join the mesh: its pods would wait for sidecars \
                 that wait for them"
            );
        }
        if SYSTEM_NAMESPACES.contains(&name.as_str()) {
            bail!(
                "{name} is a system namespace and cannot join the mesh: the cluster depends on its pods, which must not \
                 wait for sidecars"
            );
        }
        let namespace = read_namespace(&cluster, name).await?;
        if let Some(other) = mesh_of(&namespace).filter(|other| *other != mesh.name) {
            bail!(
                "namespace {name} belongs to mesh {other}: remove it there first, or pass `--mesh-name {other}`"
            );
        }
        if !namespace["metadata"]["labels"][IGNORE_LABEL].is_null() {
            bail!("namespace {name} has the label {IGNORE_LABEL}: remove that first");
        }
        let refusal = find_namespace_refusal(&namespace, cni).filter(|_| inject);
        refusals.extend(refusal.map(|refusal| format!("namespace {name}: {refusal}")));
    }
    let injection = if inject { "enabled" } else { "disabled" };
    let patch = json!({ "metadata": {
        "labels": { MONITORED_LABEL: mesh.name },
        "annotations": { INJECTION_ANNOTATION: injection },
    }});
    for name in namespaces {
        cluster.patch(&namespace_id(name), &patch).await?;
        print_line(format!(
            "Namespace [{name}] successfully added to mesh [{}], sidecar injection {injection}",
            mesh.name
        ));
    }
    refusals.into_iter().for_each(print_warning);
    if inject {
        print_line(
            "running pods get a sidecar when they are created again: `kubectl rollout restart deployment -n NAMESPACE`",
        );
    }
    Ok(())
}

/// Removes namespaces from a mesh.
///
/// # Errors
/// Fails when one does not exist, or belongs to another mesh.
pub async fn remove(mesh: &MeshRef<'_>, namespaces: &[String]) -> Result<()> {
    let cluster = Cluster::connect(mesh.kubeconfig).await?;
    for name in namespaces {
        let namespace = read_namespace(&cluster, name).await?;
        match mesh_of(&namespace) {
            Some(other) if other != mesh.name => {
                bail!(
                    "namespace {name} belongs to mesh {other}, not to {}: pass `--mesh-name {other}`",
                    mesh.name
                );
            }
            Some(_) => {}
            None => print_warning(format!("namespace {name} belongs to no mesh")),
        }
    }
    let patch = json!({ "metadata": {
        "labels": { MONITORED_LABEL: null },
        "annotations": { INJECTION_ANNOTATION: null },
    }});
    for name in namespaces {
        cluster.patch(&namespace_id(name), &patch).await?;
        print_line(format!("Namespace [{name}] successfully removed from mesh [{}]", mesh.name));
    }
    print_line("running pods keep their sidecars, but policies no longer apply to them: restart these pods");
    Ok(())
}

/// Lists the namespaces of a mesh, or of all meshes.
///
/// # Errors
/// Fails when the API server cannot be read.
pub async fn list(kubeconfig: Option<&Path>, mesh: Option<&str>, as_json: bool) -> Result<()> {
    let cluster = Cluster::connect(kubeconfig).await?;
    let selector =
        mesh.map_or_else(|| MONITORED_LABEL.to_owned(), |mesh| format!("{MONITORED_LABEL}={mesh}"));
    let namespaces = cluster.list(&api_resource("v1", "Namespace"), None, &selector).await?;
    let rows: Vec<[&str; 3]> = namespaces
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
        print_line(format!("{:#}", Value::Array(rows)));
        return Ok(());
    }
    if rows.is_empty() {
        print_line(mesh.map_or_else(
            || "no namespace belongs to a mesh".to_owned(),
            |mesh| format!("no namespace belongs to mesh [{mesh}]"),
        ));
        return Ok(());
    }
    let header = ["NAMESPACE", "MESH", "SIDECAR-INJECTION"];
    let width = |column: usize| rows.iter().chain([&header]).map(|row| row[column].len()).max().unwrap_or(0);
    let (first, second) = (width(0), width(1));
    for [name, mesh, injection] in [header].iter().chain(&rows) {
        print_line(format!("{name:first$}  {mesh:second$}  {injection}"));
    }
    Ok(())
}
