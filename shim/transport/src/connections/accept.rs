//! Listeners that accept connections into slots, with TLS or in plaintext.

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

use super::{GuardedConnection, Pool, Slot};
use crate::tls::{ServerTls, handshake_hint};

/// Time to complete a TLS handshake.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// Pause after a failure to accept, such as missing file descriptors.
const RETRY_DELAY: Duration = Duration::from_millis(50);

/// Selects the TLS configuration to offer, such as [`ServerTls::xds`].
pub type ConfigSelector = fn(&ServerTls) -> Arc<ServerConfig>;

/// Accepts TLS connections until the stream is dropped. Handshakes run concurrently, so that a slow one delays no
/// other.
pub fn accept_tls(
    listener: TcpListener,
    tls: ServerTls,
    config: ConfigSelector,
    pool: Arc<Pool>,
    idle_timeout: Duration,
) -> ReceiverStream<io::Result<GuardedConnection<TlsStream<TcpStream>>>> {
    accept(listener, pool, move |stream, peer, slot| {
        let tls = tls.clone();
        async move {
            let evicted = slot.evicted();
            let stream = tokio::select! {
                stream = handshake(stream, peer, &tls, config) => stream?,
                () = evicted => {
                    tls.count_failed_handshake();
                    tracing::debug!(%peer, "a TLS handshake was evicted");
                    return None;
                }
            };
            Some(GuardedConnection::new(stream, peer, slot, idle_timeout))
        }
    })
}

/// Accepts plaintext connections until the stream is dropped.
pub fn accept_plaintext(
    listener: TcpListener,
    pool: Arc<Pool>,
    idle_timeout: Duration,
) -> ReceiverStream<io::Result<GuardedConnection<TcpStream>>> {
    accept(listener, pool, move |stream, peer, slot| async move {
        Some(GuardedConnection::new(stream, peer, slot, idle_timeout))
    })
}

fn accept<C, F>(
    listener: TcpListener,
    pool: Arc<Pool>,
    establish: impl Fn(TcpStream, SocketAddr, Slot) -> F + Send + Sync + 'static,
) -> ReceiverStream<io::Result<C>>
where
    C: Send + 'static,
    F: Future<Output = Option<C>> + Send,
{
    let (sender, receiver) = mpsc::channel(16);
    let establish = Arc::new(establish);
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
            let Some(slot) = pool.acquire(peer.ip()) else {
                tracing::debug!(%peer, "a connection was refused: its address has too many idle ones");
                continue;
            };
            // Answers are small, and clients wait for them. The connection works without this option, too.
            let _ = stream.set_nodelay(true);
            let (establish, sender) = (Arc::clone(&establish), sender.clone());
            tokio::spawn(async move {
                if let Some(connection) = establish(stream, peer, slot).await {
                    // The send fails when the server has ended.
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
    config: ConfigSelector,
) -> Option<TlsStream<TcpStream>> {
    let acceptor = TlsAcceptor::from(config(tls));
    let error = match tokio::time::timeout(HANDSHAKE_TIMEOUT, acceptor.accept(stream)).await {
        Ok(Ok(encrypted)) => return Some(encrypted),
        Ok(Err(error)) => error,
        Err(_) => {
            io::Error::new(io::ErrorKind::TimedOut, format!("not complete within {HANDSHAKE_TIMEOUT:?}"))
        }
    };
    tls.count_failed_handshake();
    // Port scans and TCP probes close or reset the connection.
    if matches!(error.kind(), io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset) {
        tracing::debug!(address = %peer, %error, "TLS handshake failed");
    } else {
        tracing::warn!(address = %peer, %error, hint = handshake_hint(&error), "TLS handshake failed");
    }
    None
}
