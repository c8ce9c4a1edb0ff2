//! A workload that talks to everything: what it does is bounded, and said.

use std::io::{Read, Write};
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use egress_tests::client;
use egress_tests::mesh::{self, CONTROL_PLANE, HTTPBIN, World};
use egress_tests::netns::ensure_capable;
use egress_tests::shim::Shim;
use egress_tests::told;
use egress_tests::wait::wait_for;
use egress_tests::xds::Proxy;
use serde_json::Value;

use super::ask;

const DESTINATIONS: usize = 100_000;
/// How many connections have a request on the way at once.
const CONNECTIONS: usize = 50;
/// The default of `--flows-per-identity`.
const REMEMBERED: u64 = 10_000;
/// What a flow may take, however long its names are, with its key and its places in the order.
const KILOBYTES: u64 = 4;
/// What everything else may take while it happens: messages of proxies, an answer, what the allocator keeps.
const ELSE: u64 = 64 << 10;

/// Many requests, by turns on connections that stay open.
fn requests(to: SocketAddr, count: usize) -> Result<()> {
    let streams: Result<Vec<_>, _> = (0..CONNECTIONS).map(|_| client::connect(to)).collect();
    let mut streams = streams.map_err(|outcome| anyhow::anyhow!("{outcome:?}"))?;
    let mut buffer = vec![0; 64 << 10];
    for first in (0..count).step_by(CONNECTIONS) {
        let numbers = first..count.min(first + CONNECTIONS);
        for (number, stream) in numbers.clone().zip(&mut streams) {
            stream.write_all(format!("GET / HTTP/1.1\r\nhost: n{number}.example.com\r\n\r\n").as_bytes())?;
        }
        for (_, stream) in numbers.zip(&mut streams) {
            let mut answer = Vec::new();
            // What a refusal says ends with a line.
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

/// Everything that is asked gives an answer that is bounded and says what is left out.
fn answers(world: &World, shim: &Shim<'_>, policies: &std::path::Path) -> Result<()> {
    let page: Value = serde_json::from_str(&shim.get("/flows")?)?;
    ensure!(page["flows"].as_array().map(Vec::len) == Some(1_000) && page["more"] == true, "a page");
    let said = ask(world, &["flows"])?;
    ensure!(
        said.success && said.out.lines().count() as u64 == REMEMBERED,
        "{} lines",
        said.out.lines().count()
    );
    ensure!(said.err.contains("flows were evicted to make room: raise"), "{}", said.err);
    let said = ask(world, &["suggest", "--source", "curl/curl"])?;
    ensure!(said.success && said.out.matches("\n  - n9").count() as u64 == REMEMBERED, "{:.500}", said.out);
    ensure!(
        said.err.contains("flows were evicted to make room and are missing here"),
        "{}",
        said.err
    );
    let many = "10000 destinations: the workload may crawl, scan, or send data out in names; 10000 are below \
                example.com";
    ensure!(said.err.contains(&format!("warning: {many}\n")), "{}", said.err);
    ensure!(said.out.contains(&format!("# MANY: {many}.\n")), "{:.800}", said.out);
    std::fs::write(policies.join("suggested.yaml"), said.out)?;
    let policies = policies.to_string_lossy();
    let said = super::run(world, &["check", &policies])?;
    ensure!(said.success, "{:.2000}{}", said.out, said.err);
    let said = ask(world, &["simulate", "-f", &policies])?;
    ensure!(
        said.out.contains("… and 9800 more changes") && said.out.lines().count() < 700,
        "{:.2000}",
        said.out
    );
    ensure!(said.out.contains("10000 flows evaluated"), "{:.2000}", said.out);
    Ok(())
}

/// Through a sidecar.
#[test]
fn a_hundred_thousand_destinations() -> Result<()> {
    ensure_capable()?;
    let world = World::new()?;
    world.write("httpbin-80.yaml", &mesh::sample("httpbin-80.yaml")?)?;
    let pod = world.pod()?;
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("flows.db");
    let shim = world.shim(&["--flow-log", "--flow-db", &file.to_string_lossy()])?;
    let envoy = mesh::sidecar(&pod, false)?;
    let before = shim.memory()?;
    let start = std::time::Instant::now();
    let to = SocketAddr::new(HTTPBIN, 80);
    let sent = pod.workload().run(|| requests(to, DESTINATIONS))?;
    sent.with_context(|| envoy.log_tail(10))?;
    println!("{DESTINATIONS} requests: {:?}", start.elapsed());
    // What Envoy could not tell in time it counts.
    let told_of = || -> Result<u64> {
        Ok(shim.metric("osm_egress_flow_entries_total")?
            + envoy.stat("access_logs.grpc_access_log.logs_dropped")?)
    };
    wait_for("all to be told of, or dropped", Duration::from_secs(30), || {
        told_of().is_ok_and(|count| count >= DESTINATIONS as u64)
    })
    .with_context(|| format!("{:?}", told_of()))?;
    println!("dropped by Envoy: {}", envoy.stat("access_logs.grpc_access_log.logs_dropped")?);
    ensure!(shim.metric("osm_egress_flows")? == REMEMBERED);
    answers(&world, &shim, folder.path())?;
    let after = shim.memory()?;
    println!("resident: {before} kB before, {after} kB after");
    ensure!(after < before + REMEMBERED * KILOBYTES + ELSE, "{before} kB before, {after} kB after");
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
    shim.stop()?;
    let size = std::fs::metadata(&file)?.len() >> 10;
    println!("the file: {size} kB");
    ensure!(size < REMEMBERED * KILOBYTES, "{size} kB");
    Ok(())
}

/// As many flows as there may be of all, of one identity, each as large as it can be.
#[test]
fn the_largest_flows() -> Result<()> {
    ensure_capable()?;
    let world = World::new()?;
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("flows.db");
    let flags = ["--flow-log", "--flows-per-identity", "100000", "--flow-db", &file.to_string_lossy()];
    let shim = world.shim(&flags)?;
    let before = shim.memory()?;
    let node = format!("{}.curl.curl", "n".repeat(200));
    let proxy = Proxy { node: &node, ..Proxy::default() };
    let xds = SocketAddr::new(CONTROL_PLANE, 15128);
    let path = "p".repeat(300);
    let start = std::time::Instant::now();
    for batch in 0..110 {
        let entries = (0..1_000).map(|number| {
            let authority = format!("{}.{}.example.com", "a".repeat(230), batch * 1_000 + number);
            let rule = format!("deny host-not-allowed {}/{} spec.ports[0]", "n".repeat(63), "p".repeat(253));
            let to = SocketAddr::new(HTTPBIN, 80);
            told::request(to, rule.as_bytes(), &authority, &path, "websocket")
        });
        let messages: Vec<_> = entries.collect();
        proxy.tell(
            &world.outside.netns,
            xds,
            messages.chunks(250).map(|part| told::requests(part.to_vec())).collect(),
        )??;
    }
    println!("110000 entries: {:?}", start.elapsed());
    ensure!(shim.metric("osm_egress_flows")? == DESTINATIONS as u64);
    ensure!(shim.metric("osm_egress_flows_dropped_total")? == 10_000);
    let said = ask(&world, &["flows", "-o", "json"])?;
    let all: Value = serde_json::from_str(&said.out)?;
    ensure!(said.success && all["flows"].as_array().map(Vec::len) == Some(DESTINATIONS), "{}", said.err);
    wait_for("it to be written", Duration::from_secs(60), || {
        std::fs::metadata(&file).is_ok_and(|file| file.len() > 10 << 20)
    })?;
    let after = shim.memory()?;
    println!(
        "resident: {before} kB before, {after} kB after, {} bytes a flow",
        (after - before) * 1024 / 100_000
    );
    ensure!(after < before + DESTINATIONS as u64 * KILOBYTES + ELSE, "{before} kB before, {after} kB after");
    let start = std::time::Instant::now();
    shim.stop()?;
    println!("stopped in {:?}, the file has {} bytes", start.elapsed(), std::fs::metadata(&file)?.len());
    let start = std::time::Instant::now();
    let shim = world.shim(&flags)?;
    println!("started in {:?}", start.elapsed());
    ensure!(shim.metric("osm_egress_flows")? == DESTINATIONS as u64);
    Ok(())
}
