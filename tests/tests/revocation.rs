//! A policy change closes the connections that it forbids, and no other.

#![allow(clippy::wildcard_enum_match_arm, reason = "what a test does not expect fails it")]

use std::io::Read;
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::sync::atomic::Ordering;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};
use egress_tests::access_log;
use egress_tests::client;
use egress_tests::echo::{still_echoes, wait_for_end};
use egress_tests::manifests::egress;
use egress_tests::mesh::with_prepared_mesh;
use egress_tests::netns::{Pod, ensure_capable};
use egress_tests::network::{ELSEWHERE, EXAMPLE, HTTPBIN, TestNetwork};
use egress_tests::sidecar;
use egress_tests::sink::Sink;
use egress_tests::unanswered_requests;
use egress_tests::wait::wait_for;
use egress_tests::websocket::{self, WebsocketServer};

/// Opens a connection to the echo server, and gets an echo.
fn echo(pod: &Pod, to: IpAddr) -> Result<TcpStream> {
    let mut stream =
        pod.workload().run(|| client::connect(SocketAddr::new(to, 9000)))?.map_err(|e| anyhow!("{e:?}"))?;
    ensure!(still_echoes(&mut stream), "no echo from {to}");
    Ok(stream)
}

#[test]
fn only_forbidden_connections_are_closed() -> Result<()> {
    ensure_capable()?;
    let network = TestNetwork::new()?;
    let pod = network.pod()?;
    network.global_egress(false)?;
    network.write(
        "one.yaml",
        &egress("one", "ipAddresses: [203.0.113.20/32]\nports: [{number: 9000, protocol: tcp}]"),
    )?;
    network.write(
        "two.yaml",
        &egress("two", "ipAddresses: [203.0.113.10/32]\nports: [{number: 9000, protocol: tcp}]"),
    )?;
    network
        .write("tls.yaml", &egress("tls", "hosts: [httpbin.org]\nports: [{number: 443, protocol: https}]"))?;
    let _control_plane = network.control_plane(&[])?;
    let envoy = sidecar::start(&pod, false)?;
    let (one, mut two) = (echo(&pod, EXAMPLE)?, echo(&pod, HTTPBIN)?);
    let tls = pod.workload().run(|| {
        client::connect(SocketAddr::new(HTTPBIN, 443))
            .and_then(|stream| client::tls(stream, Some("httpbin.org")))
    })?;
    let tls = tls.map_err(|e| anyhow!("{e:?}"))?;

    network.remove("one.yaml")?;
    wait_for_end(&one).context("its policy is gone")?;
    ensure!(still_echoes(&mut two), "another policy's connection was closed");

    // Global egress keeps every connection open, and closes those that only it allows when it ends.
    network.global_egress(true)?;
    wait_for("global egress", Duration::from_secs(5), || echo(&pod, ELSEWHERE).is_ok())?;
    let elsewhere = echo(&pod, ELSEWHERE)?;
    network.global_egress(false)?;
    wait_for_end(&elsewhere).context("global egress is off")?;
    ensure!(still_echoes(&mut two), "a connection that a rule allows was closed with global egress");

    // The name decides, not only the port.
    network.write(
        "tls.yaml",
        &egress("tls", "hosts: [www.example.com]\nports: [{number: 443, protocol: https}]"),
    )?;
    wait_for_end(&tls.sock).context("its name is not allowed any more")?;
    ensure!(still_echoes(&mut two), "a TCP connection was closed by a change of names");

    let revoked = || envoy.access_log().iter().filter(|line| line["decision"] == "deny revoked - -").count();
    wait_for("three lines in the access log", Duration::from_secs(5), || revoked() >= 3)?;
    ensure!(envoy.stat("listener_manager.listener_modified")? == 0);
    Ok(())
}

/// A tenth of a thousand connections closes, and the rest is unaffected.
#[test]
fn a_hundred_of_a_thousand_connections_are_closed() -> Result<()> {
    ensure_capable()?;
    let network = TestNetwork::new()?;
    let pod = network.pod()?;
    for n in 0..10 {
        let more = format!("ports: [{{number: {}, protocol: tcp}}]", 9100 + n);
        network.write(&format!("p{n}.yaml"), &egress(&format!("p{n}"), &more))?;
    }
    let _control_plane = network.control_plane(&[])?;
    let _envoy = sidecar::start(&pod, false)?;
    let mut connections = Vec::new();
    for n in 0..1000_u16 {
        let port = 9100 + n % 10;
        let to = SocketAddr::new(EXAMPLE, port);
        let stream = pod.workload().run(|| client::connect(to))?.map_err(|e| anyhow!("{n}: {e:?}"))?;
        connections.push((port, stream));
    }
    for (port, stream) in &mut connections {
        ensure!(still_echoes(stream), "no echo on port {port}");
    }
    network.remove("p3.yaml")?;
    let start = std::time::Instant::now();
    for (_, stream) in connections.iter().filter(|(port, _)| *port == 9103) {
        wait_for_end(stream)?;
    }
    println!("100 of 1000 connections were closed after {:?}", start.elapsed());
    for (port, stream) in connections.iter_mut().filter(|(port, _)| *port != 9103) {
        ensure!(still_echoes(stream), "the connection to port {port} was closed as well");
    }
    Ok(())
}

/// The number of connections that the file limit allows: Envoy needs two files for each, and so does this
/// process, which is client and server and runs other tests meanwhile.
fn limit_by_open_files(wanted: usize) -> Result<usize> {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    let files = |connections: usize| 2 * connections as u64 + 6000;
    // Root may raise the hard limit.
    let _ = setrlimit(Resource::RLIMIT_NOFILE, files(wanted), files(wanted));
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, most, most)?;
    let possible = usize::try_from(most.saturating_sub(6000) / 2)?.min(wanted);
    if possible < wanted {
        println!("ONLY {possible} OF {wanted}: a process may open {most} files here");
    }
    Ok(possible)
}

/// As many connections as a port range has. Envoy closes the connections of one tick recursively, and some
/// 700 overflowed the VM's stack, which then closed everything.
#[test]
fn twenty_thousand_connections_are_closed_at_once() -> Result<()> {
    ensure_capable()?;
    let many = limit_by_open_files(20_000)?;
    let network = TestNetwork::new()?;
    let ports = [9610_u16, 9611];
    let sink = Sink::start(&network.outside.netns, HTTPBIN, ports)?;
    let pod = network.pod()?;
    for (port, name) in [(9610, "ten"), (9611, "eleven"), (9000, "echo")] {
        network.write(
            &format!("{name}.yaml"),
            &egress(name, &format!("ports: [{{number: {port}, protocol: tcp}}]")),
        )?;
    }
    let _control_plane = network.control_plane(&[])?;
    let envoy = sidecar::start(&pod, false)?;
    wait_for("the policy", Duration::from_secs(10), || echo(&pod, HTTPBIN).is_ok())?;
    let mut kept: Vec<_> = (0..20).map(|_| echo(&pod, HTTPBIN)).collect::<Result<_>>()?;
    let streams = pod.workload().run(|| -> Result<Vec<TcpStream>> {
        let connect = |n: usize| {
            client::connect(SocketAddr::new(HTTPBIN, ports[n % 2])).map_err(|e| anyhow!("{n}: {e:?}"))
        };
        (0..many).map(connect).collect()
    })??;
    let arrived = || ports.iter().map(|port| sink.connections(*port)).sum::<usize>();
    wait_for("the connections to arrive", Duration::from_secs(30), || arrived() == many)?;
    // Both in one change.
    network.write("ten.yaml", "")?;
    network.write("eleven.yaml", "")?;
    let start = std::time::Instant::now();
    for stream in &streams {
        let ended = || {
            stream.set_nonblocking(true).is_ok()
                && !matches!((&mut &*stream).read(&mut [0; 16]), Err(e) if e.kind() == std::io::ErrorKind::WouldBlock)
        };
        wait_for("all to be closed", Duration::from_secs(30).saturating_sub(start.elapsed()), ended)?;
    }
    println!("{many} connections were closed after {:?}", start.elapsed());
    for stream in &mut kept {
        ensure!(still_echoes(stream), "what is allowed was closed as well");
    }
    ensure!(echo(&pod, HTTPBIN).is_ok());
    ensure!(!envoy.log().contains("wasm log") || !envoy.log().contains("Function: "), "the VM trapped");
    Ok(())
}

/// HTTP/2 requests need no file each, so any machine can open this many. Envoy takes many resets for an
/// attack and closes the connection, and crashed in doing so.
#[test]
fn twenty_thousand_requests_are_closed_at_once() -> Result<()> {
    const MANY: usize = 20_000;
    ensure_capable()?;
    let network = TestNetwork::new()?;
    let (goes, stays) = (SocketAddr::new(HTTPBIN, 9620), SocketAddr::new(HTTPBIN, 9621));
    let come = [goes, stays].map(|at| unanswered_requests::serve(&network.outside.netns, at));
    let [going, staying] = come.map(|come| come.map_err(|error| error.context("a server")));
    let (going, staying) = (going?, staying?);
    let pod = network.pod()?;
    let allow = |at: SocketAddr, host: &str, name: &str| {
        let more = format!("hosts: [{host}]\nports: [{{number: {}, protocol: http}}]", at.port());
        network.write(&format!("{name}.yaml"), &egress(name, &more))
    };
    allow(goes, "httpbin.org", "goes")?;
    allow(stays, "httpbin.org", "stays")?;
    let _control_plane = network.control_plane(&[])?;
    let mut envoy = sidecar::start(&pod, false)?;
    let ended = unanswered_requests::send(pod.workload(), goes, "httpbin.org:9620", 20, MANY)?;
    let kept = unanswered_requests::send(pod.workload(), stays, "httpbin.org:9621", 2, 20)?;
    let arrived = || going.load(Ordering::Relaxed) == MANY && staying.load(Ordering::Relaxed) == 20;
    wait_for("the requests to arrive", Duration::from_secs(60), arrived)?;
    // The port stays open, so requests end and their connections do not.
    allow(goes, "www.example.com", "goes")?;
    let start = std::time::Instant::now();
    wait_for("all to be ended", Duration::from_secs(30), || ended.load(Ordering::Relaxed) == MANY)?;
    println!("{MANY} requests were ended after {:?}", start.elapsed());
    ensure!(envoy.exited().is_none(), "Envoy crashed");
    ensure!(kept.load(Ordering::Relaxed) == 0, "what is allowed was ended as well");
    ensure!(!envoy.log().contains("Function: "), "the VM trapped");
    Ok(())
}

/// A websocket is a request in flight until it ends.
#[test]
fn a_websocket_ends_with_its_permission() -> Result<()> {
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
    let prepare = |network: &TestNetwork| WebsocketServer::start(&network.outside.netns).map(|_| ());
    with_prepared_mesh(
        prepare,
        &[("one.yaml", &sockets("one", may)), ("two.yaml", &sockets("two", may))],
        |mesh| {
            let mut socket = mesh.pod.workload().run(|| -> Result<_> {
                let stream = client::connect(SocketAddr::new(HTTPBIN, websocket::PORT))
                    .map_err(|e| anyhow!("{e:?}"))?;
                Ok(tungstenite::client("ws://httpbin.org/chat", stream).map_err(|e| anyhow!("{e}"))?.0)
            })??;
            let mut echoes = |text: &str| -> Result<()> {
                socket.send(text.into())?;
                ensure!(socket.read()?.to_text()? == text);
                Ok(())
            };
            echoes("first")?;
            // Another policy's change affects no connection.
            mesh.remove("one.yaml")?;
            echoes("second")?;
            mesh.write("one.yaml", &sockets("one", ""))?;
            echoes("third")?;
            // Requests are still allowed, and the upgrade is not.
            mesh.write("two.yaml", &sockets("two", ""))?;
            wait_for_end(socket.get_ref())?;
            access_log::wait_for_line(mesh.envoy, "the revocation", |line| {
                line["decision"] == "deny revoked - -" && line["kind"] == "request" && line["status"] == 101
            })?;
            Ok(())
        },
    )
}
