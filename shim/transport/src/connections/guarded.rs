//! A connection with its place.

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

use super::{Place, WRITE_TIMEOUT};

/// A connection that ends when its place is somebody else's, when it waited too long for its client, or when the client
/// takes nothing of what it is sent.
pub struct Guarded<C> {
    connection: C,
    info: ConnectionInfo,
    /// Resolves when its place is somebody else's; then it is gone.
    evicted: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
    idle_timeout: Duration,
    idle: Option<Pin<Box<Sleep>>>,
    stalled: Option<Pin<Box<Sleep>>>,
}

/// The origin of a connection, and its place.
#[derive(Clone, Debug)]
pub struct ConnectionInfo {
    /// The client's address.
    pub peer: SocketAddr,
    /// Our own.
    pub own: Option<SocketAddr>,
    /// The client's certificate and what follows it in its chain, which TLS has verified.
    pub certificates: Option<Arc<Vec<CertificateDer<'static>>>>,
    /// The place that it has while it waits.
    pub place: Arc<Place>,
}

/// A connection of which more is known than its bytes.
pub trait Certified {
    /// The certificate that the client has shown.
    fn certificates(&self) -> Option<Arc<Vec<CertificateDer<'static>>>> {
        None
    }

    /// Our own address.
    fn own(&self) -> Option<SocketAddr> {
        None
    }
}

impl Certified for TcpStream {
    fn own(&self) -> Option<SocketAddr> {
        self.local_addr().ok()
    }
}

impl Certified for TlsStream<TcpStream> {
    fn certificates(&self) -> Option<Arc<Vec<CertificateDer<'static>>>> {
        let chain = self.get_ref().1.peer_certificates()?;
        Some(Arc::new(chain.iter().map(|certificate| certificate.clone().into_owned()).collect()))
    }

    fn own(&self) -> Option<SocketAddr> {
        self.get_ref().0.local_addr().ok()
    }
}

/// Within a process.
impl Certified for tokio::io::DuplexStream {}

impl<C> std::fmt::Debug for Guarded<C> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Guarded").field("info", &self.info).finish_non_exhaustive()
    }
}

impl<C: Certified> Guarded<C> {
    /// A connection that may wait for its client for `idle_timeout`.
    pub fn new(connection: C, peer: SocketAddr, place: Place, idle_timeout: Duration) -> Self {
        let evicted: Pin<Box<dyn Future<Output = ()> + Send>> = Box::pin(place.evicted());
        let (own, certificates) = (connection.own(), connection.certificates());
        let info = ConnectionInfo { peer, own, certificates, place: Arc::new(place) };
        Self { connection, info, evicted: Some(evicted), idle_timeout, idle: None, stalled: None }
    }
}

impl<C> Guarded<C> {
    /// The origin of the connection, and its place.
    pub fn info(&self) -> &ConnectionInfo {
        &self.info
    }

    /// Says why it must end, if it must.
    fn ended(&mut self, cx: &mut Context<'_>) -> Option<io::Error> {
        if self.evicted.as_mut().is_none_or(|evicted| evicted.as_mut().poll(cx).is_ready()) {
            self.evicted = None;
            return Some(io::Error::new(io::ErrorKind::ConnectionAborted, "others need its place"));
        }
        let Some(since) = self.info.place.waits_since() else {
            self.idle = None;
            return None;
        };
        let end = since + self.idle_timeout;
        let idle = self.idle.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(end)));
        if idle.deadline() != end {
            idle.as_mut().reset(end);
        }
        let waited = idle.as_mut().poll(cx).is_ready();
        waited.then(|| io::Error::new(io::ErrorKind::TimedOut, "it asks for nothing"))
    }

    /// Says whether the client took nothing for too long.
    fn written<T>(&mut self, cx: &mut Context<'_>, written: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if written.is_ready() {
            self.stalled = None;
            return written;
        }
        let begin = || Box::pin(tokio::time::sleep_until(Instant::now() + WRITE_TIMEOUT));
        let stalled = self.stalled.get_or_insert_with(begin);
        stalled.as_mut().poll(cx).map(|()| {
            Err(io::Error::new(io::ErrorKind::TimedOut, format!("it took nothing for {WRITE_TIMEOUT:?}")))
        })
    }
}

impl<C: AsyncRead + Unpin> AsyncRead for Guarded<C> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if let Some(error) = this.ended(cx) {
            return Poll::Ready(Err(error));
        }
        Pin::new(&mut this.connection).poll_read(cx, buf)
    }
}

impl<C: AsyncWrite + Unpin> AsyncWrite for Guarded<C> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = Pin::new(&mut this.connection).poll_write(cx, bytes);
        this.written(cx, written)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = Pin::new(&mut this.connection).poll_write_vectored(cx, bytes);
        this.written(cx, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.connection.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let flushed = Pin::new(&mut this.connection).poll_flush(cx);
        this.written(cx, flushed)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let shut = Pin::new(&mut this.connection).poll_shutdown(cx);
        this.written(cx, shut)
    }
}
