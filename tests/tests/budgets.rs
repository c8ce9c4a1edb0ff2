//! Budgets of the control plane: the worst objects that they permit, and worse ones.

use std::fmt::Write;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use egress_tests::envoy::Envoy;
use egress_tests::manifests::{echo_fields, egress_of};
use egress_tests::netns::ensure_capable;
use egress_tests::network::{self, TestNetwork};
use egress_tests::sidecar;
use egress_tests::wait::wait_for;
use egress_tests::workload;
use egress_tests::xds::{CLUSTER, EXTENSION, LISTENER, XdsStream};
use envoy_types::pb::envoy::service::discovery::v3::{DeltaDiscoveryRequest, DiscoveryRequest};

/// The memory limit of the control plane, in kB.
const MAX_MEMORY_KB: u64 = 300 << 10;
const IDENTITIES: usize = 4;

/// An Egress of `curl/{account}` whose hosts have the longest names.
fn long_egress(name: &str, account: &str, hosts: usize, ports: usize) -> String {
    long_egress_in("curl", name, account, hosts, ports)
}

fn long_egress_in(namespace: &str, name: &str, account: &str, hosts: usize, ports: usize) -> String {
    let mut text = format!(
        "---\napiVersion: policy.openservicemesh.io/v1alpha1\nkind: Egress\n\
         metadata: {{name: {name}, namespace: {namespace}}}\n\
         spec:\n  sources: [{{kind: ServiceAccount, name: {account}, namespace: {namespace}}}]\n  ports:\n"
    );
    for port in 0..ports {
        writeln!(text, "  - {{number: {}, protocol: https}}", 20_000 + port).expect("a string");
    }
    text.push_str("  hosts:\n");
    let label = "x".repeat(60);
    for host in 0..hosts {
        writeln!(text, "  - {label}.{label}.{label}.{name}-{host}.org").expect("a string");
    }
    text
}

/// An Egress `curl/{name}-{account}` of `curl/{account}` for one port of an origin.
fn echo_of(account: &str, name: &str, port: u16) -> String {
    egress_of(account, &format!("{name}-{account}"), &echo_fields(port))
}

#[test]
fn the_worst_permitted_objects_stay_within_memory() -> Result<()> {
    ensure_capable()?;
    let network = TestNetwork::new()?;
    for identity in 0..IDENTITIES {
        let account = format!("a{identity}");
        // The largest object that an API server stores, six times in a document, is within the budget.
        network.write(&format!("full-{account}.yaml"), &long_egress(&account, &account, 6_500, 6))?;
        // One more is over the budget.
        network.write(
            &format!("more-{account}.yaml"),
            &long_egress(&format!("z{identity}"), &account, 6_500, 6),
        )?;
        network.write(&format!("echo-{account}.yaml"), &echo_of(&account, "echo", 9000))?;
    }
    // These objects are far over their own budgets.
    network.write("ports-and-hosts.yaml", &long_egress("square", "a0", 3_000, 3_000))?;
    let start = Instant::now();
    let control_plane = network.control_plane(&[])?;
    println!("ready {:.1?} after the start, with {} MB", start.elapsed(), control_plane.memory()? / 1024);
    let pods: Vec<_> = (0..IDENTITIES).map(|_| network.pod()).collect::<Result<_>>()?;
    let mut envoys = Vec::new();
    for (identity, pod) in pods.iter().enumerate() {
        envoys.push(Envoy::launch(pod, &sidecar::bootstrap(&format!("curl/a{identity}"), false)?, 1)?);
    }
    wait_for("the policies", Duration::from_secs(120), || {
        pods.iter().all(|pod| workload::gets_echo(pod, 9000))
    })
    .with_context(|| {
        format!("{} MB at its peak; {}", control_plane.peak_memory().unwrap_or(0) / 1024, control_plane.log())
    })?;
    // Each identity gets another policy, several times.
    for round in 0..6 {
        let is_granted = round % 2 == 0;
        for identity in 0..IDENTITIES {
            let name = format!("change-{identity}.yaml");
            match is_granted {
                true => network.write(&name, &echo_of(&format!("a{identity}"), "change", 9001))?,
                false => network.remove(&name)?,
            }
        }
        wait_for("the change", Duration::from_secs(120), || {
            pods.iter().all(|pod| workload::gets_echo(pod, 9001) == is_granted)
        })?;
    }
    let status = control_plane.status()?;
    let objects = status["objects"].as_array().cloned().unwrap_or_default();
    let refused = objects.iter().filter(|object| object["accepted"] == false).count();
    ensure!(refused == IDENTITIES + 1, "{refused} objects are refused");
    let peak = control_plane.peak_memory()?;
    println!(
        "the control plane has {} MB, at its peak {} MB; a sidecar has {} MB",
        control_plane.memory()? / 1024,
        peak / 1024,
        envoys[0].memory()? / 1024
    );
    ensure!(peak < MAX_MEMORY_KB, "the control plane had {} MB", peak / 1024);
    Ok(())
}

/// An xDS client that acknowledges everything, like a sidecar with the policy in force.
enum PolicyClient {
    Sotw(XdsStream<DiscoveryRequest>),
    Delta(XdsStream<DeltaDiscoveryRequest>),
}

const PLUGINS: [&str; 2] = ["egress-policy", "egress-http-policy"];

impl PolicyClient {
    fn begin(&mut self) -> Result<()> {
        for url in [CLUSTER, LISTENER, EXTENSION] {
            let names: Vec<String> =
                PLUGINS.iter().filter(|_| url == EXTENSION).map(|name| (*name).to_owned()).collect();
            let type_url = url.to_owned();
            match self {
                Self::Sotw(stream) => {
                    stream.send(DiscoveryRequest {
                        type_url,
                        resource_names: names,
                        ..Default::default()
                    })?;
                }
                Self::Delta(stream) => {
                    let resource_names_subscribe = names;
                    stream.send(DeltaDiscoveryRequest {
                        type_url,
                        resource_names_subscribe,
                        ..Default::default()
                    })?;
                }
            }
        }
        Ok(())
    }

    /// Receives messages until a policy arrives, and returns its length.
    fn policy(&mut self) -> Result<usize> {
        loop {
            let (type_url, size) = self.read_for(Duration::from_secs(60))?.context("no message came")?;
            if type_url == EXTENSION {
                return Ok(size);
            }
        }
    }

    /// Receives a message within this time: its type and its length.
    fn read_for(&mut self, time: Duration) -> Result<Option<(String, usize)>> {
        Ok(Some(match self {
            Self::Sotw(stream) => {
                let Some(answer) = stream.receive_within(time)? else { return Ok(None) };
                let names: &[&str] = if answer.type_url == EXTENSION { &PLUGINS } else { &[] };
                stream.send(DiscoveryRequest {
                    type_url: answer.type_url.clone(),
                    resource_names: names.iter().map(|name| (*name).to_owned()).collect(),
                    response_nonce: answer.nonce,
                    version_info: answer.version_info,
                    ..Default::default()
                })?;
                (answer.type_url, answer.resources.iter().map(|any| any.value.len()).sum::<usize>())
            }
            Self::Delta(stream) => {
                let Some(answer) = stream.receive_within(time)? else { return Ok(None) };
                stream.send(DeltaDiscoveryRequest {
                    type_url: answer.type_url.clone(),
                    response_nonce: answer.nonce,
                    ..Default::default()
                })?;
                let bodies = answer.resources.iter().filter_map(|resource| resource.resource.as_ref());
                (answer.type_url, bodies.map(|any| any.value.len()).sum::<usize>())
            }
        }))
    }
}

/// Twenty-five identities, each with the longest document and a sidecar.
#[test]
fn many_longest_documents_stay_within_memory() -> Result<()> {
    ensure_capable()?;
    const NAMESPACES: usize = 5;
    const IDENTITIES_PER_NAMESPACE: usize = 5;
    let network = TestNetwork::new()?;
    let all: Vec<_> =
        (0..NAMESPACES).flat_map(|n| (0..IDENTITIES_PER_NAMESPACE).map(move |a| (n, a))).collect();
    for (namespace, account) in &all {
        let (namespace, account) = (format!("n{namespace}"), format!("a{account}"));
        let text = long_egress_in(&namespace, &account, &account, 6_500, 6);
        network.write(&format!("{namespace}-{account}.yaml"), &text)?;
    }
    // One namespace is far over its budget, and affects no other.
    for number in 0..40 {
        let text = long_egress_in("greedy", &format!("p{number:02}"), &format!("a{number}"), 6_500, 6);
        network.write(&format!("greedy-{number}.yaml"), &text)?;
    }
    let control_plane = network.control_plane(&[])?;
    println!(
        "ready with {} MB, at its peak {} MB",
        control_plane.memory()? / 1024,
        control_plane.peak_memory()? / 1024
    );
    let to = SocketAddr::new(network::CONTROL_PLANE, 15128);
    let mut sidecars = Vec::new();
    for (number, (namespace, account)) in all.iter().enumerate() {
        let node = format!("p{number}.a{account}.n{namespace}");
        let from = &network.outside.netns;
        let mut sidecar = match number % 2 {
            0 => PolicyClient::Sotw(XdsStream::open(from, to, &node)?),
            _ => PolicyClient::Delta(XdsStream::open(from, to, &node)?),
        };
        sidecar.begin()?;
        sidecars.push(sidecar);
    }
    let longest = 14 << 20;
    for sidecar in &mut sidecars {
        let size = sidecar.policy()?;
        ensure!(size > longest, "a policy of {size} bytes for both plugins");
    }
    println!(
        "all connected: {} MB, at its peak {} MB",
        control_plane.memory()? / 1024,
        control_plane.peak_memory()? / 1024
    );
    // Each identity gets another policy, several times.
    for round in 0..3 {
        for (namespace, account) in &all {
            let (namespace, account) = (format!("n{namespace}"), format!("a{account}"));
            let text = long_egress_in(&namespace, &account, &account, 6_500 - round - 1, 6);
            network.write(&format!("{namespace}-{account}.yaml"), &text)?;
        }
        let status = || -> Result<bool> {
            let status = control_plane.status()?;
            let proxies = status["proxies"].as_array().cloned().unwrap_or_default();
            let is_current = |proxy: &serde_json::Value| {
                let identity = proxy["identity"].as_str().unwrap_or_default();
                proxy["documentAcknowledged"] == status["identities"][identity]["document"]
            };
            Ok(proxies.len() == all.len() && proxies.iter().all(is_current))
        };
        let stop = AtomicBool::new(false);
        let ended = std::thread::scope(|scope| -> Result<()> {
            let readers: Vec<_> = sidecars
                .iter_mut()
                .map(|sidecar| {
                    let stop = &stop;
                    scope.spawn(move || -> Result<()> {
                        while !stop.load(Ordering::Relaxed) {
                            sidecar.read_for(Duration::from_millis(200))?;
                        }
                        Ok(())
                    })
                })
                .collect();
            let settled =
                wait_for("everybody's policy", Duration::from_secs(120), || status().unwrap_or(false));
            stop.store(true, Ordering::Relaxed);
            for reader in readers {
                reader.join().map_err(|_| anyhow::anyhow!("panicked"))??;
            }
            settled.map(|_| ())
        });
        ended
            .with_context(|| format!("{} MB at its peak", control_plane.peak_memory().unwrap_or(0) / 1024))?;
        println!(
            "round {round}: {} MB, at its peak {} MB",
            control_plane.memory()? / 1024,
            control_plane.peak_memory()? / 1024
        );
    }
    let objects = control_plane.status()?["objects"].as_array().cloned().unwrap_or_default();
    let refused: Vec<_> = objects.iter().filter(|object| object["accepted"] == false).collect();
    ensure!(!refused.is_empty() && refused.iter().all(|object| object["object"]["namespace"] == "greedy"));
    let peak = control_plane.peak_memory()?;
    ensure!(peak < MAX_MEMORY_KB, "the control plane had {} MB", peak / 1024);
    Ok(())
}
