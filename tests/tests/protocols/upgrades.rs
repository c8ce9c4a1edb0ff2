//! Upgrades: websockets, and all others.

use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Result, anyhow, ensure};
use bytes::Bytes;
use egress_tests::client::{self, Outcome};
use egress_tests::envoy::Envoy;
use egress_tests::netns::{Pod, ensure_capable};
use egress_tests::network::{EXAMPLE, HTTPBIN, TestNetwork};
use egress_tests::pattern_servers;
use egress_tests::wait::wait_for;
use egress_tests::websocket::{self, WebsocketServer};
use egress_tests::{access_log, sidecar};
use tungstenite::Message;

use super::in_workload;

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
