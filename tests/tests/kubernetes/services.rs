//! Effects of Services and EndpointSlices: their authors can open and close connections to pods of the mesh
//! only.

use std::io::Write;
use std::net::IpAddr;
use std::process::Stdio;
use std::time::Duration;

use crate::source::echo;
use anyhow::{Context, Result, ensure};
use egress_tests::cluster::{Cluster, wait_for_status};
use egress_tests::control_plane::ControlPlane;
use egress_tests::echo::still_echoes;
use egress_tests::kube::{self, User};
use egress_tests::manifests::egress_in;
use egress_tests::netns::ensure_capable;
use egress_tests::network::{ELSEWHERE, HTTPBIN, TestNetwork};
use egress_tests::sidecar;
use egress_tests::wait::wait_for;
use serde_json::{Value, json};

fn service(name: &str, more: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: {name}, namespace: shop}}\n\
         spec: {{{more}ports: [{{port: 9000}}]}}\n"
    )
}

/// An EndpointSlice of a service with one address, and the pod that it claims for it.
fn slice(service: &str, address: IpAddr, pod: Option<&str>) -> String {
    let target = pod
        .map_or_else(String::new, |pod| format!(", targetRef: {{kind: Pod, namespace: shop, name: {pod}}}"));
    // v1 exists since 1.21, and v1beta1 until 1.24.
    let version = if kube::version().is_ok_and(|version| version < (1, 21)) { "v1beta1" } else { "v1" };
    format!(
        "apiVersion: discovery.k8s.io/{version}\nkind: EndpointSlice\n\
         metadata: {{name: {service}-x, namespace: shop, labels: {{kubernetes.io/service-name: {service}}}}}\n\
         addressType: IPv4\nendpoints: [{{addresses: ['{address}']{target}}}]\n\
         ports: [{{port: 9000, protocol: TCP}}]\n"
    )
}

/// Sets a pod's status like a kubelet.
fn run(cluster: &Cluster<'_>, name: &str, phase: &str, address: IpAddr) -> Result<()> {
    let path = format!("/api/v1/namespaces/shop/pods/{name}");
    let text = cluster.api.kubectl(User::Admin, &["get", "--raw", &path])?;
    let mut pod: Value = serde_json::from_str(&text)?;
    pod["status"] = json!({"phase": phase, "podIP": address, "podIPs": [{"ip": address}]});
    let mut kubectl = cluster
        .api
        .command("kubectl", User::Admin)
        .args(["replace", "--raw", &format!("{path}/status"), "-f", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()?;
    kubectl.stdin.take().context("no stdin")?.write_all(pod.to_string().as_bytes())?;
    ensure!(kubectl.wait()?.success(), "the status of the pod was not taken");
    Ok(())
}

fn permissive(cluster: &Cluster<'_>, is: bool) -> Result<()> {
    let patch = json!({"spec": {"traffic": {"enablePermissiveTrafficPolicyMode": is}}}).to_string();
    let words = ["patch", "meshconfig", "osm-mesh-config", "-n", "osm-system", "--type=merge", "-p", &patch];
    cluster.api.kubectl(User::Admin, &words).map(drop)
}

/// Waits until the control plane reports a service with this text.
fn wait_for_report(control_plane: &ControlPlane<'_>, service: &str, text: &str) -> Result<()> {
    wait_for_status(control_plane, &format!("a report of {service} with {text}"), |status| {
        let mut problems = status["diagnostics"].as_array().into_iter().flatten().map(Value::to_string);
        problems.any(|problem| problem.contains(service) && problem.contains(text))
    })
    .map(drop)
}

fn is_kept(control_plane: &ControlPlane<'_>, service: &str) -> bool {
    let problems = |status: Value| status["diagnostics"].to_string();
    control_plane.status().is_ok_and(|status| !problems(status).contains(service))
}

const POD: &str = "apiVersion: v1\nkind: Pod\nmetadata: {name: cart, namespace: shop, labels: {app: cart}}\n\
                   spec: {serviceAccountName: cart, containers: [{name: c, image: none}]}\n";

/// An endpoint that is not a pod's address opens and closes nothing. Any address in a slice once opened it to
/// everybody, or closed it to identities that a policy allowed.
#[test]
fn an_endpoint_belongs_to_the_mesh_if_it_is_a_pod() -> Result<()> {
    ensure_capable()?;
    let network = TestNetwork::new()?;
    let pod = network.pod()?;
    let cluster = Cluster::new(&network)?;
    let api = &cluster.api;
    api.namespace("shop", true)?;
    api.apply(&egress_in(
        "curl",
        "echo",
        "ipAddresses: [203.0.113.10/32]\nports: [{number: 9000, protocol: tcp}]",
    ))?;
    let control_plane = cluster.control_plane(&[])?;
    let _envoy = sidecar::start(&pod, false)?;
    let mut held = echo(&pod, HTTPBIN, 9000)?;
    ensure!(echo(&pod, ELSEWHERE, 9000).is_err(), "it is open");

    // A slice opens nothing, whatever kind of endpoint it claims.
    api.apply(POD)?;
    api.apply(&service("evil", "clusterIP: None, "))?;
    for target in [None, Some("cart"), Some("nobody")] {
        api.apply(&slice("evil", ELSEWHERE, target))?;
        wait_for_report(&control_plane, "evil", "EndpointSlice `evil-x` has `198.51.100.66`")?;
        ensure!(echo(&pod, ELSEWHERE, 9000).is_err(), "{target:?} opened it");
    }
    // The pod author's own fields do not count.
    let status = json!({"status": {"podIP": ELSEWHERE, "podIPs": [{"ip": ELSEWHERE}]}}).to_string();
    let words = ["patch", "pod", "cart", "-n", "shop", "--type=merge", "-p", &status];
    api.kubectl(User::Admin, &words)?;
    api.apply(&slice("evil", ELSEWHERE, Some("cart")))?;
    ensure!(echo(&pod, ELSEWHERE, 9000).is_err(), "its author opened it");

    // A slice closes nothing that is allowed.
    permissive(&cluster, false)?;
    api.apply(&slice("evil", HTTPBIN, None))?;
    wait_for_report(&control_plane, "evil", "EndpointSlice `evil-x` has `203.0.113.10`")?;
    ensure!(still_echoes(&mut held), "a slice closed what was open");
    echo(&pod, HTTPBIN, 9000).context("a slice closed what is allowed")?;
    drop(held);
    permissive(&cluster, true)?;

    // The kubelet's status counts until the pod has ended and its slice had time to follow.
    api.apply(&slice("evil", ELSEWHERE, Some("cart")))?;
    run(&cluster, "cart", "Running", ELSEWHERE)?;
    wait_for("the pod to be in the mesh", Duration::from_secs(10), || echo(&pod, ELSEWHERE, 9000).is_ok())
        .with_context(|| control_plane.log())?;
    ensure!(is_kept(&control_plane, "evil"), "{:#}", control_plane.status()?);
    let mut held = echo(&pod, ELSEWHERE, 9000)?;
    run(&cluster, "cart", "Succeeded", ELSEWHERE)?;
    api.kubectl(User::Admin, &["delete", "endpointslice", "evil-x", "-n", "shop"])?;
    wait_for("its connection to end", Duration::from_secs(10), || !still_echoes(&mut held))?;
    Ok(())
}

/// A service belongs to the mesh if all its endpoints are pods, because nodes route its address to the
/// endpoints.
#[test]
fn a_service_belongs_to_the_mesh_if_all_its_endpoints_are_pods() -> Result<()> {
    ensure_capable()?;
    let network = TestNetwork::new()?;
    let pod = network.pod()?;
    let cluster = Cluster::new(&network)?;
    let api = &cluster.api;
    api.namespace("shop", true)?;
    let control_plane = cluster.control_plane(&[])?;
    let _envoy = sidecar::start(&pod, false)?;
    api.apply(POD)?;
    run(&cluster, "cart", "Running", HTTPBIN)?;
    api.apply(&service("cart", ""))?;
    api.apply(&slice("cart", HTTPBIN, Some("cart")))?;
    let address = api.kubectl(
        User::Admin,
        &["get", "service", "cart", "-n", "shop", "-o", "jsonpath={.spec.clusterIP}"],
    )?;
    let address: IpAddr = address.trim().parse()?;
    // As kube-proxy does.
    let lead = |how: &str, to: IpAddr| {
        let rule = format!(
            "-t nat {how} PREROUTING -d {address}/32 -p tcp --dport 9000 -j DNAT --to-destination {to}:9000"
        );
        network.outside.netns.tool("iptables", &rule)
    };
    lead("-A", HTTPBIN)?;
    wait_for("the service to be in the mesh", Duration::from_secs(10), || echo(&pod, address, 9000).is_ok())
        .with_context(|| control_plane.log())?;
    let mut held = echo(&pod, address, 9000)?;

    // A second slice, beside the controller's.
    let mine = slice("cart", ELSEWHERE, None).replace("name: cart-x", "name: cart-mine");
    api.apply(&mine)?;
    lead("-D", HTTPBIN)?;
    lead("-A", ELSEWHERE)?;
    wait_for_report(&control_plane, "Service shop/cart", "its cluster address is not in the mesh")?;
    wait_for("the connection to end", Duration::from_secs(2), || !still_echoes(&mut held))?;
    ensure!(echo(&pod, address, 9000).is_err(), "a slice led the service elsewhere");
    api.kubectl(User::Admin, &["delete", "endpointslice", "cart-mine", "-n", "shop"])?;
    wait_for("the service to be back", Duration::from_secs(10), || echo(&pod, address, 9000).is_ok())?;

    // A slice that names a missing pod counts after a second.
    let unknown = slice("cart", ELSEWHERE, Some("nobody")).replace("name: cart-x", "name: cart-mine");
    let mut held = echo(&pod, address, 9000)?;
    api.apply(&unknown)?;
    let took = wait_for("the connection to end", Duration::from_secs(5), || !still_echoes(&mut held))?;
    println!("a pod that is nowhere was waited for for {took:.1?}");
    ensure!(took < Duration::from_millis(2500), "{took:?}");
    ensure!(echo(&pod, address, 9000).is_err(), "a slice led the service elsewhere");
    // Not a second time.
    api.kubectl(User::Admin, &["delete", "endpointslice", "cart-mine", "-n", "shop"])?;
    wait_for("the service to be back", Duration::from_secs(10), || echo(&pod, address, 9000).is_ok())?;
    api.apply(&unknown)?;
    wait_for_report(&control_plane, "Service shop/cart", "its cluster address is not in the mesh")?;

    // A service without a selector belongs to the mesh while all its endpoints are pods.
    api.apply(&service("plain", ""))?;
    wait_for_status(&control_plane, "the other service", |status| {
        status["objects"].to_string().contains("plain")
    })?;
    ensure!(is_kept(&control_plane, "shop/plain"), "{:#}", control_plane.status()?);
    Ok(())
}

/// Pods that come and go without an effect do not start a compilation.
#[test]
fn irrelevant_pods_start_no_compilation() -> Result<()> {
    ensure_capable()?;
    let network = TestNetwork::new()?;
    let cluster = Cluster::new(&network)?;
    let api = &cluster.api;
    api.namespace("shop", true)?;
    api.apply(&service("cart", "selector: {app: cart}, "))?;
    api.apply(POD)?;
    let control_plane = cluster.control_plane(&[])?;
    let compiled = || control_plane.log().matches("compiled").count();
    api.apply(&service("first", ""))?;
    wait_for_status(&control_plane, "the service", |status| status["objects"].to_string().contains("first"))?;
    let before = compiled();
    for n in 0..20 {
        let name = format!("cart-{n}");
        api.apply(&POD.replace("name: cart,", &format!("name: {name},")))?;
        run(&cluster, &name, "Running", IpAddr::from([10, 0, 0, n]))?;
        api.kubectl(User::Admin, &["delete", "pod", &name, "-n", "shop", "--grace-period=0", "--force"])?;
    }
    api.apply(&service("last", ""))?;
    wait_for_status(&control_plane, "the other service", |status| {
        status["objects"].to_string().contains("last")
    })?;
    let count = compiled() - before;
    ensure!(count == 1, "{count} times for 20 pods and a service\n{}", control_plane.log());
    Ok(())
}
