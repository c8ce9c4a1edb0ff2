//! What the author of a Service or an EndpointSlice can open and close: pods of the mesh, and nothing else.

use std::io::Write;
use std::net::IpAddr;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use egress_tests::cluster::{Cluster, policy, until};
use egress_tests::kube::User;
use egress_tests::mesh::{self, ELSEWHERE, HTTPBIN, World};
use egress_tests::netns::ensure_capable;
use egress_tests::shim::Shim;
use egress_tests::wait::wait_for;
use serde_json::{Value, json};

use crate::source::{echo, lives};

fn service(name: &str, more: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: {name}, namespace: shop}}\n\
         spec: {{{more}ports: [{{port: 9000}}]}}\n"
    )
}

/// A slice of a service; with the pod that it says to have this address.
fn slice(service: &str, address: IpAddr, pod: Option<&str>) -> String {
    let target = pod
        .map_or_else(String::new, |pod| format!(", targetRef: {{kind: Pod, namespace: shop, name: {pod}}}"));
    format!(
        "apiVersion: discovery.k8s.io/v1beta1\nkind: EndpointSlice\n\
         metadata: {{name: {service}-x, namespace: shop, labels: {{kubernetes.io/service-name: {service}}}}}\n\
         addressType: IPv4\nendpoints: [{{addresses: ['{address}']{target}}}]\n\
         ports: [{{port: 9000, protocol: TCP}}]\n"
    )
}

/// Says what a kubelet says of a pod.
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

/// Waits until the control plane reports a service, with this about it.
fn reported(shim: &Shim<'_>, service: &str, text: &str) -> Result<()> {
    until(shim, &format!("a report of {service} with {text}"), |status| {
        let mut problems = status["diagnostics"].as_array().into_iter().flatten().map(Value::to_string);
        problems.any(|problem| problem.contains(service) && problem.contains(text))
    })
    .map(drop)
}

fn kept(shim: &Shim<'_>, service: &str) -> bool {
    let problems = |status: Value| status["diagnostics"].to_string();
    shim.status().is_ok_and(|status| !problems(status).contains(service))
}

const POD: &str = "apiVersion: v1\nkind: Pod\nmetadata: {name: cart, namespace: shop, labels: {app: cart}}\n\
                   spec: {serviceAccountName: cart, containers: [{name: c, image: none}]}\n";

/// Any address in a slice was once open to everybody, or closed to who was allowed.
#[test]
fn an_endpoint_is_in_the_mesh_if_it_is_a_pod() -> Result<()> {
    ensure_capable()?;
    let world = World::new()?;
    let pod = world.pod()?;
    let cluster = Cluster::new(&world)?;
    let api = &cluster.api;
    api.namespace("shop", true)?;
    api.apply(&policy(
        "curl",
        "echo",
        "ipAddresses: [203.0.113.10/32]\n  ports: [{number: 9000, protocol: tcp}]",
    ))?;
    let shim = cluster.shim(&[])?;
    let _envoy = mesh::sidecar(&pod, false)?;
    let mut held = echo(&pod, HTTPBIN, 9000)?;
    ensure!(echo(&pod, ELSEWHERE, 9000).is_err(), "it is open");

    // Opens nothing, whatever the slice says that it is.
    api.apply(POD)?;
    api.apply(&service("evil", "clusterIP: None, "))?;
    for target in [None, Some("cart"), Some("nobody")] {
        api.apply(&slice("evil", ELSEWHERE, target))?;
        reported(&shim, "evil", "EndpointSlice `evil-x` has `198.51.100.66`")?;
        ensure!(echo(&pod, ELSEWHERE, 9000).is_err(), "{target:?} opened it");
    }
    // What the pod's author writes there does not count.
    let status = json!({"status": {"podIP": ELSEWHERE, "podIPs": [{"ip": ELSEWHERE}]}}).to_string();
    let words = ["patch", "pod", "cart", "-n", "shop", "--type=merge", "-p", &status];
    api.kubectl(User::Admin, &words)?;
    api.apply(&slice("evil", ELSEWHERE, Some("cart")))?;
    ensure!(echo(&pod, ELSEWHERE, 9000).is_err(), "its author opened it");

    // Closes nothing that is allowed.
    permissive(&cluster, false)?;
    api.apply(&slice("evil", HTTPBIN, None))?;
    reported(&shim, "evil", "EndpointSlice `evil-x` has `203.0.113.10`")?;
    ensure!(lives(&mut held), "a slice closed what was open");
    echo(&pod, HTTPBIN, 9000).context("a slice closed what is allowed")?;
    drop(held);
    permissive(&cluster, true)?;

    // What the kubelet says counts, until the pod has ended and its slice had time to follow.
    api.apply(&slice("evil", ELSEWHERE, Some("cart")))?;
    run(&cluster, "cart", "Running", ELSEWHERE)?;
    wait_for("the pod to be in the mesh", Duration::from_secs(10), || echo(&pod, ELSEWHERE, 9000).is_ok())
        .with_context(|| shim.log())?;
    ensure!(kept(&shim, "evil"), "{:#}", shim.status()?);
    let mut held = echo(&pod, ELSEWHERE, 9000)?;
    run(&cluster, "cart", "Succeeded", ELSEWHERE)?;
    api.kubectl(User::Admin, &["delete", "endpointslice", "evil-x", "-n", "shop"])?;
    wait_for("its connection to end", Duration::from_secs(10), || !lives(&mut held))?;
    Ok(())
}

/// Nodes lead the address of a service to its endpoints.
#[test]
fn a_service_is_in_the_mesh_if_all_its_endpoints_are_pods() -> Result<()> {
    ensure_capable()?;
    let world = World::new()?;
    let pod = world.pod()?;
    let cluster = Cluster::new(&world)?;
    let api = &cluster.api;
    api.namespace("shop", true)?;
    let shim = cluster.shim(&[])?;
    let _envoy = mesh::sidecar(&pod, false)?;
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
        world.outside.netns.tool("iptables", &rule)
    };
    lead("-A", HTTPBIN)?;
    wait_for("the service to be in the mesh", Duration::from_secs(10), || echo(&pod, address, 9000).is_ok())
        .with_context(|| shim.log())?;
    let mut held = echo(&pod, address, 9000)?;

    // A slice of one's own, beside the one of the controller.
    let mine = slice("cart", ELSEWHERE, None).replace("name: cart-x", "name: cart-mine");
    api.apply(&mine)?;
    lead("-D", HTTPBIN)?;
    lead("-A", ELSEWHERE)?;
    reported(&shim, "Service shop/cart", "its cluster address is not in the mesh")?;
    wait_for("the connection to end", Duration::from_secs(2), || !lives(&mut held))?;
    ensure!(echo(&pod, address, 9000).is_err(), "a slice led the service elsewhere");
    api.kubectl(User::Admin, &["delete", "endpointslice", "cart-mine", "-n", "shop"])?;
    wait_for("the service to be back", Duration::from_secs(10), || echo(&pod, address, 9000).is_ok())?;

    // One that names a pod that is nowhere is waited for, for a second.
    let unknown = slice("cart", ELSEWHERE, Some("nobody")).replace("name: cart-x", "name: cart-mine");
    let mut held = echo(&pod, address, 9000)?;
    api.apply(&unknown)?;
    let took = wait_for("the connection to end", Duration::from_secs(5), || !lives(&mut held))?;
    println!("a pod that is nowhere was waited for for {took:.1?}");
    ensure!(took < Duration::from_millis(2500), "{took:?}");
    ensure!(echo(&pod, address, 9000).is_err(), "a slice led the service elsewhere");
    // And not again.
    api.kubectl(User::Admin, &["delete", "endpointslice", "cart-mine", "-n", "shop"])?;
    wait_for("the service to be back", Duration::from_secs(10), || echo(&pod, address, 9000).is_ok())?;
    api.apply(&unknown)?;
    reported(&shim, "Service shop/cart", "its cluster address is not in the mesh")?;

    // Without a selector it is in the mesh as long as it has nothing else than pods.
    api.apply(&service("plain", ""))?;
    until(&shim, "the other service", |status| status["objects"].to_string().contains("plain"))?;
    ensure!(kept(&shim, "shop/plain"), "{:#}", shim.status()?);
    Ok(())
}

/// Pods that come and go change nothing, and so nothing is compiled again.
#[test]
fn pods_that_change_nothing_cost_nothing() -> Result<()> {
    ensure_capable()?;
    let world = World::new()?;
    let cluster = Cluster::new(&world)?;
    let api = &cluster.api;
    api.namespace("shop", true)?;
    api.apply(&service("cart", "selector: {app: cart}, "))?;
    api.apply(POD)?;
    let shim = cluster.shim(&[])?;
    let compiled = || shim.log().matches("compiled").count();
    api.apply(&service("first", ""))?;
    until(&shim, "the service", |status| status["objects"].to_string().contains("first"))?;
    let before = compiled();
    for n in 0..20 {
        let name = format!("cart-{n}");
        api.apply(&POD.replace("name: cart,", &format!("name: {name},")))?;
        run(&cluster, &name, "Running", IpAddr::from([10, 0, 0, n]))?;
        api.kubectl(User::Admin, &["delete", "pod", &name, "-n", "shop", "--grace-period=0", "--force"])?;
    }
    api.apply(&service("last", ""))?;
    until(&shim, "the other service", |status| status["objects"].to_string().contains("last"))?;
    let count = compiled() - before;
    ensure!(count == 1, "{count} times for 20 pods and a service\n{}", shim.log());
    Ok(())
}
