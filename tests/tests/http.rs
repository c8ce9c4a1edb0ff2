//! HTTP behaviour that only a real Envoy shows.

#![allow(clippy::wildcard_enum_match_arm, reason = "what a test does not expect fails it")]

use std::net::SocketAddr;

use anyhow::{Result, anyhow, ensure};
use egress_tests::access_log;
use egress_tests::client::{self, HttpResponse, Outcome};
use egress_tests::manifests::{by_route_group, egress, route_group};
use egress_tests::mesh::with_prepared_mesh;
use egress_tests::netns::ensure_capable;
use egress_tests::network::{EXAMPLE, HTTPBIN, TestNetwork};
use egress_tests::origin::ADDRESS_HEADER;
use egress_tests::sidecar;
use egress_tests::workload;

fn routed_policy() -> String {
    let by_route = by_route_group("public");
    let ports = "ports: [{number: 80, protocol: http}]";
    route_group("public", "/public.*")
        + &egress("routes", &format!("hosts: [httpbin.org]\n{ports}\n{by_route}"))
}

fn policy() -> String {
    egress("web", "hosts: [httpbin.org, www.example.com]\nports: [{number: 8080, protocol: http}]")
}

/// Each request of a connection is decided and routed on its own: the host of one never becomes the
/// destination of another.
#[test]
fn each_request_of_a_connection_is_decided_on_its_own() -> Result<()> {
    ensure_capable()?;
    let network = TestNetwork::new()?;
    let pod = network.pod()?;
    network.write("web.yaml", &policy())?;
    let _control_plane = network.control_plane(&[])?;
    let _envoy = sidecar::start(&pod, false)?;
    let outcomes = pod.workload().run(|| -> Result<Vec<Outcome>> {
        let mut stream = client::connect(SocketAddr::new(HTTPBIN, 8080)).map_err(|e| anyhow!("{e:?}"))?;
        let hosts =
            ["httpbin.org", "www.example.com", "www.example.com:8080", "openservicemesh.io", "httpbin.org"];
        Ok(hosts
            .into_iter()
            .map(|host| client::http_on(&mut stream, &client::request("GET", "/get", &[("host", host)])))
            .collect())
    })??;
    let expected = [Some(HTTPBIN), Some(EXAMPLE), Some(EXAMPLE), None, Some(HTTPBIN)];
    for (outcome, expected) in outcomes.into_iter().zip(expected) {
        let Outcome::Http(answer) = outcome else { anyhow::bail!("{outcome:?}") };
        match expected {
            Some(address) => {
                ensure!(answer.header(ADDRESS_HEADER) == Some(address.to_string().as_str()), "{answer:?}");
            }
            None => ensure!(answer.header("x-egress-denied") == Some("host-not-allowed"), "{answer:?}"),
        }
    }
    Ok(())
}

/// The workload cannot choose the cluster, and the origin does not see the header that does.
#[test]
fn the_workload_cannot_choose_the_cluster() -> Result<()> {
    ensure_capable()?;
    let network = TestNetwork::new()?;
    let pod = network.pod()?;
    network.write("web.yaml", &policy())?;
    let _control_plane = network.control_plane(&[])?;
    let _envoy = sidecar::start(&pod, false)?;
    let request = client::request(
        "GET",
        "/headers",
        &[("host", "httpbin.org"), ("x-egress-cluster", "egress-original-dst"), ("connection", "close")],
    );
    let to = SocketAddr::new(EXAMPLE, 8080);
    let Outcome::Http(answer) = pod.workload().run(|| client::http(to, &request))? else {
        anyhow::bail!("no answer")
    };
    ensure!(answer.header(ADDRESS_HEADER) == Some(HTTPBIN.to_string().as_str()), "{answer:?}");
    let seen = String::from_utf8(answer.body)?;
    ensure!(!seen.contains("x-egress"), "the origin saw: {seen}");
    Ok(())
}

/// An origin cannot make its response look like the filter's refusal, to the workload or in the log.
#[test]
fn an_origin_cannot_imitate_a_refusal() -> Result<()> {
    use std::io::{Read, Write};
    with_prepared_mesh(
        |network| {
            let listener = network.outside.netns.run(|| std::net::TcpListener::bind(("0.0.0.0", 8088)))??;
            std::thread::spawn(move || {
                let Ok((mut stream, _)) = listener.accept() else { return };
                let _ = stream.read(&mut [0; 4096]);
                let answer = "HTTP/1.1 200 OK\r\nx-egress-denied: no-rule\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
                let _ = stream.write_all(answer.as_bytes());
            });
            Ok(())
        },
        &[("web.yaml", &policy().replace("8080", "8088"))],
        |mesh| {
            let outcome = workload::get(mesh.pod, SocketAddr::new(HTTPBIN, 8088), "httpbin.org", "/")?;
            let Outcome::Http(answer) = outcome else { anyhow::bail!("{outcome:?}") };
            ensure!(answer.status == 200 && answer.header("x-egress-denied").is_none(), "{answer:?}");
            let line =
                access_log::wait_for_line(mesh.envoy, "the request", |line| line["kind"] == "request")?;
            ensure!(line["refused"].is_null(), "{line}");
            Ok(())
        },
    )
}

/// Paths that some servers read as `/private`, and the form in which Envoy forwards them: 1.39.0 unchanged,
/// later versions resolve those whose dots are not encoded. No route allows a form that still has such a
/// segment.
#[test]
fn dot_segments_with_parameters_match_no_route() -> Result<()> {
    ensure_capable()?;
    let network = TestNetwork::new()?;
    let pod = network.pod()?;
    network.write("web.yaml", &policy())?;
    network.write("routes.yaml", &routed_policy())?;
    let _control_plane = network.control_plane(&[])?;
    let _envoy = sidecar::start(&pod, false)?;
    let resolves = egress_tests::envoy::version()? != "1.39.0";
    for (path, before, after, with_routes) in DOT_SEGMENTS {
        let get = |port: u16| match workload::get(&pod, SocketAddr::new(HTTPBIN, port), "httpbin.org", path)?
        {
            Outcome::Http(answer) => Ok(answer),
            other => anyhow::bail!("{path}: {other:?}"),
        };
        let forwarded = if resolves { after } else { before };
        let line = format!("GET httpbin.org{forwarded}\n");
        let is_forwarded = |answer: &HttpResponse| String::from_utf8_lossy(&answer.body).starts_with(&line);
        let answer = get(8080)?;
        ensure!(answer.status == 200 && is_forwarded(&answer), "{path}, without routes: {answer:?}");
        let answer = get(80)?;
        if with_routes && (resolves || before == path && !before.contains("/.")) {
            ensure!(answer.status == 200 && is_forwarded(&answer), "{path}, with routes: {answer:?}");
        } else {
            let denied = answer.header("x-egress-denied");
            ensure!(denied == Some("route-not-allowed"), "{path}, with routes: {answer:?}");
        }
    }
    Ok(())
}

/// A path, the form in which Envoy 1.39.0 forwards it, the form of later versions, and whether a route for
/// `/public.*` allows it.
const DOT_SEGMENTS: [(&str, &str, &str, bool); 8] = [
    ("/public/..;/private", "/public/..;/private", "/private", false),
    ("/public/..;x=1/private", "/public/..;x=1/private", "/private", false),
    ("/public/.;/private", "/public/.;/private", "/public/private", true),
    ("/public/%2e%2e;/private", "/public/..;/private", "/public/..;/private", false),
    ("/public/.%2E;/private", "/public/..;/private", "/public/..;/private", false),
    ("/public/..%3b/private", "/public/..%3b/private", "/public/..%3b/private", false),
    ("/public/%252e%252e;/private", "/public/%252e%252e;/private", "/public/%252e%252e;/private", false),
    ("/public;x=1/a", "/public;x=1/a", "/public;x=1/a", true),
];
