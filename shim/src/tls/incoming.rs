//! Connections, once they are encrypted.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use rustls::ServerConfig;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_stream::wrappers::ReceiverStream;

use super::ServerTls;

/// How long a handshake may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// How many handshakes may be under way.
const MOST: usize = 1024;
/// After a failure to accept, as for want of file descriptors.
const PAUSE: Duration = Duration::from_millis(50);

/// Accepts connections until nobody takes them any more. `config` chooses which of the configurations is
/// offered, such as [`ServerTls::xds`]. Handshakes run side by side: one that is slow delays no other.
pub fn incoming(
    listener: TcpListener,
    tls: ServerTls,
    config: fn(&ServerTls) -> Arc<ServerConfig>,
) -> ReceiverStream<io::Result<TlsStream<TcpStream>>> {
    let (sender, receiver) = mpsc::channel(16);
    tokio::spawn(accept(listener, tls, config, sender));
    ReceiverStream::new(receiver)
}

async fn accept(
    listener: TcpListener,
    tls: ServerTls,
    config: fn(&ServerTls) -> Arc<ServerConfig>,
    sender: mpsc::Sender<io::Result<TlsStream<TcpStream>>>,
) {
    let handshakes = Arc::new(Semaphore::new(MOST));
    loop {
        // Closed by nobody.
        let Ok(permit) = Arc::clone(&handshakes).acquire_owned().await else { return };
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = sender.closed() => return,
        };
        let (stream, address) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(PAUSE).await;
                continue;
            }
        };
        let (tls, sender) = (tls.clone(), sender.clone());
        tokio::spawn(async move {
            let encrypted = handshake(stream, address, &tls, config).await;
            drop(permit);
            if let Some(encrypted) = encrypted {
                // Nobody takes it: the server ends.
                let _ = sender.send(Ok(encrypted)).await;
            }
        });
    }
}

async fn handshake(
    stream: TcpStream,
    address: SocketAddr,
    tls: &ServerTls,
    config: fn(&ServerTls) -> Arc<ServerConfig>,
) -> Option<TlsStream<TcpStream>> {
    // Answers are small and waited for. A socket that refuses this works all the same.
    let _ = stream.set_nodelay(true);
    let acceptor = TlsAcceptor::from(config(tls));
    let error = match tokio::time::timeout(PATIENCE, acceptor.accept(stream)).await {
        Ok(Ok(encrypted)) => return Some(encrypted),
        Ok(Err(error)) => error,
        Err(_) => io::Error::new(io::ErrorKind::TimedOut, format!("not done within {PATIENCE:?}")),
    };
    tls.handshake_failed();
    // Whoever only looks whether the port is open closes it again, or resets it.
    if matches!(error.kind(), io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset) {
        tracing::debug!(%address, %error, "TLS handshake failed");
    } else {
        tracing::warn!(%address, %error, hint = hint(&error), "TLS handshake failed");
    }
    None
}

/// What to look at.
fn hint(error: &io::Error) -> &'static str {
    match error.get_ref().and_then(|error| error.downcast_ref::<rustls::Error>()) {
        Some(rustls::Error::InvalidCertificate(_)) => {
            "the client's certificate must be of an authority in --client-ca, and be valid now"
        }
        Some(rustls::Error::AlertReceived(_)) => {
            "the client refuses this certificate: is it of the authority that the client has, and of the name that it asks for?"
        }
        Some(rustls::Error::InvalidMessage(_)) => {
            "the client does not speak TLS: give it a bootstrap with --xds-ca"
        }
        _ => "",
    }
}
