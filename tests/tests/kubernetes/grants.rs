//! Grants: permission across namespaces, their end, and the audit record.

use std::time::Duration;

use crate::source::echo;
use anyhow::{Context, Result, ensure};
use egress_tests::cluster::{Cluster, EGRESS_ON, accepted_objects, rules, wait_for_status};
use egress_tests::control_plane::ControlPlane;
use egress_tests::kube::{ApiServer, User};
use egress_tests::manifests::{egress, egress_in};
use egress_tests::netns::ensure_capable;
use egress_tests::network::{HTTPBIN, SECOND_CONTROL_PLANE, TestNetwork};
use egress_tests::sidecar;
use egress_tests::wait::wait_for;
use serde_json::Value;

const PORT_FIELD: &str = "ports: [{number: 9000, protocol: tcp}]";

fn mode(control_plane: &ControlPlane<'_>, identity: &str) -> Result<String> {
    Ok(control_plane.status()?["identities"][identity]["mode"].as_str().unwrap_or("-").to_owned())
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

/// An object of another namespace grants nothing before an administrator permits it, and a ServiceAccount
/// loosens nothing.
#[test]
fn other_namespaces_grant_nothing_without_permission() -> Result<()> {
    ensure_capable()?;
    let network = TestNetwork::new()?;
    let cluster = Cluster::new(&network)?;
    let api = &cluster.api;
    api.namespace("team-b", true)?;
    api.apply(&egress_in("team-b", "theirs", PORT_FIELD))?;
    let control_plane = cluster.control_plane(&[])?;
    let reason = |expected: &str| {
        wait_for(&format!("the reason {expected}"), Duration::from_secs(15), || {
            accepted(api, "team-b", "theirs").is_ok_and(|(reason, _)| reason == expected)
        })
        .with_context(|| format!("{:?}\n{}", accepted(api, "team-b", "theirs"), control_plane.log()))
    };
    reason("NotPermitted")?;
    let (_, message) = accepted(api, "team-b", "theirs")?;
    ensure!(
        message.starts_with("0 rules; spec.sources[0]: `curl/curl` is in another namespace"),
        "{message}"
    );
    ensure!(rules(&control_plane.status()?, "Egress team-b/theirs") == Some(0));
    // The target's Namespace permits it, and revokes the permission.
    let list = "openservicemesh.io/egress-policy-namespaces";
    annotate(api, &["namespace", "curl"], &format!("{list}=team-b"))?;
    reason("Accepted")?;
    ensure!(rules(&control_plane.status()?, "Egress team-b/theirs") == Some(1));
    annotate(api, &["namespace", "curl"], &format!("{list}-"))?;
    reason("NotPermitted")?;
    // The mesh's own namespace may, without the label of the mesh.
    api.apply(&egress_in("osm-system", "ours", PORT_FIELD))?;
    wait_for_status(&control_plane, "the mesh's own policy", |status| {
        status["identities"]["curl/curl"]["rules"] == 1 && rules(status, "Egress osm-system/ours") == Some(1)
    })?;

    // A mode of a ServiceAccount counts where its Namespace lets it.
    api.apply(
        "apiVersion: v1\nkind: ServiceAccount\n\
         metadata: {name: curl, namespace: curl, annotations: {openservicemesh.io/egress-mode: passthrough}}\n",
    )?;
    wait_for_status(&control_plane, "the mode to be refused", |status| {
        status["diagnostics"].to_string().contains("a ServiceAccount may only tighten its mode")
    })?;
    ensure!(mode(&control_plane, "curl/curl")? == "enforce");
    let delegation = "openservicemesh.io/egress-mode-delegation";
    annotate(api, &["namespace", "curl"], &format!("{delegation}=service-accounts"))?;
    wait_for_status(&control_plane, "the mode to count", |status| {
        status["identities"]["curl/curl"]["mode"] == "passthrough"
    })?;
    annotate(api, &["namespace", "curl"], &format!("{delegation}-"))?;
    wait_for_status(&control_plane, "it to end", |status| {
        status["identities"]["curl/curl"]["mode"] == "enforce"
    })?;
    Ok(())
}

/// The messages of an object's audit events.
pub(crate) fn recorded(api: &ApiServer<'_>, namespace: &str, object: &str) -> Result<Vec<String>> {
    audit_events(api, namespace, object, ".message")
}

fn audit_events(api: &ApiServer<'_>, namespace: &str, object: &str, field: &str) -> Result<Vec<String>> {
    let selector = format!("reason=GrantChanged,involvedObject.name={object}");
    let path = format!("jsonpath={{range .items[*]}}{{{field}}}{{\"\\n\"}}{{end}}");
    let words = ["get", "events", "-n", namespace, "--field-selector", &selector, "-o", &path];
    Ok(api.kubectl(User::Admin, &words)?.lines().map(str::to_owned).collect())
}

/// A change is recorded once, however many control planes there are, and each of them logs it.
#[test]
fn each_change_of_a_grant_is_recorded_once() -> Result<()> {
    ensure_capable()?;
    let network = TestNetwork::new()?;
    let cluster = Cluster::new(&network)?;
    let api = &cluster.api;
    let control_planes = [
        cluster.control_plane(&[])?,
        cluster.launch(User::ControlPlane, SECOND_CONTROL_PLANE, &[])?.ready()?,
    ];
    let logged = |text: &str| control_planes.iter().all(|control_plane| control_plane.log().contains(text));
    let expect = |namespace: &str, object: &str, expected: &[&str]| -> Result<()> {
        wait_for(&format!("the record of {object}"), Duration::from_secs(20), || {
            recorded(api, namespace, object).is_ok_and(|found| found.len() >= expected.len())
        })
        .with_context(|| control_planes[0].log())?;
        // Each control plane asks the API server to create the event of a change. Only then is it certain that there
        // will be no second one.
        let names = audit_events(api, namespace, object, ".metadata.name")?;
        wait_for(&format!("both requests for {names:?}"), Duration::from_secs(20), || {
            names.iter().all(|name| {
                api.create_requests("events", namespace, name)
                    .is_ok_and(|requests| requests == control_planes.len())
            })
        })?;
        let found = recorded(api, namespace, object)?;
        let has = |part: &&str| found.iter().any(|message| message.contains(*part));
        ensure!(found.len() == expected.len() && expected.iter().all(has), "{found:#?}");
        Ok(())
    };
    api.apply(&egress("p", PORT_FIELD))?;
    expect("curl", "p", &["changed (Egress curl/p): opens tcp 9000 at any address; for curl/curl"])?;
    // The same change again is recorded again.
    for (closed, opened) in [("9000", "9100"), ("9100", "9000")] {
        api.apply(&egress("p", &PORT_FIELD.replace("9000", opened)))?;
        let closes = format!("closes=\"tcp {closed} at any address\"");
        wait_for("both logs of the change", Duration::from_secs(10), || logged(&closes))?;
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
    // Events of cluster-scoped objects are in namespace `default`.
    expect(
        "default",
        "curl",
        &["closes mode `audit` instead of `passthrough`; for the service accounts of namespace curl"],
    )?;
    api.kubectl(User::Admin, &["delete", "egress", "p", "-n", "curl"])?;
    wait_for("the log of it", Duration::from_secs(10), || {
        // The second time: the change to port 9100 had closed it, too.
        let closes = "closes=\"tcp 9000 at any address\"";
        logged("a grant changed")
            && logged("object=Egress curl/p")
            && control_planes.iter().all(|control_plane| control_plane.log().matches(closes).count() == 2)
    })
    .with_context(|| control_planes[0].log())?;
    Ok(())
}

/// For a folder the log line names the file.
#[test]
fn changes_of_a_folder_are_logged_with_their_file() -> Result<()> {
    ensure_capable()?;
    let network = TestNetwork::new()?;
    let control_plane = network.control_plane(&["--log-format", "json"])?;
    let lines = || -> Vec<Value> {
        let log = control_plane.log();
        let lines = log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        lines.filter(|line| line["target"] == "audit").map(|line| line["fields"].clone()).collect()
    };
    let wait_for_records = |count: usize| {
        wait_for("the record", Duration::from_secs(10), || lines().len() >= count)
            .with_context(|| control_plane.log())
    };
    network.write("ours.yaml", &egress("p", "hosts: [a.org]\nports: [{number: 443, protocol: https}]"))?;
    wait_for_records(1)?;
    network.write("ours.yaml", &egress("p", "hosts: [b.org]\nports: [{number: 443, protocol: https}]"))?;
    wait_for_records(2)?;
    let found = lines();
    let text = |line: usize, key: &str| found[line][key].as_str().unwrap_or("-").to_owned();
    ensure!(text(0, "object") == "Egress curl/p" && text(0, "identities") == "curl/curl", "{found:#?}");
    ensure!(text(0, "opens") == "https 443 to a.org" && text(0, "closes") == "-", "{found:#?}");
    ensure!(text(1, "opens") == "https 443 to b.org", "{found:#?}");
    ensure!(text(1, "closes") == "https 443 to a.org" && text(1, "user") == "-", "{found:#?}");
    ensure!(text(1, "file").ends_with("ours.yaml"), "{found:#?}");
    // An edit without an effect is not recorded.
    network
        .write("ours.yaml", &egress("p", "hosts: [b.org, B.org]\nports: [{number: 443, protocol: https}]"))?;
    network.write("theirs.yaml", &egress_in("team-b", "q", PORT_FIELD))?;
    network.write("last.yaml", &egress("r", PORT_FIELD))?;
    wait_for_records(3)?;
    let objects: Vec<String> = lines().iter().map(|line| line["object"].to_string()).collect();
    ensure!(objects[2..] == ["\"Egress curl/r\""], "{objects:?}");
    Ok(())
}

/// A finalizer keeps the object, and not what it grants.
#[test]
fn an_egress_that_is_being_deleted_grants_nothing() -> Result<()> {
    ensure_capable()?;
    let network = TestNetwork::new()?;
    let pod = network.pod()?;
    let cluster = Cluster::new(&network)?;
    let api = &cluster.api;
    api.apply(&egress("echo", "ports: [{number: 9000, protocol: tcp}]"))?;
    let control_plane = cluster.control_plane(&[])?;
    let _envoy = sidecar::start(&pod, false)?;
    wait_for("the policy", Duration::from_secs(20), || echo(&pod, HTTPBIN, 9000).is_ok())
        .with_context(|| control_plane.log())?;
    let patch = |finalizers: &str| {
        let patch = format!("{{\"metadata\":{{\"finalizers\":{finalizers}}}}}");
        api.kubectl(User::Admin, &["patch", "egress", "echo", "-n", "curl", "--type=merge", "-p", &patch])
    };
    patch("[\"a.b/c\"]")?;
    ensure!(echo(&pod, HTTPBIN, 9000).is_ok());
    api.kubectl(User::Admin, &["delete", "egress", "echo", "-n", "curl", "--wait=false"])?;
    wait_for("the revocation", Duration::from_secs(20), || echo(&pod, HTTPBIN, 9000).is_err())
        .with_context(|| control_plane.log())?;
    api.kubectl(User::Admin, &["get", "egress", "echo", "-n", "curl"]).context("it is still there")?;
    // A control plane that starts now reads the same.
    let second = cluster.launch(User::ControlPlane, SECOND_CONTROL_PLANE, &[])?.ready()?;
    let known = accepted_objects(&second.status()?);
    ensure!(!known.contains(&"Egress curl/echo".to_owned()), "{known:?}");
    patch("null")?;
    Ok(())
}
