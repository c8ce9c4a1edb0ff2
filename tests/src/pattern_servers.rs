//! Servers for large transfers, long silences and half-closed connections. They send and expect a pattern, so
//! both sides can check every byte and store none.
//!
//! | port | server |
//! |---|---|
//! | 8081, and 8444 over TLS | `GET /pattern/N`: N bytes; `POST /count`: the number of bytes received; `GET /held`: one line, and a second one after `resume` |
//! | 9200 | reads to the end, then answers with the count and as many bytes |
//! | 9201 | sends [`SEND_FIRST_LENGTH`] bytes, closes its half, and reads to the end |
//! | 9202 | reads a number, and sends that many bytes |
//! | 9203 | echo over TLS |

use std::convert::Infallible;
use std::io::Read;
use std::net::SocketAddr;
use std::sync::{Arc, LazyLock, Mutex, PoisonError};

use anyhow::{Context, Result, anyhow, bail, ensure};
use bytes::Bytes;
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;

use crate::netns::Netns;
use crate::origin::{self, ADDRESS_HEADER};

/// HTTP.
pub const HTTP_PORT: u16 = 8081;
/// HTTP over TLS.
pub const HTTPS_PORT: u16 = 8444;
/// A server that reads to the end before it answers.
pub const READ_FIRST_PORT: u16 = 9200;
/// A server that sends, closes its half, and then reads to the end.
pub const SEND_FIRST_PORT: u16 = 9201;
/// A server that sends as many bytes as the client asks for.
pub const SEND_ON_DEMAND_PORT: u16 = 9202;
/// Echo over TLS.
pub const TLS_ECHO_PORT: u16 = 9203;
/// The number of bytes that the server at [`SEND_FIRST_PORT`] sends.
pub const SEND_FIRST_LENGTH: u64 = 300_000;

/// The pattern. It repeats after a prime number of bytes, so a missing block of a round size is noticed.
static PATTERN: LazyLock<&'static [u8]> = LazyLock::new(|| {
    let mut state = 1_u32;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        state.to_be_bytes()[0]
    };
    Vec::leak((0..262_139).map(|_| next()).collect())
});

/// The pattern from an offset on, in one piece of at most `longest` bytes.
#[must_use]
pub fn pattern(offset: u64, longest: u64) -> &'static [u8] {
    let pattern = *PATTERN;
    let start = usize::try_from(offset % pattern.len() as u64).unwrap_or_default();
    let end = usize::try_from(longest).map_or(pattern.len(), |longest| (start + longest).min(pattern.len()));
    &pattern[start..end]
}

/// The pattern in pieces.
pub fn pieces(length: u64) -> impl Iterator<Item = &'static [u8]> {
    let mut offset = 0;
    std::iter::from_fn(move || {
        let piece = pattern(offset, length - offset);
        offset += piece.len() as u64;
        (!piece.is_empty()).then_some(piece)
    })
}

/// Checks received bytes against the pattern.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PatternCheck {
    /// The number of bytes so far.
    pub count: u64,
    wrong: bool,
}

impl PatternCheck {
    /// Checks more bytes.
    pub fn take(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let expected = pattern(self.count, bytes.len() as u64);
            let (part, rest) = bytes.split_at(expected.len());
            self.wrong |= part != expected;
            self.count += part.len() as u64;
            bytes = rest;
        }
    }

    /// The count, if every byte was right.
    #[must_use]
    pub fn good(&self) -> Option<u64> {
        (!self.wrong).then_some(self.count)
    }

    /// Reads and checks this many bytes.
    ///
    /// # Errors
    /// Fails if the stream ends before, or fails, or the bytes are others.
    pub fn read(reader: &mut impl Read, length: u64) -> Result<()> {
        let mut check = Self::default();
        let mut buffer = vec![0; 256 << 10];
        while check.count < length {
            let left = usize::try_from(length - check.count).unwrap_or(usize::MAX).min(buffer.len());
            match reader.read(&mut buffer[..left]).with_context(|| format!("after {} bytes", check.count))? {
                0 => bail!("the stream ended after {} of {length} bytes", check.count),
                read => check.take(&buffer[..read]),
            }
        }
        ensure!(check.good() == Some(length), "the bytes that came are not those that were sent");
        Ok(())
    }
}

/// All pattern servers of one namespace.
#[derive(Debug, Clone)]
pub struct PatternServers {
    resume: Arc<watch::Sender<bool>>,
    send_first: Arc<Mutex<Vec<(SocketAddr, PatternCheck)>>>,
}

impl PatternServers {
    /// Starts the servers on every address of the namespace.
    ///
    /// # Errors
    /// Fails if a port is taken.
    pub fn start(netns: &Netns) -> Result<Self> {
        let bulk = Self { resume: Arc::new(watch::Sender::new(false)), send_first: Arc::default() };
        let server = bulk.clone();
        let (sender, started) = std::sync::mpsc::channel();
        netns.spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            let result = runtime.map_err(anyhow::Error::from).and_then(|runtime| {
                runtime.block_on(async {
                    server.listen().await?;
                    let _ = sender.send(Ok(()));
                    std::future::pending::<Result<()>>().await
                })
            });
            let _ = sender.send(result);
        })?;
        started.recv().map_err(|_| anyhow!("the thread of the bulk servers died"))??;
        Ok(bulk)
    }

    /// Lets the held answers continue.
    pub fn resume(&self) {
        self.resume.send_replace(true);
    }

    /// The connections to [`SEND_FIRST_PORT`] that have ended, by local address, with the bytes received.
    #[must_use]
    pub fn send_first_connections(&self) -> Vec<(SocketAddr, PatternCheck)> {
        self.send_first.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    async fn listen(&self) -> Result<()> {
        let tls = tokio_rustls::TlsAcceptor::from(Arc::new(origin::tls()?));
        for port in
            [HTTP_PORT, HTTPS_PORT, READ_FIRST_PORT, SEND_FIRST_PORT, SEND_ON_DEMAND_PORT, TLS_ECHO_PORT]
        {
            let listener = TcpListener::bind(("::", port)).await.with_context(|| format!("port {port}"))?;
            let (bulk, tls) = (self.clone(), tls.clone());
            tokio::spawn(async move {
                while let Ok((stream, _)) = listener.accept().await {
                    let (bulk, tls) = (bulk.clone(), tls.clone());
                    tokio::spawn(async move {
                        // A client may close early.
                        let _ = bulk.serve(port, stream, &tls).await;
                    });
                }
            });
        }
        Ok(())
    }

    async fn serve(&self, port: u16, mut stream: TcpStream, tls: &tokio_rustls::TlsAcceptor) -> Result<()> {
        stream.set_nodelay(true)?;
        let local = stream.local_addr()?;
        let local = SocketAddr::new(local.ip().to_canonical(), local.port());
        match port {
            HTTP_PORT => self.http(stream, local).await,
            HTTPS_PORT => self.http(tls.accept(stream).await?, local).await,
            READ_FIRST_PORT => {
                let came = read_to_end(&mut stream).await?;
                stream.write_all(&came.good().unwrap_or(u64::MAX).to_be_bytes()).await?;
                send(&mut stream, came.count).await
            }
            SEND_FIRST_PORT => {
                send(&mut stream, SEND_FIRST_LENGTH).await?;
                stream.shutdown().await?;
                let came = read_to_end(&mut stream).await?;
                self.send_first.lock().unwrap_or_else(PoisonError::into_inner).push((local, came));
                Ok(())
            }
            SEND_ON_DEMAND_PORT => {
                let mut request = [0; 8];
                stream.read_exact(&mut request).await?;
                send(&mut stream, u64::from_be_bytes(request)).await
            }
            _ => {
                let (mut reader, mut writer) = tokio::io::split(tls.accept(stream).await?);
                tokio::io::copy(&mut reader, &mut writer).await?;
                Ok(())
            }
        }
    }

    async fn http<S>(&self, stream: S, local: SocketAddr) -> Result<()>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let service = service_fn(move |request: Request<Incoming>| {
            let bulk = self.clone();
            async move {
                let mut response = Response::new(bulk.respond(request).await);
                if let Ok(address) = local.ip().to_string().parse() {
                    response.headers_mut().insert(ADDRESS_HEADER, address);
                }
                Ok::<_, Infallible>(response)
            }
        });
        let builder = auto::Builder::new(TokioExecutor::new());
        builder.serve_connection(TokioIo::new(stream), service).await.map_err(|e| anyhow!("{e}"))
    }

    async fn respond(&self, request: Request<Incoming>) -> BoxBody<Bytes, Infallible> {
        let path = request.uri().path().to_owned();
        if let Some(length) = path.strip_prefix("/pattern/").and_then(|length| length.parse().ok()) {
            return sized(length);
        }
        let mut body = request.into_body();
        match path.as_str() {
            "/count" => {
                let mut check = PatternCheck::default();
                while let Some(Ok(frame)) = body.frame().await {
                    check.take(frame.data_ref().map(Bytes::as_ref).unwrap_or_default());
                }
                Full::from(format!("{:?}\n", check.good())).boxed()
            }
            "/held" => {
                let (sender, lines) = mpsc::channel(1);
                let mut resume = self.resume.subscribe();
                tokio::spawn(async move {
                    let line = |text| Ok(Frame::data(Bytes::from_static(text)));
                    let _ = sender.send(line(b"first\n")).await;
                    let _ = resume.wait_for(|resumed| *resumed).await;
                    let _ = sender.send(line(b"second\n")).await;
                });
                StreamBody::new(ReceiverStream::new(lines)).boxed()
            }
            _ => Full::from("there is nothing\n").boxed(),
        }
    }
}

/// The pattern as a body with a known length.
fn sized(length: u64) -> BoxBody<Bytes, Infallible> {
    struct Sized<I>(I, u64);

    impl<I: Iterator<Item = &'static [u8]> + Unpin> hyper::body::Body for Sized<I> {
        type Data = Bytes;
        type Error = Infallible;

        fn poll_frame(
            mut self: std::pin::Pin<&mut Self>,
            _: &mut std::task::Context<'_>,
        ) -> std::task::Poll<Option<Result<Frame<Bytes>, Infallible>>> {
            let piece = self.0.next();
            std::task::Poll::Ready(piece.map(|piece| Ok(Frame::data(Bytes::from_static(piece)))))
        }

        fn size_hint(&self) -> hyper::body::SizeHint {
            hyper::body::SizeHint::with_exact(self.1)
        }
    }

    Sized(pieces(length), length).boxed()
}

async fn read_to_end(reader: &mut (impl AsyncRead + Unpin)) -> Result<PatternCheck> {
    let mut check = PatternCheck::default();
    let mut buffer = vec![0; 256 << 10];
    loop {
        match reader.read(&mut buffer).await? {
            0 => return Ok(check),
            length => check.take(&buffer[..length]),
        }
    }
}

async fn send(writer: &mut (impl AsyncWrite + Unpin), length: u64) -> Result<()> {
    for piece in pieces(length) {
        writer.write_all(piece).await?;
    }
    Ok(())
}
