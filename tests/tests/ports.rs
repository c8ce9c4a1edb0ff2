//! Ports of control plane and sidecar under abusive clients: other clients are served, and memory stays
//! bounded.

#![allow(clippy::wildcard_enum_match_arm, reason = "what a test does not expect fails it")]

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use egress_tests::authority::{Authority, Names, Volume};
use egress_tests::client::{self, IO_TIMEOUT, Outcome};
use egress_tests::cluster::issue_control_plane_certificate;
use egress_tests::control_plane::ControlPlane;
use egress_tests::envoy::Envoy;
use egress_tests::flood::Flood;
use egress_tests::manifests::{self, echo_policy};
use egress_tests::netns::{Netns, ensure_capable};
use egress_tests::network::{CONTROL_PLANE, TestNetwork};
use egress_tests::sidecar;
use egress_tests::wait::wait_for;
use egress_tests::workload::gets_echo;
use egress_tests::xds::XdsClient;
use serde_json::json;
use tonic::Code;

const XDS_ADDRESS: SocketAddr = SocketAddr::new(CONTROL_PLANE, 15128);
const ADMIN_ADDRESS: SocketAddr = SocketAddr::new(CONTROL_PLANE, 15129);
const WEBHOOK_ADDRESS: SocketAddr = SocketAddr::new(CONTROL_PLANE, 9443);
const HEALTH_PORT: u16 = 15904;

/// Starts a control plane with a certificate and webhooks.
fn encrypted(network: &TestNetwork) -> Result<(ControlPlane<'_>, Authority, Volume)> {
    network.global_egress(false)?;
    network.write("a.yaml", &echo_policy("a", 9000))?;
    let (authority, own) = issue_control_plane_certificate()?;
    let (certificate, key, webhook) = (own.text("tls.crt"), own.text("tls.key"), WEBHOOK_ADDRESS.to_string());
    let flags = ["--tls-cert", &certificate, "--tls-key", &key, "--webhook-listen", &webhook];
    Ok((network.control_plane(&flags)?, authority, own))
}

fn eviction_count(control_plane: &ControlPlane<'_>, port: &str) -> Result<u64> {
    control_plane.metric(&format!("osm_egress_connections_evicted_total{{port=\"{port}\"}}"))
}

/// The head of a review of this length, and part of its body.
fn review(length: usize, body: &[u8]) -> Vec<u8> {
    let length = length.to_string();
    let headers = [("host", "x"), ("content-type", "application/json"), ("content-length", &*length)];
    [&client::request("POST", "/validate", &headers), body].concat()
}

/// Returns true if a review is answered.
fn is_answered(from: &Netns) -> Result<bool> {
    let body = json!({
        "apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview",
        "request": {
            "uid": "the-uid", "name": "p", "namespace": "curl", "operation": "CREATE", "dryRun": false,
            "kind": {"group": "policy.openservicemesh.io", "version": "v1alpha1", "kind": "Egress"},
            "resource": {"group": "policy.openservicemesh.io", "version": "v1alpha1", "resource": "egresses"},
            "userInfo": {},
            "object": {
                "apiVersion": "policy.openservicemesh.io/v1alpha1", "kind": "Egress",
                "metadata": {"name": "p", "namespace": "curl"},
                "spec": {"sources": [], "ports": [{"number": 1, "protocol": "tcp"}]},
            },
        },
    })
    .to_string();
    let outcome = from.run(|| client::https(WEBHOOK_ADDRESS, None, &review(body.len(), body.as_bytes())))?;
    Ok(matches!(outcome, Outcome::Http(answer) if answer.status == 200))
}

/// 6,000 silent sockets make room: proxies connect meanwhile, from another address at once, and from the same
/// one as soon as the sockets are a second old.
#[test]
fn silent_sockets_keep_no_proxy_out() -> Result<()> {
    ensure_capable()?;
    let network = TestNetwork::new()?;
    let pod = network.pod()?;
    let (control_plane, authority, _own) = encrypted(&network)?;
    let ca = Volume::new(&[("ca.crt", &authority.pem)])?;
    let bootstrap = sidecar::bootstrap_with("curl/a", false, &["--xds-ca", &ca.text("ca.crt")])?;
    let flood = Flood::plain(&network.outside.netns, XDS_ADDRESS, 6000, b"")?;
    let start = Instant::now();
    let _envoy = Envoy::start(&pod, &bootstrap, 1)?;
    wait_for("the policy", IO_TIMEOUT, || gets_echo(&pod, 9000)).with_context(|| control_plane.log())?;
    let host = CONTROL_PLANE.to_string();
    let proxy =
        XdsClient { authority: Some(&authority.pem), host: &host, node: "x.a.curl", ..XdsClient::default() };
    wait_for("a proxy of the same address", IO_TIMEOUT, || {
        proxy.fetch_policy(&network.outside.netns, XDS_ADDRESS).is_ok_and(|answer| answer.is_ok())
    })?;
    let served = start.elapsed();
    let counts = || (flood.open(), eviction_count(&control_plane, "xds").unwrap_or_default());
    wait_for("the oldest to go", IO_TIMEOUT, || {
        let (open, evicted) = counts();
        open <= 1024 && evicted >= 4900
    })
    .with_context(|| format!("open and evicted: {:?}", counts()))?;
    println!("served after {served:.1?}; open and evicted of the flood: {:?}", counts());
    ensure!(gets_echo(&pod, 9000), "the proxy lost its policy");
    Ok(())
}

/// A fleet of honest proxies meets no limit: 3,000 replicas of one service account reconnect at once, from
/// one address (NAT), over TLS.
#[test]
fn a_fleet_behind_one_address_is_served() -> Result<()> {
    ensure_capable()?;
    let network = TestNetwork::new()?;
    let (control_plane, authority, _own) = encrypted(&network)?;
    let host = CONTROL_PLANE.to_string();
    let proxy =
        XdsClient { authority: Some(&authority.pem), host: &host, node: "a.curl", ..XdsClient::default() };
    let start = Instant::now();
    let retries = proxy.hold_fleet(&network.outside.netns, XDS_ADDRESS, 3000)?;
    let memory = control_plane.memory()? >> 10;
    println!("3,000 proxies are served after {:.1?}, {retries} retries, {memory} MB", start.elapsed());
    for reason in ["too-many", "too-many-streams", "too-many-names", "not-reading"] {
        ensure!(control_plane.refusal_count(reason)? == 0, "{reason}: {}", control_plane.log());
    }
    ensure!(control_plane.metric("osm_egress_xds_streams_total")? >= 3000);
    Ok(())
}

/// More unfinished bodies than the limit do not stop the webhook from answering, and large ones share one
/// budget.
#[test]
fn unfinished_bodies_delay_no_review() -> Result<()> {
    ensure_capable()?;
    let network = TestNetwork::new()?;
    let other = network.outside.neighbour()?;
    let (control_plane, ..) = encrypted(&network)?;
    let flood = &network.outside.netns;
    ensure!(is_answered(&other)?, "{}", control_plane.log());
    let unfinished = Flood::encrypted(flood, WEBHOOK_ADDRESS, 300, &review(1000, b"{"))?;
    ensure!(is_answered(&other)?, "300 unfinished bodies block the webhook:\n{}", control_plane.log());
    wait_for("an answer for the same address", IO_TIMEOUT, || is_answered(flood).unwrap_or(false))?;
    drop(unfinished);

    let before = control_plane.memory()?;
    let large = vec![b' '; (8 << 20) - 1];
    let large = review(8 << 20, &large);
    let _one = Flood::encrypted(flood, WEBHOOK_ADDRESS, 15, &large)?;
    let _two = Flood::encrypted(&other, WEBHOOK_ADDRESS, 15, &large)?;
    let grown = (control_plane.memory()?.saturating_sub(before)) >> 10;
    println!("30 bodies of 8 MiB: {grown} MB more");
    ensure!(grown < 80, "{grown} MB more");
    for from in [flood, &other] {
        ensure!(is_answered(from)?, "large bodies keep small ones waiting:\n{}", control_plane.log());
    }
    Ok(())
}

/// With a client CA the webhook answers only a client with a certificate of it that has the right name.
#[test]
fn the_webhook_answers_its_client_certificate_only() -> Result<()> {
    ensure_capable()?;
    let network = TestNetwork::new()?;
    network.global_egress(false)?;
    let (_, own) = issue_control_plane_certificate()?;
    let (servers, others) = (Authority::new()?, Authority::new()?);
    let ca = Volume::new(&[("ca.crt", &servers.pem)])?;
    let (certificate, key, webhook) = (own.text("tls.crt"), own.text("tls.key"), WEBHOOK_ADDRESS.to_string());
    let ca = ca.text("ca.crt");
    let mut flags = vec!["--tls-cert", &certificate, "--tls-key", &key, "--webhook-listen", &webhook];
    flags.extend(["--webhook-client-ca", &ca, "--webhook-client-name", "api-server"]);
    let control_plane = network.control_plane(&flags)?;
    let netns = &network.outside.netns;
    ensure!(!is_answered(netns)?, "without a certificate");
    let send_request = |authority: &Authority, common_name| -> Result<Outcome> {
        let pair = authority.issue(&Names { common_name, ..Names::default() })?;
        let bytes = client::request("POST", "/validate", &[("host", "x"), ("content-length", "0")]);
        netns.run(|| client::https_as(WEBHOOK_ADDRESS, &pair, &bytes))?
    };
    let status = |outcome: Outcome| if let Outcome::Http(answer) = outcome { answer.status } else { 0 };
    // The answer to a body that is no review.
    ensure!(status(send_request(&servers, "api-server")?) == 415, "{}", control_plane.log());
    ensure!(status(send_request(&servers, "a-user")?) == 403, "a certificate of another name");
    ensure!(status(send_request(&others, "api-server")?) == 0, "a certificate of another authority");
    Ok(())
}

/// The admin port answers probes while others hold connections with half a request.
#[test]
fn slow_requests_delay_no_probe() -> Result<()> {
    ensure_capable()?;
    let network = TestNetwork::new()?;
    let other = network.outside.neighbour()?;
    network.global_egress(false)?;
    let control_plane = network.control_plane(&[])?;
    let flood =
        Flood::plain(&network.outside.netns, ADMIN_ADDRESS, 500, b"GET /healthz HTTP/1.1\r\nhost: x\r\n")?;
    let request = client::request("GET", "/healthz", &[("host", "x"), ("connection", "close")]);
    let is_healthy = |from: &Netns| matches!(from.run(|| client::http(ADMIN_ADDRESS, &request)), Ok(Outcome::Http(answer)) if answer.status == 200);
    ensure!(is_healthy(&other), "{}", control_plane.log());
    wait_for("a probe of the same address", IO_TIMEOUT, || is_healthy(&network.outside.netns))?;
    wait_for("the oldest to go", IO_TIMEOUT, || flood.open() <= 128)
        .with_context(|| format!("{} are open", flood.open()))?;
    Ok(())
}

/// A stream that subscribes to too many names ends with the reason; a client that reads nothing is cut off,
/// with its connection.
#[test]
fn abusive_streams_are_ended() -> Result<()> {
    ensure_capable()?;
    let network = TestNetwork::new()?;
    network.global_egress(false)?;
    let control_plane = network.control_plane(&[])?;
    let proxy = XdsClient { node: "x.a.curl", ..XdsClient::default() };
    let status = proxy.subscribe_to_names(&network.outside.netns, XDS_ADDRESS, 20_001)?;
    ensure!(status.code() == Code::ResourceExhausted, "{status:?}");
    ensure!(status.message().contains("20002 names"), "{status:?}");
    ensure!(control_plane.refusal_count("too-many-names")? == 1);
    // Longer than a message may be.
    let status = proxy.subscribe_to_names(&network.outside.netns, XDS_ADDRESS, 500_000)?;
    ensure!(status.code() == Code::OutOfRange, "{status:?}");
    // The client reads nothing, or part of a policy that is larger than all buffers on the way.
    let hosts: Vec<String> = (0..30_000).map(|number| format!("h{number}.example.org")).collect();
    let hosts = format!("hosts: [{}]", hosts.join(", "));
    let policy = manifests::echo_policy("a", 443).replace("protocol: tcp", "protocol: https");
    network.write("long.yaml", &policy.replace("  ports:", &format!("  {hosts}\n  ports:")))?;
    wait_for("the policy", IO_TIMEOUT, || {
        control_plane.status().is_ok_and(|status| status["identities"]["curl/a"]["rules"] == 1)
    })
    .with_context(|| format!("{:#}", control_plane.status().unwrap_or_default()))?;
    let before = control_plane.memory()?;
    let cut: Vec<bool> = std::thread::scope(|scope| {
        let streams: Vec<_> = [0, 0, 100_000, 100_000, 100_000, 100_000]
            .into_iter()
            .map(|bytes| {
                let (proxy, from) = (&proxy, &network.outside.netns);
                scope.spawn(move || proxy.is_cut_off(from, XDS_ADDRESS, bytes, Duration::from_secs(45)))
            })
            .collect();
        wait_for("the streams", IO_TIMEOUT, || {
            control_plane
                .status()
                .is_ok_and(|status| status["proxies"].as_array().is_some_and(|all| all.len() == 6))
        })?;
        let more = control_plane.memory()?.saturating_sub(before);
        ensure!(more < 4 << 10, "streams that do not read have {more} kB");
        let join = |stream: std::thread::ScopedJoinHandle<'_, Result<bool>>| {
            stream.join().map_err(|_| anyhow::anyhow!("panicked"))?
        };
        streams.into_iter().map(join).collect::<Result<_>>()
    })?;
    ensure!(cut.iter().all(|cut| *cut), "not all were cut: {cut:?}\n{}", control_plane.log());
    wait_for("the reason", IO_TIMEOUT, || {
        control_plane.refusal_count("not-reading").is_ok_and(|count| count == 6)
    })
    .with_context(|| control_plane.log())?;
    Ok(())
}

/// 4,000 slow requests to the port of health checks are cut off and cost Envoy a bounded amount; probes are
/// answered meanwhile.
#[test]
fn slow_requests_to_a_sidecar_are_cut_off() -> Result<()> {
    ensure_capable()?;
    let network = TestNetwork::new()?;
    let pod = network.pod()?;
    network.global_egress(false)?;
    let _control_plane = network.control_plane(&[])?;
    let bootstrap = sidecar::bootstrap_with("curl/a", false, &["--ready-port", &HEALTH_PORT.to_string()])?;
    let envoy = Envoy::start(&pod, &bootstrap, 2)?;
    let to = SocketAddr::new(pod.address.into(), HEALTH_PORT);
    let from = &network.outside.netns;
    let answers = |path: &str| {
        let request = client::request("GET", path, &[("host", "x"), ("connection", "close")]);
        matches!(from.run(|| client::http(to, &request)), Ok(Outcome::Http(answer)) if answer.status == 200)
    };
    wait_for("the sidecar to be ready", IO_TIMEOUT, || answers("/ready"))?;
    ensure!(answers("/stats/prometheus"));
    let before = envoy.memory()?;
    // The head's limit here, and Envoy's default.
    for size in [3 << 10, 50 << 10] {
        let filler: String = (0..size >> 10).map(|n| format!("x{n}: {}\r\n", "a".repeat(1000))).collect();
        let head = format!("GET /ready HTTP/1.1\r\nhost: x\r\n{filler}");
        let flood = Flood::plain(from, to, 4000, head.as_bytes())?;
        let at_once = flood.open();
        let waited = wait_for("a probe to be answered", IO_TIMEOUT, || answers("/ready"))?;
        wait_for("metrics", IO_TIMEOUT, || answers("/stats/prometheus"))?;
        let peak = envoy.memory()?;
        let cut = wait_for("the slow requests to be cut", Duration::from_secs(15), || flood.open() == 0)?;
        let grown = envoy.memory()?.max(peak).saturating_sub(before) >> 10;
        println!(
            "{size} bytes: {at_once} open at once, {grown} MB more, a probe waits {waited:.1?}, cut after {cut:.1?}"
        );
        ensure!(grown < 90, "4,000 requests of {size} bytes cost {grown} MB");
    }
    Ok(())
}
