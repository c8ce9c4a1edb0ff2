//! Connections, once they have a place and are encrypted.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use rustls::ServerConfig;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_stream::wrappers::ReceiverStream;

use super::{Guarded, Place, Pool};
use crate::tls::{ServerTls, hint};

/// The time that a handshake may take.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// After a failure to accept, as for want of file descriptors.
const RETRY_DELAY: Duration = Duration::from_millis(50);

/// Chooses which configuration is offered, such as [`ServerTls::xds`].
pub type Config = fn(&ServerTls) -> Arc<ServerConfig>;

/// Accepts encrypted connections until nobody takes them any more. Handshakes run side by side: one that is slow delays
/// no other.
pub fn encrypted(
    listener: TcpListener,
    tls: ServerTls,
    config: Config,
    pool: Arc<Pool>,
    idle_timeout: Duration,
) -> ReceiverStream<io::Result<Guarded<TlsStream<TcpStream>>>> {
    accept(listener, pool, move |stream, peer, place| {
        let tls = tls.clone();
        async move {
            let evicted = place.evicted();
            let stream = tokio::select! {
                stream = handshake(stream, peer, &tls, config) => stream?,
                () = evicted => {
                    tls.handshake_failed();
                    tracing::debug!(%peer, "a TLS handshake made room for others");
                    return None;
                }
            };
            Some(Guarded::new(stream, peer, place, idle_timeout))
        }
    })
}

/// Accepts connections in plaintext until nobody takes them any more.
pub fn plain(
    listener: TcpListener,
    pool: Arc<Pool>,
    idle_timeout: Duration,
) -> ReceiverStream<io::Result<Guarded<TcpStream>>> {
    accept(listener, pool, move |stream, peer, place| async move {
        Some(Guarded::new(stream, peer, place, idle_timeout))
    })
}

fn accept<C, F>(
    listener: TcpListener,
    pool: Arc<Pool>,
    begin: impl Fn(TcpStream, SocketAddr, Place) -> F + Send + Sync + 'static,
) -> ReceiverStream<io::Result<C>>
where
    C: Send + 'static,
    F: Future<Output = Option<C>> + Send,
{
    let (sender, receiver) = mpsc::channel(16);
    let begin = Arc::new(begin);
    tokio::spawn(async move {
        loop {
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                () = sender.closed() => return,
            };
            let (stream, peer) = match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a connection");
                    tokio::time::sleep(RETRY_DELAY).await;
                    continue;
                }
            };
            let Some(place) = pool.enter(peer.ip()) else {
                tracing::debug!(%peer, "a connection was closed: too many of its address wait");
                continue;
            };
            // Answers are small and waited for. A socket that refuses this works all the same.
            let _ = stream.set_nodelay(true);
            let (begin, sender) = (Arc::clone(&begin), sender.clone());
            tokio::spawn(async move {
                if let Some(connection) = begin(stream, peer, place).await {
                    // Nobody takes it: the server ends.
                    let _ = sender.send(Ok(connection)).await;
                }
            });
        }
    });
    ReceiverStream::new(receiver)
}

async fn handshake(
    stream: TcpStream,
    peer: SocketAddr,
    tls: &ServerTls,
    config: Config,
) -> Option<TlsStream<TcpStream>> {
    let acceptor = TlsAcceptor::from(config(tls));
    let error = match tokio::time::timeout(HANDSHAKE_TIMEOUT, acceptor.accept(stream)).await {
        Ok(Ok(encrypted)) => return Some(encrypted),
        Ok(Err(error)) => error,
        Err(_) => io::Error::new(io::ErrorKind::TimedOut, format!("not done within {HANDSHAKE_TIMEOUT:?}")),
    };
    tls.handshake_failed();
    // Whoever only looks whether the port is open closes it again, or resets it.
    if matches!(error.kind(), io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset) {
        tracing::debug!(address = %peer, %error, "TLS handshake failed");
    } else {
        tracing::warn!(address = %peer, %error, hint = hint(&error), "TLS handshake failed");
    }
    None
}
