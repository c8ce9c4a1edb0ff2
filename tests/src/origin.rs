//! Origins: servers outside the mesh that record every connection and request.
//!
//! | port | server |
//! |---|---|
//! | 80, 8080 | HTTP/1.1 and h2c |
//! | 443, 8443 | the same over TLS, with a certificate for any name |
//! | 9000, 9100 to 9110 | TCP echo |
//! | 9001 | a server that speaks first |
//! | 9002 | sends without a pause |

use std::convert::Infallible;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, Result};
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::netns::Netns;

/// The response header with the local address of the request.
pub const ADDRESS_HEADER: &str = "x-origin-address";
/// The greeting of the server that speaks first.
pub const GREETING: &[u8] = b"220 ready\r\n";

/// An event at an origin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OriginEvent {
    /// A connection was accepted at this address.
    Connection(SocketAddr),
    /// A request arrived: local address, authority and path.
    Request(SocketAddr, String, String),
}

/// All servers of one namespace.
#[derive(Debug, Clone, Default)]
pub struct Origins {
    seen: Arc<Mutex<Vec<OriginEvent>>>,
    record: Option<fn(&OriginEvent)>,
}

impl Origins {
    /// Starts the servers on every address of the namespace.
    ///
    /// # Errors
    /// Fails if a port is taken.
    pub fn start(netns: &Netns) -> Result<Self> {
        let origins = Self::default();
        let server = origins.clone();
        let (sender, started) = std::sync::mpsc::channel();
        netns.spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            match runtime {
                Ok(runtime) => runtime.block_on(async move {
                    let result = server.listen().await;
                    let failed = result.is_err();
                    let _ = sender.send(result);
                    if !failed {
                        std::future::pending::<()>().await;
                    }
                }),
                Err(error) => {
                    let _ = sender.send(Err(error.into()));
                }
            }
        })?;
        started.recv().context("the origins' thread died")??;
        Ok(origins)
    }

    /// Creates the servers for a process of their own, which passes each event to `tell`. See
    /// [`Origins::listen`].
    #[must_use]
    pub fn with_observer(record: fn(&OriginEvent)) -> Self {
        Self { record: Some(record), ..Self::default() }
    }

    /// The events so far.
    #[must_use]
    pub fn events(&self) -> Vec<OriginEvent> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The number of connections to an address.
    #[must_use]
    pub fn connections_to(&self, address: IpAddr) -> usize {
        self.events()
            .iter()
            .filter(|seen| matches!(seen, OriginEvent::Connection(to) if to.ip() == address))
            .count()
    }

    fn record(&self, seen: OriginEvent) {
        if let Some(record) = self.record {
            record(&seen);
        }
        let mut all = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        // A benchmark opens millions, which no test reads.
        if all.len() < 100_000 {
            all.push(seen);
        }
    }

    /// Listens on every address of this process's namespace; serving continues in tasks of the runtime.
    ///
    /// # Errors
    /// Fails if a port is taken.
    pub async fn listen(&self) -> Result<()> {
        let tls = Arc::new(tls()?);
        for (port, kind) in [
            (80, Kind::Http),
            (8080, Kind::Http),
            (443, Kind::Https),
            (8443, Kind::Https),
            (9000, Kind::Echo),
            (9001, Kind::First),
            (9002, Kind::Flood),
        ]
        .into_iter()
        .chain((9100..9111).map(|port| (port, Kind::Echo)))
        {
            // One socket for both families: IPv4 arrives mapped.
            let listener = TcpListener::bind(("::", port)).await.with_context(|| format!("port {port}"))?;
            let (origins, tls) = (self.clone(), Arc::clone(&tls));
            tokio::spawn(async move {
                while let Ok((stream, _)) = listener.accept().await {
                    let (origins, tls) = (origins.clone(), Arc::clone(&tls));
                    tokio::spawn(async move {
                        // A client may close early.
                        let _ = origins.serve(stream, kind, tls).await;
                    });
                }
            });
        }
        Ok(())
    }

    async fn serve(&self, mut stream: TcpStream, kind: Kind, tls: Arc<rustls::ServerConfig>) -> Result<()> {
        let local = stream.local_addr()?;
        let local = SocketAddr::new(local.ip().to_canonical(), local.port());
        stream.set_nodelay(true)?;
        self.record(OriginEvent::Connection(local));
        match kind {
            Kind::Http => self.http(TokioIo::new(stream), local).await,
            Kind::Https => {
                let stream = tokio_rustls::TlsAcceptor::from(tls).accept(stream).await?;
                self.http(TokioIo::new(stream), local).await
            }
            Kind::Echo => {
                let (mut reader, mut writer) = stream.split();
                tokio::io::copy(&mut reader, &mut writer).await?;
                Ok(())
            }
            Kind::First => {
                stream.write_all(GREETING).await?;
                let (mut reader, mut writer) = stream.split();
                tokio::io::copy(&mut reader, &mut writer).await?;
                Ok(())
            }
            Kind::Flood => {
                let mut request = [0; 8];
                stream.read_exact(&mut request).await?;
                let mut left = u64::from_be_bytes(request);
                let block = vec![b'x'; 256 << 10];
                while left > 0 {
                    let part = usize::try_from(left).unwrap_or(usize::MAX).min(block.len());
                    stream.write_all(&block[..part]).await?;
                    left -= part as u64;
                }
                Ok(())
            }
        }
    }

    async fn http<I>(&self, io: TokioIo<I>, local: SocketAddr) -> Result<()>
    where
        I: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
    {
        let origins = self.clone();
        let service = service_fn(move |request: Request<hyper::body::Incoming>| {
            let origins = origins.clone();
            async move { Ok::<_, Infallible>(origins.respond(request, local).await) }
        });
        auto::Builder::new(TokioExecutor::new())
            .serve_connection(io, service)
            .await
            .map_err(|e| anyhow::anyhow!("{e}"))
    }

    async fn respond(
        &self,
        request: Request<hyper::body::Incoming>,
        local: SocketAddr,
    ) -> Response<Full<Bytes>> {
        let authority = request
            .uri()
            .authority()
            .map(ToString::to_string)
            .or_else(|| request.headers().get("host").and_then(|host| host.to_str().ok()).map(str::to_owned))
            .unwrap_or_default();
        let path = request.uri().path().to_owned();
        self.record(OriginEvent::Request(local, authority.clone(), path.clone()));
        let mut body = format!("{} {authority}{path}\n", request.method());
        for (name, value) in request.headers() {
            body += &format!("{name}: {}\n", String::from_utf8_lossy(value.as_bytes()));
        }
        let head_only = request.method() == hyper::Method::HEAD;
        let status = path.strip_prefix("/status/").and_then(|code| code.parse().ok()).unwrap_or(200);
        let bytes = path.strip_prefix("/bytes/").and_then(|count| count.parse().ok());
        // Read to the end, so that a large upload is seen to arrive.
        let received = request.into_body().collect().await.map(|b| b.to_bytes().len()).unwrap_or_default();
        body += &format!("received {received} bytes\n");
        let body = bytes.map_or_else(|| Bytes::from(body), |count| Bytes::from(vec![b'x'; count]));
        let body = if head_only { Bytes::new() } else { body };
        Response::builder()
            .status(status)
            .header("server", "gunicorn/19.9.0")
            .header(ADDRESS_HEADER, local.ip().to_string())
            .body(Full::new(body))
            .unwrap_or_default()
    }
}

#[derive(Debug, Clone, Copy)]
enum Kind {
    Http,
    Https,
    Echo,
    First,
    Flood,
}

/// Presents a certificate for every name. Clients do not verify it: they identify the origin by its headers.
#[derive(Debug)]
struct AnyNameResolver {
    known: Mutex<std::collections::BTreeMap<String, Arc<CertifiedKey>>>,
}

impl ResolvesServerCert for AnyNameResolver {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let name = hello.server_name().unwrap_or("no-name.invalid").to_owned();
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(key) = known.get(&name) {
            return Some(Arc::clone(key));
        }
        let made = rcgen::generate_simple_self_signed([name.clone()]).ok()?;
        let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).ok()?;
        let key = rustls::crypto::ring::sign::any_supported_type(&key).ok()?;
        let certificate = CertificateDer::from(made.cert.der().to_vec());
        let key = Arc::new(CertifiedKey::new(vec![certificate], key));
        known.insert(name, Arc::clone(&key));
        Some(key)
    }
}

pub(crate) fn tls() -> Result<rustls::ServerConfig> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(AnyNameResolver { known: Mutex::default() }));
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(config)
}
