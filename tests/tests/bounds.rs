//! Bounds of manifest values: Envoy accepts the values that the compiler accepts, and refuses those that it
//! refuses.

use std::process::Command;
use std::time::Duration;

use anyhow::{Result, ensure};
use egress_tests::envoy;
use egress_tests::manifests::{self, by_upstream_settings, egress, upstream_settings};
use egress_tests::mesh::with_mesh;
use egress_tests::network::HTTPBIN;
use egress_tests::wait::wait_for;
use egress_tests::workload;

/// An Egress for each name, with settings.
fn manifests() -> String {
    let long = ["a".repeat(63), "b".repeat(63), "c".repeat(63), "d".repeat(57), "org".to_owned()].join(".");
    let numbers = |number: u32| {
        format!(
            "tcp: {{maxConnections: {number}, connectTimeout: TIME}}, http: {{maxRequests: {number}, \
             maxPendingRequests: {number}, maxRetries: {number}, maxRequestsPerConnection: {number}}}"
        )
    };
    let mut text = String::new();
    for (name, time, number, host) in [
        ("shortest", "1ms", 0, "xn--bcher-kva.example"),
        ("longest", "8760h", u32::MAX, "my_service.internal"),
        ("odd", "1.000000001s", 1, "'*.a-b.org'"),
        ("long", "5s", 1, long.as_str()),
    ] {
        let numbers = numbers(number).replace("TIME", time);
        let by_settings = by_upstream_settings(name);
        text += &upstream_settings(name, &format!("{{{numbers}}}"));
        text += &egress(
            name,
            &format!("hosts: [{host}]\nports: [{{number: 65535, protocol: https}}]\n{by_settings}"),
        );
    }
    text
}

#[test]
fn values_at_their_bounds_are_accepted() -> Result<()> {
    let good = manifests::echo_policy("curl", 9000);
    with_mesh(&[("bounds.yaml", &manifests()), ("good.yaml", &good)], |mesh| {
        ensure!(
            mesh.control_plane.metric("osm_egress_xds_rejected_total")? == 0,
            "{}",
            mesh.control_plane.log()
        );
        ensure!(mesh.envoy.stat("cluster_manager.cds.update_rejected")? == 0);
        let clusters = mesh.envoy.admin("/clusters")?;
        for name in
            ["xn--bcher-kva.example:65535", "my_service.internal:65535", "*.a-b.org:65535", "org:65535"]
        {
            ensure!(clusters.contains(name), "there is no cluster {name}:\n{clusters}");
        }
        wait_for("the policy", Duration::from_secs(5), || workload::gets_echo(mesh.pod, 9000))?;
        ensure!(mesh.network.origins.connections_to(HTTPBIN) > 0);
        Ok(())
    })
}

/// Envoy's own bounds of a connect timeout. The compiler's limit of a year is far below Envoy's, which is 292
/// years.
#[test]
fn envoy_has_the_documented_timeout_bounds() -> Result<()> {
    for (time, valid) in [
        ("0s", false),
        ("0.001s", true),
        ("31536000s", true),
        ("9223372036s", false),
        ("315360000000s", false),
    ] {
        let file = tempfile::NamedTempFile::with_suffix(".yaml")?;
        let config = format!(
            "static_resources: {{clusters: [{{name: a, type: ORIGINAL_DST, lb_policy: CLUSTER_PROVIDED, \
             connect_timeout: {time}}}]}}"
        );
        std::fs::write(file.path(), config)?;
        let output = Command::new(envoy::binary()?)
            .args(["--mode", "validate", "--disable-hot-restart", "-l", "error", "-c"])
            .arg(file.path())
            .output()?;
        let message = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success() == valid, "{time}: {message}");
    }
    Ok(())
}
