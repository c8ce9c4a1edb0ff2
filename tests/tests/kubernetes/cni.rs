//! The CNI plugin with a real API server: installed on a node, called as a container runtime calls it, and enforced by a real
//! Envoy.

#![allow(clippy::wildcard_enum_match_arm, reason = "what a test does not expect fails it")]

use std::fs;
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use egress_tests::authority::Volume;
use egress_tests::cli::osm_egress;
use egress_tests::cluster::{Cluster, issue_control_plane_certificate};
use egress_tests::cni::{Answer, Call, previous_result};
use egress_tests::control_plane;
use egress_tests::envoy::{self, Envoy};
use egress_tests::kube::{API_SERVER, ApiServer, User};
use egress_tests::netns::{Netns, can_switch_uid, ensure_capable};
use egress_tests::network::{CONTROL_PLANE, ELSEWHERE, EXAMPLE, EXAMPLE6, HTTPBIN, HTTPBIN6, TestNetwork};
use egress_tests::wait::wait_for;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};

use crate::inject::{arguments, container, echo, inject, texts, token};

const WEBHOOK_PORT: u16 = 9443;
const CONFIGURATION: &str =
    r#"{"cniVersion":"1.0.0","name":"net","plugins":[{"type":"bridge"},{"type":"portmap"}]}"#;

fn prepare() -> Result<()> {
    ensure_capable()?;
    ensure!(can_switch_uid(), "network namespaces of others, and rules by uid, need root");
    Ok(())
}

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

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn write(&self, name: &str, text: &str) -> Result<()> {
        Ok(fs::write(self.path(&format!("net.d/{name}")), text)?)
    }

    fn read(&self, name: &str) -> String {
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
    fn check(&self) -> Result<(bool, String)> {
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
    fn configuration(&self, version: &str) -> Result<Value> {
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
    fn terminate(mut self) -> Result<()> {
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

/// Creates a pod, injected for the plugin, with these annotations.
fn create_pod(api: &ApiServer<'_>, name: &str, annotations: &Value) -> Result<String> {
    let pod = json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": name, "namespace": "shop", "annotations": annotations},
        "spec": {"containers": [{"name": "app", "image": "app"}]},
    });
    api.apply(&inject(&pod.to_string(), &["--cni"])?)?;
    Ok(format!("shop/{name}"))
}

#[test]
fn the_installed_plugin_serves_the_specifications_commands() -> Result<()> {
    prepare()?;
    let network = TestNetwork::new()?;
    let mut cluster = Cluster::without_definitions(&network)?;
    install(&cluster.api)?;
    let injected = create_pod(&cluster.api, "injected", &json!({}))?;
    let listed = create_pod(
        &cluster.api,
        "listed",
        &json!({"openservicemesh.io/outbound-port-exclusion-list": "5432"}),
    )?;
    let plain = json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "plain", "namespace": "shop"},
        "spec": {"containers": [{"name": "app", "image": "app"}]},
    });
    cluster.api.apply(&plain.to_string())?;
    let node = Node::new(&cluster)?;
    node.write("10-net.conflist", CONFIGURATION)?;
    let _running = node.install()?;
    node.wait_until_ready()?;

    let pod = network.outside.neighbour()?;
    let netns = pod.path();
    // Before ADD the rules are not there.
    node.call("CHECK", &netns, &injected)?
        .expect(101, "IPv4: chain `OSM_PROXY_INBOUND` is missing or changed")?;
    for _ in 0..2 {
        let answer = node.call("ADD", &netns, &injected)?;
        let result: Value = serde_json::from_str(answer.succeeded()?)?;
        ensure!(result == previous_result(), "{result}");
        ensure!(node.call("CHECK", &netns, &injected)?.succeeded()?.is_empty());
    }
    // Rules for something else are not these.
    node.call("CHECK", &netns, &listed)?
        .expect(101, "IPv4: the rules of chain `OSM_PROXY_OUTBOUND` are missing or changed")?;
    node.call("ADD", &netns, &listed)?.succeeded()?;
    node.call("CHECK", &netns, &injected)?.expect(101, "are missing or changed")?;
    node.call("CHECK", &netns, &listed)?.succeeded()?;
    node.call("ADD", &netns, &injected)?.succeeded()?;
    // DEL leaves the rules, as often as it comes: a process that is still there must not get out.
    for _ in 0..2 {
        node.call("DEL", &netns, &injected)?.succeeded()?;
        node.call("CHECK", &netns, &injected)?.succeeded()?;
    }
    // A pod without injection is left alone.
    let other = network.outside.neighbour()?;
    node.call("ADD", &other.path(), "shop/plain")?.succeeded()?;
    node.call("CHECK", &other.path(), &injected)?.expect(101, "is missing")?;
    // A namespace that vanished.
    let gone = other.path();
    drop(other);
    node.call("ADD", &gone, &injected)?.expect(3, "does not exist")?;
    node.call("CHECK", &gone, &injected)?.expect(3, "does not exist")?;
    for _ in 0..2 {
        node.call("DEL", &gone, &injected)?.succeeded()?;
    }
    // A pod that is gone, or another of the same name.
    node.call("ADD", &netns, "shop/unknown")?.expect(11, "the API server knows no pod shop/unknown")?;
    let plugin = node.path("bin/osm-egress-cni");
    let with_uid = |uid: &str| {
        let arguments = format!("K8S_POD_NAMESPACE=shop;K8S_POD_NAME=injected;K8S_POD_UID={uid}");
        let call =
            Call::new(node.netns, &plugin, "ADD", &netns.to_string_lossy(), "").with("CNI_ARGS", &arguments);
        call.run(&node.configuration("0.3.1")?.to_string())
    };
    let path = ["get", "pod", "injected", "-n", "shop", "-o", "jsonpath={.metadata.uid}"];
    with_uid(&cluster.api.kubectl(User::Admin, &path)?)?.succeeded()?;
    with_uid("another")?.expect(11, "was replaced by another")?;
    // A file that is no namespace.
    node.call("ADD", &node.path("install.log"), &injected)?
        .expect(4, "CNI_NETNS is not a network namespace")?;
    // The plugin may read pods, and nothing else.
    node.call("STATUS", &netns, "")?.succeeded()?;
    let kubeconfig = node.path("net.d/osm-egress-cni.kubeconfig");
    let kubectl = |words: &[&str]| -> Result<bool> {
        let mut command = cluster.api.command("kubectl", User::Admin);
        Ok(command.env("KUBECONFIG", &kubeconfig).args(words).output()?.status.success())
    };
    ensure!(kubectl(&["get", "pod", "injected", "-n", "shop"])?);
    ensure!(!kubectl(&["get", "pods", "-n", "shop"])? && !kubectl(&["get", "secrets", "-A"])?);
    ensure!(!kubectl(&["delete", "pod", "plain", "-n", "shop"])?);
    // Without the API server: injected pods and others wait, those of excluded namespaces start.
    cluster.api.kill();
    node.call("ADD", &netns, &injected)?.expect(11, "the API server does not answer")?;
    node.call("ADD", &netns, "shop/plain")?.expect(11, "the API server does not answer")?;
    node.call("CHECK", &netns, &injected)?.expect(11, "the API server does not answer")?;
    node.call("STATUS", &netns, "")?.expect(50, "the API server does not answer")?;
    for namespace in ["kube-system", "osm-system", "osm-system-cni"] {
        node.call("ADD", &netns, &format!("{namespace}/any"))?.succeeded()?;
    }
    node.call("DEL", &netns, &injected)?.succeeded()?;
    cluster.api.resume()?;
    node.call("ADD", &netns, &injected)?.succeeded()?;
    Ok(())
}

#[test]
fn a_node_whose_configuration_is_replaced_is_repaired() -> Result<()> {
    prepare()?;
    let network = TestNetwork::new()?;
    let cluster = Cluster::without_definitions(&network)?;
    install(&cluster.api)?;
    let node = Node::new(&cluster)?;
    let running = node.install()?;
    // The cluster's network plugin comes later.
    let (ready, text) = node.check()?;
    ensure!(!ready && text.contains("there is no network configuration in"), "{text}");
    node.write("10-net.conflist", CONFIGURATION)?;
    node.wait_until_ready()?;
    let has_plugin = |name: &str| node.read(name).contains("osm-egress-cni");
    let repaired = |name: &str| {
        wait_for(&format!("{name} to be repaired"), Duration::from_secs(20), || has_plugin(name))
    };
    for _ in 0..3 {
        node.write("10-net.conflist", CONFIGURATION)?;
        repaired("net.d/10-net.conflist")?;
    }
    // Another agent becomes the first, by renaming.
    node.write("new", CONFIGURATION)?;
    fs::rename(node.path("net.d/new"), node.path("net.d/05-other.conflist"))?;
    repaired("net.d/05-other.conflist")?;
    fs::remove_file(node.path("bin/osm-egress-cni"))?;
    wait_for("the binary to be back", Duration::from_secs(20), || node.path("bin/osm-egress-cni").exists())?;
    // A new token, as every hour.
    let before = node.read("net.d/osm-egress-cni.kubeconfig");
    node.renew_token(&cluster.api)?;
    wait_for("the new token", Duration::from_secs(20), || {
        let now = node.read("net.d/osm-egress-cni.kubeconfig");
        !now.is_empty() && now != before
    })?;
    node.wait_until_ready()?;
    // The pod of the DaemonSet is replaced: the plugin stays.
    running.terminate()?;
    ensure!(has_plugin("net.d/05-other.conflist") && node.path("bin/osm-egress-cni").exists());
    // It is uninstalled: nothing of it stays.
    let running = node.install()?;
    node.wait_until_ready()?;
    cluster.api.kubectl(User::Admin, &["delete", "daemonset", "osm-egress-cni", "-n", "osm-system-cni"])?;
    running.terminate()?;
    for name in ["net.d/05-other.conflist", "net.d/10-net.conflist"] {
        let found: Value = serde_json::from_str(&node.read(name))?;
        ensure!(found == serde_json::from_str::<Value>(CONFIGURATION)?, "{name}: {found}");
    }
    ensure!(
        !node.path("bin/osm-egress-cni").exists() && !node.path("net.d/osm-egress-cni.kubeconfig").exists()
    );
    Ok(())
}

/// Answers every connection with a text.
fn answer(netns: &Netns, addresses: &'static [&'static str], text: &'static [u8]) -> Result<()> {
    for address in addresses {
        let listener = netns.run(|| TcpListener::bind(address))?.with_context(|| (*address).to_owned())?;
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let Ok(mut stream) = stream else { break };
                let _ = stream.read(&mut [0; 16]);
                let _ = stream.write_all(text);
            }
        });
    }
    Ok(())
}

/// Connects as a uid, and returns what answers.
fn ask(netns: &Netns, uid: u32, to: SocketAddr) -> Result<String> {
    let script =
        format!("exec 3<>/dev/tcp/{}/{} && printf 'direct\\n' >&3 && head -n1 <&3", to.ip(), to.port());
    let uid = uid.to_string();
    let mut command = netns.command("setpriv");
    command.args(["--reuid", &uid, "--regid", &uid, "--clear-groups", "timeout", "3", "bash", "-c", &script]);
    let output = command.output()?;
    let text = String::from_utf8(output.stdout)?.trim().to_owned();
    Ok(if text.is_empty() { "nothing".to_owned() } else { text })
}

#[test]
fn the_plugins_rules_do_what_those_of_iptables_do() -> Result<()> {
    prepare()?;
    let network = TestNetwork::new()?;
    let cluster = Cluster::without_definitions(&network)?;
    install(&cluster.api)?;
    let node = Node::new(&cluster)?;
    node.write("10-net.conflist", CONFIGURATION)?;
    let _running = node.install()?;
    node.wait_until_ready()?;
    let (local, local6): (IpAddr, IpAddr) = ("127.0.0.1".parse()?, "::1".parse()?);
    let lists = json!({
        "openservicemesh.io/outbound-port-exclusion-list": "9100,9101",
        "openservicemesh.io/outbound-ip-range-exclusion-list": format!("{EXAMPLE}/32,2001:db8:0:1::20/128,198.51.100.0/24"),
    });
    let only = json!({"openservicemesh.io/outbound-ip-range-inclusion-list": format!("{EXAMPLE}/30")});
    let to = SocketAddr::new;
    // The answer, for connections of a workload and of the sidecar.
    let cases = |annotations: &Value| -> Vec<(SocketAddr, &str, &str)> {
        let is = |condition: bool| if condition { "redirected" } else { "direct" };
        let (listed, limited) = (*annotations == lists, *annotations == only);
        vec![
            (to(HTTPBIN, 9000), is(!limited), "direct"),
            (to(HTTPBIN6, 9000), is(!limited), "direct"),
            (to(HTTPBIN, 9100), is(!listed && !limited), "direct"),
            (to(HTTPBIN6, 9101), is(!listed && !limited), "direct"),
            (to(HTTPBIN, 9102), is(!limited), "direct"),
            (to(EXAMPLE, 9000), is(!listed), "direct"),
            (to(EXAMPLE6, 9000), is(!listed && !limited), "direct"),
            (to(local, 7000), "local", "local"),
            (to(local6, 7000), "local", "local"),
        ]
    };
    for (name, annotations) in [("none", json!({})), ("lists", lists.clone()), ("only", only.clone())] {
        let pod = create_pod(&cluster.api, name, &annotations)?;
        let by_plugin = network.outside.neighbour()?;
        node.call("ADD", &by_plugin.path(), &pod)?.succeeded()?;
        node.call("CHECK", &by_plugin.path(), &pod)?.succeeded()?;
        let by_iptables = network.outside.neighbour()?;
        let text = cluster.api.kubectl(User::Admin, &["get", "pod", name, "-n", "shop", "-o", "json"])?;
        let object: Value = serde_json::from_str(&text)?;
        let flags = object["spec"]["initContainers"][0]["args"].as_array().context("args")?;
        let flags = flags.iter().skip(1).filter_map(Value::as_str);
        let mut iptables = by_iptables.command(&control_plane::binary()?.to_string_lossy());
        ensure!(iptables.arg("iptables").args(flags).output()?.status.success());
        for (form, netns) in [("plugin", &by_plugin), ("iptables", &by_iptables)] {
            answer(netns, &["127.0.0.1:15001", "[::1]:15001"], b"redirected\n")?;
            answer(netns, &["127.0.0.1:15003", "[::1]:15003"], b"inbound\n")?;
            answer(netns, &["127.0.0.1:7000", "[::1]:7000"], b"local\n")?;
            for (to, workload, sidecar) in cases(&annotations) {
                for (uid, expected) in [(0, workload), (1000, workload), (1500, sidecar)] {
                    let found = ask(netns, uid, to)?;
                    ensure!(
                        found == expected,
                        "{name} by {form}: uid {uid} to {to}: {found}, not {expected}"
                    );
                }
            }
            // The sidecar's connections to the pod's own address are inbound ones, also of IPv6.
            netns.ip("addr add 10.99.0.1/32 dev lo")?;
            netns.ip("-6 addr add fd99::1/128 dev lo nodad")?;
            for own in ["10.99.0.1", "fd99::1"] {
                let found = ask(netns, 1500, to(own.parse()?, 7000))?;
                ensure!(found == "inbound", "{name} by {form}: {own}: {found}");
            }
        }
    }
    Ok(())
}

/// The API server's webhooks, for pods and for workloads, without a Service.
fn webhooks(volume: &Volume) -> Result<String> {
    let output = Command::new("base64").arg("-w0").arg(volume.path("ca.pem")).output()?;
    let bundle = String::from_utf8(output.stdout)?;
    let webhook = |name: &str, rules: Value| {
        json!({
            "name": format!("{name}.openservicemesh.io"),
            "clientConfig": {"url": format!("https://{}/mutate", SocketAddr::new(CONTROL_PLANE, WEBHOOK_PORT)), "caBundle": bundle},
            "admissionReviewVersions": ["v1"], "sideEffects": "None", "failurePolicy": "Fail", "timeoutSeconds": 5,
            "rules": rules,
        })
    };
    let rule = |group: &str, versions: &[&str], resources: &[&str]| json!([{"operations": ["CREATE"], "apiGroups": [group], "apiVersions": versions, "resources": resources}]);
    Ok(json!({
        "apiVersion": "admissionregistration.k8s.io/v1", "kind": "MutatingWebhookConfiguration",
        "metadata": {"name": "test"},
        "webhooks": [
            webhook("inject", rule("", &["v1"], &["pods"])),
            webhook("workloads", rule("apps", &["v1"], &["deployments", "statefulsets"])),
            webhook("jobs", rule("batch", &["v1", "v1beta1"], &["jobs", "cronjobs"])),
        ],
    })
    .to_string())
}

/// Minor version of the API server.
fn minor_version(api: &ApiServer<'_>) -> Result<u32> {
    let version: Value = serde_json::from_str(&api.kubectl(User::Admin, &["get", "--raw", "/version"])?)?;
    let digits: String =
        version["minor"].as_str().unwrap_or_default().chars().take_while(char::is_ascii_digit).collect();
    digits.parse().with_context(|| format!("{version}"))
}

/// The workloads of a user, whose pods satisfy the profile `restricted`.
fn workloads(minor: u32) -> Vec<(Value, &'static str)> {
    let template = |policy: &str| {
        json!({
            "metadata": {"labels": {"app": "a"}},
            "spec": {
                "serviceAccountName": "curl", "restartPolicy": policy,
                "securityContext": {"runAsNonRoot": true, "runAsUser": 1000, "seccompProfile": {"type": "RuntimeDefault"}},
                "containers": [{"name": "app", "image": "app", "securityContext": {
                    "allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]},
                }}],
            },
        })
    };
    let selector = json!({"matchLabels": {"app": "a"}});
    let object = |version: &str, kind: &str, spec: Value| {
        let metadata = json!({"name": kind.to_ascii_lowercase(), "namespace": "curl"});
        json!({"apiVersion": version, "kind": kind, "metadata": metadata, "spec": spec})
    };
    let job = json!({"template": template("Never")});
    let cron = if minor >= 21 { "batch/v1" } else { "batch/v1beta1" };
    vec![
        (
            object("apps/v1", "Deployment", json!({"selector": selector, "template": template("Always")})),
            "/spec/template",
        ),
        (
            object(
                "apps/v1",
                "StatefulSet",
                json!({"selector": selector, "serviceName": "a", "template": template("Always")}),
            ),
            "/spec/template",
        ),
        (object("batch/v1", "Job", job.clone()), "/spec/template"),
        (
            object(cron, "CronJob", json!({"schedule": "* * * * *", "jobTemplate": {"spec": job}})),
            "/spec/jobTemplate/spec/template",
        ),
    ]
}

/// A namespace with the profile `restricted`: pods of workloads are accepted, intercepted and enforced.
#[test]
fn pods_of_a_restricted_namespace_are_intercepted_and_enforced() -> Result<()> {
    prepare()?;
    let network = TestNetwork::new()?;
    let cluster = Cluster::without_definitions(&network)?;
    let api = &cluster.api;
    install(api)?;
    for kind in ["ValidatingWebhookConfiguration", "MutatingWebhookConfiguration"] {
        api.kubectl(User::Admin, &["delete", kind, "osm-egress-osm"])?;
    }
    api.namespace("curl", false)?;
    api.service_account("curl", "curl")?;
    api.kubectl(
        User::Admin,
        &["label", "namespace", "curl", "pod-security.kubernetes.io/enforce=restricted"],
    )?;
    let added = osm_egress(api, User::Admin, &["namespace", "add", "curl"])?.expect_success()?;
    ensure!(!added.stderr.contains("refuses injected pods"), "{}", added.stderr);
    api.apply(
        "apiVersion: policy.openservicemesh.io/v1alpha1\nkind: Egress\nmetadata: {name: echo, namespace: curl}\n\
         spec:\n  sources: [{kind: ServiceAccount, name: curl, namespace: curl}]\n  \
         ipAddresses: [203.0.113.10/32]\n  ports: [{number: 9000, protocol: tcp}]\n",
    )?;
    let (authority, volume) = issue_control_plane_certificate()?;
    fs::write(volume.path("ca.pem"), &authority.pem)?;
    let (certificate, key, ca) = (volume.text("tls.crt"), volume.text("tls.key"), volume.text("ca.pem"));
    let xds = SocketAddr::new(CONTROL_PLANE, 15128).to_string();
    let webhook = SocketAddr::new(CONTROL_PLANE, WEBHOOK_PORT).to_string();
    let image = format!("envoyproxy/envoy:v{}", envoy::version()?);
    let flags = [
        "--service-account-tokens",
        "--tls-cert",
        &certificate,
        "--tls-key",
        &key,
        "--xds-ca",
        &ca,
        "--xds-address",
        &xds,
        "--webhook-listen",
        &webhook,
        "--sidecar-image",
        &image,
    ];
    let minor = minor_version(api)?;
    let has_pod_security = minor >= 23;
    // Without the plugin: explained before the user meets it.
    let without = cluster.control_plane(&flags)?;
    api.apply(&webhooks(&volume)?)?;
    let (deployment, _) = &workloads(minor)[0];
    let file = volume.path("deployment.json");
    fs::write(&file, deployment.to_string())?;
    let warned = || -> Result<bool> {
        let mut command = api.command("kubectl", User::Admin);
        let output = command.args(["apply", "--dry-run=server", "-f"]).arg(&file).output()?;
        let text = String::from_utf8([output.stdout, output.stderr].concat())?;
        Ok(text.contains("Warning: namespace `curl`: its label") && text.contains("refuses injected pods"))
    };
    wait_for("the warning for a Deployment", Duration::from_secs(20), || warned().unwrap_or(false))?;
    drop(without);
    let control_plane = cluster.control_plane(&[&flags[..], &["--cni"]].concat())?;
    ensure!(!warned()?, "a warning with the plugin");

    let node = Node::new(&cluster)?;
    node.write("10-net.conflist", CONFIGURATION)?;
    let _running = node.install()?;
    node.wait_until_ready()?;
    for (workload, template) in workloads(minor) {
        api.apply(&workload.to_string())?;
        // What a controller does.
        let mut object = workload.pointer(template).context("no template")?.clone();
        let name = format!("{}-0", workload["kind"].as_str().unwrap_or_default().to_ascii_lowercase());
        object["apiVersion"] = json!("v1");
        object["kind"] = json!("Pod");
        object["metadata"]["name"] = json!(name);
        object["metadata"]["namespace"] = json!("curl");
        api.apply(&object.to_string())?;
        let text = api.kubectl(User::Admin, &["get", "pod", &name, "-n", "curl", "-o", "json"])?;
        let pod: Value = serde_json::from_str(&text)?;
        let init = container(&pod, "initContainers", "osm-init")?;
        ensure!(texts(&init["args"]) == ["validate-interception"], "{init}");
        ensure!(init["securityContext"]["capabilities"] == json!({"drop": ["ALL"]}), "{init}");

        let place = network.outside.pod_without_rules()?;
        let netns = &place.sidecar;
        // The pod does not start before the plugin has run.
        let (started, said) = start_init(netns, init)?;
        ensure!(!started && said.contains("not redirected"), "{name}: {said}");
        node.call("ADD", &netns.path(), &format!("curl/{name}"))?.succeeded()?;
        let (started, said) = start_init(netns, init)?;
        ensure!(
            started && said.contains("IPv4: redirected") && said.contains("IPv6: redirected"),
            "{name}: {said}"
        );
        // Without its sidecar nothing gets out.
        ensure!(!echo(&place, HTTPBIN)?, "{name}: it is not intercepted");
        let sidecar = container(&pod, "containers", "envoy")?;
        let (audience, file) = token(&pod, sidecar)?;
        let credentials = Volume::new(&[(&file, &api.token("curl", "curl", &audience, Some(&name))?)])?;
        let envoy = Envoy::launch_injected(&place, &arguments(&pod, sidecar)?, credentials.folder())?;
        wait_for("the policy to be in force", Duration::from_secs(20), || {
            echo(&place, HTTPBIN).unwrap_or(false)
        })
        .with_context(|| format!("{name}\n{}\n{}", envoy.log_tail(30), control_plane.log()))?;
        ensure!(!echo(&place, ELSEWHERE)?, "{name}: what no policy allows got out");
    }
    if has_pod_security {
        // The namespace's choice of an init container with NET_ADMIN: the API server's own admission refuses the pod.
        api.kubectl(
            User::Admin,
            &["annotate", "namespace", "curl", "openservicemesh.io/egress-cni=disabled"],
        )?;
        let mut pod = workloads(minor)[0].0.pointer("/spec/template").context("no template")?.clone();
        pod["apiVersion"] = json!("v1");
        pod["kind"] = json!("Pod");
        pod["metadata"]["name"] = json!("refused");
        pod["metadata"]["namespace"] = json!("curl");
        wait_for("the refusal by Pod Security", Duration::from_secs(20), || {
            let refused =
                api.apply(&pod.to_string()).err().map(|error| error.to_string()).unwrap_or_default();
            let _ =
                api.kubectl(User::Admin, &["delete", "pod", "refused", "-n", "curl", "--ignore-not-found"]);
            refused.contains("violates PodSecurity")
        })?;
    } else {
        eprintln!(
            "NOT RUN: Pod Security admission, which this API server (1.{minor}) does not have: it needs 1.23. The unit test \
             `with_the_plugin_an_injected_pod_satisfies_the_restricted_profile` checks the profile by a table"
        );
    }
    // In words, for users who install later.
    api.kubectl(
        User::Admin,
        &["annotate", "--overwrite", "namespace", "curl", "openservicemesh.io/egress-cni=disabled"],
    )?;
    let verified = osm_egress(api, User::Admin, &["verify"])?;
    ensure!(
        verified
            .stdout
            .contains("namespace curl: its label `pod-security.kubernetes.io/enforce: restricted`"),
        "{}",
        verified.stdout
    );
    let added = osm_egress(api, User::Admin, &["namespace", "add", "curl"])?.expect_success()?;
    ensure!(
        added.stderr.contains("namespace curl: its label") && added.stderr.contains("refuses injected pods"),
        "{}",
        added.stderr
    );
    Ok(())
}

/// Runs an init container, as the kubelet does: its uid, no capabilities, no new privileges.
fn start_init(netns: &Netns, init: &Value) -> Result<(bool, String)> {
    let uid = init["securityContext"]["runAsUser"].as_u64().context("no uid")?.to_string();
    let mut command = netns.command("setpriv");
    command
        .args([
            "--reuid",
            &uid,
            "--regid",
            &uid,
            "--clear-groups",
            "--inh-caps=-all",
            "--bounding-set=-all",
            "--no-new-privs",
        ])
        .arg(control_plane::binary()?)
        .args(texts(&init["args"]));
    let output = command.output()?;
    Ok((output.status.success(), String::from_utf8([output.stdout, output.stderr].concat())?))
}
