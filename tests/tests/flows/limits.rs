//! Limits of the flow table: a workload that connects to everything costs a bounded amount, and the answers
//! say what is missing.

use std::io::{Read, Write};
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use egress_tests::client;
use egress_tests::control_plane::ControlPlane;
use egress_tests::log_entries;
use egress_tests::manifests;
use egress_tests::netns::ensure_capable;
use egress_tests::network::{CONTROL_PLANE, HTTPBIN, TestNetwork};
use egress_tests::sidecar;
use egress_tests::wait::wait_for;
use egress_tests::xds::XdsClient;
use serde_json::Value;

use super::run_with_admin;

const DESTINATIONS: usize = 100_000;
/// The number of connections with a request in flight.
const CONCURRENT_REQUESTS: usize = 50;
/// The default of `--flows-per-identity`.
const MAX_FLOWS: u64 = 10_000;
/// The largest size of a flow in kB, with the longest names, its key and its index entries.
const MAX_FLOW_KB: u64 = 4;
/// Other memory in kB at the same time: messages of proxies, an answer, the allocator's reserve.
const OTHER_MEMORY_KB: u64 = 64 << 10;

/// Sends many requests in turn over connections that stay open.
fn send_requests(to: SocketAddr, count: usize) -> Result<()> {
    let streams: Result<Vec<_>, _> = (0..CONCURRENT_REQUESTS).map(|_| client::connect(to)).collect();
    let mut streams = streams.map_err(|outcome| anyhow::anyhow!("{outcome:?}"))?;
    let mut buffer = vec![0; 64 << 10];
    for first in (0..count).step_by(CONCURRENT_REQUESTS) {
        let numbers = first..count.min(first + CONCURRENT_REQUESTS);
        for (number, stream) in numbers.clone().zip(&mut streams) {
            stream.write_all(format!("GET / HTTP/1.1\r\nhost: n{number}.example.com\r\n\r\n").as_bytes())?;
        }
        for (_, stream) in numbers.zip(&mut streams) {
            let mut answer = Vec::new();
            // The body of a refusal ends with a line end.
            while !answer.ends_with(b".\n") {
                let length = stream.read(&mut buffer)?;
                ensure!(length > 0, "closed after {}", String::from_utf8_lossy(&answer));
                answer.extend_from_slice(&buffer[..length]);
            }
            ensure!(answer.starts_with(b"HTTP/1.1 403 "), "{}", String::from_utf8_lossy(&answer));
        }
    }
    Ok(())
}

/// Requires that every answer is bounded and says what it leaves out.
fn expect_bounded_answers(
    network: &TestNetwork,
    control_plane: &ControlPlane<'_>,
    policies: &std::path::Path,
) -> Result<()> {
    let page: Value = serde_json::from_str(&control_plane.get("/flows")?)?;
    ensure!(page["flows"].as_array().map(Vec::len) == Some(1_000) && page["more"] == true, "a page");
    let output = run_with_admin(network, &["flows"])?;
    ensure!(
        output.success && output.stdout.lines().count() as u64 == MAX_FLOWS,
        "{} lines",
        output.stdout.lines().count()
    );
    ensure!(output.stderr.contains("flows were evicted to make room: raise"), "{}", output.stderr);
    let output = run_with_admin(network, &["suggest", "--identity", "curl/curl"])?;
    ensure!(
        output.success && output.stdout.matches("\n  - n9").count() as u64 == MAX_FLOWS,
        "{:.500}",
        output.stdout
    );
    ensure!(
        output.stderr.contains("flows were evicted to make room and are missing here"),
        "{}",
        output.stderr
    );
    let many = "10000 destinations: the workload may crawl, scan, or send data out in names; 10000 are below \
                example.com";
    ensure!(output.stderr.contains(&format!("warning: {many}\n")), "{}", output.stderr);
    ensure!(output.stdout.contains(&format!("# MANY: {many}.\n")), "{:.800}", output.stdout);
    std::fs::write(policies.join("suggested.yaml"), output.stdout)?;
    let policies = policies.to_string_lossy();
    let output = super::run(network, &["check", &policies])?;
    ensure!(output.success, "{:.2000}{}", output.stdout, output.stderr);
    let output = run_with_admin(network, &["simulate", "-f", &policies])?;
    ensure!(
        output.stdout.contains("… and 9800 more changes") && output.stdout.lines().count() < 700,
        "{:.2000}",
        output.stdout
    );
    ensure!(output.stdout.contains("10000 flows evaluated"), "{:.2000}", output.stdout);
    Ok(())
}

/// A hundred thousand destinations through a sidecar.
#[test]
fn a_hundred_thousand_destinations_are_bounded() -> Result<()> {
    ensure_capable()?;
    let network = TestNetwork::new()?;
    network.write("httpbin-80.yaml", &manifests::sample("httpbin-80.yaml")?)?;
    let pod = network.pod()?;
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("flows.db");
    let control_plane = network.control_plane(&["--flow-log", "--flow-db", &file.to_string_lossy()])?;
    let envoy = sidecar::start(&pod, false)?;
    let before = control_plane.memory()?;
    let start = std::time::Instant::now();
    let to = SocketAddr::new(HTTPBIN, 80);
    let sent = pod.workload().run(|| send_requests(to, DESTINATIONS))?;
    sent.with_context(|| envoy.log_tail(10))?;
    println!("{DESTINATIONS} requests: {:?}", start.elapsed());
    // Envoy counts the entries that it dropped.
    let fetch_flows = || -> Result<u64> {
        Ok(control_plane.metric("osm_egress_flow_entries_total")?
            + envoy.stat("access_logs.grpc_access_log.logs_dropped")?)
    };
    wait_for("all to be reported or dropped", Duration::from_secs(30), || {
        fetch_flows().is_ok_and(|count| count >= DESTINATIONS as u64)
    })
    .with_context(|| format!("{:?}", fetch_flows()))?;
    println!("dropped by Envoy: {}", envoy.stat("access_logs.grpc_access_log.logs_dropped")?);
    ensure!(control_plane.metric("osm_egress_flows")? == MAX_FLOWS);
    expect_bounded_answers(&network, &control_plane, folder.path())?;
    let after = control_plane.memory()?;
    println!("resident: {before} kB before, {after} kB after");
    ensure!(
        after < before + MAX_FLOWS * MAX_FLOW_KB + OTHER_MEMORY_KB,
        "{before} kB before, {after} kB after"
    );
    // Each has its line.
    let mut names = std::collections::HashSet::new();
    wait_for("a line for each", Duration::from_secs(20), || {
        names = envoy
            .access_log()
            .iter()
            .filter(|line| line["refused"] == "host-not-allowed")
            .filter_map(|line| Some(line["authority"].as_str()?.to_owned()))
            .collect();
        names.len() == DESTINATIONS
    })
    .with_context(|| format!("{} names", names.len()))?;
    // The file is as bounded as the memory.
    control_plane.stop()?;
    let size = std::fs::metadata(&file)?.len() >> 10;
    println!("the file: {size} kB");
    ensure!(size < MAX_FLOWS * MAX_FLOW_KB, "{size} kB");
    Ok(())
}

/// The largest number of flows, of one identity, each as large as possible.
#[test]
fn the_largest_flows_are_bounded() -> Result<()> {
    ensure_capable()?;
    let network = TestNetwork::new()?;
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("flows.db");
    let flags = ["--flow-log", "--flows-per-identity", "100000", "--flow-db", &file.to_string_lossy()];
    let control_plane = network.control_plane(&flags)?;
    let before = control_plane.memory()?;
    let node = format!("{}.curl.curl", "n".repeat(200));
    let proxy = XdsClient { node: &node, ..XdsClient::default() };
    let xds = SocketAddr::new(CONTROL_PLANE, 15128);
    let path = "p".repeat(300);
    let start = std::time::Instant::now();
    for batch in 0..110 {
        let entries = (0..1_000).map(|number| {
            let authority = format!("{}.{}.example.com", "a".repeat(230), batch * 1_000 + number);
            let rule = format!("deny host-not-allowed {}/{} spec.ports[0]", "n".repeat(63), "p".repeat(253));
            let to = SocketAddr::new(HTTPBIN, 80);
            log_entries::request(to, rule.as_bytes(), &authority, &path, "websocket")
        });
        let messages: Vec<_> = entries.collect();
        proxy.send_log_entries(
            &network.outside.netns,
            xds,
            messages.chunks(250).map(|part| log_entries::requests(part.to_vec())).collect(),
        )??;
    }
    println!("110000 entries: {:?}", start.elapsed());
    ensure!(control_plane.metric("osm_egress_flows")? == DESTINATIONS as u64);
    ensure!(control_plane.metric("osm_egress_flows_dropped_total")? == 10_000);
    let output = run_with_admin(&network, &["flows", "-o", "json"])?;
    let all: Value = serde_json::from_str(&output.stdout)?;
    ensure!(
        output.success && all["flows"].as_array().map(Vec::len) == Some(DESTINATIONS),
        "{}",
        output.stderr
    );
    wait_for("it to be written", Duration::from_secs(60), || {
        std::fs::metadata(&file).is_ok_and(|file| file.len() > 10 << 20)
    })?;
    let after = control_plane.memory()?;
    println!(
        "resident: {before} kB before, {after} kB after, {} bytes a flow",
        (after - before) * 1024 / 100_000
    );
    ensure!(
        after < before + DESTINATIONS as u64 * MAX_FLOW_KB + OTHER_MEMORY_KB,
        "{before} kB before, {after} kB after"
    );
    let start = std::time::Instant::now();
    control_plane.stop()?;
    println!("stopped in {:?}, the file has {} bytes", start.elapsed(), std::fs::metadata(&file)?.len());
    let start = std::time::Instant::now();
    let control_plane = network.control_plane(&flags)?;
    println!("started in {:?}", start.elapsed());
    ensure!(control_plane.metric("osm_egress_flows")? == DESTINATIONS as u64);
    Ok(())
}
