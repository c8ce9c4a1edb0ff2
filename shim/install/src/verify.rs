//! `verify`: checks of an installation and of the traffic that no sidecar intercepts.

mod control_plane;
mod images;
pub(crate) mod interception;
mod names;
mod pods;
mod proxies;
mod report;

use std::net::SocketAddr;
use std::path::PathBuf;

use anyhow::Result;
use serde_json::Value;

use self::interception::InjectionFlags;
pub use self::report::{Check, Report, State};
use super::cluster::Cluster;
use super::grants;
use super::names::{MESH_CONFIG, NAME, Names};
use super::object_id::{ObjectId, api_resource};
use super::plan;
use super::render::POD_ANNOTATIONS_FLAG;
use egress_compile::{IGNORE_LABEL, MONITORED_LABEL, PolicyNamespaces, compile};
use egress_inject::{INJECTION_ANNOTATION, POD_ANNOTATIONS_ANNOTATION, PodAnnotations, parse_enabled};

/// The options of `verify`.
#[derive(Debug)]
pub struct Options {
    /// The kubeconfig of the cluster; kubectl's if there is none.
    pub kubeconfig: Option<PathBuf>,
    /// The names of the mesh and its namespace.
    pub names: Names,
    /// The admin address of a control plane, to check its proxies.
    pub admin: Option<SocketAddr>,
}

/// Runs all checks. An object that cannot be read is a failed check, not an error.
pub async fn run(options: &Options) -> Report {
    let mut report = Report::default();
    let cluster = match Cluster::connect(options.kubeconfig.as_deref()).await {
        Ok(cluster) => cluster,
        Err(error) => {
            report.add("API server", State::Fail, format!("{error:#}"));
            return report;
        }
    };
    report.add("API server", State::Ok, format!("{} runs {}", cluster.server, cluster.version));
    let names = &options.names;
    let fail_on_error = |check: &'static str, result: Result<()>, report: &mut Report| {
        if let Err(error) = result {
            report.add(check, State::Fail, format!("{error:#}"));
        }
    };
    let result = control_plane::check_definitions(&cluster, &mut report).await;
    fail_on_error("definitions", result, &mut report);
    let config = match check_mesh_config(&cluster, names, &mut report).await {
        Ok(config) => config,
        Err(error) => {
            report.add("MeshConfig", State::Fail, format!("{error:#}"));
            None
        }
    };
    let result = control_plane::check_role(&cluster, names, &mut report).await;
    fail_on_error("role", result, &mut report);
    let result = control_plane::check_deployment(&cluster, names, config.as_ref(), &mut report).await;
    fail_on_error("Deployment", result, &mut report);
    let result = control_plane::check_certificate(&cluster, names, &mut report).await;
    fail_on_error("certificate", result, &mut report);
    let result = control_plane::check_webhooks(&cluster, names, &mut report).await;
    fail_on_error("webhooks", result, &mut report);
    check_grants(&cluster, names, &mut report).await;
    let result = check_osm_components(&cluster, names, &mut report).await;
    fail_on_error("Open Service Mesh", result, &mut report);
    let result = check_namespaces(&cluster, names, &mut report).await;
    fail_on_error("namespaces", result, &mut report);
    if let Some(config) = &config {
        pods::check_mesh_exclusions(config, &mut report);
    }
    proxies::check_proxies(options.admin, names, &mut report).await;
    report.add(
        "not captured",
        State::Note,
        "UDP (and with it QUIC and HTTP/3), UDP-Lite, SCTP, DCCP and ICMP bypass every sidecar, as do processes with uid \
         1500, init containers that run before osm-init, and workloads with NET_ADMIN: restrict them with a \
         NetworkPolicy (docs/threat-model.md)",
    );
    report
}

async fn check_mesh_config(cluster: &Cluster, names: &Names, report: &mut Report) -> Result<Option<Value>> {
    let id = ObjectId::namespaced(
        "config.openservicemesh.io/v1alpha2",
        "MeshConfig",
        &names.namespace,
        MESH_CONFIG,
    );
    let found = cluster.get(&id).await?;
    match &found {
        None => report.add(
            "MeshConfig",
            State::Fail,
            format!("{id} does not exist: policies are enforced; `osm-egress upgrade` creates it"),
        ),
        Some(config) if config["spec"]["traffic"]["enableEgress"] == true => report.add(
            "MeshConfig",
            State::Ok,
            format!("{id}: enableEgress is true: all destinations are allowed, and policies have no effect"),
        ),
        Some(_) => report.add(
            "MeshConfig",
            State::Ok,
            format!("{id}: enableEgress is false: only destinations of policies are allowed"),
        ),
    }
    Ok(found)
}

/// Checks loosened modes, and grants without permission. If the objects cannot be read, both are unknown, not failed.
async fn check_grants(cluster: &Cluster, names: &Names, report: &mut Report) {
    if report.checks.iter().any(|check| check.check == "definitions" && check.state == State::Fail) {
        for check in ["modes", "grants"] {
            report.add(check, State::Unknown, "the definitions of the objects are missing");
        }
        return;
    }
    let compiled = async {
        let deployment =
            cluster.get(&ObjectId::namespaced("apps/v1", "Deployment", &names.namespace, NAME)).await?;
        let in_force = deployment.as_ref().and_then(grants::read_policy_namespaces);
        let options = grants::compile_options(
            names,
            in_force.unwrap_or_else(|| PolicyNamespaces::one(&names.namespace)),
        );
        let compiled = compile(&grants::read_objects(cluster, &options).await?, &options, None);
        Ok::<_, anyhow::Error>((compiled, options.policy_namespaces))
    };
    let (compiled, everywhere) = match compiled.await {
        Ok(found) => found,
        Err(error) => {
            for check in ["modes", "grants"] {
                report.add(check, State::Unknown, format!("cannot read the objects: {error:#}"));
            }
            return;
        }
    };
    let default = compiled.default_mode().as_str();
    let good = format!("`{default}`, and no object loosens it");
    report.add_findings("modes", State::Warn, &grants::list_loosened_modes(&compiled), good);
    let good = format!("policies in `{everywhere}` apply to all namespaces, others to their own");
    if everywhere == PolicyNamespaces::All {
        report.add("grants", State::Warn, "policies in every namespace apply to all namespaces");
    } else {
        report.add_findings("grants", State::Warn, &grants::list_unpermitted_grants(&compiled), good);
    }
}

/// Reports the changes to their interception that annotations of pods may make, in the mesh and in each namespace with a
/// setting of its own.
async fn report_pod_annotations(
    cluster: &Cluster,
    names: &Names,
    namespaces: &[(&str, &str)],
    report: &mut Report,
) -> Result<()> {
    let deployment =
        cluster.get(&ObjectId::namespaced("apps/v1", "Deployment", &names.namespace, NAME)).await?;
    let arguments = deployment
        .as_ref()
        .and_then(|found| found.pointer("/spec/template/spec/containers/0/args"))
        .and_then(Value::as_array);
    let flag = format!("--{POD_ANNOTATIONS_FLAG}=");
    let given =
        arguments.into_iter().flatten().filter_map(Value::as_str).find_map(|text| text.strip_prefix(&flag));
    let of_mesh =
        given.map_or(Some(PodAnnotations::All), PodAnnotations::parse).unwrap_or(PodAnnotations::None);
    let mut settings = vec![format!("{of_mesh} in the mesh")];
    let mut wrong = Vec::new();
    for (namespace, text) in namespaces {
        match PodAnnotations::parse(text) {
            Some(own) => settings.push(format!("{own} in {namespace}")),
            None => wrong.push(format!(
                "`{text}` of namespace {namespace} is not none, tighten or all: none is in force"
            )),
        }
    }
    let advice = match of_mesh {
        PodAnnotations::All => {
            ": pod authors can turn interception off; set `osm.egress.podAnnotations` to prevent that"
        }
        PodAnnotations::None | PodAnnotations::Tighten => "",
    };
    report.add("pod annotations", State::Note, format!("{}{advice}", settings.join(", ")));
    if !wrong.is_empty() {
        report.add("pod annotations", State::Warn, wrong.join("\n"));
    }
    Ok(())
}

async fn check_osm_components(cluster: &Cluster, names: &Names, report: &mut Report) -> Result<()> {
    let found = plan::find_osm_components(cluster, names).await?;
    report.add_findings("Open Service Mesh", State::Warn, &found, "not installed");
    Ok(())
}

async fn check_namespaces(cluster: &Cluster, names: &Names, report: &mut Report) -> Result<()> {
    let selector = format!("{MONITORED_LABEL}={}", names.mesh);
    let found = cluster.list(&api_resource("v1", "Namespace"), None, &selector).await?;
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
            wrong.push(format!("{name} is excluded from injection and validation by its label or name"));
        } else if !matches!(
            parse_enabled(metadata["annotations"][INJECTION_ANNOTATION].as_str(), INJECTION_ANNOTATION),
            Ok(Some(true))
        ) {
            wrong.push(format!("pods of {name} get no sidecars ({INJECTION_ANNOTATION} is not `enabled`)"));
        }
    }
    if list.is_empty() {
        let advice = "no namespace belongs to the mesh: run `osm-egress namespace add NAMESPACE`";
        report.add("namespaces", State::Warn, advice);
        return Ok(());
    }
    report.add("namespaces", State::Ok, list.join(", "));
    if !wrong.is_empty() {
        report.add("injection", State::Warn, wrong.join("\n"));
    }
    let flags = InjectionFlags::read(cluster, names).await?;
    interception::check_pod_security(&found, flags, report);
    interception::check_plugin(cluster, names, &found, flags, report).await?;
    interception::check_native_sidecars(cluster, flags, report).await;
    report_pod_annotations(cluster, names, &annotations, report).await?;
    names::check_hosts(cluster, &list, report).await?;
    pods::check_pods(cluster, &list, report).await
}
