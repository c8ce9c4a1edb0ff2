//! A node with the CNI plugin, as the DaemonSet installs it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use egress_tests::cli::osm_egress;
use egress_tests::cluster::Cluster;
use egress_tests::cni::{Answer, Call, previous_result};
use egress_tests::control_plane;
use egress_tests::kube::{API_SERVER, ApiServer, User};
use egress_tests::netns::Netns;
use egress_tests::wait::wait_for;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};

/// A network configuration, as the cluster's network plugin writes it.
pub(crate) const CONFIGURATION: &str =
    r#"{"cniVersion":"1.0.0","name":"net","plugins":[{"type":"bridge"},{"type":"portmap"}]}"#;

/// A node: the folders that the DaemonSet's pod mounts, and the credentials of its service account.
pub(crate) struct Node<'n> {
    netns: &'n Netns,
    folder: tempfile::TempDir,
    arguments: Vec<String>,
}

impl<'n> Node<'n> {
    /// Prepares a node for the DaemonSet that `install` made.
    pub(crate) fn new(cluster: &Cluster<'n>) -> Result<Self> {
        let api = &cluster.api;
        let folder = tempfile::tempdir()?;
        for name in ["bin", "net.d", "account"] {
            fs::create_dir(folder.path().join(name))?;
        }
        let text = api.kubectl(
            User::Admin,
            &["get", "daemonset", "osm-egress-cni", "-n", "osm-system-cni", "-o", "json"],
        )?;
        let daemon_set: Value = serde_json::from_str(&text)?;
        let words =
            daemon_set["spec"]["template"]["spec"]["containers"][0]["args"].as_array().context("args")?;
        let at = |name: &str| folder.path().join(name).to_string_lossy().into_owned();
        let mut arguments: Vec<String> = words
            .iter()
            .filter_map(Value::as_str)
            .map(|word| match word.split_once('=') {
                Some(("--bin-dir", _)) => format!("--bin-dir={}", at("bin")),
                // The plugin runs on this machine, so it sees the same folder.
                Some(("--net-dir", _)) => format!("--net-dir={}", at("net.d")),
                Some(("--node-net-dir", _)) => format!("--node-net-dir={}", at("net.d")),
                _ => word.to_owned(),
            })
            .collect();
        // The environment of a pod.
        arguments.push(format!("--server=https://{API_SERVER}:6443"));
        arguments.push(format!("--service-account-dir={}", at("account")));
        let node = Self { netns: &cluster.network.outside.netns, folder, arguments };
        let authority = api.kubeconfig(User::Admin).with_file_name("ca.crt");
        fs::copy(authority, node.path("account/ca.crt"))?;
        node.renew_token(api)?;
        Ok(node)
    }

    pub(crate) fn renew_token(&self, api: &ApiServer<'_>) -> Result<()> {
        let token = api.token("osm-system-cni", "osm-egress-cni", "https://kubernetes.default.svc", None)?;
        // As the kubelet does it.
        fs::write(self.path("account/new"), token)?;
        Ok(fs::rename(self.path("account/new"), self.path("account/token"))?)
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(crate) fn write(&self, name: &str, text: &str) -> Result<()> {
        Ok(fs::write(self.path(&format!("net.d/{name}")), text)?)
    }

    pub(crate) fn read(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap_or_default()
    }

    /// Starts the installation, as the DaemonSet's pod does.
    pub(crate) fn install(&self) -> Result<Installation> {
        let log = fs::File::options().create(true).append(true).open(self.path("install.log"))?;
        let child = self
            .netns
            .command(&control_plane::binary()?.to_string_lossy())
            .args(&self.arguments)
            // Credentials of the pod, by which it asks for its DaemonSet.
            .env("KUBECONFIG", self.path("net.d/osm-egress-cni.kubeconfig"))
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()?;
        Ok(Installation(child))
    }

    /// Runs the readiness probe.
    pub(crate) fn check(&self) -> Result<(bool, String)> {
        let mut command = self.netns.command(&control_plane::binary()?.to_string_lossy());
        let output = command.args(&self.arguments).arg("--check").output()?;
        Ok((output.status.success(), String::from_utf8([output.stdout, output.stderr].concat())?))
    }

    pub(crate) fn wait_until_ready(&self) -> Result<()> {
        wait_for("the node to be ready", Duration::from_secs(30), || {
            self.check().is_ok_and(|(ready, _)| ready)
        })
        .with_context(|| format!("{:?}\n{}", self.check(), self.read("install.log")))?;
        Ok(())
    }

    /// The plugin's configuration, as a container runtime takes it from the node's list.
    pub(crate) fn configuration(&self, version: &str) -> Result<Value> {
        let list: Value = serde_json::from_str(&self.read("net.d/10-net.conflist"))?;
        let plugins = list["plugins"].as_array().context("no plugins")?;
        let mut own =
            plugins.iter().find(|plugin| plugin["type"] == "osm-egress-cni").context("no plugin")?.clone();
        own["cniVersion"] = json!(version);
        own["name"] = list["name"].clone();
        own["prevResult"] = previous_result();
        Ok(own)
    }

    /// Calls the installed plugin for a pod `NAMESPACE/NAME`.
    pub(crate) fn call(&self, command: &str, netns: &Path, pod: &str) -> Result<Answer> {
        let plugin = self.path("bin/osm-egress-cni");
        let call = Call::new(self.netns, &plugin, command, &netns.to_string_lossy(), pod);
        call.run(&self.configuration("1.1.0")?.to_string())
    }
}

/// A running installation. It is killed when this is dropped.
pub(crate) struct Installation(Child);

impl Installation {
    /// Ends it as the kubelet does.
    pub(crate) fn terminate(mut self) -> Result<()> {
        kill(Pid::from_raw(i32::try_from(self.0.id())?), Signal::SIGTERM)?;
        let status = self.0.wait()?;
        ensure!(status.success(), "{status}");
        Ok(())
    }
}

impl Drop for Installation {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Installs the control plane's objects with the plugin's, and makes the namespace `shop`, which no webhook concerns.
pub(crate) fn install(api: &ApiServer<'_>) -> Result<()> {
    osm_egress(api, User::Admin, &["install", "--set", "osm.egress.cni=true"])?.expect_success()?;
    api.namespace("shop", false)?;
    api.service_account("shop", "default")?;
    Ok(())
}
