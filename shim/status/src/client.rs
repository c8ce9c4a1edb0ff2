//! The client of the admin port.

use std::net::SocketAddr;

use anyhow::{Context, Result, ensure};

/// Asks a running control plane, and returns its JSON.
///
/// # Errors
/// When nobody answers.
pub async fn fetch(admin: SocketAddr) -> Result<String> {
    ask(admin, "/status").await
}

/// Asks a running control plane whether it serves what the user wrote.
///
/// # Errors
/// When it does not, or nobody answers.
pub async fn ready(admin: SocketAddr) -> Result<String> {
    ask(admin, "/readyz").await
}

/// Asks for a path of the admin port.
///
/// # Errors
/// When nobody answers, or the answer is an error.
pub async fn ask(admin: SocketAddr, path: &str) -> Result<String> {
    let stream = tokio::net::TcpStream::connect(admin).await.with_context(|| {
        format!("cannot reach a control plane at {admin}: is `osm-egress serve` running?")
    })?;
    let (mut client, connection) =
        hyper::client::conn::http1::handshake(hyper_util::rt::TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    let request = hyper::Request::get(path)
        .header("host", admin.to_string())
        .body(http_body_util::Empty::<bytes::Bytes>::new())?;
    let response = client.send_request(request).await?;
    let status = response.status();
    let body = http_body_util::BodyExt::collect(response.into_body()).await?.to_bytes();
    ensure!(status.is_success(), "{admin}{path}: {status}, {}", String::from_utf8_lossy(&body).trim());
    Ok(String::from_utf8(body.to_vec())?)
}
