//! The demos of Open Service Mesh's documentation, with its manifests and its commands.

#![allow(clippy::wildcard_enum_match_arm, reason = "what a test does not expect fails it")]

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use egress_tests::mesh::{self, NAME_SERVER, World};
use egress_tests::netns::{Pod, ensure_capable};

/// What `curl` said: its exit code and its output.
struct Curl {
    code: i32,
    text: String,
}

fn curl(pod: &Pod, arguments: &[&str]) -> Result<Curl> {
    let output = pod.command("curl", NAME_SERVER)?.args(["-s", "-m", "5"]).args(arguments).output()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    Ok(Curl { code: output.status.code().unwrap_or(-1), text })
}

/// Tries until it is as expected: a manifest needs a moment to get to Envoy.
fn eventually(pod: &Pod, step: &str, arguments: &[&str], expected: &dyn Fn(&Curl) -> bool) -> Result<()> {
    let start = Instant::now();
    loop {
        let curl = curl(pod, arguments)?;
        if expected(&curl) {
            return Ok(());
        }
        ensure!(start.elapsed() < Duration::from_secs(5), "{step}: exit code {}, {}", curl.code, curl.text);
    }
}

/// Refused: Open Service Mesh's documents say 7; where the listener exists, it closes instead.
fn refused(curl: &Curl) -> bool {
    matches!(curl.code, 7 | 35 | 52 | 56)
}

fn answers(status: &'static str, header: &'static str) -> impl Fn(&Curl) -> bool {
    move |curl| {
        curl.code == 0 && curl.text.starts_with(status) && curl.text.to_ascii_lowercase().contains(header)
    }
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
    eventually(&pod, "P1", &http, &refused)?;
    world.write("httpbin-80.yaml", &mesh::sample("httpbin-80.yaml")?)?;
    eventually(&pod, "P2", &http, &answers("HTTP/1.1 200", "server: envoy"))?;
    eventually(&pod, "P2", &http, &answers("HTTP/1.1 200", "x-envoy-upstream-service-time"))?;
    world.remove("httpbin-80.yaml")?;
    eventually(&pod, "P3", &http, &refused)?;
    eventually(&pod, "P4", &https, &refused)?;
    world.write("httpbin-443.yaml", &mesh::sample("httpbin-443.yaml")?)?;
    eventually(&pod, "P5", &https, &answers("HTTP/2 200", "server: gunicorn"))?;
    world.remove("httpbin-443.yaml")?;
    eventually(&pod, "P6", &https, &refused)?;
    eventually(&pod, "P7", &other, &refused)?;
    world.write("tcp-443.yaml", &mesh::sample("tcp-443.yaml")?)?;
    eventually(&pod, "P8", &other, &answers("HTTP/2 200", "server: gunicorn"))?;
    world.remove("tcp-443.yaml")?;
    eventually(&pod, "P9", &other, &refused)?;
    eventually(&pod, "P10", &http, &refused)?;
    eventually(&pod, "P10", &status, &refused)?;
    let routes = mesh::sample("route-group.yaml")?;
    world.write("route-group.yaml", &routes)?;
    eventually(&pod, "P11", &http, &answers("HTTP/1.1 200", "server: envoy"))?;
    eventually(&pod, "P12", &status, &answers("HTTP/1.1 404", "server: envoy"))?;
    world.write(
        "route-group.yaml",
        &routes.replace(
            "    pathRegex: /get\n",
            "    pathRegex: /get\n  - name: status\n    pathRegex: /status.*\n",
        ),
    )?;
    eventually(&pod, "P13", &status, &answers("HTTP/1.1 200", "server: envoy"))
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
    eventually(&pod, "T1", &https, &answers("HTTP/2 200", "server: gunicorn"))?;
    world.global_egress(false)?;
    eventually(&pod, "T2", &https, &refused)
}
