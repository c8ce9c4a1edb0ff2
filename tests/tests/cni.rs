//! The CNI plugin without a cluster: the specification's error cases, and the proof of interception in a pod.

#![allow(clippy::wildcard_enum_match_arm, reason = "what a test does not expect fails it")]

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use egress_tests::cni::{Call, previous_result};
use egress_tests::control_plane;
use egress_tests::netns::{Netns, OutsideNetwork, can_switch_uid, ensure_capable};
use egress_tests::network::{HTTPBIN, HTTPBIN6};
use serde_json::{Value, json};

fn prepare() -> Result<()> {
    ensure_capable()?;
    ensure!(can_switch_uid(), "network namespaces of others, and rules by uid, need root");
    Ok(())
}

/// The binary under the name by which a container runtime calls it.
fn plugin(folder: &Path) -> Result<PathBuf> {
    let plugin = folder.join("osm-egress-cni");
    std::os::unix::fs::symlink(control_plane::binary()?.canonicalize()?, &plugin)?;
    Ok(plugin)
}

fn config(version: &str) -> Value {
    json!({
        "cniVersion": version, "name": "net", "type": "osm-egress-cni", "kubeconfig": "/nowhere/kubeconfig",
        "excludeNamespaces": ["kube-system"], "prevResult": previous_result(), "runtimeConfig": {"unknown": [1]},
    })
}

#[test]
fn errors_have_the_specifications_codes() -> Result<()> {
    prepare()?;
    let folder = tempfile::tempdir()?;
    let (node, pod) = (Netns::new()?, Netns::new()?);
    let plugin = plugin(folder.path())?;
    let netns = pod.path().to_string_lossy().into_owned();
    let good = config("1.0.0").to_string();
    let call = |command: &str| Call::new(&node, &plugin, command, &netns, "curl/curl");
    // The environment.
    call("").with("CNI_COMMAND", "").run(&good)?.expect(4, "CNI_COMMAND is missing")?;
    call("add").run(&good)?.expect(4, "CNI_COMMAND is `add`")?;
    for command in ["ADD", "CHECK"] {
        let answer = call(command).with("CNI_NETNS", "").with("CNI_IFNAME", "").run(&good)?;
        answer.expect(4, "CNI_IFNAME is missing; CNI_NETNS is missing")?;
        call(command).with("CNI_CONTAINERID", "").run(&good)?.expect(4, "CNI_CONTAINERID is missing")?;
        call(command)
            .with("CNI_NETNS", &node_path(&node))
            .run(&good)?
            .expect(4, "the node's own network namespace")?;
        call(command)
            .with("CNI_NETNS", "/no/such/netns")
            .run(&good)?
            .expect(3, "/no/such/netns does not exist")?;
    }
    call("DEL").with("CNI_IFNAME", "").run(&good)?.expect(4, "CNI_IFNAME is missing")?;
    call("ADD")
        .with("CNI_ARGS", "K8S_POD_NAMESPACE=..;K8S_POD_NAME=a")
        .run(&good)?
        .expect(4, "CNI_ARGS names the pod")?;
    // The configuration.
    for command in ["ADD", "CHECK", "DEL", "GC", "STATUS", "VERSION"] {
        call(command).run("{")?.expect(6, "is not JSON")?;
    }
    for command in ["ADD", "CHECK", "DEL", "GC", "STATUS"] {
        call(command).run("[]")?.expect(7, "the network configuration on standard input")?;
        for version in ["0.2.0", "0.3.0", "2.0.0", ""] {
            call(command)
                .run(&config(version).to_string())?
                .expect(1, "set it to one of 0.3.1, 0.4.0, 1.0.0, 1.1.0")?;
        }
        let mut nameless = config("1.1.0");
        nameless["name"] = json!("a/b");
        call(command).run(&nameless.to_string())?.expect(7, "`name` is `a/b`")?;
    }
    call("CHECK").run(&config("0.3.1").to_string())?.expect(1, "CHECK needs 0.4.0 or newer")?;
    call("STATUS").run(&good)?.expect(1, "STATUS needs 1.1.0 or newer")?;
    call("GC").run(&good)?.expect(1, "GC needs 1.1.0 or newer")?;
    let long = format!("{}{good}", " ".repeat(1 << 20));
    call("ADD").run(&long)?.expect(5, "more than 1048576 bytes")?;
    let mut first = config("1.0.0");
    first["prevResult"] = Value::Null;
    for command in ["ADD", "CHECK"] {
        call(command).run(&first.to_string())?.expect(7, "there is no `prevResult`")?;
    }
    let mut bare = config("1.0.0");
    bare["kubeconfig"] = Value::Null;
    call("ADD").run(&bare.to_string())?.expect(7, "`kubeconfig` must be the absolute path")?;
    // The credentials that the DaemonSet has not written yet.
    call("ADD").run(&good)?.expect(11, "the DaemonSet `osm-egress-cni` writes it")?;
    call("STATUS")
        .run(&config("1.1.0").to_string())?
        .expect(50, "the DaemonSet `osm-egress-cni` writes it")?;
    // A file that is no namespace.
    let file = folder.path().join("file");
    std::fs::write(&file, "")?;
    let mut excluded = call("ADD").with("CNI_NETNS", &file.to_string_lossy());
    excluded = excluded.with("CNI_ARGS", "");
    // Nothing to do for a container that is not Kubernetes', so its namespace is not entered.
    excluded.run(&good)?.succeeded()?;
    Ok(())
}

fn node_path(node: &Netns) -> String {
    node.path().to_string_lossy().into_owned()
}

#[test]
fn what_needs_no_api_server_succeeds_without_one() -> Result<()> {
    prepare()?;
    let folder = tempfile::tempdir()?;
    let (node, pod) = (Netns::new()?, Netns::new()?);
    let plugin = plugin(folder.path())?;
    let netns = pod.path().to_string_lossy().into_owned();
    for version in ["0.3.1", "0.4.0", "1.0.0", "1.1.0"] {
        let config = config(version).to_string();
        let call = |command: &str| Call::new(&node, &plugin, command, &netns, "kube-system/dns");
        let result: Value = serde_json::from_str(call("ADD").run(&config)?.succeeded()?)?;
        ensure!(result == previous_result(), "{result}");
        if version != "0.3.1" {
            ensure!(call("CHECK").run(&config)?.succeeded()?.is_empty());
        }
        // For any pod, more than once, without a namespace, and after it vanished.
        for netns in [&*netns, "", "/no/such/netns"] {
            let call = Call::new(&node, &plugin, "DEL", netns, "curl/curl").with("CNI_NETNS", netns);
            for _ in 0..2 {
                ensure!(call.run(&config)?.succeeded()?.is_empty());
            }
        }
        let message = call("VERSION").run(&json!({"cniVersion": version}).to_string())?;
        let message: Value = serde_json::from_str(message.succeeded()?)?;
        let expected =
            json!({"cniVersion": version, "supportedVersions": ["0.3.1", "0.4.0", "1.0.0", "1.1.0"]});
        ensure!(message == expected, "{message}");
    }
    let mut config = config("1.1.0");
    config["cni.dev/valid-attachments"] = json!([{"containerID": "a", "ifname": "eth0"}]);
    let answer = Call::new(&node, &plugin, "GC", "", "").run(&config.to_string())?;
    ensure!(
        answer.succeeded()?.is_empty() && answer.stderr.contains("1 attachments are valid"),
        "{answer:?}"
    );
    config["cni.dev/valid-attachments"] = json!({});
    Call::new(&node, &plugin, "GC", "", "").run(&config.to_string())?.expect(7, "standard input")?;
    // The same program without the plugin's name.
    let binary = control_plane::binary()?;
    let answer = Call::new(&node, &binary, "VERSION", "", "").run("")?;
    ensure!(answer.succeeded()?.contains("supportedVersions"), "{answer:?}");
    Ok(())
}

/// Runs the proof as the uid of the init container.
fn validate(netns: &Netns, flags: &[&str]) -> Result<(bool, String)> {
    let mut command = netns.command("setpriv");
    command
        .args(["--reuid", "1501", "--regid", "1501", "--clear-groups", "--inh-caps=-all", "--no-new-privs"])
        .arg(control_plane::binary()?)
        .arg("validate-interception")
        .args(flags);
    let output = command.output().context("cannot run setpriv")?;
    let text = [output.stdout, output.stderr].concat();
    Ok((output.status.success(), String::from_utf8(text)?))
}

fn intercept(netns: &Netns, flags: &[&str]) -> Result<()> {
    let binary = control_plane::binary()?;
    let output = netns.command(&binary.to_string_lossy()).arg("iptables").args(flags).output()?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}

#[test]
fn a_pod_proves_its_interception_without_permissions() -> Result<()> {
    prepare()?;
    let outside = OutsideNetwork::new(&[HTTPBIN, HTTPBIN6])?;
    // Not redirected: nobody answers at the address, and the pod does not start.
    let bare = outside.neighbour()?;
    let (good, text) = validate(&bare, &[])?;
    ensure!(!good && text.contains("IPv4 connections are not redirected to the sidecar"), "{text}");
    ensure!(text.contains("Delete the pod, so that it starts anew"), "{text}");
    // Redirected, with lists too.
    for flags in [
        &[][..],
        &["--exclude-ports", "80,443", "--exclude-cidrs", "192.0.2.0/24,203.0.113.0/24"],
        &["--include-cidrs", "10.0.0.0/8,fd00::/8"],
        &["--ip-families", "ipv4"],
    ] {
        let netns = outside.neighbour()?;
        intercept(&netns, flags)?;
        let (good, text) = validate(&netns, flags)?;
        ensure!(good && text.contains("IPv4: redirected"), "{flags:?}: {text}");
        ensure!(flags.contains(&"ipv4") || text.contains("IPv6: redirected"), "{flags:?}: {text}");
    }
    // One family without the other.
    let half = outside.neighbour()?;
    intercept(&half, &["--ip-families", "ipv4"])?;
    let (good, text) = validate(&half, &[])?;
    ensure!(!good && text.contains("IPv6 connections are not redirected"), "{text}");
    // No IPv6 at all is no way out.
    half.tool("sysctl", "-qw net.ipv6.conf.all.disable_ipv6=1 net.ipv6.conf.default.disable_ipv6=1")?;
    let (good, text) = validate(&half, &[])?;
    ensure!(good && text.contains("IPv6: nothing can leave"), "{text}");
    // The rules of another pod: what these exclude is not redirected.
    let other = outside.neighbour()?;
    intercept(&other, &["--exclude-cidrs", "0.0.0.0/0,::/0"])?;
    let (good, text) = validate(&other, &[])?;
    ensure!(!good && text.contains("not redirected"), "{text}");
    // Nothing to prove with.
    let (good, text) = validate(&other, &["--exclude-cidrs", "0.0.0.0/0,::/0"])?;
    ensure!(!good && text.contains("interception cannot be proved"), "{text}");
    Ok(())
}
