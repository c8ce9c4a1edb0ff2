//! What the control plane reads from a cluster, and how it goes on without it.

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use egress_tests::client;
use egress_tests::cluster::{
    Cluster, EGRESS_OFF, EGRESS_ON, allowed, identified_by_tokens, objects, policy, rules, until,
};
use egress_tests::curl::Curl;
use egress_tests::kube::User;
use egress_tests::mesh::{self, CONTROL_PLANE, ELSEWHERE, HTTPBIN, SECOND_CONTROL_PLANE, World};
use egress_tests::netns::{Pod, ensure_capable};
use egress_tests::wait::wait_for;
use egress_tests::xds::Proxy;

pub(crate) fn echo(pod: &Pod, to: IpAddr, port: u16) -> Result<TcpStream> {
    let mut stream =
        pod.workload().run(|| client::connect(SocketAddr::new(to, port)))?.map_err(|e| anyhow!("{e:?}"))?;
    ensure!(lives(&mut stream), "no echo from {to}:{port}");
    Ok(stream)
}

pub(crate) fn lives(stream: &mut TcpStream) -> bool {
    let mut answer = [0; 4];
    stream.write_all(b"ping").and_then(|()| stream.read_exact(&mut answer)).is_ok() && &answer == b"ping"
}

/// The commands of Open Service Mesh's page switch global egress on and off for an Envoy that runs.
#[test]
fn the_commands_of_the_page() -> Result<()> {
    ensure_capable()?;
    let world = World::new()?;
    let pod = world.pod()?;
    let cluster = Cluster::new(&world)?;
    let allowed = "ipAddresses: [203.0.113.10/32]\n  ports: [{number: 9000, protocol: tcp}]";
    cluster.api.apply(&policy("curl", "echo", allowed))?;
    let _shim = cluster.shim(&[])?;
    let envoy = mesh::sidecar(&pod, false)?;
    let mut held = echo(&pod, HTTPBIN, 9000)?;
    let mut took = Vec::new();
    for round in 0..20 {
        let on = round % 2 == 0;
        cluster.api.shell(User::Admin, if on { EGRESS_ON } else { EGRESS_OFF })?;
        let start = Instant::now();
        wait_for(&format!("global egress to be {on}"), Duration::from_secs(5), || {
            echo(&pod, ELSEWHERE, 9000).is_ok() == on
        })?;
        took.push(start.elapsed());
        ensure!(lives(&mut held), "an allowed connection did not survive switch {round}");
    }
    took.sort();
    let median = took[took.len() / 2];
    println!("from kubectl's return to enforcement: median {median:?}, longest {:?}", took[took.len() - 1]);
    ensure!(median < Duration::from_millis(300), "{took:?}");
    ensure!(envoy.stat("listener_manager.listener_modified")? == 0);
    Ok(())
}

const HTTPBIN_80: &str = "kubectl apply -f - <<EOF
kind: Egress
apiVersion: policy.openservicemesh.io/v1alpha1
metadata:
  name: httpbin-80
  namespace: curl
spec:
  sources:
  - kind: ServiceAccount
    name: curl
    namespace: curl
  hosts:
  - httpbin.org
  ports:
  - number: 80
    protocol: http
EOF";

const HTTPBIN_443: &str = "kubectl apply -f - <<EOF
kind: Egress
apiVersion: policy.openservicemesh.io/v1alpha1
metadata:
  name: httpbin-443
  namespace: curl
spec:
  sources:
  - kind: ServiceAccount
    name: curl
    namespace: curl
  hosts:
  - httpbin.org
  ports:
  - number: 443
    protocol: https
EOF";

const TCP_443: &str = "kubectl apply -f - <<EOF
kind: Egress
apiVersion: policy.openservicemesh.io/v1alpha1
metadata:
  name: tcp-443
  namespace: curl
spec:
  sources:
  - kind: ServiceAccount
    name: curl
    namespace: curl
  ports:
  - number: 443
    protocol: tcp
EOF";

const ROUTES: &str = "kubectl apply -f - <<EOF
apiVersion: specs.smi-spec.io/v1alpha4
kind: HTTPRouteGroup
metadata:
  name: egress-http-route
  namespace: curl
spec:
  matches:
  - name: get
    pathRegex: /get
EOF";

const MORE_ROUTES: &str = "kubectl apply -f - <<EOF
apiVersion: specs.smi-spec.io/v1alpha4
kind: HTTPRouteGroup
metadata:
  name: egress-http-route
  namespace: curl
spec:
  matches:
  - name: get
    pathRegex: /get
  - name: status
    pathRegex: /status.*
EOF";

const HTTPBIN_ROUTES: &str = "kubectl apply -f - <<EOF
kind: Egress
apiVersion: policy.openservicemesh.io/v1alpha1
metadata:
  name: httpbin-80
  namespace: curl
spec:
  sources:
  - kind: ServiceAccount
    name: curl
    namespace: curl
  hosts:
  - httpbin.org
  ports:
  - number: 80
    protocol: http
  matches:
  - apiGroup: specs.smi-spec.io/v1alpha4
    kind: HTTPRouteGroup
    name: egress-http-route
EOF";

/// Open Service Mesh's demo of egress policies: its manifests, its commands.
#[test]
fn the_policy_demo() -> Result<()> {
    ensure_capable()?;
    let world = World::new()?;
    let pod = world.pod()?;
    let cluster = Cluster::new(&world)?;
    // As Open Service Mesh answers; 403 and a reason is what we would rather say.
    let _shim = cluster.shim(&["--http-deny-status", "404"])?;
    let _envoy = mesh::sidecar(&pod, false)?;
    let run = |line: &str| cluster.api.shell(User::Admin, line).map(|_| ());
    let refused = |step: &str, arguments: &[&str]| Curl::until(&pod, step, arguments, &Curl::is_refused);
    let answers = |step: &str, arguments: &[&str], status: &'static str, header: &'static str| {
        Curl::until(&pod, step, arguments, &move |curl| curl.answers(status, header))
    };
    let http = ["-I", "http://httpbin.org:80/get"];
    let https = ["-kI", "https://httpbin.org:443/get"];
    let other = ["-kI", "https://openservicemesh.io:443"];
    let status = ["-I", "http://httpbin.org:80/status/200"];
    run(EGRESS_OFF)?;
    refused("P1", &http)?;
    run(HTTPBIN_80)?;
    answers("P2", &http, "HTTP/1.1 200", "server: gunicorn")?;
    run("kubectl delete egress httpbin-80 -n curl")?;
    refused("P3", &http)?;
    refused("P4", &https)?;
    run(HTTPBIN_443)?;
    answers("P5", &https, "HTTP/2 200", "server: gunicorn")?;
    run("kubectl delete egress httpbin-443 -n curl")?;
    refused("P6", &https)?;
    refused("P7", &other)?;
    run(TCP_443)?;
    answers("P8", &other, "HTTP/2 200", "server: gunicorn")?;
    run("kubectl delete egress tcp-443 -n curl")?;
    refused("P9", &other)?;
    refused("P10", &http)?;
    refused("P10", &status)?;
    run(ROUTES)?;
    run(HTTPBIN_ROUTES)?;
    answers("P11", &http, "HTTP/1.1 200", "server: gunicorn")?;
    answers("P12", &status, "HTTP/1.1 404", "x-egress-denied: route-not-allowed")?;
    run(MORE_ROUTES)?;
    answers("P13", &status, "HTTP/1.1 200", "server: gunicorn")
}

/// Namespaces of the mesh count and others do not; kinds may come later; one bad object harms no other; and
/// who begins later says the same.
#[test]
fn what_counts() -> Result<()> {
    ensure_capable()?;
    let world = World::new()?;
    let cluster = Cluster::bare(&world)?;
    let api = &cluster.api;
    cluster.define(|text| text.contains("kind: MeshConfig") || text.contains("kind: Egress"))?;
    cluster.set_up()?;
    api.namespace("plain", false)?;
    // With everything for which it needs a permission.
    let (authority, own) = identified_by_tokens()?;
    let (certificate, key) = (own.text("tls.crt"), own.text("tls.key"));
    let flags = ["--service-account-tokens", "--tls-cert", &certificate, "--tls-key", &key];
    let shim = cluster.shim(&flags)?;
    until(&shim, "the first state", |status| {
        objects(status).contains(&"MeshConfig osm-system/osm-mesh-config".to_owned())
    })?;
    // Not of the mesh, until it is.
    let port = "ports: [{number: 9000, protocol: tcp}]";
    let own =
        policy("plain", "p", port).replace("name: curl, namespace: curl}]", "name: curl, namespace: plain}]");
    api.apply(&own)?;
    api.apply(&policy("curl", "p", port))?;
    until(&shim, "the policy of the mesh", |status| rules(status, "Egress curl/p") == Some(1))?;
    ensure!(rules(&shim.status()?, "Egress plain/p").is_none(), "{:#}", shim.status()?);
    api.kubectl(User::Admin, &["label", "namespace", "plain", "openservicemesh.io/monitored-by=osm"])?;
    until(&shim, "the namespace to count", |status| rules(status, "Egress plain/p") == Some(1))?;
    let another = ["label", "namespace", "plain", "openservicemesh.io/monitored-by=other", "--overwrite"];
    api.kubectl(User::Admin, &another)?;
    until(&shim, "it not to count", |status| rules(status, "Egress plain/p").is_none())?;

    // A policy refers to a kind that there is not, and then there is.
    let reference = "matches: [{apiGroup: specs.smi-spec.io/v1alpha4, kind: HTTPRouteGroup, name: g}]";
    api.apply(&policy(
        "curl",
        "routes",
        &format!("hosts: [httpbin.org]\n  ports: [{{number: 80, protocol: http}}]\n  {reference}"),
    ))?;
    until(&shim, "a policy that lacks its routes", |status| rules(status, "Egress curl/routes") == Some(0))?;
    cluster.define(|text| !text.contains("kind: MeshConfig") && !text.contains("kind: Egress"))?;
    let group = |name: &str, headers: &str| {
        format!(
            "apiVersion: specs.smi-spec.io/v1alpha4\nkind: HTTPRouteGroup\n\
             metadata: {{name: {name}, namespace: curl}}\n\
             spec: {{matches: [{{name: m, pathRegex: /get, headers: [{headers}]}}]}}\n"
        )
    };
    api.apply(&group("g", "{x-a: b}"))?;
    until(&shim, "routes that came later", |status| rules(status, "Egress curl/routes") == Some(1))?;

    // The API server takes what SMI's own reader refuses: two headers in one item.
    api.apply(&group("bad", "{x-a: b, x-c: d}"))?;
    api.apply(&group("g", "{x-a: b, x-c: d}"))?;
    api.apply(&policy("curl", "host", "hosts: [not a name]\n  ports: [{number: 80, protocol: http}]"))?;
    api.apply(&policy("curl", "after", port))?;
    until(&shim, "a good policy after bad ones", |status| rules(status, "Egress curl/after") == Some(1))?;
    let status = shim.status()?;
    ensure!(rules(&status, "Egress curl/host") == Some(0), "{status:#}");
    // What it said before does not count: who begins later cannot know it.
    ensure!(rules(&status, "Egress curl/routes") == Some(0), "{status:#}");
    let problems = status["diagnostics"].to_string();
    for expected in ["HTTPRouteGroup curl/bad", "HTTPRouteGroup curl/g"] {
        ensure!(problems.contains(expected), "{expected}: {problems}");
    }
    let fresh = cluster.launch(User::Shim, SECOND_CONTROL_PLANE, &[])?.ready()?;
    ensure!(fresh.status()?["objects"] == status["objects"], "{:#}", fresh.status()?);
    drop(fresh);
    api.kubectl(User::Admin, &["delete", "httproutegroup", "bad", "-n", "curl"])?;
    api.apply(&group("g", "{x-a: b}, {x-c: d}"))?;
    until(&shim, "the bad objects to be good", |status| {
        !status["diagnostics"].to_string().contains("HTTPRoute")
    })?;

    // One that begins now reads by lists what the other one read by changes.
    let fresh = cluster.launch(User::Shim, SECOND_CONTROL_PLANE, &flags)?.ready()?;
    let (one, other) = (shim.status()?, fresh.status()?);
    for part in ["objects", "identities", "diagnostics", "meshMode"] {
        ensure!(one[part] == other[part], "{part}: {:#} {:#}", one[part], other[part]);
    }
    // A proxy comes with a token.
    api.service_account("curl", "curl")?;
    let bearer = format!("Bearer {}", api.token("curl", "curl", "osm-egress", None)?);
    let host = CONTROL_PLANE.to_string();
    let proxy =
        Proxy { authority: Some(&authority.pem), host: &host, authorization: &[&bearer], ..Proxy::default() };
    proxy.ask(&world.outside.netns, SocketAddr::new(CONTROL_PLANE, 15128))?.with_context(|| shim.log())?;
    // One that stops takes back what it said of its proxies; one that stays renews it.
    fresh.stop()?;
    // The role is enough, as was seen, and nothing in it is unused.
    wait_for("every permission to be used", Duration::from_secs(30), || {
        api.asked().is_ok_and(|asked| allowed().is_ok_and(|allowed| asked == allowed))
    })
    .with_context(|| format!("{:?} instead of {:?}", api.asked(), allowed()))?;
    Ok(())
}

/// While the API server is away everything goes on as it was, and what changes afterwards arrives.
#[test]
fn the_api_server_dies() -> Result<()> {
    ensure_capable()?;
    let world = World::new()?;
    let pod = world.pod()?;
    let mut cluster = Cluster::new(&world)?;
    cluster.api.apply(&policy("curl", "one", "ports: [{number: 9000, protocol: tcp}]"))?;
    let shim = cluster.shim(&[])?;
    let envoy = mesh::sidecar(&pod, false)?;
    let mut held = echo(&pod, HTTPBIN, 9000)?;

    cluster.api.kill();
    wait_for("the control plane to notice", Duration::from_secs(5), || shim.get("/readyz").is_err())?;
    let said = shim.get("/readyz").err().context("it says that it is ready")?.to_string();
    ensure!(said.contains("503") && said.contains("the last good state stays in force"), "{said}");
    ensure!(shim.get("/metrics")?.contains("osm_egress_source_available 0"), "{}", shim.get("/metrics")?);
    ensure!(lives(&mut held), "a connection ended with the API server");
    echo(&pod, HTTPBIN, 9000).context("what was allowed is not any more")?;
    ensure!(echo(&pod, HTTPBIN, 9100).is_err(), "what was forbidden is allowed");
    // Who begins now waits, and says nothing to proxies.
    let late = cluster.launch(User::Shim, SECOND_CONTROL_PLANE, &[])?;
    wait_for("its admin interface", Duration::from_secs(10), || late.get("/healthz").is_ok())?;
    ensure!(late.get("/readyz").is_err(), "it is ready without having read anything");

    cluster.api.resume()?;
    let ready = wait_for("the control plane to be ready again", Duration::from_secs(20), || {
        shim.get("/readyz").is_ok() && late.get("/readyz").is_ok()
    });
    println!("ready again {:?} after the API server", ready.with_context(|| shim.log())?);
    ensure!(shim.status()?["identities"] == late.status()?["identities"]);
    cluster.api.apply(&policy("curl", "two", "ports: [{number: 9100, protocol: tcp}]"))?;
    wait_for("a change afterwards", Duration::from_secs(5), || echo(&pod, HTTPBIN, 9100).is_ok())?;
    cluster.api.kubectl(User::Admin, &["delete", "egress", "one", "-n", "curl"])?;
    wait_for("a removal afterwards", Duration::from_secs(5), || echo(&pod, HTTPBIN, 9000).is_err())?;
    ensure!(envoy.stat("listener_manager.listener_modified")? == 0);
    Ok(())
}

/// The definitions take what Open Service Mesh's take, and refuse what never worked.
#[test]
fn the_definitions() -> Result<()> {
    ensure_capable()?;
    let world = World::new()?;
    let cluster = Cluster::new(&world)?;
    let api = &cluster.api;
    let conditions =
        api.kubectl(User::Admin, &["get", "crd", "-o", "jsonpath={.items[*].status.conditions[*].type}"])?;
    ensure!(!conditions.contains("NonStructural") && conditions.contains("Established"), "{conditions}");
    for (names, expected) in [
        (&["get", "egress,egresses,egresses.policy.openservicemesh.io", "-A"][..], ""),
        (&["get", "meshconfig,upstreamtrafficsetting,htr,tt", "-A"], "osm-mesh-config"),
    ] {
        let output = api.kubectl(User::Admin, names)?;
        ensure!(output.contains(expected), "{output}");
    }
    for protocol in ["http", "HTTPS", "tcp", "tcp-server-first", "Tcp-Server-First"] {
        let more =
            format!("ports: [{{number: 1, protocol: {protocol}}}]\n  ipAddresses: [10.0.0.0/8, 'fd00::/8']");
        api.apply(&policy("curl", "good", &more)).with_context(|| protocol.to_owned())?;
    }
    for (case, more, expected) in [
        ("a protocol", "ports: [{number: 1, protocol: udp}]", "spec.ports.protocol"),
        ("no block", "ports: []\n  ipAddresses: [10.0.0.1]", "spec.ipAddresses"),
        ("an octet", "ports: []\n  ipAddresses: [10.0.0.256/32]", "spec.ipAddresses"),
        ("a prefix", "ports: []\n  ipAddresses: ['fd00::/129']", "spec.ipAddresses"),
        ("a port", "ports: [{number: 65536, protocol: tcp}]", "spec.ports.number"),
        ("an unknown field", "ports: []\n  host: [a.org]", "unknown field \"host\""),
    ] {
        let error = api.apply(&policy("curl", "bad", more)).err().with_context(|| case.to_owned())?;
        ensure!(format!("{error:#}").contains(expected), "{case}: {error:#}");
    }
    let wrong = r#"kubectl patch meshconfig osm-mesh-config -n osm-system -p '{"spec":{"traffic":{"enableEgress":"yes"}}}' --type=merge"#;
    let error = api.shell(User::Admin, wrong).err().context("text for a boolean")?;
    ensure!(format!("{error:#}").contains("enableEgress"), "{error:#}");
    // A MeshConfig as Open Service Mesh installs it, read in both versions.
    api.apply(OSM_MESH_CONFIG)?;
    for version in ["v1alpha1", "v1alpha2"] {
        let name = format!("meshconfigs.{version}.config.openservicemesh.io");
        let path = "jsonpath={.spec.sidecar.logLevel} {.spec.certificate.certKeyBitSize} {.spec.featureFlags.enableWASMStats}";
        let output =
            api.kubectl(User::Admin, &["get", &name, "osm-mesh-config", "-n", "osm-system", "-o", path])?;
        ensure!(output == "error 2048 true", "{version}: {output}");
    }
    // The control plane may write no policy.
    for verb in ["create", "update", "patch", "delete"] {
        let answer = api.kubectl(User::Shim, &["auth", "can-i", verb, "egresses.policy.openservicemesh.io"]);
        ensure!(answer.is_err(), "the control plane may {verb} policies");
    }
    Ok(())
}

const OSM_MESH_CONFIG: &str = "apiVersion: config.openservicemesh.io/v1alpha2
kind: MeshConfig
metadata: {name: osm-mesh-config, namespace: osm-system}
spec:
  sidecar:
    enablePrivilegedInitContainer: false
    logLevel: error
    maxDataPlaneConnections: 0
    configResyncInterval: 0s
    tlsMinProtocolVersion: TLSv1_2
    localProxyMode: Localhost
    resources: {limits: {cpu: 100m}}
  traffic:
    enableEgress: false
    outboundIPRangeExclusionList: []
    outboundIPRangeInclusionList: []
    outboundPortExclusionList: []
    inboundPortExclusionList: []
    networkInterfaceExclusionList: []
    enablePermissiveTrafficPolicyMode: true
  observability:
    osmLogLevel: info
    enableDebugServer: false
    tracing: {enable: false}
  certificate:
    serviceCertValidityDuration: 24h
    certKeyBitSize: 2048
  featureFlags:
    enableWASMStats: true
    enableEgressPolicy: true
    enableAsyncProxyServiceMapping: false
    enableIngressBackendPolicy: true
    enableEnvoyActiveHealthChecks: false
    enableRetryPolicy: false
";

/// Who may not read is told so, and proxies are told nothing.
#[test]
fn without_the_role() -> Result<()> {
    ensure_capable()?;
    let world = World::new()?;
    let cluster = Cluster::new(&world)?;
    let shim = cluster.launch(User::Nobody, SECOND_CONTROL_PLANE, &[])?;
    wait_for("the reason", Duration::from_secs(10), || {
        shim.get("/readyz").is_err_and(|error| error.to_string().contains("403"))
    })
    .with_context(|| shim.log())?;
    // The log says it a moment after the answer does.
    wait_for("the log", Duration::from_secs(5), || shim.log().contains("cannot list resource"))
        .with_context(|| shim.log())?;
    Ok(())
}
