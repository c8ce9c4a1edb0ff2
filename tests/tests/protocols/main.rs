//! Protocols through the filter: long, large, many, half-closed and upgraded connections. Where a rule names
//! hosts, the workload dials an address that is not the name's, so each test also shows that the connection
//! reached the address that the sidecar resolved.

#![allow(clippy::wildcard_enum_match_arm, reason = "what a test does not expect fails it")]

mod closes;
mod http2;
mod transfers;
mod upgrades;

use std::io::Read;
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};
use egress_tests::client;
use egress_tests::envoy::Envoy;
use egress_tests::grpc;
use egress_tests::netns::{Pod, ensure_capable};
use egress_tests::network::{HTTPBIN, TestNetwork};
use egress_tests::sidecar;

pub(crate) const POLICIES: &str = "apiVersion: policy.openservicemesh.io/v1alpha1
kind: Egress
metadata: {name: web, namespace: curl}
spec:
  sources: [{kind: ServiceAccount, name: curl, namespace: curl}]
  hosts: [httpbin.org, www.example.com, grpc.example]
  ports:
  - {number: 8080, protocol: http}
  - {number: 8081, protocol: http}
  - {number: 8444, protocol: https}
  - {number: 9203, protocol: https}
  - {number: 50051, protocol: http}
  - {number: 50443, protocol: https}
---
apiVersion: policy.openservicemesh.io/v1alpha1
kind: Egress
metadata: {name: plain, namespace: curl}
spec:
  sources: [{kind: ServiceAccount, name: curl, namespace: curl}]
  ipAddresses: [203.0.113.20/32]
  ports:
  - {number: 9000, protocol: tcp}
  - {number: 9001, protocol: tcp-server-first}
  - {number: 9200, protocol: tcp}
  - {number: 9201, protocol: tcp}
  - {number: 9202, protocol: tcp}
";

pub(crate) const MEGABYTE: u64 = 1_000_000;

/// The decision of port `n` of the policy `web` or `plain`.
pub(crate) fn allow(policy: &str, port: usize) -> String {
    format!("allow rule curl/{policy} spec.ports[{port}]")
}

pub(crate) fn at(ip: IpAddr, port: u16) -> String {
    SocketAddr::new(ip, port).to_string()
}

/// Runs a test in a mesh with these policies, where `grpc.example` resolves to the address of `httpbin.org`.
pub(crate) fn with_mesh(test: impl FnOnce(&TestNetwork, &Pod, &Envoy<'_>) -> Result<()>) -> Result<()> {
    ensure_capable()?;
    let network = TestNetwork::new()?;
    let pod = network.pod()?;
    network.dns.set(grpc::NAME, &[HTTPBIN]);
    network.write("policies.yaml", POLICIES)?;
    let _control_plane = network.control_plane(&[])?;
    let envoy = sidecar::start(&pod, false)?;
    test(&network, &pod, &envoy)
}

pub(crate) fn connect(ip: IpAddr, port: u16) -> Result<TcpStream> {
    client::connect(SocketAddr::new(ip, port)).map_err(|e| anyhow!("port {port}: {e:?}"))
}

/// Runs `work` in the workload.
pub(crate) fn in_workload<T: Send>(pod: &Pod, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    pod.workload().run(work)?
}

/// Runs a future in the workload.
pub(crate) fn in_workload_async<T: Send>(
    pod: &Pod,
    work: impl Future<Output = Result<T>> + Send,
) -> Result<T> {
    in_workload(pod, || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(async { tokio::time::timeout(Duration::from_secs(20), work).await? })
    })
}

/// Reads the head of a response byte by byte, and leaves the rest.
pub(crate) fn head(stream: &mut impl Read) -> Result<String> {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        ensure!(head.len() < 10_000, "the head has no end");
        stream.read_exact(&mut byte).with_context(|| String::from_utf8_lossy(&head).into_owned())?;
        head.push(byte[0]);
    }
    Ok(String::from_utf8(head)?)
}

pub(crate) fn read_until(stream: &mut impl Read, end: &str) -> Result<()> {
    let mut text = Vec::new();
    let mut byte = [0];
    while !text.ends_with(end.as_bytes()) {
        ensure!(text.len() < 10_000, "`{end}` does not come");
        stream.read_exact(&mut byte).with_context(|| String::from_utf8_lossy(&text).into_owned())?;
        text.push(byte[0]);
    }
    Ok(())
}
