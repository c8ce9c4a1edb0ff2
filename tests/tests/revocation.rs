//! A policy change closes the connections that it forbids, and no other.

#![allow(clippy::wildcard_enum_match_arm, reason = "what a test does not expect fails it")]

use std::net::{IpAddr, SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};
use egress_tests::client;
use egress_tests::echo::{ends, lives};
use egress_tests::log;
use egress_tests::mesh::{self, ELSEWHERE, EXAMPLE, HTTPBIN, World};
use egress_tests::netns::{Pod, ensure_capable};
use egress_tests::scene::play_in;
use egress_tests::wait::wait_for;
use egress_tests::websocket::{self, WebsocketServer};

fn policy(name: &str, more: &str) -> String {
    format!(
        "apiVersion: policy.openservicemesh.io/v1alpha1\nkind: Egress\nmetadata: {{name: {name}, namespace: curl}}\n\
         spec:\n  sources: [{{kind: ServiceAccount, name: curl, namespace: curl}}]\n  {more}\n"
    )
}

/// A connection to the echo server that has echoed already.
fn echo(pod: &Pod, to: IpAddr) -> Result<TcpStream> {
    let mut stream =
        pod.workload().run(|| client::connect(SocketAddr::new(to, 9000)))?.map_err(|e| anyhow!("{e:?}"))?;
    ensure!(lives(&mut stream), "no echo from {to}");
    Ok(stream)
}

#[test]
fn just_what_is_forbidden_is_closed() -> Result<()> {
    ensure_capable()?;
    let world = World::new()?;
    let pod = world.pod()?;
    world.global_egress(false)?;
    world.write(
        "one.yaml",
        &policy("one", "ipAddresses: [203.0.113.20/32]\n  ports: [{number: 9000, protocol: tcp}]"),
    )?;
    world.write(
        "two.yaml",
        &policy("two", "ipAddresses: [203.0.113.10/32]\n  ports: [{number: 9000, protocol: tcp}]"),
    )?;
    world.write(
        "tls.yaml",
        &policy("tls", "hosts: [httpbin.org]\n  ports: [{number: 443, protocol: https}]"),
    )?;
    let _shim = world.shim(&[])?;
    let envoy = mesh::sidecar(&pod, false)?;
    let (one, mut two) = (echo(&pod, EXAMPLE)?, echo(&pod, HTTPBIN)?);
    let tls = pod.workload().run(|| {
        client::connect(SocketAddr::new(HTTPBIN, 443))
            .and_then(|stream| client::tls(stream, Some("httpbin.org")))
    })?;
    let tls = tls.map_err(|e| anyhow!("{e:?}"))?;

    world.remove("one.yaml")?;
    ends(&one).context("its policy is gone")?;
    ensure!(lives(&mut two), "another policy's connection was closed");

    // Global egress lets everything live, and what lives by it alone ends with it.
    world.global_egress(true)?;
    wait_for("global egress", Duration::from_secs(5), || echo(&pod, ELSEWHERE).is_ok())?;
    let elsewhere = echo(&pod, ELSEWHERE)?;
    world.global_egress(false)?;
    ends(&elsewhere).context("global egress is off")?;
    ensure!(lives(&mut two), "a connection that a rule allows was closed with global egress");

    // The name that was seen is asked about, not only the port.
    world.write(
        "tls.yaml",
        &policy("tls", "hosts: [www.example.com]\n  ports: [{number: 443, protocol: https}]"),
    )?;
    ends(&tls.sock).context("its name is not allowed any more")?;
    ensure!(lives(&mut two), "a TCP connection was closed by a change of names");

    let revoked = || envoy.access_log().iter().filter(|line| line["decision"] == "deny revoked - -").count();
    wait_for("three lines in the access log", Duration::from_secs(5), || revoked() >= 3)?;
    ensure!(envoy.stat("listener_manager.listener_modified")? == 0);
    Ok(())
}

/// Many at once: a tenth goes, the rest does not notice.
#[test]
fn a_hundred_of_a_thousand() -> Result<()> {
    ensure_capable()?;
    let world = World::new()?;
    let pod = world.pod()?;
    for n in 0..10 {
        let more = format!("ports: [{{number: {}, protocol: tcp}}]", 9100 + n);
        world.write(&format!("p{n}.yaml"), &policy(&format!("p{n}"), &more))?;
    }
    let _shim = world.shim(&[])?;
    let _envoy = mesh::sidecar(&pod, false)?;
    let mut connections = Vec::new();
    for n in 0..1000_u16 {
        let port = 9100 + n % 10;
        let to = SocketAddr::new(EXAMPLE, port);
        let stream = pod.workload().run(|| client::connect(to))?.map_err(|e| anyhow!("{n}: {e:?}"))?;
        connections.push((port, stream));
    }
    for (port, stream) in &mut connections {
        ensure!(lives(stream), "no echo on port {port}");
    }
    world.remove("p3.yaml")?;
    let start = std::time::Instant::now();
    for (_, stream) in connections.iter().filter(|(port, _)| *port == 9103) {
        ends(stream)?;
    }
    println!("100 of 1000 connections were closed after {:?}", start.elapsed());
    for (port, stream) in connections.iter_mut().filter(|(port, _)| *port != 9103) {
        ensure!(lives(stream), "the connection to port {port} was closed as well");
    }
    Ok(())
}

/// A websocket is a request that is under way until it ends.
#[test]
fn a_websocket_ends_with_its_leave() -> Result<()> {
    let sockets = |name: &str, annotation: &str| {
        format!(
            "apiVersion: policy.openservicemesh.io/v1alpha1\nkind: Egress\n\
             metadata: {{name: {name}, namespace: curl, annotations: {{{annotation}}}}}\n\
             spec:\n  sources: [{{kind: ServiceAccount, name: curl, namespace: curl}}]\n  \
             hosts: [httpbin.org]\n  ports: [{{number: {}, protocol: http}}]\n",
            websocket::PORT
        )
    };
    let may = "openservicemesh.io/egress-upgrades: websocket";
    let prepare = |world: &World| WebsocketServer::start(&world.outside.netns).map(|_| ());
    play_in(prepare, &[("one.yaml", &sockets("one", may)), ("two.yaml", &sockets("two", may))], |scene| {
        let mut socket = scene.pod.workload().run(|| -> Result<_> {
            let stream =
                client::connect(SocketAddr::new(HTTPBIN, websocket::PORT)).map_err(|e| anyhow!("{e:?}"))?;
            Ok(tungstenite::client("ws://httpbin.org/chat", stream).map_err(|e| anyhow!("{e}"))?.0)
        })??;
        let mut echoes = |text: &str| -> Result<()> {
            socket.send(text.into())?;
            ensure!(socket.read()?.to_text()? == text);
            Ok(())
        };
        echoes("first")?;
        // One policy is enough, and another change concerns nobody.
        scene.remove("one.yaml")?;
        echoes("second")?;
        scene.write("one.yaml", &sockets("one", ""))?;
        echoes("third")?;
        // Requests are still allowed, and the upgrade is not.
        scene.write("two.yaml", &sockets("two", ""))?;
        ends(socket.get_ref())?;
        log::line(scene.envoy, "the revocation", |line| {
            line["decision"] == "deny revoked - -" && line["kind"] == "request" && line["status"] == 101
        })?;
        Ok(())
    })
}
