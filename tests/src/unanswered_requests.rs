//! Plaintext HTTP/2 requests that are never answered: any number of them on a few connections.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::{Context, Result, anyhow};
use bytes::Bytes;
use http_body_util::Empty;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::{TcpListener, TcpStream};

use crate::netns::Netns;

/// The largest number of concurrent requests of a connection.
const STREAMS: u32 = 2000;

/// Starts a server at an address of the namespace. The result counts its requests.
///
/// # Errors
/// Fails if the port is taken.
pub fn serve(netns: &Netns, at: SocketAddr) -> Result<Arc<AtomicUsize>> {
    let come = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&come);
    let (sender, started) = std::sync::mpsc::channel();
    netns.spawn(move || {
        let result = run(async {
            let listener = TcpListener::bind(at).await.with_context(|| format!("cannot listen at {at}"))?;
            let _ = sender.send(Ok(()));
            loop {
                let (stream, _) = listener.accept().await?;
                let count = Arc::clone(&count);
                let service = service_fn(move |_: Request<Incoming>| {
                    count.fetch_add(1, Ordering::Relaxed);
                    std::future::pending::<Result<Response<Empty<Bytes>>, Infallible>>()
                });
                let mut builder = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
                builder.max_concurrent_streams(STREAMS);
                tokio::spawn(
                    async move { builder.serve_connection(TokioIo::new(stream), service).await.ok() },
                );
            }
        });
        let _ = sender.send(result);
    })?;
    started.recv().map_err(|_| anyhow!("the thread of the server died"))??;
    Ok(come)
}

/// Sends this many requests over this many connections from a namespace. The result counts the requests that
/// have ended.
///
/// # Errors
/// Fails if the namespace is gone.
pub fn send(
    netns: &Netns,
    to: SocketAddr,
    authority: &'static str,
    connections: usize,
    requests: usize,
) -> Result<Arc<AtomicUsize>> {
    let ended = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&ended);
    netns.spawn(move || {
        let result = run(async {
            let mut tasks = Vec::new();
            for _ in 0..connections {
                let stream = TokioIo::new(TcpStream::connect(to).await?);
                let (sender, connection) =
                    hyper::client::conn::http2::handshake(TokioExecutor::new(), stream).await?;
                tokio::spawn(connection);
                for _ in 0..requests / connections {
                    let request = Request::get(format!("http://{authority}/")).body(Empty::<Bytes>::new())?;
                    let (mut sender, count) = (sender.clone(), Arc::clone(&count));
                    tasks.push(tokio::spawn(async move {
                        let _ = sender.send_request(request).await;
                        count.fetch_add(1, Ordering::Relaxed);
                    }));
                }
            }
            for task in tasks {
                task.await?;
            }
            Ok(())
        });
        if let Err(error) = result {
            eprintln!("requests without an answer: {error:#}");
        }
    })?;
    Ok(ended)
}

fn run(task: impl Future<Output = Result<()>>) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(task)
}
