//! A large cluster: 5,000 policies, 2,000 service accounts, 500 services and 2,000 pods in 40 namespaces.

use std::time::{Duration, Instant};

use crate::source::echo;
use anyhow::{Result, ensure};
use egress_tests::cluster::Cluster;
use egress_tests::kube::User;
use egress_tests::manifests::egress_in;
use egress_tests::netns::ensure_capable;
use egress_tests::network::{HTTPBIN, TestNetwork};
use egress_tests::sidecar;
use egress_tests::wait::wait_for;
use serde_json::{Value, json};

const NAMESPACES: usize = 40;
const ACCOUNTS: usize = 50;
const POLICIES: usize = 125;
const SERVICES: usize = 12;

/// An object, and the API path of its kind.
type Made = (String, Value);

fn namespace(n: usize) -> Made {
    let labels = json!({ "openservicemesh.io/monitored-by": "osm" });
    let metadata = json!({ "name": format!("n{n}"), "labels": labels });
    (
        "/api/v1/namespaces".to_owned(),
        json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": metadata }),
    )
}

/// The objects of a namespace.
fn content(n: usize) -> Vec<Made> {
    let namespace = format!("n{n}");
    let mut objects = Vec::new();
    let mut made = |group: &str, plural: &str, kind: &str, name: String, spec: Value, app: usize| {
        let (path, api_version) = match group {
            "" => ("/api/v1".to_owned(), "v1"),
            group => (format!("/apis/{group}"), group),
        };
        let metadata = json!({ "name": name, "labels": { "app": format!("app{app}") } });
        let object = json!({ "apiVersion": api_version, "kind": kind, "metadata": metadata, "spec": spec });
        objects.push((format!("{path}/namespaces/{namespace}/{plural}"), object));
    };
    for a in 0..ACCOUNTS {
        made("", "serviceaccounts", "ServiceAccount", format!("a{a}"), Value::Null, a % SERVICES);
        let container = json!({ "name": "app", "image": "app" });
        let spec = json!({ "serviceAccountName": format!("a{a}"), "containers": [container] });
        made("", "pods", "Pod", format!("a{a}"), spec, a % SERVICES);
    }
    for s in 0..SERVICES {
        let spec = json!({ "selector": { "app": format!("app{s}") }, "ports": [{ "port": 8080 }] });
        made("", "services", "Service", format!("s{s}"), spec, s);
    }
    for p in 0..POLICIES {
        let source =
            json!({ "kind": "ServiceAccount", "name": format!("a{}", p % ACCOUNTS), "namespace": namespace });
        let spec = json!({
            "sources": [source], "hosts": [format!("h{p}.{namespace}.example.com")],
            "ports": [{ "number": 443, "protocol": "https" }, { "number": 80, "protocol": "http" }],
        });
        made("policy.openservicemesh.io/v1alpha1", "egresses", "Egress", format!("p{p}"), spec, p);
    }
    objects
}

/// The control plane starts, and a change among thousands of policies arrives.
#[test]
fn thousands_of_policies_are_served() -> Result<()> {
    ensure_capable()?;
    let network = TestNetwork::new()?;
    let pods = [network.pod()?, network.pod()?];
    let cluster = Cluster::new(&network)?;
    let start = Instant::now();
    cluster.api.create((0..NAMESPACES).map(namespace).collect())?;
    let objects: Vec<Made> = (0..NAMESPACES).flat_map(content).collect();
    let count = objects.len();
    cluster.api.create(objects)?;
    println!("{count} objects made in {:.1?}", start.elapsed());

    let start = Instant::now();
    let control_plane = cluster.control_plane(&[])?;
    println!("ready {:.2?} after the start, with {} MB", start.elapsed(), control_plane.memory()? / 1024);
    let status = control_plane.status()?;
    let named = status["identities"].as_object().map_or(0, serde_json::Map::len);
    ensure!(named == NAMESPACES * ACCOUNTS, "{named} identities");

    let identities = ["n7/a3", "n31/a44"];
    let envoys = [
        egress_tests::envoy::Envoy::start(&pods[0], &sidecar::bootstrap(identities[0], false)?, 1)?,
        egress_tests::envoy::Envoy::start(&pods[1], &sidecar::bootstrap(identities[1], false)?, 1)?,
    ];
    let mut took = Vec::new();
    for round in 0..10 {
        let allow = round % 2 == 0;
        for (n, identity) in identities.iter().enumerate() {
            let (namespace, account) = identity.split_once('/').unwrap_or_default();
            let manifest = egress_in(namespace, "change", "ports: [{number: 9000, protocol: tcp}]")
                .replace("name: curl, namespace: curl", &format!("name: {account}, namespace: {namespace}"));
            if allow {
                cluster.api.apply(&manifest)?;
            } else {
                cluster.api.kubectl(User::Admin, &["delete", "egress", "change", "-n", namespace])?;
            }
            took.push(wait_for("the change to be obeyed", Duration::from_secs(20), || {
                echo(&pods[n], HTTPBIN, 9000).is_ok() == allow
            })?);
        }
    }
    took.sort();
    println!(
        "from kubectl's return to enforcement: median {:.0?}, longest {:.0?}",
        took[took.len() / 2],
        took[took.len() - 1]
    );
    println!(
        "the control plane has {} MB, the proxies {} and {} MB",
        control_plane.memory()? / 1024,
        envoys[0].memory()? / 1024,
        envoys[1].memory()? / 1024
    );
    Ok(())
}
