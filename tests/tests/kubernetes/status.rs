//! Statuses and events that control planes write.

use std::net::TcpListener;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use egress_tests::cluster::Cluster;
use egress_tests::envoy::Envoy;
use egress_tests::kube::{ApiServer, User};
use egress_tests::manifests::{egress, egress_in};
use egress_tests::netns::{Pod, ensure_capable};
use egress_tests::network::{CONTROL_PLANE, SECOND_CONTROL_PLANE, TestNetwork};
use egress_tests::sidecar;
use egress_tests::wait::wait_for;
use serde_json::Value;

const PORT_FIELD: &str = "ports: [{number: 9000, protocol: tcp}]";
const INVALID_FIELDS: &str = "hosts: [not a name]\nports: [{number: 80, protocol: http}]";

fn get(api: &ApiServer<'_>, name: &str) -> Result<Value> {
    let text = api.kubectl(User::Admin, &["get", "egress", name, "-n", "curl", "-o", "json"])?;
    Ok(serde_json::from_str(&text)?)
}

fn condition(object: &Value, kind: &str) -> Value {
    let conditions = object["status"]["conditions"].as_array();
    conditions.into_iter().flatten().find(|condition| condition["type"] == kind).cloned().unwrap_or_default()
}

/// Waits for a condition's reason about a generation, and returns its message.
fn wait_for_condition(
    api: &ApiServer<'_>,
    name: &str,
    kind: &str,
    reason: &str,
    generation: u64,
    longest: u64,
) -> Result<String> {
    let mut message = String::new();
    wait_for(&format!("{kind} of {name} to be {reason}"), Duration::from_secs(longest), || {
        let condition = get(api, name).map(|object| condition(&object, kind)).unwrap_or_default();
        condition["message"].as_str().unwrap_or_default().clone_into(&mut message);
        condition["reason"] == reason && condition["observedGeneration"] == generation
    })
    .with_context(|| format!("{:#}", get(api, name).unwrap_or_default()))?;
    Ok(message)
}

/// Waits for the proxies column of `kubectl get`.
fn wait_for_proxies(api: &ApiServer<'_>, name: &str, expected: &str, longest: u64) -> Result<Duration> {
    wait_for(&format!("{name} to be programmed {expected}"), Duration::from_secs(longest), || {
        get(api, name).is_ok_and(|object| object["status"]["programmed"] == expected)
    })
    .with_context(|| format!("{:#}", get(api, name).unwrap_or_default()["status"]))
}

fn version(api: &ApiServer<'_>, name: &str) -> Result<String> {
    Ok(get(api, name)?["metadata"]["resourceVersion"].to_string())
}

/// Starts a sidecar of `curl/curl` with its own node name, at a control plane.
fn sidecar<'p>(pod: &'p Pod, name: &str, at: std::net::IpAddr) -> Result<Envoy<'p>> {
    let xds = std::net::SocketAddr::new(at, 15128).to_string();
    Envoy::start(pod, &sidecar::bootstrap_with("curl/curl", false, &["--proxy", name, "--xds", &xds])?, 1)
}

/// A control plane's periodic report about its proxies; `None` if it has none.
fn proxy_report(api: &ApiServer<'_>, at: std::net::IpAddr) -> Option<String> {
    let name = format!("osm-egress-proxies-at-{}", at.to_string().replace('.', "-"));
    let path = "jsonpath={.data.renewed}";
    api.kubectl(User::Admin, &["get", "configmap", &name, "-n", "osm-system", "-o", path]).ok()
}

/// The events of a policy_of, as `TYPE REASON`, except those of the audit record (`grants.rs`).
fn events(api: &ApiServer<'_>, name: &str) -> Result<Vec<String>> {
    let field = format!("involvedObject.name={name},reason!=GrantChanged");
    let path = "jsonpath={range .items[*]}{.type} {.reason}{\"\\n\"}{end}";
    let text =
        api.kubectl(User::Admin, &["get", "events", "-n", "curl", "--field-selector", &field, "-o", path])?;
    let mut events: Vec<String> = text.lines().map(str::to_owned).collect();
    events.sort();
    Ok(events)
}

/// Status and events report the result of a policy_of, and nothing is written twice.
#[test]
fn statuses_and_events_are_written_once() -> Result<()> {
    ensure_capable()?;
    let network = TestNetwork::new()?;
    let cluster = Cluster::new(&network)?;
    let api = &cluster.api;
    api.apply(&egress("good", PORT_FIELD))?;
    api.apply(&egress("bad", INVALID_FIELDS))?;
    let control_plane = cluster.control_plane(&[])?;
    let message = wait_for_condition(api, "good", "Accepted", "Accepted", 1, 10)
        .with_context(|| control_plane.log())?;
    ensure!(message == "1 rule", "{message}");
    let message = wait_for_condition(api, "bad", "Accepted", "Invalid", 1, 10)?;
    ensure!(message.starts_with("0 rules; spec.hosts[0]: "), "{message}");
    wait_for_condition(api, "good", "Programmed", "NoProxies", 1, 20)?;
    wait_for_condition(api, "bad", "Programmed", "NoProxies", 1, 20)?;
    let table = api.kubectl(User::Admin, &["get", "egress", "-A"])?;
    let line = |name: &str| table.lines().find(|line| line.contains(name)).unwrap_or_default().to_owned();
    ensure!(line("NAME").contains("ACCEPTED") && line("NAME").contains("PROGRAMMED"), "{table}");
    ensure!(line("good").contains("True") && line("bad").contains("False"), "{table}");
    ensure!(line("good").contains("0/0"), "{table}");
    // A second control plane, and a restarted one, write nothing again.
    let before = (version(api, "good")?, version(api, "bad")?);
    let other = cluster.launch(User::ControlPlane, SECOND_CONTROL_PLANE, &[])?.ready()?;
    // Once either has written another policy's status, both have looked at the earlier ones.
    api.apply(&egress("last", INVALID_FIELDS))?;
    wait_for_condition(api, "last", "Accepted", "Invalid", 1, 10)?;
    // The periodic reports stay the same, too.
    let marks = (proxy_report(api, CONTROL_PLANE), proxy_report(api, SECOND_CONTROL_PLANE));
    wait_for("both to renew their marks", Duration::from_secs(30), || {
        proxy_report(api, CONTROL_PLANE) != marks.0 && proxy_report(api, SECOND_CONTROL_PLANE) != marks.1
    })?;
    ensure!((version(api, "good")?, version(api, "bad")?) == before, "a status was written again");
    // With both running, the event is written once, with its field.
    ensure!(events(api, "last")? == ["Warning Invalid"], "{:?}", events(api, "last"));
    let described = api.kubectl(User::Admin, &["describe", "egress", "last", "-n", "curl"])?;
    let warnings: Vec<&str> = described.lines().filter(|line| line.contains("Warning  Invalid")).collect();
    ensure!(warnings.len() == 1 && warnings[0].contains("spec.hosts[0]"), "{described}");
    ensure!(events(api, "good")?.is_empty(), "{:?}", events(api, "good"));
    other.stop()?;
    ensure!(proxy_report(api, SECOND_CONTROL_PLANE).is_none(), "one that stopped left something behind");
    // A correction is reported with its generation.
    api.apply(&egress("bad", "hosts: [a.org]\nports: [{number: 80, protocol: http}]"))?;
    wait_for_condition(api, "bad", "Accepted", "Accepted", 2, 10)?;
    ensure!(events(api, "bad")? == ["Normal Accepted", "Warning Invalid"], "{:?}", events(api, "bad"));
    Ok(())
}

/// Two Envoys at one control plane: the status counts both, and the one that refuses.
#[test]
fn proxies_of_one_control_plane_are_counted() -> Result<()> {
    ensure_capable()?;
    let network = TestNetwork::new()?;
    let pods = [network.pod()?, network.pod()?, network.pod()?];
    let cluster = Cluster::new(&network)?;
    let api = &cluster.api;
    api.apply(&egress("p", PORT_FIELD))?;
    let control_plane = cluster.control_plane(&[])?;
    let _one = sidecar(&pods[0], "one", CONTROL_PLANE)?;
    wait_for_proxies(api, "p", "1/1", 20).with_context(|| control_plane.log())?;
    let _two = sidecar(&pods[1], "two", CONTROL_PLANE)?;
    wait_for_proxies(api, "p", "2/2", 20)?;
    let table = api.kubectl(User::Admin, &["get", "egress", "-A"])?;
    ensure!(table.lines().any(|line| line.contains("True") && line.contains("2/2")), "{table}");
    api.apply(&egress_in(
        "curl",
        "p",
        "ports: [{number: 9000, protocol: tcp}, {number: 9100, protocol: tcp}]",
    ))?;
    let message = wait_for_condition(api, "p", "Programmed", "Programmed", 2, 10)?;
    ensure!(message == "2 of 2 proxies have it", "{message}");
    // A proxy whose listener's address is taken rejects the listener.
    let taken = pods[2].sidecar.run(|| TcpListener::bind("0.0.0.0:15001"))??;
    let third = sidecar::bootstrap_with("curl/curl", false, &["--proxy", "third"])?;
    let third = Envoy::launch(&pods[2], &third, 1)?;
    let message = wait_for_condition(api, "p", "Programmed", "Rejected", 2, 15)
        .with_context(|| format!("{}\n{}", third.log_tail(20), control_plane.log()))?;
    ensure!(message.starts_with("2 of 3 proxies have it; `third.curl.curl` refused it: "), "{message}");
    ensure!(message.contains("15001"), "{message}");
    wait_for_proxies(api, "p", "2/3", 20)?;
    ensure!(events(api, "p")? == ["Warning Rejected"], "{:?}", events(api, "p"));
    drop((third, taken));
    wait_for_proxies(api, "p", "2/2", 20)?;
    wait_for_condition(api, "p", "Programmed", "Programmed", 2, 10)?;
    Ok(())
}

/// An Envoy at each of two control planes: each control plane counts both, also during and after an outage of
/// the API server.
#[test]
fn proxies_of_two_control_planes_are_counted() -> Result<()> {
    ensure_capable()?;
    let network = TestNetwork::new()?;
    let pods = [network.pod()?, network.pod()?, network.pod()?];
    let mut cluster = Cluster::new(&network)?;
    cluster.api.apply(&egress("p", PORT_FIELD))?;
    let first = cluster.control_plane(&[])?;
    let second = cluster.launch(User::ControlPlane, SECOND_CONTROL_PLANE, &[])?.ready()?;
    let _one = sidecar(&pods[0], "one", CONTROL_PLANE)?;
    let two = sidecar(&pods[1], "two", SECOND_CONTROL_PLANE)?;
    wait_for_proxies(&cluster.api, "p", "2/2", 15)
        .with_context(|| format!("{}\n{}", first.log(), second.log()))?;
    // Both agree, so nothing is written.
    let before = version(&cluster.api, "p")?;
    let marks = proxy_report(&cluster.api, CONTROL_PLANE);
    wait_for("a mark to be renewed", Duration::from_secs(30), || {
        proxy_report(&cluster.api, CONTROL_PLANE) != marks
    })?;
    ensure!(version(&cluster.api, "p")? == before, "the control planes do not agree");
    // Changes during the outage are reported afterwards.
    cluster.api.kill();
    wait_for("both to notice", Duration::from_secs(10), || {
        first.get("/readyz").is_err() && second.get("/readyz").is_err()
    })?;
    let three = sidecar(&pods[2], "three", SECOND_CONTROL_PLANE)?;
    cluster.api.resume()?;
    wait_for_proxies(&cluster.api, "p", "3/3", 30)
        .with_context(|| format!("{}\n{}", first.log(), second.log()))?;
    drop(three);
    wait_for_proxies(&cluster.api, "p", "2/2", 20)?;
    // A killed control plane withdraws nothing.
    drop(second);
    ensure!(proxy_report(&cluster.api, SECOND_CONTROL_PLANE).is_some(), "it withdrew its report");
    let took = wait_for_proxies(&cluster.api, "p", "1/1", 60)?;
    println!("the proxies of a control plane that was killed stopped counting after {took:?}");
    drop(two);
    Ok(())
}
