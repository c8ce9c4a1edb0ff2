//! Who may grant to whom, and what is recorded of it.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use egress_tests::cluster::{Cluster, EGRESS_ON, policy, rules, until};
use egress_tests::kube::{ApiServer, User};
use egress_tests::mesh::{SECOND_CONTROL_PLANE, World};
use egress_tests::netns::ensure_capable;
use egress_tests::shim::Shim;
use egress_tests::wait::wait_for;
use serde_json::Value;

const PORT: &str = "ports: [{number: 9000, protocol: tcp}]";

fn mode(shim: &Shim<'_>, identity: &str) -> Result<String> {
    Ok(shim.status()?["identities"][identity]["mode"].as_str().unwrap_or("-").to_owned())
}

fn annotate(api: &ApiServer<'_>, object: &[&str], annotation: &str) -> Result<String> {
    api.kubectl(User::Admin, &[&["annotate", "--overwrite"], object, &[annotation]].concat())
}

fn accepted(api: &ApiServer<'_>, namespace: &str, name: &str) -> Result<(String, String)> {
    let text = api.kubectl(User::Admin, &["get", "egress", name, "-n", namespace, "-o", "json"])?;
    let object: Value = serde_json::from_str(&text)?;
    let conditions = object["status"]["conditions"].as_array().cloned().unwrap_or_default();
    let found = conditions.into_iter().find(|condition| condition["type"] == "Accepted").unwrap_or_default();
    let text = |key: &str| found[key].as_str().unwrap_or_default().to_owned();
    Ok((text("reason"), text("message")))
}

/// An object of another namespace grants nothing before an administrator says so, and a ServiceAccount loosens nothing.
#[test]
fn who_may_grant() -> Result<()> {
    ensure_capable()?;
    let world = World::new()?;
    let cluster = Cluster::new(&world)?;
    let api = &cluster.api;
    api.namespace("team-b", true)?;
    api.apply(&policy("team-b", "theirs", PORT))?;
    let shim = cluster.shim(&[])?;
    let reason = |expected: &str| {
        wait_for(&format!("the reason {expected}"), Duration::from_secs(15), || {
            accepted(api, "team-b", "theirs").is_ok_and(|(reason, _)| reason == expected)
        })
        .with_context(|| format!("{:?}\n{}", accepted(api, "team-b", "theirs"), shim.log()))
    };
    reason("NotPermitted")?;
    let (_, message) = accepted(api, "team-b", "theirs")?;
    ensure!(
        message.starts_with("0 rules; spec.sources[0]: `curl/curl` is in another namespace"),
        "{message}"
    );
    ensure!(rules(&shim.status()?, "Egress team-b/theirs") == Some(0));
    // The target's Namespace permits it, and takes it back.
    let list = "openservicemesh.io/egress-policy-namespaces";
    annotate(api, &["namespace", "curl"], &format!("{list}=team-b"))?;
    reason("Accepted")?;
    ensure!(rules(&shim.status()?, "Egress team-b/theirs") == Some(1));
    annotate(api, &["namespace", "curl"], &format!("{list}-"))?;
    reason("NotPermitted")?;
    // The mesh's own namespace may, without the label of the mesh.
    api.apply(&policy("osm-system", "ours", PORT))?;
    until(&shim, "the mesh's own policy", |status| {
        status["identities"]["curl/curl"]["rules"] == 1 && rules(status, "Egress osm-system/ours") == Some(1)
    })?;

    // A mode of a ServiceAccount counts where its Namespace lets it.
    api.apply(
        "apiVersion: v1\nkind: ServiceAccount\n\
         metadata: {name: curl, namespace: curl, annotations: {openservicemesh.io/egress-mode: passthrough}}\n",
    )?;
    until(&shim, "the mode to be refused", |status| {
        status["diagnostics"].to_string().contains("a ServiceAccount may only tighten its mode")
    })?;
    ensure!(mode(&shim, "curl/curl")? == "enforce");
    let delegation = "openservicemesh.io/egress-mode-delegation";
    annotate(api, &["namespace", "curl"], &format!("{delegation}=service-accounts"))?;
    until(&shim, "the mode to count", |status| status["identities"]["curl/curl"]["mode"] == "passthrough")?;
    annotate(api, &["namespace", "curl"], &format!("{delegation}-"))?;
    until(&shim, "it to end", |status| status["identities"]["curl/curl"]["mode"] == "enforce")?;
    Ok(())
}

/// The messages of the audit record's events about an object.
pub(crate) fn recorded(api: &ApiServer<'_>, namespace: &str, object: &str) -> Result<Vec<String>> {
    let field = format!("reason=GrantChanged,involvedObject.name={object}");
    let path = "jsonpath={range .items[*]}{.message}{\"\\n\"}{end}";
    let words = ["get", "events", "-n", namespace, "--field-selector", &field, "-o", path];
    Ok(api.kubectl(User::Admin, &words)?.lines().map(str::to_owned).collect())
}

/// However many control planes there are, a change is recorded once; each writes it to its log.
#[test]
fn each_change_of_a_grant_is_recorded_once() -> Result<()> {
    ensure_capable()?;
    let world = World::new()?;
    let cluster = Cluster::new(&world)?;
    let api = &cluster.api;
    let shims = [cluster.shim(&[])?, cluster.launch(User::Shim, SECOND_CONTROL_PLANE, &[])?.ready()?];
    let logged = |text: &str| shims.iter().all(|shim| shim.log().contains(text));
    let expect = |namespace: &str, object: &str, expected: &[&str]| -> Result<()> {
        wait_for(&format!("the record of {object}"), Duration::from_secs(20), || {
            recorded(api, namespace, object).is_ok_and(|found| found.len() >= expected.len())
        })
        .with_context(|| shims[0].log())?;
        // Time for the other one to say it again.
        std::thread::sleep(Duration::from_secs(3));
        let found = recorded(api, namespace, object)?;
        let has = |part: &&str| found.iter().any(|message| message.contains(*part));
        ensure!(found.len() == expected.len() && expected.iter().all(has), "{found:#?}");
        Ok(())
    };
    api.apply(&policy("curl", "p", PORT))?;
    expect("curl", "p", &["changed (Egress curl/p): opens tcp 9000 at any address; for curl/curl"])?;
    // The same again is another change.
    for port in ["9100", "9000"] {
        api.apply(&policy("curl", "p", &PORT.replace("9000", port)))?;
        wait_for("the change", Duration::from_secs(10), || {
            logged(&format!("closes=\"tcp {port}")) || port == "9100"
        })?;
        std::thread::sleep(Duration::from_secs(1));
    }
    expect(
        "curl",
        "p",
        &[
            "opens tcp 9000 at any address; for",
            "opens tcp 9100 at any address; closes tcp 9000 at any address; for curl/curl",
            "opens tcp 9000 at any address; closes tcp 9100 at any address; for curl/curl",
        ],
    )?;
    api.shell(User::Admin, EGRESS_ON)?;
    expect("osm-system", "osm-mesh-config", &["opens mode `passthrough` instead of `enforce`"])?;
    annotate(api, &["namespace", "curl"], "openservicemesh.io/egress-mode=audit")?;
    // Events of Namespaces stand where Kubernetes has them.
    expect(
        "default",
        "curl",
        &["closes mode `audit` instead of `passthrough`; for the service accounts of namespace curl"],
    )?;
    api.kubectl(User::Admin, &["delete", "egress", "p", "-n", "curl"])?;
    wait_for("the log of it", Duration::from_secs(10), || {
        logged("a grant changed")
            && logged("object=Egress curl/p")
            && logged("closes=\"tcp 9000 at any address\"")
    })
    .with_context(|| shims[0].log())?;
    Ok(())
}

/// For a folder the line names the file.
#[test]
fn a_folder_s_changes_are_in_the_log() -> Result<()> {
    ensure_capable()?;
    let world = World::new()?;
    let shim = world.shim(&["--log-format", "json"])?;
    let lines = || -> Vec<Value> {
        let log = shim.log();
        let lines = log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        lines.filter(|line| line["target"] == "audit").map(|line| line["fields"].clone()).collect()
    };
    let until = |count: usize| {
        wait_for("the record", Duration::from_secs(10), || lines().len() >= count).with_context(|| shim.log())
    };
    world.write(
        "ours.yaml",
        &policy("curl", "p", "hosts: [a.org]\n  ports: [{number: 443, protocol: https}]"),
    )?;
    until(1)?;
    world.write(
        "ours.yaml",
        &policy("curl", "p", "hosts: [b.org]\n  ports: [{number: 443, protocol: https}]"),
    )?;
    until(2)?;
    let found = lines();
    let text = |line: usize, key: &str| found[line][key].as_str().unwrap_or("-").to_owned();
    ensure!(text(0, "object") == "Egress curl/p" && text(0, "identities") == "curl/curl", "{found:#?}");
    ensure!(text(0, "opens") == "https 443 to a.org" && text(0, "closes") == "-", "{found:#?}");
    ensure!(text(1, "opens") == "https 443 to b.org", "{found:#?}");
    ensure!(text(1, "closes") == "https 443 to a.org" && text(1, "user") == "-", "{found:#?}");
    ensure!(text(1, "file").ends_with("ours.yaml"), "{found:#?}");
    // An edit that changes nothing is no change.
    world.write(
        "ours.yaml",
        &policy("curl", "p", "hosts: [b.org, B.org]\n  ports: [{number: 443, protocol: https}]"),
    )?;
    world.write("theirs.yaml", &policy("team-b", "q", PORT))?;
    world.write("last.yaml", &policy("curl", "r", PORT))?;
    until(3)?;
    let objects: Vec<String> = lines().iter().map(|line| line["object"].to_string()).collect();
    ensure!(objects[2..] == ["\"Egress curl/r\""], "{objects:?}");
    Ok(())
}
