//! The demos of Open Service Mesh's documentation, with its manifests and its commands.

#![allow(clippy::wildcard_enum_match_arm, reason = "what a test does not expect fails it")]

use anyhow::Result;
use egress_tests::curl::Curl;
use egress_tests::mesh::{self, World};
use egress_tests::netns::ensure_capable;

fn answers(status: &'static str, header: &'static str) -> impl Fn(&Curl) -> bool {
    move |curl| curl.answers(status, header)
}

#[test]
fn egress_policy_demo() -> Result<()> {
    ensure_capable()?;
    let world = World::new()?;
    let pod = world.pod()?;
    world.global_egress(false)?;
    // As Open Service Mesh answers; 403 and a reason is what we would rather say.
    let _shim = world.shim(&["--http-deny-status", "404"])?;
    let _envoy = mesh::sidecar(&pod, false)?;
    let http = ["-I", "http://httpbin.org:80/get"];
    let https = ["-kI", "https://httpbin.org:443/get"];
    let other = ["-kI", "https://openservicemesh.io:443"];
    let status = ["-I", "http://httpbin.org:80/status/200"];
    Curl::until(&pod, "P1", &http, &Curl::is_refused)?;
    world.write("httpbin-80.yaml", &mesh::sample("httpbin-80.yaml")?)?;
    Curl::until(&pod, "P2", &http, &answers("HTTP/1.1 200", "server: gunicorn"))?;
    world.remove("httpbin-80.yaml")?;
    Curl::until(&pod, "P3", &http, &Curl::is_refused)?;
    Curl::until(&pod, "P4", &https, &Curl::is_refused)?;
    world.write("httpbin-443.yaml", &mesh::sample("httpbin-443.yaml")?)?;
    Curl::until(&pod, "P5", &https, &answers("HTTP/2 200", "server: gunicorn"))?;
    world.remove("httpbin-443.yaml")?;
    Curl::until(&pod, "P6", &https, &Curl::is_refused)?;
    Curl::until(&pod, "P7", &other, &Curl::is_refused)?;
    world.write("tcp-443.yaml", &mesh::sample("any-host-443.yaml")?)?;
    Curl::until(&pod, "P8", &other, &answers("HTTP/2 200", "server: gunicorn"))?;
    world.remove("tcp-443.yaml")?;
    Curl::until(&pod, "P9", &other, &Curl::is_refused)?;
    Curl::until(&pod, "P10", &http, &Curl::is_refused)?;
    Curl::until(&pod, "P10", &status, &Curl::is_refused)?;
    let routes = mesh::sample("route-group.yaml")?;
    world.write("route-group.yaml", &routes)?;
    Curl::until(&pod, "P11", &http, &answers("HTTP/1.1 200", "server: gunicorn"))?;
    Curl::until(&pod, "P12", &status, &answers("HTTP/1.1 404", "x-egress-denied: route-not-allowed"))?;
    world.write(
        "route-group.yaml",
        &routes.replace(
            "    pathRegex: /get\n",
            "    pathRegex: /get\n  - name: status\n    pathRegex: /status.*\n",
        ),
    )?;
    Curl::until(&pod, "P13", &status, &answers("HTTP/1.1 200", "server: gunicorn"))
}

#[test]
fn egress_passthrough_demo() -> Result<()> {
    ensure_capable()?;
    let world = World::new()?;
    let pod = world.pod()?;
    world.global_egress(true)?;
    let _shim = world.shim(&[])?;
    let _envoy = mesh::sidecar(&pod, false)?;
    let https = ["-kI", "https://httpbin.org:443"];
    Curl::until(&pod, "T1", &https, &answers("HTTP/2 200", "server: gunicorn"))?;
    world.global_egress(false)?;
    Curl::until(&pod, "T2", &https, &Curl::is_refused)
}
