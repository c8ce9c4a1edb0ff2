//! The connections of webhooks: not too many, none for ever, and those that are under way end well.

use std::future::Future;
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use futures::{Stream, StreamExt};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::Semaphore;

/// How many connections may be open: an API server has a few, and keeps them.
const MOST: usize = 256;
/// How long a request's head may take, and how long a connection may be silent.
const PATIENCE: Duration = Duration::from_secs(15);
/// When stopping, how long answers that are under way may take.
const GRACE: Duration = Duration::from_secs(2);

/// Serves connections, which are encrypted already, until `stop` resolves.
pub async fn serve<C>(
    connections: impl Stream<Item = io::Result<C>>,
    routes: Router,
    stop: impl Future<Output = ()>,
) where
    C: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let mut server = Builder::new(TokioExecutor::new());
    server.http1().timer(TokioTimer::new()).header_read_timeout(PATIENCE);
    server.http2().timer(TokioTimer::new()).keep_alive_interval(PATIENCE).keep_alive_timeout(PATIENCE);
    let graceful = GracefulShutdown::new();
    let places = Arc::new(Semaphore::new(MOST));
    let (mut connections, mut stop) = (pin!(connections), pin!(stop));
    loop {
        let next = async {
            // Closed by nobody.
            let place = Arc::clone(&places).acquire_owned().await.ok()?;
            Some((connections.next().await?, place))
        };
        let (connection, place) = tokio::select! {
            () = &mut stop => break,
            next = next => match next {
                Some((Ok(connection), place)) => (connection, place),
                Some((Err(error), _)) => {
                    tracing::warn!(%error, "cannot accept a connection of the webhook");
                    continue;
                }
                None => break,
            },
        };
        let service = TowerToHyperService::new(routes.clone());
        let talk = server.serve_connection(TokioIo::new(connection), service).into_owned();
        let talk = graceful.watch(talk);
        tokio::spawn(async move {
            if let Err(error) = talk.await {
                tracing::debug!(error, "a connection of the webhook broke");
            }
            drop(place);
        });
    }
    let _ = tokio::time::timeout(GRACE, graceful.shutdown()).await;
}
