//! A policy that Envoy refuses does not delay revocation.

#![allow(clippy::wildcard_enum_match_arm, reason = "what a test does not expect fails it")]

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use egress_tests::control_plane::ControlPlane;
use egress_tests::envoy::Envoy;
use egress_tests::manifests::{echo_fields, egress};
use egress_tests::netns::ensure_capable;
use egress_tests::network::{self, CONTROL_PLANE, TestNetwork};
use egress_tests::sidecar;
use egress_tests::wait::wait_for;
use egress_tests::workload::gets_echo;
use serde_json::Value;

/// A module with other limits than the control plane's: it refuses a policy with a rule for port 6666, and
/// lets everything through to its original destination as long as there is a rule for port 9000.
fn module() -> Result<Vec<u8>> {
    Ok(wat::parse_str(
        r#"(module
  (import "env" "proxy_get_buffer_bytes" (func $buffer (param i32 i32 i32 i32 i32) (result i32)))
  (import "env" "proxy_call_foreign_function" (func $call (param i32 i32 i32 i32 i32 i32) (result i32)))
  (memory (export "memory") 64)
  (data (i32.const 64) "\"port\":6666")
  (data (i32.const 96) "\"port\":9000")
  (data (i32.const 128) "set_envoy_filter_state")
  (data (i32.const 192) "\0a\17envoy.tcp_proxy.cluster\12\13egress-original-dst")
  (global $heap (mut i32) (i32.const 4096))
  (global $open (mut i32) (i32.const 0))
  (func (export "proxy_abi_version_0_2_1"))
  (func (export "proxy_on_memory_allocate") (param i32) (result i32)
    (global.get $heap)
    (global.set $heap (i32.add (global.get $heap) (local.get 0))))
  (func (export "proxy_on_vm_start") (param i32 i32) (result i32) (i32.const 1))
  (func (export "proxy_on_context_create") (param i32 i32))
  ;; Whether the 11 bytes at $what stand in the $length bytes at $text.
  (func $holds (param $text i32) (param $length i32) (param $what i32) (result i32)
    (local $at i32) (local $i i32)
    (block $none
      (loop $next
        (br_if $none (i32.gt_s (i32.add (local.get $at) (i32.const 11)) (local.get $length)))
        (local.set $i (i32.const 0))
        (block $differs
          (loop $same
            (br_if $differs (i32.ne
              (i32.load8_u (i32.add (local.get $text) (i32.add (local.get $at) (local.get $i))))
              (i32.load8_u (i32.add (local.get $what) (local.get $i)))))
            (local.set $i (i32.add (local.get $i) (i32.const 1)))
            (br_if $same (i32.lt_s (local.get $i) (i32.const 11))))
          (return (i32.const 1)))
        (local.set $at (i32.add (local.get $at) (i32.const 1)))
        (br $next)))
    (i32.const 0))
  (func (export "proxy_on_configure") (param i32 i32) (result i32)
    (drop (call $buffer (i32.const 7) (i32.const 0) (local.get 1) (i32.const 16) (i32.const 20)))
    (if (call $holds (i32.load (i32.const 16)) (i32.load (i32.const 20)) (i32.const 64))
      (then (return (i32.const 0))))
    (global.set $open (call $holds (i32.load (i32.const 16)) (i32.load (i32.const 20)) (i32.const 96)))
    (i32.const 1))
  (func (export "proxy_on_new_connection") (param i32) (result i32)
    (if (global.get $open)
      (then (drop (call $call (i32.const 128) (i32.const 22) (i32.const 192) (i32.const 46) (i32.const 32) (i32.const 36)))))
    (i32.const 0)))"#,
    )?)
}

#[test]
fn a_refused_policy_delays_no_revocation() -> Result<()> {
    ensure_capable()?;
    let network = TestNetwork::new()?;
    let pod = network.pod()?;
    network.write("good.yaml", &egress("good", &echo_fields(9000)))?;
    let file = network.manifests.path().join("module.wasm");
    std::fs::write(&file, module()?)?;
    let name_server = format!("{}:53", network::NAME_SERVER);
    let flags = ["--dns-resolver", &name_server, "--wasm", &file.to_string_lossy()];
    let control_plane =
        ControlPlane::start(&network.outside.netns, CONTROL_PLANE, network.manifests.path(), &flags)?;
    let envoy = Envoy::start(&pod, &sidecar::bootstrap("curl/curl", false)?, 1)?;
    let open = || gets_echo(&pod, 9000);
    wait_for("the good policy", Duration::from_secs(10), open)?;
    let held_back =
        || control_plane.status().map(|status| status["proxies"][0]["heldBack"].clone()).unwrap_or_default();
    ensure!(held_back().is_null());

    // Envoy refuses the policy with this object: the others are in force, and the status names this one.
    network.write("zz-bad.yaml", &egress("zz-bad", &echo_fields(6666)))?;
    wait_for("the refusal", Duration::from_secs(10), || {
        let held_back = held_back();
        held_back["policies"] == serde_json::json!(["curl/zz-bad"]) && held_back["bridged"] == false
    })
    .with_context(|| format!("{:#}\n{}", control_plane.status().unwrap_or_default(), control_plane.log()))?;
    ensure!(held_back()["error"].as_str().is_some_and(|error| error.contains("Wasm")), "{}", held_back());
    ensure!(control_plane.metric("osm_egress_proxies_refusing")? == 1);
    ensure!(open(), "what was allowed is closed");

    // While that object exists, revocations close and grants open.
    for _ in 0..3 {
        network.remove("good.yaml")?;
        let took = wait_for("the revocation", Duration::from_secs(2), || !open())?;
        println!("revoked {took:?} after the file was removed");
        ensure!(held_back().is_object(), "the bad object is reported as in force");
        network.write("good.yaml", &egress("good", &echo_fields(9000)))?;
        wait_for("the grant", Duration::from_secs(5), open)?;
        wait_for("what is held back", Duration::from_secs(5), || {
            held_back()["policies"] == serde_json::json!(["curl/zz-bad"])
        })?;
    }

    // A sidecar that starts now gets the same.
    let other = network.pod()?;
    let second =
        Envoy::start(&other, &sidecar::bootstrap_with("curl/curl", false, &["--proxy", "second"])?, 1)?;
    wait_for("the second sidecar", Duration::from_secs(10), || gets_echo(&other, 9000))?;
    network.remove("good.yaml")?;
    wait_for("the revocation", Duration::from_secs(2), || !open() && !gets_echo(&other, 9000))?;
    network.write("good.yaml", &egress("good", &echo_fields(9000)))?;

    // After its removal everything is in force.
    network.remove("zz-bad.yaml")?;
    wait_for("the whole policy", Duration::from_secs(10), || {
        let status = control_plane.status().unwrap_or_default();
        status["proxies"].as_array().is_some_and(|all| {
            all.len() == 2
                && all.iter().all(|proxy| {
                    proxy["heldBack"] == Value::Null && proxy["documentAcknowledged"] == proxy["documentSent"]
                })
        })
    })?;
    ensure!(open() && gets_echo(&other, 9000));
    ensure!(
        envoy.stat("listener_manager.listener_modified")? == 0
            && second.stat("listener_manager.listener_modified")? == 0
    );
    Ok(())
}
