//! Several control planes of one cluster, while any of them, the API server or etcd fails.

use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crate::source::echo;
use anyhow::{Result, ensure};
use egress_tests::client;
use egress_tests::cluster::Cluster;
use egress_tests::echo::still_echoes;
use egress_tests::envoy::Envoy;
use egress_tests::kube::User;
use egress_tests::manifests::{egress, egress_in};
use egress_tests::netns::{Pod, ensure_capable};
use egress_tests::network::{CONTROL_PLANE, ELSEWHERE, HTTPBIN, SECOND_CONTROL_PLANE, TestNetwork};
use egress_tests::sidecar;
use egress_tests::wait::wait_for;

/// The longest time until a change arrives after a failure. Proxies look for another control plane with
/// growing delays.
const CONVERGENCE_TIMEOUT: Duration = Duration::from_secs(60);

/// A workload that connects all the time, and its results.
#[derive(Default)]
struct Prober {
    stop: AtomicBool,
    allowed: AtomicUsize,
    refused: AtomicUsize,
    /// Allowed connections that failed, and forbidden ones that succeeded.
    wrong: AtomicUsize,
}

impl Prober {
    /// Connects to an allowed and a forbidden destination in turn until it is stopped.
    fn run(&self, pod: &Pod) -> Result<()> {
        let echoes = |to: IpAddr| {
            let Ok(mut stream) = client::connect(SocketAddr::new(to, 9000)) else { return false };
            still_echoes(&mut stream)
        };
        pod.workload().run(|| {
            while !self.stop.load(Ordering::Relaxed) {
                let count = if echoes(HTTPBIN) { &self.allowed } else { &self.wrong };
                count.fetch_add(1, Ordering::Relaxed);
                let count = if echoes(ELSEWHERE) { &self.wrong } else { &self.refused };
                count.fetch_add(1, Ordering::Relaxed);
            }
        })
    }

    fn counts(&self) -> (usize, usize, usize) {
        let count = |count: &AtomicUsize| count.load(Ordering::Relaxed);
        (count(&self.allowed), count(&self.refused), count(&self.wrong))
    }

    /// Waits until both kinds were tried many more times.
    fn wait_for_attempts(&self, what: &str) -> Result<()> {
        let before = self.counts();
        wait_for(what, Duration::from_secs(30), || {
            let now = self.counts();
            now.0 > before.0 + 100 && now.1 > before.1 + 100
        })?;
        Ok(())
    }
}

/// Stops the probers when this is dropped, also if the test fails.
struct StopProbers<'p>(&'p [Prober]);

impl Drop for StopProbers<'_> {
    fn drop(&mut self) {
        for prober in self.0 {
            prober.stop.store(true, Ordering::Relaxed);
        }
    }
}

/// Starts a sidecar that knows both control planes.
fn sidecar(pod: &Pod) -> Result<Envoy<'_>> {
    let one = sidecar::bootstrap("curl/curl", false)?;
    let endpoint = |address: IpAddr| {
        format!(
            "{{endpoint: {{address: {{socket_address: {{address: \"{address}\", port_value: 15128}}}}}}}}"
        )
    };
    let first = endpoint(CONTROL_PLANE);
    ensure!(one.contains(&first), "the bootstrap does not have {first}:\n{one}");
    let both = [first.as_str(), &endpoint(SECOND_CONTROL_PLANE)].join(", ");
    Envoy::start(pod, &one.replace(&first, &both), 1)
}

/// The first control plane, the second one, the API server and etcd are killed in turn under traffic and
/// policy changes.
#[test]
fn traffic_and_changes_survive_every_failure() -> Result<()> {
    ensure_capable()?;
    let network = TestNetwork::new()?;
    let pods = [network.pod()?, network.pod()?];
    let mut cluster = Cluster::new(&network)?;
    cluster.api.apply(&egress_in(
        "curl",
        "always",
        "ipAddresses: [203.0.113.10/32]\nports: [{number: 9000, protocol: tcp}]",
    ))?;
    let start = Instant::now();
    let print_time = |what: &str| println!("{:>6.2} s  {what}", start.elapsed().as_secs_f64());
    let mut first = Some(cluster.control_plane(&[])?);
    let mut second = Some(cluster.launch(User::ControlPlane, SECOND_CONTROL_PLANE, &[])?.ready()?);
    let envoys = [sidecar(&pods[0])?, sidecar(&pods[1])?];
    let probers = [Prober::default(), Prober::default()];
    std::thread::scope(|scope| -> Result<()> {
        let stop = StopProbers(&probers);
        let threads: Vec<_> =
            probers.iter().zip(&pods).map(|(prober, pod)| scope.spawn(|| prober.run(pod))).collect();
        // Waits until both proxies follow a change.
        let change = |cluster: &Cluster<'_>, allow: bool| -> Result<()> {
            if allow {
                cluster.api.apply(&egress("change", "ports: [{number: 9100, protocol: tcp}]"))?;
            } else {
                cluster.api.kubectl(User::Admin, &["delete", "egress", "change", "-n", "curl"])?;
            }
            let took = wait_for("both proxies to obey", CONVERGENCE_TIMEOUT, || {
                pods.iter().all(|pod| echo(pod, HTTPBIN, 9100).is_ok() == allow)
            })?;
            print_time(&format!(
                "a change {} is obeyed {took:.0?} after kubectl returned",
                if allow { "that allows" } else { "that forbids" }
            ));
            Ok(())
        };
        change(&cluster, true)?;
        let connected = |control_plane: &Option<egress_tests::control_plane::ControlPlane<'_>>| {
            let status = control_plane.as_ref().and_then(|control_plane| control_plane.status().ok());
            status.and_then(|status| status["proxies"].as_array().map(Vec::len)).unwrap_or_default()
        };
        print_time(&format!(
            "proxies at the control planes: {} and {}",
            connected(&first),
            connected(&second)
        ));

        drop(first.take());
        print_time("the first control plane is killed");
        change(&cluster, false)?;
        probers[0].wait_for_attempts("connections without the first control plane")?;
        first = Some(cluster.control_plane(&[])?);
        print_time("it is back");

        drop(second.take());
        print_time("the second control plane is killed");
        change(&cluster, true)?;
        probers[1].wait_for_attempts("connections without the second control plane")?;
        second = Some(cluster.launch(User::ControlPlane, SECOND_CONTROL_PLANE, &[])?.ready()?);
        print_time("it is back");

        cluster.api.kill();
        print_time("the API server is killed");
        probers[0].wait_for_attempts("connections without an API server")?;
        cluster.api.resume()?;
        print_time("it is back");
        change(&cluster, false)?;

        cluster.api.kill_etcd();
        print_time("etcd is killed");
        probers[1].wait_for_attempts("connections without etcd")?;
        let remove = ["delete", "egress", "always", "-n", "curl", "--request-timeout=2s"];
        ensure!(cluster.api.kubectl(User::Admin, &remove).is_err(), "a change without etcd");
        cluster.api.start_etcd()?;
        wait_for("the API server to answer", Duration::from_secs(30), || {
            cluster.api.kubectl(User::Admin, &["get", "--raw", "/readyz"]).is_ok()
        })?;
        print_time("it is back");
        change(&cluster, true)?;
        change(&cluster, false)?;

        let both: Vec<_> = [&first, &second].into_iter().flatten().collect();
        wait_for("both control planes to say the same", CONVERGENCE_TIMEOUT, || {
            let status: Vec<_> =
                both.iter().filter_map(|control_plane| control_plane.status().ok()).collect();
            let same = |part: &str| status.iter().all(|one| one[part] == status[0][part]);
            status.len() == 2 && ["objects", "identities", "diagnostics", "meshMode"].into_iter().all(same)
        })?;
        drop(stop);
        for thread in threads {
            thread.join().map_err(|_| anyhow::anyhow!("a prober panicked"))??;
        }
        Ok(())
    })?;
    for (prober, envoy) in probers.iter().zip(&envoys) {
        let (allowed, refused, wrong) = prober.counts();
        print_time(&format!(
            "a workload connected {allowed} times, was refused {refused} times, and {wrong} were wrong"
        ));
        ensure!(wrong == 0, "{}", envoy.log_tail(20));
        ensure!(envoy.stat("listener_manager.listener_modified")? == 0);
    }
    Ok(())
}
