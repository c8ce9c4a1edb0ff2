//! Creates many objects over a few kept-alive connections; kubectl would take minutes.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use anyhow::{Context, Result, anyhow, ensure};
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1;
use hyper::{Request, header};
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use serde_json::Value;
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use super::{API_PORT, API_SERVER, ApiServer, User};
use crate::client;

/// The number of connections.
const CONNECTIONS: usize = 16;

impl ApiServer<'_> {
    /// Creates objects, each at the path of its kind in the API (`/api/v1/namespaces`), in no particular
    /// order.
    ///
    /// # Errors
    /// Fails if one of them is refused.
    pub fn create(&self, objects: Vec<(String, Value)>) -> Result<()> {
        let objects = Arc::new(Mutex::new(objects));
        self.netns.run(|| {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(async {
                let mut workers: JoinSet<_> =
                    (0..CONNECTIONS).map(|_| worker(Arc::clone(&objects))).collect();
                while let Some(result) = workers.join_next().await {
                    result??;
                }
                Ok(())
            })
        })?
    }
}

async fn worker(objects: Arc<Mutex<Vec<(String, Value)>>>) -> Result<()> {
    let (_, _, token) = User::Admin.account();
    let tls = tokio_rustls::TlsConnector::from(Arc::new(client::accept_any_certificate()?));
    let stream = TcpStream::connect(SocketAddr::new(API_SERVER, API_PORT)).await?;
    let stream = tls.connect(ServerName::IpAddress(API_SERVER.into()), stream).await?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    let driver = tokio::spawn(connection);
    loop {
        let next = objects.lock().map_err(|_| anyhow!("another connection failed"))?.pop();
        let Some((path, object)) = next else { break };
        let request = Request::post(&path)
            .header(header::HOST, "kubernetes")
            .header(header::AUTHORIZATION, format!("Bearer {token}"))
            .header(header::CONTENT_TYPE, "application/json")
            .body(Full::new(Bytes::from(serde_json::to_vec(&object)?)))?;
        let response = sender.send_request(request).await.with_context(|| path.clone())?;
        let status = response.status();
        let body = response.into_body().collect().await?.to_bytes();
        ensure!(status.is_success(), "{path}: {status}: {}", String::from_utf8_lossy(&body));
    }
    drop(sender);
    driver.await??;
    Ok(())
}
