//! A slow HTTP server, like `httpbin` in Open Service Mesh's demo of circuit breaking: requests overlap.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use bytes::Bytes;
use http_body_util::Full;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use tokio::net::{TcpListener, TcpStream};

use crate::netns::Netns;
use crate::origin::ADDRESS_HEADER;

/// The port.
pub const PORT: u16 = 14001;
/// The duration of a request.
const SERVICE_TIME: Duration = Duration::from_millis(10);

/// Starts the server on every address of the namespace.
///
/// # Errors
/// Fails if the port is taken.
pub fn start(netns: &Netns) -> Result<()> {
    let (sender, started) = std::sync::mpsc::channel();
    netns.spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let result = runtime.map_err(anyhow::Error::from).and_then(|runtime| {
            runtime.block_on(async {
                let listener = TcpListener::bind(("::", PORT)).await.context("the port of httpbin")?;
                let _ = sender.send(Ok(()));
                loop {
                    let (stream, _) = listener.accept().await?;
                    // A client may close early.
                    tokio::spawn(async move { serve(stream).await.ok() });
                }
            })
        });
        let _ = sender.send(result);
    })?;
    started.recv().map_err(|_| anyhow!("the thread of httpbin died"))?
}

async fn serve(stream: TcpStream) -> Result<()> {
    stream.set_nodelay(true)?;
    let local: SocketAddr = stream.local_addr()?;
    let address = local.ip().to_canonical().to_string();
    let service = service_fn(|_: Request<hyper::body::Incoming>| {
        let answer =
            Response::builder().header(ADDRESS_HEADER, &address).body(Full::new(Bytes::from_static(b"ok\n")));
        async move {
            tokio::time::sleep(SERVICE_TIME).await;
            Ok::<_, Infallible>(answer.unwrap_or_default())
        }
    });
    let builder = auto::Builder::new(TokioExecutor::new());
    builder.serve_connection(TokioIo::new(stream), service).await.map_err(|e| anyhow!("{e}"))
}
