//! Envoy's own dump of the configuration.

#![allow(clippy::wildcard_enum_match_arm, reason = "what a test does not expect fails it")]

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use egress_tests::netns::ensure_capable;
use egress_tests::network::TestNetwork;
use egress_tests::sidecar;
use egress_tests::wait::wait_for;
use serde_json::Value;

#[test]
fn envoy_runs_the_constant_listener() -> Result<()> {
    ensure_capable()?;
    let network = TestNetwork::new()?;
    let pod = network.pod()?;
    network.global_egress(false)?;
    let _control_plane = network.control_plane(&[])?;
    let envoy = sidecar::start(&pod, false)?;
    let dump: Value = serde_json::from_str(&envoy.admin("/config_dump?resource=dynamic_listeners")?)?;
    let listener = dump["configs"]
        .as_array()
        .into_iter()
        .flatten()
        .find(|listener| listener["name"] == "outbound-listener")
        .context("there is no outbound-listener")?;
    let listener = &listener["active_state"]["listener"];
    let address = &listener["address"]["socket_address"];
    assert_eq!((&address["address"], &address["port_value"]), (&"0.0.0.0".into(), &15001.into()));
    assert_eq!(listener["traffic_direction"], "OUTBOUND");
    let filters = listener["listener_filters"].as_array().context("no listener filters")?;
    assert_eq!(filters.len(), 1);
    assert_eq!(filters[0]["name"], "envoy.filters.listener.original_dst");
    assert!(listener["filter_chains"].is_null());
    let chain = &listener["default_filter_chain"];
    assert_eq!(chain["name"], "outbound-egress-filter-chain");
    let last = chain["filters"].as_array().and_then(|filters| filters.last()).context("no filters")?;
    let tcp_proxy = &last["typed_config"];
    assert_eq!(
        tcp_proxy["@type"],
        "type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy"
    );
    assert_eq!(tcp_proxy["stat_prefix"], "passthrough-outbound");
    assert_eq!(tcp_proxy["cluster"], "passthrough-outbound");
    let exists = || -> Result<bool> {
        let dump = envoy.admin("/config_dump?resource=dynamic_active_clusters")?;
        Ok(dump.contains("\"name\": \"passthrough-outbound\""))
    };
    ensure!(!exists()?, "passthrough-outbound is there while global egress is off");
    for _ in 0..3 {
        network.global_egress(true)?;
        wait_for("the cluster", Duration::from_secs(5), || matches!(exists(), Ok(true)))?;
        network.global_egress(false)?;
        wait_for("the cluster to go", Duration::from_secs(5), || matches!(exists(), Ok(false)))?;
    }
    assert_eq!(envoy.stat("listener_manager.listener_modified")?, 0);
    Ok(())
}
