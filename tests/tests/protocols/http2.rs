//! gRPC and HTTP/2 in plaintext.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use egress_tests::access_log;
use egress_tests::grpc::{self, GrpcServer, Text};
use egress_tests::network::{ELSEWHERE, EXAMPLE, HTTPBIN};
use egress_tests::origin::ADDRESS_HEADER;
use egress_tests::wait::wait_for;
use http_body_util::{BodyExt, Empty};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tonic::transport::Channel;

use super::{allow, at, in_workload_async, with_mesh};

async fn unary_and_streaming(channel: &Channel) -> Result<()> {
    for n in 0..50 {
        let reply = grpc::send_message(channel, &format!("call {n}")).await?;
        ensure!(reply == format!("{HTTPBIN} call {n}"), "{reply}");
    }
    // Both sides send in turn: nothing on the way may wait for the end of the stream.
    let (sender, texts) = tokio::sync::mpsc::channel(1);
    let texts = tokio_stream::wrappers::ReceiverStream::new(texts);
    let mut answers = grpc::chat(channel, texts).await?;
    for n in 0..200 {
        sender.send(Text::new(format!("line {n}"))).await?;
        let reply = answers.message().await?.context("the stream ended")?.text;
        ensure!(reply == format!("{HTTPBIN} line {n}"), "{reply}");
    }
    drop(sender);
    ensure!(answers.message().await?.is_none(), "an answer to nothing");
    // Trailers carry the status.
    let large = grpc::send_message(channel, &"x".repeat(3 << 20)).await?;
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
        let reply = |line: &serde_json::Value| {
            line["path"] == "/egress.Echo/Say"
                && line["decision"] == allow("web", 4)
                && line["upstream"] == upstream
                && line["authority"] == "grpc.example:50051"
        };
        wait_for("a line for each call", Duration::from_secs(5), || {
            envoy.access_log().iter().filter(|line| reply(line)).count() == 51
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
