//! Protocols through the filter: long, large, many, half-closed and upgraded connections. Where a rule names
//! hosts, the workload dials an address that is not the name's, so each test also shows that the connection
//! reached the address that the sidecar resolved.

#![allow(clippy::wildcard_enum_match_arm, reason = "what a test does not expect fails it")]

use std::io::{Read, Write};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use bytes::Bytes;
use egress_tests::access_log;
use egress_tests::client::{self, Outcome};
use egress_tests::envoy::Envoy;
use egress_tests::grpc::{self, GrpcServer, Text};
use egress_tests::netns::{Pod, ensure_capable};
use egress_tests::network::{ELSEWHERE, EXAMPLE, HTTPBIN, TestNetwork};
use egress_tests::origin::{ADDRESS_HEADER, GREETING};
use egress_tests::pattern_servers::{self, PatternCheck, PatternServers};
use egress_tests::sidecar;
use egress_tests::wait::wait_for;
use egress_tests::websocket::{self, WebsocketServer};
use http_body_util::{BodyExt, Empty};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tonic::transport::Channel;
use tungstenite::Message;

const POLICIES: &str = "apiVersion: policy.openservicemesh.io/v1alpha1
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

const MEGABYTE: u64 = 1_000_000;

/// The decision of port `n` of the policy `web` or `plain`.
fn allow(policy: &str, port: usize) -> String {
    format!("allow rule curl/{policy} spec.ports[{port}]")
}

fn at(ip: IpAddr, port: u16) -> String {
    SocketAddr::new(ip, port).to_string()
}

/// Runs a test in a mesh with these policies, where `grpc.example` resolves to the address of `httpbin.org`.
fn with_mesh(test: impl FnOnce(&TestNetwork, &Pod, &Envoy<'_>) -> Result<()>) -> Result<()> {
    ensure_capable()?;
    let network = TestNetwork::new()?;
    let pod = network.pod()?;
    network.dns.set(grpc::NAME, &[HTTPBIN]);
    network.write("policies.yaml", POLICIES)?;
    let _control_plane = network.control_plane(&[])?;
    let envoy = sidecar::start(&pod, false)?;
    test(&network, &pod, &envoy)
}

fn connect(ip: IpAddr, port: u16) -> Result<TcpStream> {
    client::connect(SocketAddr::new(ip, port)).map_err(|e| anyhow!("port {port}: {e:?}"))
}

/// Runs `work` in the workload.
fn in_workload<T: Send>(pod: &Pod, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    pod.workload().run(work)?
}

/// Runs a future in the workload.
fn in_workload_async<T: Send>(pod: &Pod, work: impl Future<Output = Result<T>> + Send) -> Result<T> {
    in_workload(pod, || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(async { tokio::time::timeout(Duration::from_secs(20), work).await? })
    })
}

/// Reads the head of a response byte by byte, and leaves the rest.
fn head(stream: &mut impl Read) -> Result<String> {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        ensure!(head.len() < 10_000, "the head has no end");
        stream.read_exact(&mut byte).with_context(|| String::from_utf8_lossy(&head).into_owned())?;
        head.push(byte[0]);
    }
    Ok(String::from_utf8(head)?)
}

fn read_until(stream: &mut impl Read, end: &str) -> Result<()> {
    let mut text = Vec::new();
    let mut byte = [0];
    while !text.ends_with(end.as_bytes()) {
        ensure!(text.len() < 10_000, "`{end}` does not come");
        stream.read_exact(&mut byte).with_context(|| String::from_utf8_lossy(&text).into_owned())?;
        text.push(byte[0]);
    }
    Ok(())
}

async fn unary_and_streaming(channel: &Channel) -> Result<()> {
    for n in 0..50 {
        let said = grpc::say(channel, &format!("call {n}")).await?;
        ensure!(said == format!("{HTTPBIN} call {n}"), "{said}");
    }
    // Both sides talk in turn: nothing on the way may wait for an end.
    let (sender, texts) = tokio::sync::mpsc::channel(1);
    let texts = tokio_stream::wrappers::ReceiverStream::new(texts);
    let mut answers = grpc::chat(channel, texts).await?;
    for n in 0..200 {
        sender.send(Text::new(format!("line {n}"))).await?;
        let said = answers.message().await?.context("the stream ended")?.text;
        ensure!(said == format!("{HTTPBIN} line {n}"), "{said}");
    }
    drop(sender);
    ensure!(answers.message().await?.is_none(), "an answer to nothing");
    // Trailers carry the status.
    let large = grpc::say(channel, &"x".repeat(3 << 20)).await?;
    ensure!(large.len() > 3 << 20);
    Ok(())
}

#[test]
fn grpc_works_over_plaintext() -> Result<()> {
    with_mesh(|network, pod, envoy| {
        let _server = GrpcServer::start(&network.outside.netns)?;
        in_workload_async(pod, async {
            let channel = grpc::channel(SocketAddr::new(EXAMPLE, grpc::PLAIN_PORT), None).await?;
            unary_and_streaming(&channel).await
        })?;
        let upstream = at(HTTPBIN, grpc::PLAIN_PORT);
        let chat = access_log::wait_for_line(envoy, "the chat", |line| line["path"] == "/egress.Echo/Chat")?;
        ensure!(chat["decision"] == allow("web", 4) && chat["upstream"] == upstream, "{chat}");
        let said = |line: &serde_json::Value| {
            line["path"] == "/egress.Echo/Say"
                && line["decision"] == allow("web", 4)
                && line["upstream"] == upstream
                && line["authority"] == "grpc.example:50051"
        };
        wait_for("a line for each call", Duration::from_secs(5), || {
            envoy.access_log().iter().filter(|line| said(line)).count() == 51
        })?;
        Ok(())
    })
}

#[test]
fn grpc_works_over_tls() -> Result<()> {
    with_mesh(|network, pod, envoy| {
        let server = GrpcServer::start(&network.outside.netns)?;
        in_workload_async(pod, async {
            let to = SocketAddr::new(EXAMPLE, grpc::TLS_PORT);
            unary_and_streaming(&grpc::channel(to, Some(&server.certificate)).await?).await
        })?;
        access_log::wait_for_decision(envoy, &allow("web", 5), &at(HTTPBIN, grpc::TLS_PORT))?;
        Ok(())
    })
}

/// HTTP/2 without TLS and without an upgrade: each stream of a connection is decided on its own,
/// concurrently.
#[test]
fn each_h2c_stream_is_decided_on_its_own() -> Result<()> {
    with_mesh(|_, pod, envoy| {
        let hosts = [
            ("httpbin.org", Some(HTTPBIN)),
            ("www.example.com", Some(EXAMPLE)),
            ("openservicemesh.io", None),
        ];
        in_workload_async(pod, async {
            let stream = tokio::net::TcpStream::connect(SocketAddr::new(ELSEWHERE, 8080)).await?;
            let (sender, connection) =
                hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await?;
            tokio::spawn(connection);
            let requests: Vec<_> = (0..99)
                .map(|n| {
                    let (host, expected) = hosts[n % 3];
                    let mut sender = sender.clone();
                    let answer = tokio::spawn(async move {
                        let uri = format!("http://{host}:8080/get/{n}");
                        let request = hyper::Request::get(uri).body(Empty::<Bytes>::new())?;
                        let answer = sender.send_request(request).await?;
                        let (parts, body) = answer.into_parts();
                        body.collect().await?;
                        Ok::<_, anyhow::Error>(parts)
                    });
                    (answer, expected)
                })
                .collect();
            for (answer, expected) in requests {
                let parts = answer.await??;
                let header = |name| parts.headers.get(name).and_then(|value| value.to_str().ok());
                match expected {
                    Some(ip) => ensure!(header(ADDRESS_HEADER) == Some(&ip.to_string()), "{parts:?}"),
                    None => ensure!(
                        parts.status == 403 && header("x-egress-denied") == Some("host-not-allowed"),
                        "{parts:?}"
                    ),
                }
            }
            Ok(())
        })?;
        let count =
            |decision: &str| envoy.access_log().iter().filter(|line| line["decision"] == decision).count();
        wait_for("a line for each stream", Duration::from_secs(5), || {
            (count(&allow("web", 0)), count("deny host-not-allowed - -")) == (66, 33)
        })?;
        Ok(())
    })
}

#[test]
fn a_gigabyte_downloads_over_http() -> Result<()> {
    with_mesh(|network, pod, envoy| {
        let _server = PatternServers::start(&network.outside.netns)?;
        let length = 1000 * MEGABYTE;
        let start = Instant::now();
        in_workload(pod, || {
            let mut stream = connect(EXAMPLE, pattern_servers::HTTP_PORT)?;
            let request = client::request("GET", &format!("/pattern/{length}"), &[("host", "httpbin.org")]);
            stream.write_all(&request)?;
            let head = head(&mut stream)?;
            ensure!(head.contains(&format!("content-length: {length}\r\n")), "{head}");
            ensure!(head.contains(&format!("{ADDRESS_HEADER}: {HTTPBIN}\r\n")), "{head}");
            PatternCheck::read(&mut stream, length)
        })?;
        println!("1 GB over HTTP took {:?}", start.elapsed());
        let line =
            access_log::wait_for_decision(envoy, &allow("web", 1), &at(HTTPBIN, pattern_servers::HTTP_PORT))?;
        ensure!(access_log::number(&line, "received") == Some(length) && line["status"] == 200, "{line}");
        Ok(())
    })
}

#[test]
fn a_gigabyte_downloads_over_tls() -> Result<()> {
    with_mesh(|network, pod, envoy| {
        let _server = PatternServers::start(&network.outside.netns)?;
        let length = 1000 * MEGABYTE;
        let start = Instant::now();
        in_workload(pod, || {
            let stream = connect(EXAMPLE, pattern_servers::HTTPS_PORT)?;
            let mut stream = client::tls(stream, Some("httpbin.org")).map_err(|e| anyhow!("{e:?}"))?;
            let request = client::request("GET", &format!("/pattern/{length}"), &[("host", "httpbin.org")]);
            stream.write_all(&request)?;
            let head = head(&mut stream)?;
            ensure!(head.contains(&format!("{ADDRESS_HEADER}: {HTTPBIN}\r\n")), "{head}");
            PatternCheck::read(&mut stream, length)
        })?;
        println!("1 GB over TLS took {:?}", start.elapsed());
        let line = access_log::wait_for_decision(
            envoy,
            &allow("web", 2),
            &at(HTTPBIN, pattern_servers::HTTPS_PORT),
        )?;
        ensure!(access_log::number(&line, "received") > Some(length), "{line}");
        Ok(())
    })
}

#[test]
fn a_gigabyte_downloads_over_tcp() -> Result<()> {
    with_mesh(|network, pod, envoy| {
        let _server = PatternServers::start(&network.outside.netns)?;
        let length = 1000 * MEGABYTE;
        let start = Instant::now();
        in_workload(pod, || {
            let mut stream = connect(EXAMPLE, pattern_servers::SEND_ON_DEMAND_PORT)?;
            stream.write_all(&length.to_be_bytes())?;
            PatternCheck::read(&mut stream, length)?;
            ensure!(stream.read(&mut [0])? == 0, "more than was asked for");
            Ok(())
        })?;
        println!("1 GB over TCP took {:?}", start.elapsed());
        let line = access_log::wait_for_decision(
            envoy,
            &allow("plain", 4),
            &at(EXAMPLE, pattern_servers::SEND_ON_DEMAND_PORT),
        )?;
        ensure!(
            access_log::number(&line, "received") == Some(length)
                && access_log::number(&line, "sent") == Some(8),
            "{line}"
        );
        Ok(())
    })
}

#[test]
fn a_hundred_megabytes_upload_in_chunks() -> Result<()> {
    with_mesh(|network, pod, envoy| {
        let _server = PatternServers::start(&network.outside.netns)?;
        let length = 100 * MEGABYTE;
        in_workload(pod, || {
            let mut stream = connect(EXAMPLE, pattern_servers::HTTP_PORT)?;
            let headers = [("host", "httpbin.org"), ("transfer-encoding", "chunked")];
            stream.write_all(&client::request("POST", "/count", &headers))?;
            for piece in pattern_servers::pieces(length) {
                write!(stream, "{:x}\r\n", piece.len())?;
                stream.write_all(piece)?;
                stream.write_all(b"\r\n")?;
            }
            let Outcome::Http(answer) = client::http_on(&mut stream, b"0\r\n\r\n") else {
                anyhow::bail!("no answer")
            };
            ensure!(answer.body == format!("Some({length})\n").as_bytes(), "{answer:?}");
            ensure!(answer.header(ADDRESS_HEADER) == Some(&HTTPBIN.to_string()), "{answer:?}");
            Ok(())
        })?;
        let line =
            access_log::wait_for_decision(envoy, &allow("web", 1), &at(HTTPBIN, pattern_servers::HTTP_PORT))?;
        ensure!(access_log::number(&line, "sent") == Some(length) && line["status"] == 200, "{line}");
        Ok(())
    })
}

#[test]
fn ten_thousand_requests_pass_on_one_connection() -> Result<()> {
    with_mesh(|network, pod, envoy| {
        let start = Instant::now();
        in_workload(pod, || {
            let mut stream = connect(EXAMPLE, 8080)?;
            for n in 0..10_000 {
                let request = client::request("GET", &format!("/get/{n}"), &[("host", "httpbin.org")]);
                let outcome = client::http_on(&mut stream, &request);
                let Outcome::Http(answer) = outcome else { anyhow::bail!("request {n}: {outcome:?}") };
                ensure!(answer.status == 200, "request {n}: {answer:?}");
                ensure!(
                    answer.header(ADDRESS_HEADER) == Some(&HTTPBIN.to_string()),
                    "request {n}: {answer:?}"
                );
                let first = format!("GET httpbin.org/get/{n}\n");
                ensure!(answer.body.starts_with(first.as_bytes()), "another request's answer: {answer:?}");
            }
            Ok(())
        })?;
        println!("10,000 requests took {:?}", start.elapsed());
        let upstream = at(HTTPBIN, 8080);
        wait_for("a line for each request", Duration::from_secs(5), || {
            let good = |line: &&serde_json::Value| {
                line["decision"] == allow("web", 0) && line["upstream"] == upstream && line["status"] == 200
            };
            envoy.access_log().iter().filter(good).count() == 10_000
        })?;
        ensure!(envoy.stat("listener.0.0.0.0_15001.downstream_cx_total")? == 1, "more than one connection");
        ensure!(network.origins.connections_to(EXAMPLE) == 0, "something arrived at the dialled address");
        Ok(())
    })
}

/// All of a large response arrives before the close that follows it.
#[test]
fn a_large_response_arrives_before_its_close() -> Result<()> {
    with_mesh(|_, pod, envoy| {
        for n in 0..20 {
            in_workload(pod, || {
                let mut stream = connect(EXAMPLE, 8080)?;
                let headers = [("host", "httpbin.org"), ("connection", "close")];
                stream.write_all(&client::request("GET", &format!("/bytes/{MEGABYTE}"), &headers))?;
                let mut all = Vec::new();
                stream.read_to_end(&mut all).with_context(|| format!("after {} bytes", all.len()))?;
                let body = all.windows(4).position(|w| w == b"\r\n\r\n").context("no head")? + 4;
                ensure!(all.len() - body == usize::try_from(MEGABYTE)?, "{} bytes", all.len() - body);
                Ok(())
            })
            .with_context(|| format!("round {n}"))?;
        }
        let line = access_log::wait_for_decision(envoy, &allow("web", 0), &at(HTTPBIN, 8080))?;
        ensure!(access_log::number(&line, "received") == Some(MEGABYTE), "{line}");
        Ok(())
    })
}

/// A client that has closed its sending half still gets its answer.
#[test]
fn a_half_closed_client_gets_its_answer() -> Result<()> {
    with_mesh(|network, pod, envoy| {
        let _server = PatternServers::start(&network.outside.netns)?;
        for length in [0, 1, 5 * MEGABYTE] {
            in_workload(pod, || {
                let mut stream = connect(EXAMPLE, pattern_servers::READ_FIRST_PORT)?;
                for piece in pattern_servers::pieces(length) {
                    stream.write_all(piece)?;
                }
                stream.shutdown(Shutdown::Write)?;
                let mut count = [0; 8];
                stream.read_exact(&mut count)?;
                ensure!(u64::from_be_bytes(count) == length, "the server got {}", u64::from_be_bytes(count));
                PatternCheck::read(&mut stream, length)?;
                ensure!(stream.read(&mut [0])? == 0, "no end");
                Ok(())
            })
            .with_context(|| format!("{length} bytes"))?;
            access_log::wait_for_line(envoy, "its line", |line| {
                line["decision"] == allow("plain", 2)
                    && line["upstream"] == at(EXAMPLE, pattern_servers::READ_FIRST_PORT)
                    && access_log::number(line, "sent") == Some(length)
                    && access_log::number(line, "received") == Some(length + 8)
            })?;
        }
        Ok(())
    })
}

/// A server that has closed its sending half still receives.
#[test]
fn a_half_closed_server_still_receives() -> Result<()> {
    with_mesh(|network, pod, envoy| {
        let server = PatternServers::start(&network.outside.netns)?;
        let length = 5 * MEGABYTE;
        in_workload(pod, || {
            let mut stream = connect(EXAMPLE, pattern_servers::SEND_FIRST_PORT)?;
            PatternCheck::read(&mut stream, pattern_servers::SEND_FIRST_LENGTH)?;
            ensure!(stream.read(&mut [0])? == 0, "no end");
            for piece in pattern_servers::pieces(length) {
                stream.write_all(piece)?;
            }
            Ok(())
        })?;
        wait_for("the server to have everything", Duration::from_secs(5), || {
            !server.send_first_connections().is_empty()
        })?;
        let (arrived, check) = server.send_first_connections()[0];
        ensure!(arrived == SocketAddr::new(EXAMPLE, pattern_servers::SEND_FIRST_PORT), "{arrived}");
        ensure!(check.good() == Some(length), "{check:?}");
        let line = access_log::wait_for_decision(
            envoy,
            &allow("plain", 3),
            &at(EXAMPLE, pattern_servers::SEND_FIRST_PORT),
        )?;
        ensure!(
            access_log::number(&line, "sent") == Some(length)
                && access_log::number(&line, "received") == Some(pattern_servers::SEND_FIRST_LENGTH),
            "{line}"
        );
        Ok(())
    })
}

/// A server that speaks first is heard at once, without first bytes of the client.
#[test]
fn a_server_that_speaks_first_is_heard_at_once() -> Result<()> {
    with_mesh(|_, pod, envoy| {
        let longest = in_workload(pod, || {
            let mut longest = Duration::ZERO;
            for _ in 0..20 {
                let start = Instant::now();
                let mut stream = connect(EXAMPLE, 9001)?;
                let mut greeting = [0; GREETING.len()];
                stream.read_exact(&mut greeting)?;
                longest = longest.max(start.elapsed());
                ensure!(greeting == GREETING, "{greeting:?}");
                stream.write_all(b"hello")?;
                let mut echo = [0; 5];
                stream.read_exact(&mut echo)?;
                ensure!(&echo == b"hello");
            }
            Ok(longest)
        })?;
        println!("the greeting came after at most {longest:?}");
        // Open Service Mesh waits for 15 s.
        ensure!(longest < Duration::from_secs(1), "the greeting came after {longest:?}");
        access_log::wait_for_decision(envoy, &allow("plain", 1), &at(EXAMPLE, 9001))?;
        Ok(())
    })
}

/// Streams survive 30 s of silence.
#[test]
fn connections_survive_thirty_seconds_of_silence() -> Result<()> {
    with_mesh(|network, pod, envoy| {
        let bulk = PatternServers::start(&network.outside.netns)?;
        in_workload(pod, || {
            let mut tcp = connect(EXAMPLE, 9000)?;
            let mut tls = client::tls(connect(EXAMPLE, pattern_servers::TLS_ECHO_PORT)?, Some("httpbin.org"))
                .map_err(|e| anyhow!("{e:?}"))?;
            let mut first = connect(EXAMPLE, 9001)?;
            let mut held = connect(EXAMPLE, pattern_servers::HTTP_PORT)?;
            let mut kept = connect(EXAMPLE, 8080)?;

            echo(&mut tcp).context("TCP")?;
            echo(&mut tls).context("TLS")?;
            read_until(&mut first, "ready\r\n").context("a server that speaks first")?;
            held.write_all(&client::request("GET", "/held", &[("host", "httpbin.org")]))?;
            read_until(&mut held, "first\n").context("a streaming response")?;
            get(&mut kept).context("a kept-alive connection")?;

            // What is tried here is that time passes: there is no condition to wait for.
            std::thread::sleep(Duration::from_secs(30));

            echo(&mut tcp).context("TCP after 30 s")?;
            echo(&mut tls).context("TLS after 30 s")?;
            echo(&mut first).context("a server that speaks first after 30 s")?;
            bulk.resume();
            read_until(&mut held, "second\n").context("a streaming response after 30 s")?;
            get(&mut kept).context("a kept-alive connection after 30 s")
        })?;
        for (decision, upstream) in [
            (allow("plain", 0), at(EXAMPLE, 9000)),
            (allow("plain", 1), at(EXAMPLE, 9001)),
            (allow("web", 3), at(HTTPBIN, pattern_servers::TLS_ECHO_PORT)),
            (allow("web", 1), at(HTTPBIN, pattern_servers::HTTP_PORT)),
        ] {
            let line = access_log::wait_for_decision(envoy, &decision, &upstream)?;
            ensure!(access_log::number(&line, "duration_ms") >= Some(30_000), "{line}");
        }
        Ok(())
    })
}

fn echo(stream: &mut (impl Read + Write)) -> Result<()> {
    let mut answer = [0; 4];
    stream.write_all(b"ping")?;
    stream.flush()?;
    stream.read_exact(&mut answer)?;
    ensure!(&answer == b"ping", "{answer:?}");
    Ok(())
}

fn get(stream: &mut TcpStream) -> Result<()> {
    match client::http_on(stream, &client::request("GET", "/get", &[("host", "httpbin.org")])) {
        Outcome::Http(answer) if answer.header(ADDRESS_HEADER) == Some(&HTTPBIN.to_string()) => Ok(()),
        outcome => Err(anyhow!("{outcome:?}")),
    }
}

const WEBSOCKETS: &str = "apiVersion: policy.openservicemesh.io/v1alpha1
kind: Egress
metadata:
  name: sockets
  namespace: curl
  annotations: {openservicemesh.io/egress-upgrades: websocket}
spec:
  sources: [{kind: ServiceAccount, name: curl, namespace: curl}]
  hosts: [httpbin.org]
  ports: [{number: 8090, protocol: http}]
";

/// Runs a test in a mesh with a websocket server and this policy.
fn with_websockets(
    policy: &str,
    test: impl FnOnce(&WebsocketServer, &Pod, &Envoy<'_>) -> Result<()>,
) -> Result<()> {
    ensure_capable()?;
    let network = TestNetwork::new()?;
    let pod = network.pod()?;
    let server = WebsocketServer::start(&network.outside.netns)?;
    network.write("sockets.yaml", policy)?;
    let _control_plane = network.control_plane(&[])?;
    let envoy = sidecar::start(&pod, false)?;
    test(&server, &pod, &envoy)
}

type Opened = Result<tungstenite::WebSocket<TcpStream>, Box<tungstenite::http::Response<Option<Vec<u8>>>>>;

/// Asks for a websocket; returns the response instead if there is none.
fn open(to: SocketAddr, host: &str) -> Result<Opened> {
    let stream = client::connect(to).map_err(|e| anyhow!("{e:?}"))?;
    let uri = format!("ws://{host}:8090/chat");
    match tungstenite::client::client_with_config(uri, stream, Some(websocket::config())) {
        Ok((socket, _)) => Ok(Ok(socket)),
        Err(tungstenite::HandshakeError::Failure(tungstenite::Error::Http(answer))) => Ok(Err(answer)),
        Err(error) => Err(anyhow!("{error}")),
    }
}

#[test]
fn websockets_open_with_the_annotation() -> Result<()> {
    with_websockets(WEBSOCKETS, |server, pod, envoy| {
        in_workload(pod, || {
            let mut socket = open(SocketAddr::new(EXAMPLE, websocket::PORT), "httpbin.org")?
                .map_err(|answer| anyhow!("{answer:?}"))?;
            for n in 0..1000 {
                let message = Message::text(format!("message {n}"));
                socket.send(message.clone())?;
                ensure!(socket.read()? == message, "message {n} came back as another");
            }
            for size in [125, 126, 65_535, 65_536, 8 << 20] {
                let message = Message::binary(pattern_servers::pattern(0, size).repeat(2));
                socket.send(message.clone())?;
                ensure!(socket.read()? == message, "a message of {size} bytes came back as another");
            }
            socket.send(Message::Ping(Bytes::from_static(b"are you there")))?;
            ensure!(socket.read()? == Message::Pong(Bytes::from_static(b"are you there")), "no pong");
            socket.close(None)?;
            loop {
                match socket.read() {
                    Ok(Message::Close(_)) => {}
                    Err(tungstenite::Error::ConnectionClosed) => return Ok(()),
                    other => anyhow::bail!("instead of the close: {other:?}"),
                }
            }
        })?;
        wait_for("the server to be done", Duration::from_secs(5), || !server.ended().is_empty())?;
        let session = &server.ended()[0];
        let here = SocketAddr::new(HTTPBIN, websocket::PORT);
        ensure!(session.at == here && session.path == "/chat", "{session:?}");
        ensure!(session.messages == 1005 && session.closed, "{session:?}");
        let line =
            access_log::wait_for_decision(envoy, "allow rule curl/sockets spec.ports[0]", &here.to_string())?;
        ensure!(line["status"] == 101, "{line}");
        Ok(())
    })
}

/// Without the annotation no websocket opens, and the connection stays HTTP.
#[test]
fn no_websocket_opens_without_the_annotation() -> Result<()> {
    let policy = WEBSOCKETS.replace("  annotations: {openservicemesh.io/egress-upgrades: websocket}\n", "");
    with_websockets(&policy, |server, pod, envoy| {
        let to = SocketAddr::new(HTTPBIN, websocket::PORT);
        let answer = match in_workload(pod, || open(to, "httpbin.org"))? {
            Ok(_) => anyhow::bail!("the upgrade was let through"),
            Err(answer) => answer,
        };
        let reason = answer.headers().get("x-egress-denied").and_then(|value| value.to_str().ok());
        ensure!((answer.status().as_u16(), reason) == (403, Some("upgrade-refused")), "{answer:?}");
        ensure!(server.ended().is_empty(), "{:?}", server.ended());
        let line =
            access_log::wait_for_line(envoy, "the refusal", |line| line["refused"] == "upgrade-refused")?;
        ensure!(line["status"] == 403 && line["upstream"].is_null(), "{line}");
        Ok(())
    })
}

/// The annotation allows the upgrade for the policy's own hosts, and no other upgrade.
#[test]
fn the_annotation_allows_no_other_upgrade() -> Result<()> {
    with_websockets(WEBSOCKETS, |server, pod, envoy| {
        let to = SocketAddr::new(HTTPBIN, websocket::PORT);
        let answer = match in_workload(pod, || open(to, "www.example.com"))? {
            Ok(_) => anyhow::bail!("a host that is not allowed was upgraded"),
            Err(answer) => answer,
        };
        ensure!(answer.status() == 403, "{answer:?}");
        for upgrade in ["foo", "TLS/1.0, foo", "websocket, foo", "foo, websocket"] {
            let headers = [("host", "httpbin.org"), ("connection", "upgrade"), ("upgrade", upgrade)];
            let outcome =
                in_workload(pod, || Ok(client::http(to, &client::request("GET", "/chat", &headers))))?;
            let Outcome::Http(answer) = outcome else { anyhow::bail!("{upgrade}: {outcome:?}") };
            let refused = (answer.status, answer.header("x-egress-denied"));
            ensure!(refused == (403, Some("upgrade-refused")), "{upgrade}: {answer:?}");
        }
        ensure!(server.ended().is_empty(), "{:?}", server.ended());
        access_log::wait_for_line(envoy, "the refusal", |line| line["refused"] == "upgrade-refused")?;
        Ok(())
    })
}
