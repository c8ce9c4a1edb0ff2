//! HTTP on the connections of a port, within limits.

use std::future::Future;
use std::io;
use std::pin::pin;
use std::time::Duration;

use axum::{Extension, Router};
use futures::{Stream, StreamExt};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};

use super::{ConnectionInfo, Guarded};

/// The longest head of a request, and how much of a body is read ahead over HTTP/1. API servers and browsers send a few
/// kilobytes.
const MAX_HEAD_SIZE: usize = 64 << 10;
/// The bytes that a connection of HTTP/2 may send ahead.
const CONNECTION_WINDOW: u32 = 128 << 10;
/// The same for each of its requests.
const STREAM_WINDOW: u32 = 64 << 10;

/// The limits of a server.
#[derive(Clone, Copy, Debug)]
pub struct HttpLimits {
    /// The name in the log.
    pub name: &'static str,
    /// The time that a request's head may take, and that a connection may be silent.
    pub head_timeout: Duration,
    /// The time that answers in flight may take when the server stops.
    pub grace: Duration,
    /// The most open requests of a connection of HTTP/2. Whoever needs more opens another connection.
    pub streams: u32,
}

/// Serves connections until `stop` resolves. Requests have the [`ConnectionInfo`] of theirs as an extension.
pub async fn serve<C>(
    connections: impl Stream<Item = io::Result<Guarded<C>>>,
    routes: impl Fn(&ConnectionInfo) -> Router,
    limits: HttpLimits,
    stop: impl Future<Output = ()>,
) where
    C: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let HttpLimits { name, head_timeout, grace, streams } = limits;
    let mut server = Builder::new(TokioExecutor::new());
    server.http1().timer(TokioTimer::new()).header_read_timeout(head_timeout).max_buf_size(MAX_HEAD_SIZE);
    server
        .http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(head_timeout)
        .keep_alive_timeout(head_timeout)
        .max_concurrent_streams(streams)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .initial_stream_window_size(STREAM_WINDOW);
    let graceful = GracefulShutdown::new();
    let (mut connections, mut stop) = (pin!(connections), pin!(stop));
    loop {
        let connection = tokio::select! {
            () = &mut stop => break,
            next = connections.next() => match next {
                Some(Ok(connection)) => connection,
                Some(Err(error)) => {
                    tracing::warn!(%error, name, "cannot accept a connection");
                    continue;
                }
                None => break,
            },
        };
        let info = connection.info().clone();
        let evicted = info.place.evicted();
        let service = TowerToHyperService::new(routes(&info).layer(Extension(info)));
        let connection = server.serve_connection(TokioIo::new(connection), service).into_owned();
        let connection = graceful.watch(connection);
        tokio::spawn(async move {
            // An answer that nobody reads is not noticed by reading.
            let ended = tokio::select! {
                ended = connection => ended,
                () = evicted => return tracing::debug!(name, "a connection made room for others"),
            };
            if let Err(error) = ended {
                tracing::debug!(error, name, "a connection broke");
            }
        });
    }
    let _ = tokio::time::timeout(grace, graceful.shutdown()).await;
}
