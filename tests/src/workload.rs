//! Requests of a workload.

use std::net::SocketAddr;

use anyhow::Result;

use crate::client::{self, Outcome};
use crate::netns::Pod;
use crate::network::HTTPBIN;

/// Returns true if a workload gets an echo from that port.
#[must_use]
pub fn gets_echo(pod: &Pod, port: u16) -> bool {
    let exchange = || client::exchange(SocketAddr::new(HTTPBIN, port), b"ping");
    pod.workload().run(exchange).is_ok_and(|outcome| matches!(outcome, Outcome::Bytes(_)))
}

/// Sends a workload's request for `http://AUTHORITY/PATH` to an address.
///
/// # Errors
/// Fails if the workload's namespace is gone.
pub fn get(pod: &Pod, to: SocketAddr, authority: &str, path: &str) -> Result<Outcome> {
    let request = client::request("GET", path, &[("host", authority), ("connection", "close")]);
    pod.workload().run(|| client::http(to, &request))
}

/// Sends a workload's request over TLS.
///
/// # Errors
/// Fails if the workload's namespace is gone.
pub fn get_tls(pod: &Pod, to: SocketAddr, name: Option<&str>) -> Result<Outcome> {
    let host = name.unwrap_or("none");
    let request = client::request("GET", "/get", &[("host", host), ("connection", "close")]);
    pod.workload().run(|| client::https(to, name, &request))
}
