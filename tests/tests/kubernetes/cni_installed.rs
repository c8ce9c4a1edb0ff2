//! `install` with the CNI plugin and native sidecars: what it makes, changes and takes away.

use anyhow::{Context, Result, ensure};
use egress_tests::cli::osm_egress;
use egress_tests::cluster::Cluster;
use egress_tests::kube::{ApiServer, User, with_namespace_controller};
use egress_tests::netns::ensure_capable;
use egress_tests::network::TestNetwork;
use serde_json::{Value, json};

use crate::cni_restricted::minor_version;

/// Sets the version of a node's kubelet, as the kubelet does.
fn set_kubelet(api: &ApiServer<'_>, version: &str) -> Result<()> {
    let mut node = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "one"}});
    api.apply(&node.to_string())?;
    let text = api.kubectl(User::Admin, &["get", "node", "one", "-o", "json"])?;
    node = serde_json::from_str(&text)?;
    let info = [
        "architecture",
        "bootID",
        "containerRuntimeVersion",
        "kernelVersion",
        "kubeProxyVersion",
        "machineID",
        "operatingSystem",
        "osImage",
        "systemUUID",
    ];
    node["status"]["nodeInfo"] =
        info.iter().map(|key| ((*key).to_owned(), json!("x"))).collect::<serde_json::Map<_, _>>().into();
    node["status"]["nodeInfo"]["kubeletVersion"] = json!(version);
    let file = tempfile::NamedTempFile::new()?;
    std::fs::write(file.path(), node.to_string())?;
    let path = file.path().to_string_lossy().into_owned();
    api.kubectl(User::Admin, &["replace", "--raw", "/api/v1/nodes/one/status", "-f", &path])?;
    Ok(())
}

/// Flags of the control plane, and whether the DaemonSet exists.
fn installed(api: &ApiServer<'_>) -> Result<(bool, bool, bool)> {
    let text =
        api.kubectl(User::Admin, &["get", "deployment", "osm-egress", "-n", "osm-system", "-o", "json"])?;
    let deployment: Value = serde_json::from_str(&text)?;
    let arguments =
        deployment["spec"]["template"]["spec"]["containers"][0]["args"].as_array().context("args")?.clone();
    let has = |flag: &str| arguments.iter().any(|argument| argument == flag);
    let words = ["get", "daemonset", "-n", "osm-system-cni", "-o", "name"];
    let daemon_set = api.kubectl(User::Admin, &words)?.contains("osm-egress-cni");
    Ok((has("--cni"), has("--native-sidecar"), daemon_set))
}

#[test]
fn native_sidecars_and_the_plugin_follow_nodes_and_values() -> Result<()> {
    ensure_capable()?;
    let network = TestNetwork::new()?;
    let cluster = Cluster::without_definitions(&network)?;
    let api = &cluster.api;
    let minor = minor_version(api)?;
    let runs_native = minor >= 29;
    if !runs_native {
        eprintln!(
            "NOT RUN: native sidecars by default, which this API server (1.{minor}) does not have: it needs 1.29"
        );
    }
    let run = |words: &[&str]| osm_egress(api, User::Admin, words)?.expect_success();
    // Without nodes nothing is known.
    run(&["install", "--set", "osm.egress.cni=true"])?;
    ensure!(installed(api)? == (true, false, true), "{:?}", installed(api)?);
    set_kubelet(api, "v1.30.2")?;
    run(&["upgrade"])?;
    ensure!(installed(api)? == (true, runs_native, true), "{:?}", installed(api)?);
    run(&["upgrade", "--set", "osm.egress.nativeSidecar=enabled"])?;
    ensure!(installed(api)? == (true, true, true), "{:?}", installed(api)?);
    // An older node.
    set_kubelet(api, "v1.28.9")?;
    api.namespace("curl", false)?;
    run(&["namespace", "add", "curl"])?;
    let message = osm_egress(api, User::Admin, &["verify"])?.stdout;
    ensure!(
        message.contains("one (v1.28.9)") && message.contains("injected pods do not start there"),
        "{message}"
    );
    // No DaemonSet controller runs here, so no node is wanted, and none is missing.
    ensure!(message.contains("CNI plugin") && message.contains("ready on 0 of 0 nodes"), "{message}");
    let message = run(&["upgrade", "--set", "osm.egress.nativeSidecar=auto"])?;
    ensure!(installed(api)? == (true, false, true), "{message:?}");
    with_namespace_controller(api, || {
        run(&["upgrade", "--set", "osm.egress.cni=false"])?;
        Ok(())
    })?;
    ensure!(installed(api)? == (false, false, false), "{:?}", installed(api)?);
    run(&["upgrade", "--set", "osm.egress.cni=true"])?;
    with_namespace_controller(api, || {
        let message = run(&["uninstall"])?.stdout;
        ensure!(message.contains("DaemonSet osm-system-cni/osm-egress-cni: deleted"), "{message}");
        Ok(())
    })?;
    ensure!(!api.kubectl(User::Admin, &["get", "clusterroles", "-o", "name"])?.contains("osm-egress"));
    Ok(())
}
