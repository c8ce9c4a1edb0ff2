//! The demos of Open Service Mesh's documentation, with its manifests and its commands.

#![allow(clippy::wildcard_enum_match_arm, reason = "what a test does not expect fails it")]

use anyhow::Result;
use egress_tests::curl::Curl;
use egress_tests::manifests;
use egress_tests::netns::ensure_capable;
use egress_tests::network::TestNetwork;
use egress_tests::sidecar;

fn answers(status: &'static str, header: &'static str) -> impl Fn(&Curl) -> bool {
    move |curl| curl.answers(status, header)
}

#[test]
fn the_egress_policy_demo_passes() -> Result<()> {
    ensure_capable()?;
    let network = TestNetwork::new()?;
    let pod = network.pod()?;
    network.global_egress(false)?;
    // Open Service Mesh answers 404; this project prefers 403 with a reason.
    let _control_plane = network.control_plane(&["--http-deny-status", "404"])?;
    let _envoy = sidecar::start(&pod, false)?;
    let http = ["-I", "http://httpbin.org:80/get"];
    let https = ["-kI", "https://httpbin.org:443/get"];
    let other = ["-kI", "https://openservicemesh.io:443"];
    let status = ["-I", "http://httpbin.org:80/status/200"];
    Curl::run_until(&pod, "P1", &http, &Curl::is_refused)?;
    network.write("httpbin-80.yaml", &manifests::sample("httpbin-80.yaml")?)?;
    Curl::run_until(&pod, "P2", &http, &answers("HTTP/1.1 200", "server: gunicorn"))?;
    network.remove("httpbin-80.yaml")?;
    Curl::run_until(&pod, "P3", &http, &Curl::is_refused)?;
    Curl::run_until(&pod, "P4", &https, &Curl::is_refused)?;
    network.write("httpbin-443.yaml", &manifests::sample("httpbin-443.yaml")?)?;
    Curl::run_until(&pod, "P5", &https, &answers("HTTP/2 200", "server: gunicorn"))?;
    network.remove("httpbin-443.yaml")?;
    Curl::run_until(&pod, "P6", &https, &Curl::is_refused)?;
    Curl::run_until(&pod, "P7", &other, &Curl::is_refused)?;
    network.write("tcp-443.yaml", &manifests::sample("any-host-443.yaml")?)?;
    Curl::run_until(&pod, "P8", &other, &answers("HTTP/2 200", "server: gunicorn"))?;
    network.remove("tcp-443.yaml")?;
    Curl::run_until(&pod, "P9", &other, &Curl::is_refused)?;
    Curl::run_until(&pod, "P10", &http, &Curl::is_refused)?;
    Curl::run_until(&pod, "P10", &status, &Curl::is_refused)?;
    let routes = manifests::sample("route-group.yaml")?;
    network.write("route-group.yaml", &routes)?;
    Curl::run_until(&pod, "P11", &http, &answers("HTTP/1.1 200", "server: gunicorn"))?;
    Curl::run_until(&pod, "P12", &status, &answers("HTTP/1.1 404", "x-egress-denied: route-not-allowed"))?;
    network.write(
        "route-group.yaml",
        &routes.replace(
            "    pathRegex: /get\n",
            "    pathRegex: /get\n  - name: status\n    pathRegex: /status.*\n",
        ),
    )?;
    Curl::run_until(&pod, "P13", &status, &answers("HTTP/1.1 200", "server: gunicorn"))
}

#[test]
fn the_egress_passthrough_demo_passes() -> Result<()> {
    ensure_capable()?;
    let network = TestNetwork::new()?;
    let pod = network.pod()?;
    network.global_egress(true)?;
    let _control_plane = network.control_plane(&[])?;
    let _envoy = sidecar::start(&pod, false)?;
    let https = ["-kI", "https://httpbin.org:443"];
    Curl::run_until(&pod, "T1", &https, &answers("HTTP/2 200", "server: gunicorn"))?;
    network.global_egress(false)?;
    Curl::run_until(&pod, "T2", &https, &Curl::is_refused)
}
