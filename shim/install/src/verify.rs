//! `verify`: what works, what does not, and what no sidecar sees.

mod control_plane;
mod images;
mod names;
mod pods;
mod proxies;
mod report;

use std::net::SocketAddr;
use std::path::PathBuf;

use anyhow::Result;
use serde_json::Value;

pub use self::report::{Check, Report, State};
use super::cluster::Cluster;
use super::grants;
use super::id::{Id, resource};
use super::names::{MESH_CONFIG, NAME, Names};
use super::plan;
use super::render::POD_ANNOTATIONS;
use egress_compile::{IGNORE_LABEL, MONITORED_LABEL, PolicyNamespaces, compile};
use egress_inject::{INJECTION_ANNOTATION, POD_ANNOTATIONS_ANNOTATION, PodAnnotations, parse_enabled};

/// What is asked for.
#[derive(Debug)]
pub struct Options {
    /// Which cluster; else kubectl's.
    pub kubeconfig: Option<PathBuf>,
    /// The mesh.
    pub names: Names,
    /// Where a control plane can be asked which proxies it serves.
    pub admin: Option<SocketAddr>,
}

/// Looks at everything. What cannot be read is a failed check, not an error.
pub async fn run(options: &Options) -> Report {
    let mut report = Report::default();
    let cluster = match Cluster::connect(options.kubeconfig.as_deref()).await {
        Ok(cluster) => cluster,
        Err(error) => {
            report.add("API server", State::Fail, format!("{error:#}"));
            return report;
        }
    };
    report.add("API server", State::Ok, format!("{} is {}", cluster.server, cluster.version));
    let names = &options.names;
    let look = |check: &'static str, result: Result<()>, report: &mut Report| {
        if let Err(error) = result {
            report.add(check, State::Fail, format!("{error:#}"));
        }
    };
    let result = control_plane::definitions(&cluster, &mut report).await;
    look("definitions", result, &mut report);
    let config = match mesh_config(&cluster, names, &mut report).await {
        Ok(config) => config,
        Err(error) => {
            report.add("MeshConfig", State::Fail, format!("{error:#}"));
            None
        }
    };
    let result = control_plane::role(&cluster, names, &mut report).await;
    look("role", result, &mut report);
    let result = control_plane::deployment(&cluster, names, config.as_ref(), &mut report).await;
    look("Deployment", result, &mut report);
    let result = control_plane::certificate(&cluster, names, &mut report).await;
    look("certificate", result, &mut report);
    let result = control_plane::webhooks(&cluster, names, &mut report).await;
    look("webhooks", result, &mut report);
    grants(&cluster, names, &mut report).await;
    let result = others(&cluster, names, &mut report).await;
    look("Open Service Mesh", result, &mut report);
    let result = namespaces(&cluster, names, &mut report).await;
    look("namespaces", result, &mut report);
    if let Some(config) = &config {
        pods::excluded_everywhere(config, &mut report);
    }
    proxies::look(options.admin, names, &mut report).await;
    report.add(
        "not captured",
        State::Note,
        "UDP, and with it QUIC and HTTP/3, goes round every sidecar, as do UDP-Lite, SCTP, DCCP and ICMP, processes with \
         uid 1500, init containers that run before ours, and workloads with NET_ADMIN: hold them with a NetworkPolicy \
         (docs/threat-model.md)",
    );
    report
}

async fn mesh_config(cluster: &Cluster, names: &Names, report: &mut Report) -> Result<Option<Value>> {
    let id = Id::within("config.openservicemesh.io/v1alpha2", "MeshConfig", &names.namespace, MESH_CONFIG);
    let found = cluster.get(&id).await?;
    match &found {
        None => report.add(
            "MeshConfig",
            State::Fail,
            format!(
                "{id} is not there: nothing that is not allowed may leave; `osm-egress upgrade` makes it"
            ),
        ),
        Some(config) if config["spec"]["traffic"]["enableEgress"] == true => report.add(
            "MeshConfig",
            State::Ok,
            format!("{id}: enableEgress is true: everything may leave, and policies are not looked at"),
        ),
        Some(_) => report.add(
            "MeshConfig",
            State::Ok,
            format!("{id}: enableEgress is false: only what policies allow may leave"),
        ),
    }
    Ok(found)
}

/// Who is loosened by whom, who may grant to others, and what counts for nobody. Nobody's policies suffer from what
/// cannot be read here.
async fn grants(cluster: &Cluster, names: &Names, report: &mut Report) {
    if report.checks.iter().any(|check| check.check == "definitions" && check.state == State::Fail) {
        for check in ["modes", "grants"] {
            report.add(check, State::Unknown, "the definitions of the objects are missing");
        }
        return;
    }
    let found = async {
        let deployment = cluster.get(&Id::within("apps/v1", "Deployment", &names.namespace, NAME)).await?;
        let in_force = deployment.as_ref().and_then(grants::in_force);
        let options =
            grants::options(names, in_force.unwrap_or_else(|| PolicyNamespaces::one(&names.namespace)));
        let compiled = compile(&grants::read(cluster, &options).await?, &options, None);
        Ok::<_, anyhow::Error>((compiled, options.policy_namespaces))
    };
    let (compiled, everywhere) = match found.await {
        Ok(found) => found,
        Err(error) => {
            for check in ["modes", "grants"] {
                report.add(check, State::Unknown, format!("the objects cannot be read: {error:#}"));
            }
            return;
        }
    };
    let default = compiled.default_mode().as_str();
    let good = format!("`{default}`, and nobody loosens it");
    report.sum("modes", State::Warn, &grants::looser(&compiled), good);
    let good = format!("policies of `{everywhere}` count for all namespaces, others for their own");
    if everywhere == PolicyNamespaces::All {
        report.add("grants", State::Warn, "policies of every namespace count for all namespaces");
    } else {
        report.sum("grants", State::Warn, &grants::not_permitted(&compiled), good);
    }
}

/// What annotations of pods may change about their interception: in the mesh, and in namespaces that say so.
async fn pod_annotations(
    cluster: &Cluster,
    names: &Names,
    namespaces: &[(&str, &str)],
    report: &mut Report,
) -> Result<()> {
    let deployment = cluster.get(&Id::within("apps/v1", "Deployment", &names.namespace, NAME)).await?;
    let arguments = deployment
        .as_ref()
        .and_then(|found| found.pointer("/spec/template/spec/containers/0/args"))
        .and_then(Value::as_array);
    let flag = format!("--{POD_ANNOTATIONS}=");
    let given =
        arguments.into_iter().flatten().filter_map(Value::as_str).find_map(|text| text.strip_prefix(&flag));
    let of_mesh =
        given.map_or(Some(PodAnnotations::All), PodAnnotations::parse).unwrap_or(PodAnnotations::None);
    let mut said = vec![format!("{of_mesh} in the mesh")];
    let mut wrong = Vec::new();
    for (namespace, text) in namespaces {
        match PodAnnotations::parse(text) {
            Some(own) => said.push(format!("{own} in {namespace}")),
            None => wrong
                .push(format!("`{text}` of namespace {namespace} is not none, tighten or all: none counts")),
        }
    }
    let advice = match of_mesh {
        PodAnnotations::All => {
            ": whoever makes pods can have them not intercepted; `osm.egress.podAnnotations` ends that"
        }
        PodAnnotations::None | PodAnnotations::Tighten => "",
    };
    report.add("pod annotations", State::Note, format!("{}{advice}", said.join(", ")));
    if !wrong.is_empty() {
        report.add("pod annotations", State::Warn, wrong.join("; "));
    }
    Ok(())
}

async fn others(cluster: &Cluster, names: &Names, report: &mut Report) -> Result<()> {
    let found = plan::others(cluster, names).await?;
    report.sum("Open Service Mesh", State::Warn, &found, "its control plane is not there");
    Ok(())
}

async fn namespaces(cluster: &Cluster, names: &Names, report: &mut Report) -> Result<()> {
    let selector = format!("{MONITORED_LABEL}={}", names.mesh);
    let found = cluster.list(&resource("v1", "Namespace"), None, &selector).await?;
    let mut list = Vec::new();
    let mut wrong = Vec::new();
    let mut annotations = Vec::new();
    for namespace in &found {
        let metadata = &namespace["metadata"];
        let name = metadata["name"].as_str().unwrap_or_default();
        list.push(name);
        if let Some(text) = metadata["annotations"][POD_ANNOTATIONS_ANNOTATION].as_str() {
            annotations.push((name, text));
        }
        if !metadata["labels"][IGNORE_LABEL].is_null() || name == names.namespace {
            wrong.push(format!("{name} is left out of injection and validation by label or name"));
        } else if !matches!(
            parse_enabled(metadata["annotations"][INJECTION_ANNOTATION].as_str(), INJECTION_ANNOTATION),
            Ok(Some(true))
        ) {
            wrong.push(format!("pods of {name} get no sidecars ({INJECTION_ANNOTATION} is not `enabled`)"));
        }
    }
    if list.is_empty() {
        let advice = "none belongs to the mesh: `osm-egress namespace add NAMESPACE`";
        report.add("namespaces", State::Warn, advice);
        return Ok(());
    }
    report.add("namespaces", State::Ok, list.join(", "));
    if !wrong.is_empty() {
        report.add("injection", State::Warn, wrong.join("; "));
    }
    pod_annotations(cluster, names, &annotations, report).await?;
    names::look(cluster, &list, report).await?;
    pods::look(cluster, &list, report).await
}
