//! Whatever began under another policy is decided by the newest one.

use std::cell::OnceCell;
use std::io::Write;
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};
use egress_tests::client;
use egress_tests::echo::{ends, lives};
use egress_tests::hello::Hello;
use egress_tests::log;
use egress_tests::mesh::{self, ELSEWHERE, EXAMPLE, HTTPBIN, World};
use egress_tests::netns::{Form, Pod, ensure_capable};
use egress_tests::scene::{Scene, Setting};
use egress_tests::sink::Sink;
use egress_tests::wait::wait_for;

const SINK: u16 = 9600;

fn policy(name: &str, more: &str) -> String {
    format!(
        "apiVersion: policy.openservicemesh.io/v1alpha1\nkind: Egress\nmetadata: {{name: {name}, namespace: curl}}\n\
         spec:\n  sources: [{{kind: ServiceAccount, name: curl, namespace: curl}}]\n  {more}\n"
    )
}

fn mode(mode: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Namespace\nmetadata: {{name: curl, annotations: {{openservicemesh.io/egress-mode: {mode}}}}}\n"
    )
}

fn https(hosts: &str) -> String {
    policy("names", &format!("{hosts}\n  ports: [{{number: {SINK}, protocol: https}}]"))
}

fn play(manifests: &[(&str, &str)], test: impl FnOnce(&Scene<'_>, &Sink) -> Result<()>) -> Result<()> {
    let flags = ["--first-bytes-timeout", "2s"];
    let sink = OnceCell::new();
    Setting { manifests, flags: &flags, form: Form::possible() }.play(
        |world| {
            let _ = sink.set(Sink::start(&world.outside.netns, HTTPBIN, [SINK])?);
            Ok(())
        },
        |scene| test(scene, sink.get().context("a sink")?),
    )
}

fn connect(pod: &Pod, to: IpAddr, port: u16) -> Result<TcpStream> {
    let to = SocketAddr::new(to, port);
    pod.workload().run(|| client::connect(to))?.map_err(|e| anyhow!("{to}: {e:?}"))
}

/// A connection to the sink whose first bytes came through.
fn opened(scene: &Scene<'_>, sink: &Sink, bytes: &[u8]) -> Result<TcpStream> {
    let before = sink.connections(SINK);
    let mut stream = connect(scene.pod, HTTPBIN, SINK)?;
    stream.write_all(bytes)?;
    wait_for("the connection to arrive", Duration::from_secs(5), || sink.connections(SINK) > before)?;
    Ok(stream)
}

/// The rest of a hello comes when its name is not allowed any more.
#[test]
fn a_silent_connection_does_not_keep_its_policy() -> Result<()> {
    let tls = https("hosts: [httpbin.org]");
    play(&[("tls.yaml", &tls)], |scene, sink| {
        let hello = Hello::named("httpbin.org").bytes();
        let (start, rest) = hello.split_at(40);
        let mut half = connect(scene.pod, HTTPBIN, SINK)?;
        half.write_all(start)?;
        let mut silent = connect(scene.pod, HTTPBIN, SINK)?;
        scene.write("tls.yaml", &https("hosts: [www.example.com]"))?;
        half.write_all(rest)?;
        ends(&half).context("half a hello")?;
        silent.write_all(&hello)?;
        ends(&silent).context("no hello")?;
        ensure!(sink.arrivals().is_empty(), "{:?}", sink.arrivals());
        for _ in 0..2 {
            log::line(scene.envoy, "the refusal", |line| line["decision"] == "deny sni-not-allowed - -")?;
        }
        // A policy without any rule for it does not even wait.
        let waiting = connect(scene.pod, HTTPBIN, SINK)?;
        scene.remove("tls.yaml")?;
        ends(&waiting).context("no rule")?;
        // And one that allows it without first bytes lets it go on.
        scene.write("tls.yaml", &https("hosts: [www.example.com]"))?;
        let mut waiting = connect(scene.pod, HTTPBIN, SINK)?;
        scene.write("tcp.yaml", &policy("tcp", &format!("ports: [{{number: {SINK}, protocol: tcp}}]")))?;
        wait_for("the connection to arrive", Duration::from_secs(1), || sink.connections(SINK) == 1)?;
        waiting.write_all(b"ping")?;
        Ok(())
    })
}

/// The mode of the moment judges the time-out.
#[test]
fn a_silent_connection_does_not_keep_its_mode() -> Result<()> {
    let tls = https("hosts: [httpbin.org]");
    play(&[("tls.yaml", &tls), ("mode.yaml", &mode("audit"))], |scene, sink| {
        let mut streams = Vec::new();
        for _ in 0..3 {
            streams.push(connect(scene.pod, HTTPBIN, SINK)?);
        }
        scene.write("mode.yaml", &mode("enforce"))?;
        log::line(scene.envoy, "the refusal", |line| line["decision"] == "deny first-bytes-timeout - -")?;
        for stream in &streams {
            ends(stream)?;
        }
        ensure!(sink.arrivals().is_empty(), "{:?}", sink.arrivals());
        Ok(())
    })
}

/// Both allow the connection; what allowed it first led it elsewhere.
#[test]
fn a_connection_that_is_led_elsewhere_now_is_closed() -> Result<()> {
    let any = https("");
    let named = https("hosts: [httpbin.org]");
    let hello = Hello::named("httpbin.org").bytes();
    // Any TLS, and then a name.
    play(&[("tls.yaml", &any)], |scene, sink| {
        let stream = opened(scene, sink, &hello)?;
        scene.write("tls.yaml", &named)?;
        ends(&stream).context("from any TLS to a name")?;
        log::line(scene.envoy, "the revocation", |line| line["decision"] == "deny revoked - -")?;

        // The name, and then any TLS: it ended where that allows it.
        let mut stream = opened(scene, sink, &hello)?;
        scene.write("tls.yaml", &any)?;
        let before = sink.arrivals().len();
        stream.write_all(b"still here")?;
        wait_for("more bytes", Duration::from_secs(5), || sink.arrivals().len() > before)?;
        // And an address that it did not end at.
        let block = "ipAddresses: [198.51.100.0/24]";
        scene.write("tls.yaml", &https(block))?;
        ends(&stream).context("from any TLS to another address")?;

        // An exact name, and then a wildcard above it, which leads to fewer addresses. Which one the connection reached
        // is not known.
        scene.write("tls.yaml", &named)?;
        let stream = opened(scene, sink, &hello)?;
        scene.write("tls.yaml", &https(r#"hosts: ["*.org"]"#))?;
        ends(&stream).context("from a name to a wildcard")?;
        // The other way round it goes on.
        let mut stream = opened(scene, sink, &hello)?;
        scene.write("tls.yaml", &named)?;
        let before = sink.arrivals().len();
        stream.write_all(b"still here")?;
        wait_for("more bytes", Duration::from_secs(5), || sink.arrivals().len() > before)?;
        Ok(())
    })?;
    // Audit mode, and then none.
    play(&[("mode.yaml", &mode("audit"))], |scene, sink| {
        let stream = opened(scene, sink, &hello)?;
        scene.write("tls.yaml", &named)?;
        scene.write("mode.yaml", &mode("enforce"))?;
        ends(&stream).context("from audit to a name")?;
        Ok(())
    })
}

/// The same for requests: an upload that goes on.
#[test]
fn a_request_that_is_led_elsewhere_now_is_closed() -> Result<()> {
    let http = |more: &str| policy("web", &format!("{more}\n  ports: [{{number: {SINK}, protocol: http}}]"));
    let upload = b"POST / HTTP/1.1\r\nhost: httpbin.org\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n";
    let block = format!("hosts: [httpbin.org]\n  ipAddresses: [{HTTPBIN}/32]");
    play(&[("web.yaml", &http(&block))], |scene, sink| {
        // By the address, and then by the name.
        let stream = opened(scene, sink, upload)?;
        scene.write("web.yaml", &http("hosts: [httpbin.org]"))?;
        ends(&stream).context("from an address to a name")?;
        log::line(scene.envoy, "the revocation", |line| {
            line["decision"] == "deny revoked - -" && line["kind"] == "request"
        })?;
        // By the name, and then by any bytes to any address: the upload goes on, and so does the connection.
        let mut stream = opened(scene, sink, upload)?;
        scene.write("web.yaml", &policy("web", &format!("ports: [{{number: {SINK}, protocol: tcp}}]")))?;
        let before = sink.arrivals().len();
        stream.write_all(b"3\r\nabc\r\n")?;
        wait_for("more of the upload", Duration::from_secs(5), || sink.arrivals().len() > before)?;
        // To some addresses: which one it reached is not known.
        let block = format!("ipAddresses: [{HTTPBIN}/32]\n  ports: [{{number: {SINK}, protocol: tcp}}]");
        scene.write("web.yaml", &policy("web", &block))?;
        ends(&stream).context("from a name to an address")?;
        Ok(())
    })
}

/// A policy, another, and the first again, while a connection of the first lives; with the control plane
/// started anew in between, too.
#[test]
fn a_policy_that_comes_back_counts() -> Result<()> {
    ensure_capable()?;
    let world = World::new()?;
    let pod = world.pod()?;
    let echo = |name: &str, at: IpAddr| {
        policy(name, &format!("ipAddresses: [{at}/32]\n  ports: [{{number: 9000, protocol: tcp}}]"))
    };
    world.write("a.yaml", &echo("a", HTTPBIN))?;
    let mut shim = world.shim(&[])?;
    let envoy = mesh::sidecar(&pod, false)?;
    let echoing = |to: IpAddr| -> Result<TcpStream> {
        let mut stream = connect(&pod, to, 9000)?;
        ensure!(lives(&mut stream), "no echo from {to}");
        Ok(stream)
    };
    let mut held = echoing(HTTPBIN)?;
    for restart in [false, true, false] {
        world.write("b.yaml", &echo("b", EXAMPLE))?;
        wait_for("the second policy", Duration::from_secs(20), || echoing(EXAMPLE).is_ok())?;
        let of_second = echoing(EXAMPLE)?;
        if restart {
            shim.stop()?;
            world.remove("b.yaml")?;
            shim = world.shim(&[])?;
            wait_for("the first policy", Duration::from_secs(40), || echoing(EXAMPLE).is_err())?;
        } else {
            world.remove("b.yaml")?;
        }
        ends(&of_second).with_context(|| format!("the second policy is gone; restart: {restart}"))?;
        ensure!(lives(&mut held), "what the first policy allows was closed");
        ensure!(echoing(ELSEWHERE).is_err() && echoing(HTTPBIN).is_ok());
    }
    // A control plane that comes back with the same sends nothing.
    let stats = envoy.admin("/stats?filter=extension_config_discovery.*egress-policy.config_reload")?;
    shim.stop()?;
    let shim = world.shim(&[])?;
    wait_for("the proxy to come back", Duration::from_secs(40), || {
        shim.status().is_ok_and(|status| status["proxies"][0]["documentAcknowledged"].is_string())
    })
    .with_context(|| format!("{:#}", shim.status().unwrap_or_default()))?;
    let after = envoy.admin("/stats?filter=extension_config_discovery.*egress-policy.config_reload")?;
    ensure!(stats == after && !stats.is_empty(), "{stats} {after}");
    Ok(())
}
