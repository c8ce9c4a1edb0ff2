//! The limit of proxies, `sidecar.maxDataPlaneConnections` of the MeshConfig.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use egress_tests::client::{self, Outcome};
use egress_tests::envoy::Envoy;
use egress_tests::manifests;
use egress_tests::netns::{Pod, ensure_capable};
use egress_tests::network::{HTTPBIN, TestNetwork};
use egress_tests::sidecar;
use egress_tests::wait::wait_for;

fn connects(pod: &Pod) -> bool {
    let to = SocketAddr::new(HTTPBIN, 9000);
    let outcome = pod.workload().run(|| client::exchange(to, b"ping"));
    matches!(outcome, Ok(Outcome::Bytes(bytes)) if bytes == b"ping")
}

#[test]
fn proxies_over_the_limit_are_refused() -> Result<()> {
    ensure_capable()?;
    let network = TestNetwork::new()?;
    let pods = [network.pod()?, network.pod()?];
    network.write("open.yaml", &manifests::sample("any-host-443.yaml")?.replace("443", "9000"))?;
    let limit = |most: &str| -> Result<()> {
        let sidecar = format!("spec:\n  sidecar: {{maxDataPlaneConnections: {most}}}");
        network.write("meshconfig.yaml", &manifests::sample("meshconfig.yaml")?.replace("spec:", &sidecar))
    };
    limit("1")?;
    let control_plane = network.control_plane(&[])?;
    let _first = sidecar::start(&pods[0], false)?;
    wait_for("the first proxy's policy", Duration::from_secs(10), || connects(&pods[0]))?;
    let second = Envoy::launch(&pods[1], &sidecar::bootstrap("curl/curl", false)?, 1)?;
    let refused = || control_plane.refusal_count("too-many").is_ok_and(|count| count > 0);
    wait_for("the second proxy to be refused", Duration::from_secs(10), refused)
        .with_context(|| format!("{}\n{}", control_plane.log(), second.log()))?;
    ensure!(!connects(&pods[1]), "without a policy it is open");
    ensure!(connects(&pods[0]));
    ensure!(
        control_plane.log().contains("1 proxies are connected, which is the most"),
        "{}",
        control_plane.log()
    );
    limit("0")?;
    // Envoy reconnects with growing delays.
    wait_for("the second proxy's policy", Duration::from_secs(40), || connects(&pods[1]))?;
    Ok(())
}
