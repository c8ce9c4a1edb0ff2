//! Defects of Open Service Mesh that do not exist here: each test has the number of one, and its first
//! sentence describes the defect. D8, D9 and the others without a test here concern Kubernetes, are limits
//! that the threat model names, or are the features themselves.

#![allow(clippy::wildcard_enum_match_arm, reason = "what a test does not expect fails it")]

mod decisions;
mod updates;

use std::net::{IpAddr, SocketAddr};

use anyhow::{Context, Result, ensure};
use egress_tests::manifests::egress;
use egress_tests::mesh::TestMesh;
use egress_tests::network::HTTPBIN;

pub(crate) fn at(ip: IpAddr, port: u16) -> SocketAddr {
    SocketAddr::new(ip, port)
}

/// A second policy, which changes of the tested one must not affect.
pub(crate) fn bystander() -> String {
    egress("bystander", "ipAddresses: [203.0.113.10/32]\nports: [{number: 9000, protocol: tcp}]")
}

pub(crate) fn expect_bystander(mesh: &TestMesh<'_>) -> Result<()> {
    mesh.exchange(at(HTTPBIN, 9000), b"hello")?.expect_echo(b"hello").context("another policy")
}

/// Requires that Envoy rejected nothing and that its listener is unchanged.
pub(crate) fn expect_no_rejection(mesh: &TestMesh<'_>) -> Result<()> {
    let rejected = mesh.metric("osm_egress_xds_rejected_total")?;
    ensure!(rejected == 0, "Envoy rejected {rejected} updates:\n{:#}", mesh.control_plane.status()?);
    ensure!(mesh.envoy.stat("listener_manager.listener_modified")? == 0, "a listener was modified");
    Ok(())
}
