//! A control plane that runs with exactly the arguments, certificate, role and Service that `install`
//! created.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::Path;

use crate::grants::recorded;
use anyhow::{Context, Result, ensure};
use egress_tests::authority::Volume;
use egress_tests::cli::osm_egress;
use egress_tests::client::{self, IO_TIMEOUT, Outcome};
use egress_tests::cluster::Cluster;
use egress_tests::control_plane::{self, ControlPlane};
use egress_tests::envoy::Envoy;
use egress_tests::kube::{ApiServer, User, with_namespace_controller};
use egress_tests::netns::{Netns, ensure_capable};
use egress_tests::network::{CONTROL_PLANE, HTTPBIN, NAME_SERVER, TestNetwork};
use egress_tests::sidecar;
use egress_tests::wait::wait_for;
use serde_json::Value;

const HOST: &str = "osm-egress.osm-system.svc";

fn read(api: &ApiServer<'_>, words: &[&str]) -> Result<Value> {
    let text = api.kubectl(User::Admin, &[&["get", "-n", "osm-system", "-o", "json"], words].concat())?;
    Ok(serde_json::from_str(&text)?)
}

/// The secret, as the kubelet mounts it.
fn mount(api: &ApiServer<'_>) -> Result<Volume> {
    let file = |key: &str| -> Result<String> {
        let template = format!("go-template={{{{index .data \"{key}\" | base64decode}}}}");
        api.kubectl(User::Admin, &["get", "secret", "osm-egress-tls", "-n", "osm-system", "-o", &template])
    };
    Volume::new(&[
        ("tls.crt", &file("tls.crt")?),
        ("tls.key", &file("tls.key")?),
        ("ca.crt", &file("ca.crt")?),
    ])
}

/// The Deployment's arguments, with this network's paths and addresses in place of the pod's.
fn arguments(api: &ApiServer<'_>, mounted: &Volume, flows: &Path) -> Result<Vec<OsString>> {
    let deployment = read(api, &["deployment", "osm-egress"])?;
    let words = deployment["spec"]["template"]["spec"]["containers"][0]["args"].as_array().context("args")?;
    let words: Vec<&str> = words.iter().filter_map(Value::as_str).collect();
    let (first, rest) = words.split_first().context("no arguments")?;
    ensure!(*first == "serve", "{words:?}");
    let folder = mounted.path("tls.crt");
    let folder = folder.parent().context("no folder")?.to_string_lossy().into_owned();
    let module = control_plane::module()?.to_string_lossy().into_owned();
    let mut arguments: Vec<OsString> = rest
        .iter()
        .map(|word| {
            word.replace("/etc/osm-egress/tls", &folder)
                .replace("/var/lib/osm-egress", &flows.to_string_lossy())
                .replace("/egress_filter.wasm", &module)
                .replace("0.0.0.0", &CONTROL_PLANE.to_string())
                .into()
        })
        .collect();
    // The environment of a pod.
    arguments.extend(["--kubeconfig".into(), api.kubeconfig(User::ControlPlane).into()]);
    Ok(arguments)
}

/// Redirects the Service's address like kube-proxy, for clients inside and outside of this namespace.
fn proxy(netns: &Netns, service: &Value) -> Result<String> {
    let address = service["spec"]["clusterIP"].as_str().context("no address")?.to_owned();
    netns.ip("route add 10.96.0.0/16 dev lo src 203.0.113.3")?;
    for (port, target) in [(443, 9443), (15128, 15128)] {
        for chain in ["OUTPUT", "PREROUTING"] {
            netns.tool(
                "iptables",
                &format!(
                    "-t nat -A {chain} -d {address}/32 -p tcp --dport {port} -j DNAT --to-destination \
                     {CONTROL_PLANE}:{target}"
                ),
            )?;
        }
    }
    Ok(address)
}

fn policy(protocol: &str, hosts: &str) -> String {
    format!(
        "apiVersion: policy.openservicemesh.io/v1alpha1\nkind: Egress\nmetadata: {{name: mine, namespace: curl}}\n\
         spec:\n  sources: [{{kind: ServiceAccount, name: curl, namespace: curl}}]\n  {hosts}\n  \
         ports: [{{number: 9000, protocol: {protocol}}}]\n"
    )
}

#[test]
fn the_installed_control_plane_serves_proxies_and_webhooks() -> Result<()> {
    ensure_capable()?;
    let network = TestNetwork::new()?;
    let pod = network.pod()?;
    let cluster = Cluster::without_definitions(&network)?;
    let api = &cluster.api;
    let netns = &network.outside.netns;
    for name in ["curl", "other"] {
        api.namespace(name, false)?;
    }
    api.service_account("curl", "curl")?;
    let run = |words: &[&str]| osm_egress(api, User::Admin, words)?.expect_success();
    run(&["install", "--set", "osm.egress.flowLog=true"])?;
    run(&["namespace", "add", "curl"])?;

    // Without an answer the API server refuses objects in namespaces of the mesh, and accepts others.
    let good = policy("tcp", &format!("ipAddresses: [{HTTPBIN}/32]"));
    let refused = api.apply(&good).err().context("a policy was let in")?.to_string();
    ensure!(refused.contains("failed calling webhook"), "{refused}");
    let pod_of = |namespace: &str| {
        api.apply(&format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: one, namespace: {namespace}}}\n\
             spec: {{serviceAccountName: curl, containers: [{{name: c, image: none}}]}}\n"
        ))
    };
    ensure!(pod_of("curl").is_err(), "a pod was let in");
    pod_of("other")?;
    // Service accounts are exempt: without them no pod would start in the namespace.
    api.service_account("curl", "late")?;
    api.kubectl(
        User::Admin,
        &["annotate", "namespace", "curl", "openservicemesh.io/egress-policy-namespaces=x"],
    )?;

    let mounted = mount(api)?;
    let service = proxy(netns, &read(api, &["service", "osm-egress"])?)?;
    let flows = tempfile::tempdir()?;
    let control_plane =
        ControlPlane::run(netns, CONTROL_PLANE, &arguments(api, &mounted, flows.path())?)?.ready()?;
    ensure!(control_plane.get("/servingz")? == "ok\n");

    // The API server reaches the webhook by its Service, and verifies its certificate.
    let bad = policy("http", "hosts: ['*']");
    let refused = api.apply(&bad).err().context("a policy with a mistake was let in")?.to_string();
    ensure!(
        refused.contains("policies.osm-egress.openservicemesh.io") && refused.contains("hosts"),
        "{refused}"
    );
    api.apply(&good)?;
    // The audit record names the webhook's user.
    let user = "changed by admin (not verified) (Egress curl/mine): opens tcp 9000 at 203.0.113.10/32; for curl/curl";
    wait_for("the record", IO_TIMEOUT, || recorded(api, "curl", "mine").is_ok_and(|found| found == [user]))
        .with_context(|| format!("{:?}\n{}", recorded(api, "curl", "mine"), control_plane.log()))?;
    // A namespace editor opens nothing through service accounts.
    let loosen = ["annotate", "serviceaccount", "curl", "-n", "curl", "openservicemesh.io/egress-mode=audit"];
    let refused = api.kubectl(User::Admin, &loosen).err().context("a mode was loosened")?.to_string();
    ensure!(
        refused.contains("grants.osm-egress.openservicemesh.io") && refused.contains("may only tighten"),
        "{refused}"
    );
    api.kubectl(
        User::Admin,
        &[
            "patch",
            "meshconfig",
            "osm-mesh-config",
            "-n",
            "osm-system",
            "--type=merge",
            "-p",
            r#"{"spec":{"traffic":{"enableEgress":false}}}"#,
        ],
    )?;
    pod_of("curl")?;
    let injected = api.kubectl(User::Admin, &["get", "pod", "one", "-n", "curl", "-o", "json"])?;
    let injected: Value = serde_json::from_str(&injected)?;
    let names: Vec<&str> = injected["spec"]["containers"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|container| container["name"].as_str())
        .collect();
    ensure!(names.contains(&"envoy"), "{injected:#}");

    // A sidecar reaches the control plane by the same name, and verifies the same certificate.
    network.dns.set(HOST, &[service.parse()?]);
    let token = Volume::new(&[("token", &api.token("curl", "curl", "osm-egress", Some("one"))?)])?;
    let (ca, token) = (mounted.text("ca.crt"), token.text("token"));
    let flags = ["--xds", &format!("{HOST}:15128"), "--xds-ca", &ca, "--token-file", &token];
    let _envoy = Envoy::start_with_name_server(
        &pod,
        &sidecar::bootstrap_with("curl/curl", false, &flags)?,
        NAME_SERVER,
    )?;
    let reaches = || {
        let exchange = || client::exchange(SocketAddr::new(HTTPBIN, 9000), b"ping");
        pod.workload().run(exchange).is_ok_and(|outcome| matches!(outcome, Outcome::Bytes(_)))
    };
    wait_for("the policy", IO_TIMEOUT, reaches).with_context(|| control_plane.log())?;
    // The sidecar reports it.
    wait_for("a flow", IO_TIMEOUT, || {
        control_plane
            .get("/flows?identity=curl/curl&verdict=allow")
            .is_ok_and(|flows| flows.contains("curl/mine"))
    })?;
    ensure!(flows.path().join("flows.db").is_file());

    // `verify` sees the proxy. Only the controllers' part is missing.
    let admin = SocketAddr::new(CONTROL_PLANE, 15129).to_string();
    let verify = || osm_egress(api, User::Admin, &["verify", "--admin", &admin]);
    let all = "proxies: 1 connected, all up to date";
    // The acknowledgement follows a moment later.
    wait_for("the acknowledgement", IO_TIMEOUT, || verify().is_ok_and(|output| output.stdout.contains(all)))?;
    let output = verify()?;
    ensure!(
        output.stdout.ends_with("1 check failed\n") && output.stdout.contains("FAIL     Deployment"),
        "{}",
        output.stdout
    );

    ensure!(
        output.stdout.contains("ok       modes: `enforce`, and no object loosens it"),
        "{}",
        output.stdout
    );
    ensure!(
        output.stdout.contains("ok       grants: policies in `osm-system` apply to all namespaces"),
        "{}",
        output.stdout
    );
    api.kubectl(User::Admin, &["annotate", "namespace", "curl", "openservicemesh.io/egress-mode=audit"])?;
    let output = verify()?;
    ensure!(
        output.stdout.contains("warn     modes: Namespace curl: `audit` instead of `enforce`"),
        "{}",
        output.stdout
    );
    // The audit record names the user who deletes a policy.
    api.kubectl(User::Admin, &["delete", "egress", "mine", "-n", "curl"])?;
    wait_for("the record of the deletion", IO_TIMEOUT, || {
        let closed = "changed by admin (not verified) (Egress curl/mine): closes tcp 9000 at 203.0.113.10/32; for curl/curl";
        recorded(api, "curl", "mine").is_ok_and(|found| found.iter().any(|message| message == closed))
    })
    .with_context(|| control_plane.log())?;

    // The installed role allows every request that was made.
    ensure!(!control_plane.log().contains("the API server says"), "{}", control_plane.log());
    // A killed control plane leaves objects behind, which uninstall removes.
    drop(control_plane);
    let reports = || api.kubectl(User::Admin, &["get", "configmap", "-n", "osm-system", "-o", "name"]);
    ensure!(reports()?.contains("osm-egress-proxies-"), "{}", reports()?);
    let output = with_namespace_controller(api, || run(&["uninstall"]))?;
    ensure!(output.stdout.contains("Namespace osm-system: deleted"), "{}", output.stdout);
    Ok(())
}
