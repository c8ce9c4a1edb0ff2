//! The sidecar of `curl/curl`, with the bootstrap of `osm-egress bootstrap`.

use std::net::SocketAddr;
use std::process::Command;

use anyhow::{Result, ensure};

use crate::control_plane;
use crate::envoy::{self, Envoy};
use crate::netns::Pod;
use crate::network::CONTROL_PLANE;

/// Runs `osm-egress bootstrap`. `EGRESS_XDS=delta` forces delta: `cargo xtask test` runs everything with both
/// protocols.
///
/// # Errors
/// Fails if it prints none.
pub fn bootstrap(identity: &str, delta: bool) -> Result<String> {
    bootstrap_with(identity, delta, &[])
}

/// Runs `osm-egress bootstrap` with additional flags.
///
/// # Errors
/// Fails if it prints none.
pub fn bootstrap_with(identity: &str, delta: bool, flags: &[&str]) -> Result<String> {
    let delta = delta || std::env::var_os("EGRESS_XDS").is_some_and(|protocol| protocol == "delta");
    let xds = SocketAddr::new(CONTROL_PLANE, 15128).to_string();
    let output = Command::new(control_plane::binary()?)
        .args(["bootstrap", "--identity", identity, "--envoy-version", &envoy::version()?])
        .args(if flags.contains(&"--xds") { vec![] } else { vec!["--xds", &xds] })
        .args(delta.then_some("--delta"))
        .args(flags)
        .output()?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8(output.stdout)?)
}

/// Starts a sidecar of `curl/curl` that connects to the control plane.
///
/// # Errors
/// Fails if it does not get ready.
pub fn start(pod: &Pod, delta: bool) -> Result<Envoy<'_>> {
    Envoy::start(pod, &bootstrap("curl/curl", delta)?, 1)
}
