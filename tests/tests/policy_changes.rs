//! Connections and requests that began under an earlier policy: the newest one decides them.

use std::cell::OnceCell;
use std::io::Write;
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};
use egress_tests::access_log;
use egress_tests::client;
use egress_tests::echo::{still_echoes, wait_for_end};
use egress_tests::hello::Hello;
use egress_tests::manifests::{egress, namespace_mode};
use egress_tests::mesh::{MeshOptions, TestMesh};
use egress_tests::netns::{Pod, PodForm, ensure_capable};
use egress_tests::network::{ELSEWHERE, EXAMPLE, HTTPBIN, TestNetwork};
use egress_tests::sidecar;
use egress_tests::sink::Sink;
use egress_tests::wait::wait_for;

const SINK_PORT: u16 = 9600;

fn https(hosts: &str) -> String {
    egress("names", &format!("{hosts}\nports: [{{number: {SINK_PORT}, protocol: https}}]"))
}

fn with_mesh(
    manifests: &[(&str, &str)],
    test: impl FnOnce(&TestMesh<'_>, &Sink) -> Result<()>,
) -> Result<()> {
    let flags = ["--first-bytes-timeout", "2s"];
    let sink = OnceCell::new();
    MeshOptions { manifests, flags: &flags, form: PodForm::supported() }.run(
        |network| {
            let _ = sink.set(Sink::start(&network.outside.netns, HTTPBIN, [SINK_PORT])?);
            Ok(())
        },
        |mesh| test(mesh, sink.get().context("a sink")?),
    )
}

fn connect(pod: &Pod, to: IpAddr, port: u16) -> Result<TcpStream> {
    let to = SocketAddr::new(to, port);
    pod.workload().run(|| client::connect(to))?.map_err(|e| anyhow!("{to}: {e:?}"))
}

/// Opens a connection to the sink whose first bytes arrived.
fn opened(mesh: &TestMesh<'_>, sink: &Sink, bytes: &[u8]) -> Result<TcpStream> {
    let before = sink.connections(SINK_PORT);
    let mut stream = connect(mesh.pod, HTTPBIN, SINK_PORT)?;
    stream.write_all(bytes)?;
    wait_for("the connection to arrive", Duration::from_secs(5), || sink.connections(SINK_PORT) > before)?;
    Ok(stream)
}

/// The rest of a hello arrives after its name was revoked.
#[test]
fn a_silent_connection_does_not_keep_its_policy() -> Result<()> {
    let tls = https("hosts: [httpbin.org]");
    with_mesh(&[("tls.yaml", &tls)], |mesh, sink| {
        let hello = Hello::named("httpbin.org").bytes();
        let (start, rest) = hello.split_at(40);
        let mut half = connect(mesh.pod, HTTPBIN, SINK_PORT)?;
        half.write_all(start)?;
        let mut silent = connect(mesh.pod, HTTPBIN, SINK_PORT)?;
        mesh.write("tls.yaml", &https("hosts: [www.example.com]"))?;
        half.write_all(rest)?;
        wait_for_end(&half).context("half a hello")?;
        silent.write_all(&hello)?;
        wait_for_end(&silent).context("no hello")?;
        ensure!(sink.arrivals().is_empty(), "{:?}", sink.arrivals());
        for _ in 0..2 {
            access_log::wait_for_line(mesh.envoy, "the refusal", |line| {
                line["decision"] == "deny sni-not-allowed - -"
            })?;
        }
        // Without a rule for the port the connection closes at once.
        let waiting = connect(mesh.pod, HTTPBIN, SINK_PORT)?;
        mesh.remove("tls.yaml")?;
        wait_for_end(&waiting).context("no rule")?;
        // A policy that needs no first bytes allows it.
        mesh.write("tls.yaml", &https("hosts: [www.example.com]"))?;
        let mut waiting = connect(mesh.pod, HTTPBIN, SINK_PORT)?;
        mesh.write("tcp.yaml", &egress("tcp", &format!("ports: [{{number: {SINK_PORT}, protocol: tcp}}]")))?;
        wait_for("the connection to arrive", Duration::from_secs(1), || sink.connections(SINK_PORT) == 1)?;
        waiting.write_all(b"ping")?;
        Ok(())
    })
}

/// The mode at the time of the timeout decides.
#[test]
fn a_silent_connection_does_not_keep_its_mode() -> Result<()> {
    let tls = https("hosts: [httpbin.org]");
    with_mesh(&[("tls.yaml", &tls), ("mode.yaml", &namespace_mode("audit"))], |mesh, sink| {
        let mut streams = Vec::new();
        for _ in 0..3 {
            streams.push(connect(mesh.pod, HTTPBIN, SINK_PORT)?);
        }
        mesh.write("mode.yaml", &namespace_mode("enforce"))?;
        access_log::wait_for_line(mesh.envoy, "the refusal", |line| {
            line["decision"] == "deny first-bytes-timeout - -"
        })?;
        for stream in &streams {
            wait_for_end(stream)?;
        }
        ensure!(sink.arrivals().is_empty(), "{:?}", sink.arrivals());
        Ok(())
    })
}

/// Both policies allow the connection; the first one leads it to another address.
#[test]
fn a_connection_with_a_new_destination_is_closed() -> Result<()> {
    let any = https("");
    let named = https("hosts: [httpbin.org]");
    let hello = Hello::named("httpbin.org").bytes();
    // First any TLS, then a name.
    with_mesh(&[("tls.yaml", &any)], |mesh, sink| {
        let stream = opened(mesh, sink, &hello)?;
        mesh.write("tls.yaml", &named)?;
        wait_for_end(&stream).context("from any TLS to a name")?;
        access_log::wait_for_line(mesh.envoy, "the revocation", |line| {
            line["decision"] == "deny revoked - -"
        })?;

        // First the name, then any TLS: the address that it reached is allowed.
        let mut stream = opened(mesh, sink, &hello)?;
        mesh.write("tls.yaml", &any)?;
        let before = sink.arrivals().len();
        stream.write_all(b"still here")?;
        wait_for("more bytes", Duration::from_secs(5), || sink.arrivals().len() > before)?;
        // An address that it did not reach.
        let block = "ipAddresses: [198.51.100.0/24]";
        mesh.write("tls.yaml", &https(block))?;
        wait_for_end(&stream).context("from any TLS to another address")?;

        // First an exact name, then a wildcard, which blocks more addresses. The address that the connection
        // reached
        // is not known.
        mesh.write("tls.yaml", &named)?;
        let stream = opened(mesh, sink, &hello)?;
        mesh.write("tls.yaml", &https(r#"hosts: ["*.org"]"#))?;
        wait_for_end(&stream).context("from a name to a wildcard")?;
        // In the other order it continues.
        let mut stream = opened(mesh, sink, &hello)?;
        mesh.write("tls.yaml", &named)?;
        let before = sink.arrivals().len();
        stream.write_all(b"still here")?;
        wait_for("more bytes", Duration::from_secs(5), || sink.arrivals().len() > before)?;
        Ok(())
    })?;
    // First audit mode, then enforcement.
    with_mesh(&[("mode.yaml", &namespace_mode("audit"))], |mesh, sink| {
        let stream = opened(mesh, sink, &hello)?;
        mesh.write("tls.yaml", &named)?;
        mesh.write("mode.yaml", &namespace_mode("enforce"))?;
        wait_for_end(&stream).context("from audit to a name")?;
        Ok(())
    })
}

/// Both policies allow an upload that continues; the first one leads it to another address.
#[test]
fn a_request_with_a_new_destination_is_closed() -> Result<()> {
    let http =
        |more: &str| egress("web", &format!("{more}\nports: [{{number: {SINK_PORT}, protocol: http}}]"));
    let upload = b"POST / HTTP/1.1\r\nhost: httpbin.org\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n";
    let block = format!("hosts: [httpbin.org]\nipAddresses: [{HTTPBIN}/32]");
    with_mesh(&[("web.yaml", &http(&block))], |mesh, sink| {
        // First by address, then by name.
        let stream = opened(mesh, sink, upload)?;
        mesh.write("web.yaml", &http("hosts: [httpbin.org]"))?;
        wait_for_end(&stream).context("from an address to a name")?;
        access_log::wait_for_line(mesh.envoy, "the revocation", |line| {
            line["decision"] == "deny revoked - -" && line["kind"] == "request"
        })?;
        // First by name, then any bytes to any address: the upload and the connection continue.
        let mut stream = opened(mesh, sink, upload)?;
        mesh.write("web.yaml", &egress("web", &format!("ports: [{{number: {SINK_PORT}, protocol: tcp}}]")))?;
        let before = sink.arrivals().len();
        stream.write_all(b"3\r\nabc\r\n")?;
        wait_for("more of the upload", Duration::from_secs(5), || sink.arrivals().len() > before)?;
        // To some addresses: the one that it reached is not known.
        let block = format!("ipAddresses: [{HTTPBIN}/32]\nports: [{{number: {SINK_PORT}, protocol: tcp}}]");
        mesh.write("web.yaml", &egress("web", &block))?;
        wait_for_end(&stream).context("from a name to an address")?;
        Ok(())
    })
}

/// A policy, another one, and the first again, while a connection of the first lives; also with a restart of
/// the control plane in between.
#[test]
fn a_policy_that_returns_is_in_force() -> Result<()> {
    ensure_capable()?;
    let network = TestNetwork::new()?;
    let pod = network.pod()?;
    let echo = |name: &str, at: IpAddr| {
        egress(name, &format!("ipAddresses: [{at}/32]\nports: [{{number: 9000, protocol: tcp}}]"))
    };
    network.write("a.yaml", &echo("a", HTTPBIN))?;
    let mut control_plane = network.control_plane(&[])?;
    let envoy = sidecar::start(&pod, false)?;
    let echoing = |to: IpAddr| -> Result<TcpStream> {
        let mut stream = connect(&pod, to, 9000)?;
        ensure!(still_echoes(&mut stream), "no echo from {to}");
        Ok(stream)
    };
    let mut held = echoing(HTTPBIN)?;
    for restart in [false, true, false] {
        network.write("b.yaml", &echo("b", EXAMPLE))?;
        wait_for("the second policy", Duration::from_secs(20), || echoing(EXAMPLE).is_ok())?;
        let of_second = echoing(EXAMPLE)?;
        if restart {
            control_plane.stop()?;
            network.remove("b.yaml")?;
            control_plane = network.control_plane(&[])?;
            wait_for("the first policy", Duration::from_secs(40), || echoing(EXAMPLE).is_err())?;
        } else {
            network.remove("b.yaml")?;
        }
        wait_for_end(&of_second).with_context(|| format!("the second policy is gone; restart: {restart}"))?;
        ensure!(still_echoes(&mut held), "what the first policy allows was closed");
        ensure!(echoing(ELSEWHERE).is_err() && echoing(HTTPBIN).is_ok());
    }
    // A restarted control plane with the same policy sends nothing.
    let stats = envoy.admin("/stats?filter=extension_config_discovery.*egress-policy.config_reload")?;
    control_plane.stop()?;
    let control_plane = network.control_plane(&[])?;
    wait_for("the proxy to come back", Duration::from_secs(40), || {
        control_plane.status().is_ok_and(|status| status["proxies"][0]["documentAcknowledged"].is_string())
    })
    .with_context(|| format!("{:#}", control_plane.status().unwrap_or_default()))?;
    let after = envoy.admin("/stats?filter=extension_config_discovery.*egress-policy.config_reload")?;
    ensure!(stats == after && !stats.is_empty(), "{stats} {after}");
    Ok(())
}
