//! HTTP server on the connections of a port, within limits.

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

use super::{ConnectionInfo, GuardedConnection};

/// Maximum size of a request's head, and of the body read ahead over HTTP/1. API servers and browsers send a few
/// kilobytes.
const MAX_HEAD_SIZE: usize = 64 << 10;
/// HTTP/2 flow-control window of a connection.
const CONNECTION_WINDOW_SIZE: u32 = 128 << 10;
/// HTTP/2 flow-control window of a stream.
const STREAM_WINDOW_SIZE: u32 = 64 << 10;

/// Limits of a server.
#[derive(Clone, Copy, Debug)]
pub struct HttpLimits {
    /// Name in the log.
    pub name: &'static str,
    /// Time to receive a request's head, and interval and timeout of HTTP/2 keep-alive.
    pub head_timeout: Duration,
    /// Time that requests in flight have left when the server stops.
    pub shutdown_grace: Duration,
    /// Maximum number of concurrent HTTP/2 streams. A client that needs more opens another connection.
    pub max_streams: u32,
}

/// Serves connections until `stop` resolves. Each request carries its [`ConnectionInfo`] as an extension.
pub async fn serve_http<C>(
    connections: impl Stream<Item = io::Result<GuardedConnection<C>>>,
    routes: impl Fn(&ConnectionInfo) -> Router,
    limits: HttpLimits,
    stop: impl Future<Output = ()>,
) where
    C: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let HttpLimits { name, head_timeout, shutdown_grace, max_streams } = limits;
    let mut server = Builder::new(TokioExecutor::new());
    server.http1().timer(TokioTimer::new()).header_read_timeout(head_timeout).max_buf_size(MAX_HEAD_SIZE);
    server
        .http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(head_timeout)
        .keep_alive_timeout(head_timeout)
        .max_concurrent_streams(max_streams)
        .initial_connection_window_size(CONNECTION_WINDOW_SIZE)
        .initial_stream_window_size(STREAM_WINDOW_SIZE);
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
        let evicted = info.slot.evicted();
        let service = TowerToHyperService::new(routes(&info).layer(Extension(info)));
        let connection = server.serve_connection(TokioIo::new(connection), service).into_owned();
        let connection = graceful.watch(connection);
        tokio::spawn(async move {
            // An eviction must end a connection that is blocked on writing, too.
            let ended = tokio::select! {
                ended = connection => ended,
                () = evicted => return tracing::debug!(name, "a connection was evicted"),
            };
            if let Err(error) = ended {
                tracing::debug!(error, name, "a connection failed");
            }
        });
    }
    let _ = tokio::time::timeout(shutdown_grace, graceful.shutdown()).await;
}
