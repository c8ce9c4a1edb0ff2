//! Failures of module and control plane: nothing gets out while global egress is off.

#![allow(clippy::wildcard_enum_match_arm, reason = "what a test does not expect fails it")]

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use egress_tests::client::Outcome;
use egress_tests::control_plane::ControlPlane;
use egress_tests::envoy::Envoy;
use egress_tests::manifests::egress;
use egress_tests::netns::{Pod, ensure_capable};
use egress_tests::network::{self, CONTROL_PLANE, EXAMPLE, HTTPBIN, TestNetwork};
use egress_tests::sidecar;
use egress_tests::wait::wait_for;
use egress_tests::workload;

fn policy() -> String {
    egress(
        "all",
        "hosts: [httpbin.org]\nports: [{number: 80, protocol: http}, {number: 443, protocol: https}, {number: 9000, protocol: tcp}]",
    )
}

/// Requires that nothing gets out, not even what the policy allows, and that nothing arrives at an origin.
fn expect_nothing_gets_out(network: &TestNetwork, pod: &Pod) -> Result<()> {
    for round in 0..3 {
        let outcomes = [
            workload::get(pod, SocketAddr::new(HTTPBIN, 80), "httpbin.org", "/get")?,
            workload::get_tls(pod, SocketAddr::new(HTTPBIN, 443), Some("httpbin.org"))?,
            workload::get_tls(pod, SocketAddr::new(EXAMPLE, 443), Some("www.example.com"))?,
            workload::get(pod, SocketAddr::new(EXAMPLE, 9000), "www.example.com", "/")?,
        ];
        for outcome in outcomes {
            ensure!(matches!(outcome, Outcome::Closed | Outcome::Refused(_)), "round {round}: {outcome:?}");
        }
    }
    ensure!(network.origins.events().is_empty(), "something arrived: {:?}", network.origins.events());
    Ok(())
}

/// A module that Envoy accepts for `limit` configurations and that fails afterwards, or that traps at a
/// connection.
fn module(limit: u32, on_connection: &str) -> Result<Vec<u8>> {
    // Only a metric is shared between the VMs of all threads.
    Ok(wat::parse_str(format!(
        r#"(module
  (import "env" "proxy_define_metric" (func $define (param i32 i32 i32 i32) (result i32)))
  (import "env" "proxy_increment_metric" (func $increment (param i32 i64) (result i32)))
  (import "env" "proxy_get_metric" (func $get (param i32 i32) (result i32)))
  (memory (export "memory") 2)
  (data (i32.const 64) "configured")
  (global $heap (mut i32) (i32.const 4096))
  (func (export "proxy_abi_version_0_2_1"))
  (func (export "proxy_on_memory_allocate") (param i32) (result i32)
    (global.get $heap)
    (global.set $heap (i32.add (global.get $heap) (local.get 0))))
  (func (export "proxy_on_vm_start") (param i32 i32) (result i32) (i32.const 1))
  (func (export "proxy_on_context_create") (param i32 i32))
  (func (export "proxy_on_configure") (param i32 i32) (result i32)
    (drop (call $define (i32.const 0) (i32.const 64) (i32.const 10) (i32.const 16)))
    (drop (call $increment (i32.load (i32.const 16)) (i64.const 1)))
    (drop (call $get (i32.load (i32.const 16)) (i32.const 24)))
    (i64.le_u (i64.load (i32.const 24)) (i64.const {limit})))
  (func (export "proxy_on_new_connection") (param i32) (result i32) {on_connection}))"#
    ))?)
}

const UNLIMITED: u32 = 1_000_000;

/// Runs a test whose control plane delivers this module in place of the real one.
fn with_module(
    bytes: &[u8],
    test: impl FnOnce(&TestNetwork, &Pod, &ControlPlane<'_>, &Envoy<'_>) -> Result<()>,
) -> Result<()> {
    ensure_capable()?;
    let network = TestNetwork::new()?;
    let pod = network.pod()?;
    network.write("all.yaml", &policy())?;
    let module = network.manifests.path().join("module.wasm");
    std::fs::write(&module, bytes)?;
    let name_server = format!("{}:53", network::NAME_SERVER);
    let flags = ["--dns-resolver", &name_server, "--wasm", &module.to_string_lossy()];
    let control_plane =
        ControlPlane::start(&network.outside.netns, CONTROL_PLANE, network.manifests.path(), &flags)?;
    // With a rejected filter Envoy waits 15 s for another one before it listens.
    let envoy = Envoy::launch(&pod, &sidecar::bootstrap("curl/curl", false)?, 1)?;
    test(&network, &pod, &control_plane, &envoy)
}

fn is_acknowledged(control_plane: &ControlPlane<'_>) -> bool {
    control_plane.status().is_ok_and(|status| status["proxies"][0]["documentAcknowledged"].is_string())
}

#[test]
fn a_module_that_traps_opens_nothing() -> Result<()> {
    with_module(&module(UNLIMITED, "unreachable")?, |network, pod, control_plane, envoy| {
        wait_for("Envoy to take it", Duration::from_secs(20), || is_acknowledged(control_plane))?;
        wait_for("Envoy to listen", Duration::from_secs(20), || envoy.admin("/ready").is_ok())?;
        expect_nothing_gets_out(network, pod)
    })
}

#[test]
fn a_module_that_steers_nothing_opens_nothing() -> Result<()> {
    with_module(&module(UNLIMITED, "(i32.const 0)")?, |network, pod, control_plane, envoy| {
        wait_for("Envoy to take it", Duration::from_secs(20), || is_acknowledged(control_plane))?;
        wait_for("Envoy to listen", Duration::from_secs(20), || envoy.admin("/ready").is_ok())?;
        expect_nothing_gets_out(network, pod)?;
        // The filter ran: tcp_proxy found no cluster.
        ensure!(envoy.stat("tcp.passthrough-outbound.downstream_cx_no_route")? > 0);
        Ok(())
    })
}

/// The main thread accepts the configuration and a worker does not. Envoy then continues without the filter,
/// whatever its failure policy says.
#[test]
fn a_configuration_that_fails_on_a_worker_opens_nothing() -> Result<()> {
    let mut without_filter = false;
    // Which call is the worker's depends on the version of Envoy, and on chance: its thread runs beside the main one.
    for limit in 1..=6 {
        with_module(&module(limit, "unreachable")?, |network, pod, control_plane, envoy| {
            wait_for("Envoy to take it or not", Duration::from_secs(20), || {
                is_acknowledged(control_plane)
                    || control_plane
                        .status()
                        .is_ok_and(|s| s["proxies"][0]["types"]["extension"]["rejected"].is_object())
            })?;
            if is_acknowledged(control_plane) {
                wait_for("Envoy to listen", Duration::from_secs(20), || envoy.admin("/ready").is_ok())?;
            }
            expect_nothing_gets_out(network, pod)?;
            without_filter |= envoy.stat("tcp.passthrough-outbound.downstream_cx_no_route").unwrap_or(0) > 0;
            Ok(())
        })
        .with_context(|| format!("failing from call {limit} on"))?;
    }
    ensure!(without_filter, "no connection ever reached tcp_proxy: this test proves nothing");
    Ok(())
}

/// A module that Envoy never accepts: the control plane reports its refusal with Envoy's words, and Envoy
/// does not repeat it.
#[test]
fn a_rejected_module_opens_nothing_and_is_reported() -> Result<()> {
    with_module(&module(0, "unreachable")?, |network, pod, control_plane, _envoy| {
        let rejected = || -> Option<String> {
            let status = control_plane.status().ok()?;
            Some(status["proxies"][0]["types"]["extension"]["rejected"]["error"].as_str()?.to_owned())
        };
        wait_for("the rejection", Duration::from_secs(20), || rejected().is_some())?;
        ensure!(rejected().is_some_and(|text| text.contains("Wasm")), "{:?}", rejected());
        expect_nothing_gets_out(network, pod)?;
        let sent = || -> Result<u64> {
            let text = control_plane.get("/metrics")?;
            let line = text.lines().find_map(|l| l.strip_prefix("osm_egress_xds_responses_total "));
            Ok(line.context("no such metric")?.trim().parse()?)
        };
        // The control plane sends it without the new policy once, and then nothing more.
        wait_for("the last try", Duration::from_secs(20), || {
            control_plane.status().is_ok_and(|status| {
                let (proxy, wanted) = (&status["proxies"][0], &status["identities"]["curl/curl"]["document"]);
                let kind = &proxy["types"]["extension"];
                proxy["documentSent"] != *wanted && kind["rejected"]["version"] == kind["sent"]
            })
        })?;
        let (before, start) = (sent()?, std::time::Instant::now());
        // A non-occurrence: the module must not be sent again. A push follows a rejection within milliseconds, so a
        // second is long.
        while start.elapsed() < Duration::from_secs(1) {
            ensure!(sent()? == before, "the rejected module is sent again and again");
            std::thread::yield_now();
        }
        Ok(())
    })
}

/// Without a control plane Envoy has no listener.
#[test]
fn without_a_control_plane_nothing_gets_out() -> Result<()> {
    ensure_capable()?;
    let network = TestNetwork::new()?;
    let pod = network.pod()?;
    let envoy = Envoy::launch(&pod, &sidecar::bootstrap("curl/curl", false)?, 1)?;
    wait_for("Envoy's admin interface", Duration::from_secs(10), || envoy.admin("/stats").is_ok())?;
    expect_nothing_gets_out(&network, &pod)
}

/// A proxy that does not identify itself gets nothing.
#[test]
fn an_unknown_proxy_gets_no_policy() -> Result<()> {
    ensure_capable()?;
    let network = TestNetwork::new()?;
    let pod = network.pod()?;
    network.write("all.yaml", &policy())?;
    let control_plane = network.control_plane(&[])?;
    let bootstrap = sidecar::bootstrap("curl/curl", false)?.replace("id: sidecar.curl.curl", "id: nobody");
    let envoy = Envoy::launch(&pod, &bootstrap, 1)?;
    wait_for("Envoy's admin interface", Duration::from_secs(10), || envoy.admin("/stats").is_ok())?;
    wait_for("the refusal in the log", Duration::from_secs(10), || {
        control_plane.log().contains("node id `nobody`")
    })?;
    expect_nothing_gets_out(&network, &pod)
}
