//! A connection with its slot in the pool.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use rustls::pki_types::CertificateDer;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep};
use tokio_rustls::server::TlsStream;

use super::{Slot, WRITE_TIMEOUT};

/// A connection that ends when it is evicted, when it was idle for too long, or when the client stops reading.
pub struct GuardedConnection<C> {
    connection: C,
    info: ConnectionInfo,
    /// Resolves on eviction; `None` afterwards.
    evicted: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
    idle_timeout: Duration,
    idle: Option<Pin<Box<Sleep>>>,
    stalled: Option<Pin<Box<Sleep>>>,
}

/// Addresses and certificates of a connection, and its slot.
#[derive(Clone, Debug)]
pub struct ConnectionInfo {
    /// Address of the client.
    pub peer: SocketAddr,
    /// Local address.
    pub local: Option<SocketAddr>,
    /// The client's certificate chain, verified by TLS.
    pub certificates: Option<Arc<Vec<CertificateDer<'static>>>>,
    /// Slot that the connection holds while it is idle.
    pub slot: Arc<Slot>,
}

/// Metadata of a transport connection.
pub trait ConnectionMetadata {
    /// The client's certificate chain.
    fn peer_certificates(&self) -> Option<Arc<Vec<CertificateDer<'static>>>> {
        None
    }

    /// Local address.
    fn local_address(&self) -> Option<SocketAddr> {
        None
    }
}

impl ConnectionMetadata for TcpStream {
    fn local_address(&self) -> Option<SocketAddr> {
        self.local_addr().ok()
    }
}

impl ConnectionMetadata for TlsStream<TcpStream> {
    fn peer_certificates(&self) -> Option<Arc<Vec<CertificateDer<'static>>>> {
        let chain = self.get_ref().1.peer_certificates()?;
        Some(Arc::new(chain.iter().map(|certificate| certificate.clone().into_owned()).collect()))
    }

    fn local_address(&self) -> Option<SocketAddr> {
        self.get_ref().0.local_addr().ok()
    }
}

/// An in-process connection.
impl ConnectionMetadata for tokio::io::DuplexStream {}

impl<C> std::fmt::Debug for GuardedConnection<C> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("GuardedConnection").field("info", &self.info).finish_non_exhaustive()
    }
}

impl<C: ConnectionMetadata> GuardedConnection<C> {
    /// Wraps a connection that may be idle for `idle_timeout`.
    pub fn new(connection: C, peer: SocketAddr, slot: Slot, idle_timeout: Duration) -> Self {
        let evicted: Pin<Box<dyn Future<Output = ()> + Send>> = Box::pin(slot.evicted());
        let (local, certificates) = (connection.local_address(), connection.peer_certificates());
        let info = ConnectionInfo { peer, local, certificates, slot: Arc::new(slot) };
        Self { connection, info, evicted: Some(evicted), idle_timeout, idle: None, stalled: None }
    }
}

impl<C> GuardedConnection<C> {
    /// Addresses, certificates and slot.
    pub fn info(&self) -> &ConnectionInfo {
        &self.info
    }

    /// Returns an error if the connection was evicted or was idle for too long.
    fn check_idle(&mut self, cx: &mut Context<'_>) -> Option<io::Error> {
        if self.evicted.as_mut().is_none_or(|evicted| evicted.as_mut().poll(cx).is_ready()) {
            self.evicted = None;
            return Some(io::Error::new(
                io::ErrorKind::ConnectionAborted,
                "evicted: another client took its slot",
            ));
        }
        let Some(since) = self.info.slot.idle_since() else {
            self.idle = None;
            return None;
        };
        let end = since + self.idle_timeout;
        let idle = self.idle.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(end)));
        if idle.deadline() != end {
            idle.as_mut().reset(end);
        }
        let waited = idle.as_mut().poll(cx).is_ready();
        waited.then(|| io::Error::new(io::ErrorKind::TimedOut, "the client was idle for too long"))
    }

    /// Returns an error if the client has read nothing for too long.
    fn check_stalled<T>(
        &mut self,
        cx: &mut Context<'_>,
        written: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if written.is_ready() {
            self.stalled = None;
            return written;
        }
        let establish = || Box::pin(tokio::time::sleep_until(Instant::now() + WRITE_TIMEOUT));
        let stalled = self.stalled.get_or_insert_with(establish);
        stalled.as_mut().poll(cx).map(|()| {
            Err(io::Error::new(
                io::ErrorKind::TimedOut,
                format!("the client read nothing for {WRITE_TIMEOUT:?}"),
            ))
        })
    }
}

impl<C: AsyncRead + Unpin> AsyncRead for GuardedConnection<C> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if let Some(error) = this.check_idle(cx) {
            return Poll::Ready(Err(error));
        }
        Pin::new(&mut this.connection).poll_read(cx, buf)
    }
}

impl<C: AsyncWrite + Unpin> AsyncWrite for GuardedConnection<C> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = Pin::new(&mut this.connection).poll_write(cx, bytes);
        this.check_stalled(cx, written)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = Pin::new(&mut this.connection).poll_write_vectored(cx, bytes);
        this.check_stalled(cx, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.connection.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let flushed = Pin::new(&mut this.connection).poll_flush(cx);
        this.check_stalled(cx, flushed)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let shut = Pin::new(&mut this.connection).poll_shutdown(cx);
        this.check_stalled(cx, shut)
    }
}
