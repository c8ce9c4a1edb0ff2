//! The CNI plugin with a real API server: installed on a node, called as a container runtime calls it, and enforced by a real
//! Envoy.

#![allow(clippy::wildcard_enum_match_arm, reason = "what a test does not expect fails it")]

use std::fs;
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use egress_tests::cluster::Cluster;
use egress_tests::cni::{Call, previous_result};
use egress_tests::control_plane;
use egress_tests::kube::{ApiServer, User};
use egress_tests::netns::{Netns, can_switch_uid, ensure_capable};
use egress_tests::network::{EXAMPLE, EXAMPLE6, HTTPBIN, HTTPBIN6, TestNetwork};
use egress_tests::wait::wait_for;
use serde_json::{Value, json};

use crate::cni_node::{CONFIGURATION, Node, install};
use crate::inject::inject;

fn prepare() -> Result<()> {
    ensure_capable()?;
    ensure!(can_switch_uid(), "network namespaces of others, and rules by uid, need root");
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
        let call = Call::new(&network.outside.netns, &plugin, "ADD", &netns.to_string_lossy(), "")
            .with("CNI_ARGS", &arguments);
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
            // The sidecar's connections to the pod's own address are inbound ones; the workload's stay within the pod.
            netns.ip("addr add 10.99.0.1/32 dev lo")?;
            netns.ip("-6 addr add fd99::1/128 dev lo nodad")?;
            answer(netns, &["10.99.0.1:7000", "[fd99::1]:7000"], b"local\n")?;
            for own in ["10.99.0.1", "fd99::1"] {
                for (uid, expected) in [(1500, "inbound"), (0, "local")] {
                    let found = ask(netns, uid, to(own.parse()?, 7000))?;
                    ensure!(
                        found == expected,
                        "{name} by {form}: uid {uid} to {own}: {found}, not {expected}"
                    );
                }
            }
        }
    }
    Ok(())
}
