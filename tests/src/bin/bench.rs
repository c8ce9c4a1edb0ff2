//! Compares, interleaved in one run: bare passthrough, Open Service Mesh's own configuration, and ours.
//!
//! The figure is Envoy's processor time per connection or request, not wall time: machines are noisy, and the
//! client and the origins cost the same in each configuration.

#![allow(clippy::wildcard_enum_match_arm, reason = "what a test does not expect fails it")]

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow, ensure};
use clap::Parser;
use egress_tests::client::{self, Outcome};
use egress_tests::cluster::issue_control_plane_certificate;
use egress_tests::control_plane::ControlPlane;
use egress_tests::envoy::Envoy;
use egress_tests::fleet::{Fleet, FleetConfig};
use egress_tests::netns::{self, Pod};
use egress_tests::network::{
    CONTROL_PLANE, EXAMPLE, HTTPBIN, NAME_SERVER, SECOND_CONTROL_PLANE, TestNetwork,
};
use egress_tests::repository_root;
use egress_tests::sidecar;

#[derive(Debug, Parser)]
struct Args {
    /// Run a short version of everything, to check that it works.
    #[arg(long)]
    quick: bool,
    /// Only the comparisons whose name contains this.
    #[arg(long, value_name = "TEXT")]
    only: Option<String>,
    /// Compare ours with and without `serve --flow-log` instead.
    #[arg(long)]
    flow_log: bool,
    /// Compare ours with another build: a folder with its `osm-egress` and `egress_filter.wasm`.
    #[arg(long, value_name = "FOLDER", conflicts_with = "flow_log")]
    against: Option<PathBuf>,
    /// Measure the control plane with this many simulated proxies instead, which all connect at once.
    #[arg(long, value_name = "N")]
    fleet: Option<usize>,
}

fn main() -> ExitCode {
    let args = Args::parse();
    match netns::ensure_capable().and_then(|()| run(&args)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

const POLICY: &str = "apiVersion: policy.openservicemesh.io/v1alpha1
kind: Egress
metadata: {name: bench, namespace: curl}
spec:
  sources: [{kind: ServiceAccount, name: curl, namespace: curl}]
  hosts: [httpbin.org]
  ports:
  - {number: 80, protocol: http}
  - {number: 443, protocol: https}
  - {number: 9000, protocol: tcp}
  - {number: 9002, protocol: tcp}
";

fn run(args: &Args) -> Result<()> {
    let network = TestNetwork::new()?;
    network.write("bench.yaml", POLICY)?;
    network.global_egress(false)?;
    if let Some(proxies) = args.fleet {
        return fleet(&network, proxies);
    }
    let control_plane = network.control_plane(&[])?;
    if args.flow_log {
        return flow_log(&network, args);
    }
    if let Some(folder) = &args.against {
        return against(&network, args, folder);
    }
    let folder = repository_root().join("tests/bench");
    let pods = [network.pod()?, network.pod()?, network.pod()?];
    let bare = Envoy::start(&pods[0], &std::fs::read_to_string(folder.join("bare.yaml"))?, 1)?;
    let osm = Envoy::start(&pods[1], &std::fs::read_to_string(folder.join("osm.yaml"))?, 1)?;
    let ours = sidecar::start(&pods[2], false)?;
    let sides = [("bare", &bare, &pods[0]), ("osm", &osm, &pods[1]), ("ours", &ours, &pods[2])];
    let (rounds, count) = if args.quick { (3, 50) } else { (15, 300) };
    println!(
        "Envoy {}: processor time of Envoy, median of {rounds} rounds of {count}",
        egress_tests::envoy::version()?
    );
    println!("{:<34}{:>11}{:>11}{:>11}{:>12}{:>12}", "", "bare", "osm", "ours", "ours/bare", "ours/osm");
    for (name, work) in WORKS {
        if args.only.as_ref().is_some_and(|only| !name.contains(only.as_str())) {
            continue;
        }
        let mut figures = [vec![], vec![], vec![]];
        for round in 0..=rounds {
            for (side, figures) in sides.iter().zip(&mut figures) {
                let before = side.1.cpu()?;
                side.2.workload().run(|| work(count))??;
                let cost = (side.1.cpu()? - before) as f64 / f64::from(count) / 1000.0;
                // The first round warms up.
                if round > 0 {
                    figures.push(cost);
                }
            }
        }
        let [bare, osm, ours] = figures.map(median);
        println!(
            "{name:<34}{bare:>8.1} µs{osm:>8.1} µs{ours:>8.1} µs{:>12.2}{:>12.2}",
            ours / bare,
            ours / osm
        );
    }
    if args.only.is_some() {
        return Ok(());
    }
    throughput(&sides, args.quick)?;
    propagation(&network, &pods[2], args.quick)?;
    reloads(&network, &control_plane, &ours, args.quick)
}

/// Measures the time and the memory that the control plane needs to serve a fleet, by each protocol, and what it has after
/// the fleet has gone.
fn fleet(network: &TestNetwork, proxies: usize) -> Result<()> {
    let (_authority, own) = issue_control_plane_certificate()?;
    let (certificate, key) = (own.text("tls.crt"), own.text("tls.key"));
    println!("{proxies} proxies over TLS, the module inline; memory of the control plane in kB");
    for delta in [false, true] {
        let control_plane = network.control_plane(&["--tls-cert", &certificate, "--tls-key", &key])?;
        let before = control_plane.memory()?;
        let addresses = vec![SocketAddr::new(CONTROL_PLANE, 15128)];
        let config =
            FleetConfig { proxies, addresses, delta, tls: true, accounts: 100, ..FleetConfig::default() };
        let fleet = Fleet::start(&network.outside.netns, config)?;
        let all = Duration::from_secs(600);
        let took = egress_tests::wait::wait_for("all proxies", all, || fleet.served() == proxies)?;
        let (after, (median, longest)) = (control_plane.memory()?, fleet.delays());
        println!(
            "  {}: served in {took:.2?} (median {median:.2?}, longest {longest:.2?}), {} MB sent, {before} to {after}, {} each, \
             peak {}, {} streams ended",
            if delta { "delta" } else { "state of the world" },
            fleet.received() >> 20,
            after.saturating_sub(before) / proxies.max(1) as u64,
            control_plane.peak_memory()?,
            fleet.ended().0
        );
    }
    Ok(())
}

type Work = fn(u32) -> Result<()>;

const WORKS: [(&str, Work); 4] = [
    ("new TCP connection", tcp),
    ("new TLS connection", tls),
    ("HTTP request, kept alive", http_kept),
    ("HTTP request, Connection: close", http_closed),
];

/// Measures Envoy's cost of reporting connections and requests to the control plane. Reports follow about a
/// second later, so all processor time counts until the last report, not the time of each round.
fn flow_log(network: &TestNetwork, args: &Args) -> Result<()> {
    let reporting = ControlPlane::start(
        &network.outside.netns,
        SECOND_CONTROL_PLANE,
        network.manifests.path(),
        &["--flow-log", "--dns-resolver", &at(NAME_SERVER, 53).to_string()],
    )?;
    let pods = [network.pod()?, network.pod()?];
    let without = sidecar::start(&pods[0], false)?;
    let xds = SocketAddr::new(SECOND_CONTROL_PLANE, 15128).to_string();
    let with = Envoy::start(&pods[1], &sidecar::bootstrap_with("curl/curl", false, &["--xds", &xds])?, 1)?;
    let (rounds, count) = if args.quick { (3, 50) } else { (40, 300) };
    println!(
        "Envoy {}: processor time of Envoy, mean of {rounds} rounds of {count}",
        egress_tests::envoy::version()?
    );
    println!("{:<34}{:>11}{:>11}{:>14}", "", "without", "flow log", "with/without");
    for (name, work) in WORKS {
        // The first round warms up.
        for pod in &pods {
            pod.workload().run(|| work(count))??;
        }
        wait_for_reports(&reporting)?;
        let before = [without.cpu()?, with.cpu()?];
        for _ in 0..rounds {
            for pod in &pods {
                pod.workload().run(|| work(count))??;
            }
        }
        wait_for_reports(&reporting)?;
        let cost = |now: u64, before: u64| (now - before) as f64 / f64::from(count * rounds) / 1000.0;
        let (without, with) = (cost(without.cpu()?, before[0]), cost(with.cpu()?, before[1]));
        println!("{name:<34}{without:>8.1} µs{with:>8.1} µs{:>14.3}", with / without);
    }
    println!("{} connections and requests reported", reporting.metric("osm_egress_flow_entries_total")?);
    Ok(())
}

/// Compares the cost of the work, and of starting with a new module, with that of another build.
fn against(network: &TestNetwork, args: &Args, folder: &Path) -> Result<()> {
    let arguments: [OsString; 11] = [
        "--config-dir".into(),
        network.manifests.path().into(),
        "--insecure-node-identity".into(),
        "--wasm".into(),
        folder.join("egress_filter.wasm").into(),
        "--xds-listen".into(),
        at(SECOND_CONTROL_PLANE, 15128).to_string().into(),
        "--admin-listen".into(),
        at(SECOND_CONTROL_PLANE, 15129).to_string().into(),
        "--dns-resolver".into(),
        at(NAME_SERVER, 53).to_string().into(),
    ];
    let binary = folder.join("osm-egress");
    let _other = ControlPlane::run_binary(&binary, &network.outside.netns, SECOND_CONTROL_PLANE, &arguments)?
        .ready()?;
    let xds = at(SECOND_CONTROL_PLANE, 15128).to_string();
    let bootstraps = [
        sidecar::bootstrap_with("curl/curl", false, &["--xds", &xds])?,
        sidecar::bootstrap("curl/curl", false)?,
    ];
    let pods = [network.pod()?, network.pod()?];
    let (instances, rounds, count) = if args.quick { (2, 3, 50) } else { (8, 5, 300) };
    let works: Vec<_> = WORKS
        .iter()
        .filter(|(name, _)| args.only.as_ref().is_none_or(|only| name.contains(only.as_str())))
        .collect();
    let mut starts = [vec![], vec![]];
    let mut figures: Vec<[Vec<f64>; 2]> = vec![[vec![], vec![]]; works.len()];
    // Two Envoys of one configuration differ by more than a tenth, for as long as they live: only many of them
    // tell the builds apart.
    for instance in 0..instances {
        let order = if instance % 2 == 0 { [0, 1] } else { [1, 0] };
        let mut envoys = BTreeMap::new();
        for side in order {
            // Neither build has the same pod, and the same place in a round, each time.
            let pod = &pods[(side + instance / 2) % 2];
            let envoy = Envoy::start(pod, &bootstraps[side], 1)?;
            starts[side].push(envoy.cpu()? as f64 / 1e6);
            envoys.insert(side, (pod, envoy));
        }
        for ((_, work), figures) in works.iter().zip(&mut figures) {
            let mut of_instance = [vec![], vec![]];
            for round in 0..=rounds {
                for side in order {
                    let (pod, envoy) = &envoys[&side];
                    let before = envoy.cpu()?;
                    pod.workload().run(|| work(count))??;
                    // The first round warms up.
                    if round > 0 {
                        of_instance[side].push((envoy.cpu()? - before) as f64 / f64::from(count) / 1000.0);
                    }
                }
            }
            for (figures, of_instance) in figures.iter_mut().zip(of_instance) {
                figures.push(median(of_instance));
            }
        }
    }
    println!(
        "Envoy {}: processor time, median of {instances} Envoys (lowest to highest) with {rounds} rounds of {count}",
        egress_tests::envoy::version()?
    );
    println!("{:<34}{:>28}{:>28}{:>12}", "", "other", "ours", "ours/other");
    let print = |name: &str, unit: &str, figures: [Vec<f64>; 2]| {
        let [other, ours] = figures.each_ref().map(|figures| {
            let lowest = figures.iter().copied().fold(f64::INFINITY, f64::min);
            let highest = figures.iter().copied().fold(0.0, f64::max);
            format!("{:.1} {unit} ({lowest:.0} to {highest:.0})", median(figures.clone()))
        });
        let [by_other, by_ours] = figures.map(median);
        println!("{name:<34}{other:>28}{ours:>28}{:>12.3}", by_ours / by_other);
    };
    print("start, until it is ready", "ms", starts);
    for ((name, _), figures) in works.iter().zip(figures) {
        print(name, "µs", figures);
    }
    Ok(())
}

/// Waits until no more reports arrive.
fn wait_for_reports(reporting: &ControlPlane<'_>) -> Result<()> {
    let entries = || reporting.metric("osm_egress_flow_entries_total");
    let (mut last, mut since) = (entries()?, Instant::now());
    egress_tests::wait::wait_for("the last report", Duration::from_secs(20), || {
        let now = entries().unwrap_or(last);
        if now != last {
            (last, since) = (now, Instant::now());
        }
        since.elapsed() > Duration::from_secs(2)
    })?;
    Ok(())
}

fn median(mut figures: Vec<f64>) -> f64 {
    figures.sort_by(f64::total_cmp);
    figures[figures.len() / 2]
}

fn at(address: IpAddr, port: u16) -> SocketAddr {
    SocketAddr::new(address, port)
}

fn tcp(count: u32) -> Result<()> {
    // Like the first packet of a database client: no inspector waits for more bytes.
    let packet = b"\0\0\0\x20\0\x03\0\0user\0curl\0database\0x\0";
    for _ in 0..count {
        let outcome = client::exchange(at(EXAMPLE, 9000), packet);
        ensure!(outcome == Outcome::Bytes(packet.to_vec()), "no echo: {outcome:?}");
    }
    Ok(())
}

fn tls(count: u32) -> Result<()> {
    let request = client::request("GET", "/get", &[("host", "httpbin.org"), ("connection", "close")]);
    for _ in 0..count {
        expect_served(&client::https(at(HTTPBIN, 443), Some("httpbin.org"), &request))?;
    }
    Ok(())
}

fn http_kept(count: u32) -> Result<()> {
    let request = client::request("GET", "/get", &[("host", "httpbin.org")]);
    let mut stream = client::connect(at(HTTPBIN, 80)).map_err(|e| anyhow!("{e:?}"))?;
    for _ in 0..count {
        expect_served(&client::http_on(&mut stream, &request))?;
    }
    Ok(())
}

fn http_closed(count: u32) -> Result<()> {
    let request = client::request("GET", "/get", &[("host", "httpbin.org"), ("connection", "close")]);
    for _ in 0..count {
        expect_served(&client::http(at(HTTPBIN, 80), &request))?;
    }
    Ok(())
}

fn expect_served(outcome: &Outcome) -> Result<()> {
    match outcome {
        Outcome::Http(answer) if answer.status == 200 => Ok(()),
        other => Err(anyhow!("{other:?}")),
    }
}

/// Measures the speed and the cost of a long download.
fn throughput(sides: &[(&str, &Envoy<'_>, &Pod); 3], quick: bool) -> Result<()> {
    let bytes: u64 = if quick { 64 << 20 } else { 512 << 20 };
    let rounds = if quick { 2 } else { 9 };
    let (mut speed, mut cost) = ([vec![], vec![], vec![]], [vec![], vec![], vec![]]);
    for _ in 0..rounds {
        for (n, (_, envoy, pod)) in sides.iter().enumerate() {
            let (before, start) = (envoy.cpu()?, Instant::now());
            pod.workload().run(|| download(bytes))??;
            let gib = bytes as f64 / f64::from(1 << 30);
            speed[n].push(gib / start.elapsed().as_secs_f64());
            cost[n].push((envoy.cpu()? - before) as f64 / 1e6 / gib);
        }
    }
    let [bare, osm, ours] = speed.map(median);
    println!(
        "{:<34}{bare:>11.2}{osm:>11.2}{ours:>11.2}{:>12.2}{:>12.2}",
        "download, GiB/s",
        ours / bare,
        ours / osm
    );
    let [bare, osm, ours] = cost.map(median);
    println!(
        "{:<34}{bare:>8.0} ms{osm:>8.0} ms{ours:>8.0} ms{:>12.2}{:>12.2}",
        "download, per GiB",
        ours / bare,
        ours / osm
    );
    Ok(())
}

fn download(bytes: u64) -> Result<()> {
    let mut stream = client::connect(at(EXAMPLE, 9002)).map_err(|e| anyhow!("{e:?}"))?;
    stream.write_all(&bytes.to_be_bytes())?;
    let mut buffer = vec![0; 256 << 10];
    let mut left = bytes;
    while left > 0 {
        let length = stream.read(&mut buffer)?;
        ensure!(length > 0, "the download ended {left} bytes early");
        left -= length as u64;
    }
    Ok(())
}

/// Measures the time from a written manifest to its enforcement.
fn propagation(network: &TestNetwork, pod: &Pod, quick: bool) -> Result<()> {
    let one = POLICY.replace("name: bench", "name: extra").replace("number: 9000", "number: 9001");
    let mut took = Vec::new();
    for round in 0..if quick { 6 } else { 40 } {
        let allow = round % 2 == 0;
        let start = Instant::now();
        if allow {
            network.write("extra.yaml", &one)?
        } else {
            network.remove("extra.yaml")?
        }
        loop {
            let outcome = pod.workload().run(|| client::exchange(at(EXAMPLE, 9001), b""))?;
            if matches!(outcome, Outcome::Bytes(_)) == allow {
                break;
            }
            ensure!(start.elapsed() < Duration::from_secs(10), "the change never arrives: {outcome:?}");
        }
        took.push(start.elapsed().as_secs_f64() * 1000.0);
    }
    let worst = took.iter().copied().fold(0.0, f64::max);
    println!(
        "from a written manifest to its enforcement: median {:.0} ms, worst {worst:.0} ms of {}",
        median(took.clone()),
        took.len()
    );
    Ok(())
}

/// Measures the memory after many policy changes.
fn reloads(
    network: &TestNetwork,
    control_plane: &egress_tests::control_plane::ControlPlane<'_>,
    envoy: &Envoy<'_>,
    quick: bool,
) -> Result<()> {
    let count = if quick { 20 } else { 1000 };
    println!("memory over {count} policy changes, each acknowledged by Envoy (kB):");
    let step = count / 5;
    for n in 0..=count {
        if n % step == 0 {
            println!(
                "  after {n:>4}: Envoy {:>7}, control plane {:>7}",
                envoy.memory()?,
                control_plane.memory()?
            );
        }
        let policy = POLICY
            .replace("name: bench", "name: extra")
            .replace("httpbin.org", &format!("host-{n}.example.com"));
        let before = control_plane.status()?["proxies"][0]["documentAcknowledged"].clone();
        network.write("extra.yaml", &policy)?;
        egress_tests::wait::wait_for("the acknowledgement", Duration::from_secs(10), || {
            control_plane.status().is_ok_and(|status| {
                let proxy = &status["proxies"][0];
                proxy["documentAcknowledged"] != before
                    && proxy["documentAcknowledged"] == proxy["documentSent"]
            })
        })?;
    }
    Ok(())
}
