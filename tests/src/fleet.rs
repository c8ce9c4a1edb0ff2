//! Simulated proxies: thousands of discovery streams in one process. Each subscribes as Envoy does, acknowledges what
//! it gets, keeps nothing of it, and connects again when its stream ends.

mod messages;

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow};
use bytes::Bytes;
use envoy_types::pb::envoy::config::core::v3::Node;
use envoy_types::pb::envoy::service::discovery::v3::{
    DeltaDiscoveryRequest, DiscoveryRequest, DiscoveryResponse,
};
use h2::SendStream;
use prost::Message;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tonic::codegen::http;

use self::messages::ResponseReader;
use crate::client::accept_any_certificate;
use crate::netns::Netns;
use crate::xds::{CLUSTER, EXTENSION, LISTENER};

/// The window of a stream and of its connection: Envoy's default from 1.40 on.
const WINDOW: u32 = 16 << 20;
/// The first delay before a proxy connects again, and the longest: Envoy's.
const RETRY_DELAYS: [Duration; 2] = [Duration::from_millis(500), Duration::from_secs(30)];
/// The types in the order in which Envoy asks for them, with the names that it subscribes to.
const SUBSCRIPTIONS: [(&str, &[&str]); 3] =
    [(CLUSTER, &[]), (LISTENER, &[]), (EXTENSION, &["egress-http-policy", "egress-policy"])];

/// The settings of a fleet.
#[derive(Debug, Clone, Default)]
pub struct FleetConfig {
    /// The number of proxies.
    pub proxies: usize,
    /// The control planes. A proxy that connects again asks the next one.
    pub addresses: Vec<SocketAddr>,
    /// Delta, instead of state of the world.
    pub delta: bool,
    /// TLS, whoever is at the other end.
    pub tls: bool,
    /// The number of service accounts that they share: `a0`, `a1` and so on in namespace `curl`.
    pub accounts: usize,
    /// The number of bytes after which a proxy reads nothing any more from its connection, as on a machine that is
    /// busy; without it all are read.
    pub read_limit: Option<usize>,
    /// The tokens, which the proxies share by turns. Without any, they are identified by node.
    pub tokens: Vec<String>,
}

/// A running fleet. It ends when this is dropped.
#[derive(Debug)]
pub struct Fleet {
    state: Arc<State>,
    _stop: tokio::sync::oneshot::Sender<()>,
}

/// The progress of the whole fleet.
#[derive(Debug, Default)]
struct State {
    /// The proxies whose open stream has acknowledged a policy.
    served: AtomicUsize,
    /// The bytes that were received.
    received: AtomicU64,
    /// The streams that have ended.
    ended: AtomicUsize,
    /// The times that proxies waited for their first policy.
    delays: Mutex<Vec<Duration>>,
    /// The reason why the last stream ended.
    last_error: Mutex<String>,
}

impl Fleet {
    /// Starts a fleet whose proxies all connect at once.
    ///
    /// # Errors
    /// Fails if the namespace cannot be entered.
    pub fn start(from: &Netns, config: FleetConfig) -> Result<Self> {
        let state = Arc::new(State::default());
        let (stop, stopped) = tokio::sync::oneshot::channel();
        let shared = Arc::clone(&state);
        from.spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            let Ok(runtime) = runtime else { return };
            let config = Arc::new(config);
            for number in 0..config.proxies {
                runtime.spawn(run(number, Arc::clone(&config), Arc::clone(&shared)));
            }
            // An error means that the fleet was dropped.
            let _ = runtime.block_on(stopped);
        })?;
        Ok(Self { state, _stop: stop })
    }

    /// The number of proxies that have their policy by an open stream.
    #[must_use]
    pub fn served(&self) -> usize {
        self.state.served.load(Ordering::Relaxed)
    }

    /// The number of bytes that the proxies have received.
    #[must_use]
    pub fn received(&self) -> u64 {
        self.state.received.load(Ordering::Relaxed)
    }

    /// The number of streams that have ended, and why the last one did.
    #[must_use]
    pub fn ended(&self) -> (usize, String) {
        let error = self.state.last_error.lock().unwrap_or_else(PoisonError::into_inner).clone();
        (self.state.ended.load(Ordering::Relaxed), error)
    }

    /// The times from the start of a connection to its first policy: the median and the longest.
    #[must_use]
    pub fn delays(&self) -> (Duration, Duration) {
        let mut delays = self.state.delays.lock().unwrap_or_else(PoisonError::into_inner).clone();
        delays.sort_unstable();
        let at = |index: usize| delays.get(index).copied().unwrap_or_default();
        (at(delays.len() / 2), at(delays.len().saturating_sub(1)))
    }
}

/// A proxy, for ever.
async fn run(number: usize, config: Arc<FleetConfig>, state: Arc<State>) {
    let mut proxy = Proxy { number, config, state, versions: Default::default(), is_served: false };
    let mut delay = RETRY_DELAYS[0];
    for attempt in 0.. {
        let Err(error) = proxy.connect(attempt).await;
        if std::mem::take(&mut proxy.is_served) {
            proxy.state.served.fetch_sub(1, Ordering::Relaxed);
            delay = RETRY_DELAYS[0];
        }
        proxy.state.ended.fetch_add(1, Ordering::Relaxed);
        *proxy.state.last_error.lock().unwrap_or_else(PoisonError::into_inner) = format!("{error:#}");
        // Spread by the proxy's number, as Envoy does it by chance.
        let spread = u32::try_from((number * 7919 + attempt * 31) % 100).unwrap_or_default();
        tokio::time::sleep(delay * (50 + spread) / 100).await;
        delay = (delay * 2).min(RETRY_DELAYS[1]);
    }
}

#[derive(Debug)]
struct Proxy {
    number: usize,
    config: Arc<FleetConfig>,
    state: Arc<State>,
    /// The version that it has of each type, for the next connection.
    versions: [String; SUBSCRIPTIONS.len()],
    is_served: bool,
}

impl Proxy {
    async fn connect(&mut self, attempt: usize) -> Result<std::convert::Infallible> {
        let addresses = &self.config.addresses;
        let address =
            *addresses.get((self.number + attempt) % addresses.len().max(1)).context("no address")?;
        let start = tokio::time::Instant::now();
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        let stream = LimitedReader { stream, left: self.config.read_limit };
        if !self.config.tls {
            return self.converse(stream, start).await;
        }
        let mut tls = accept_any_certificate()?;
        tls.alpn_protocols = vec![b"h2".to_vec()];
        let stream =
            TlsConnector::from(Arc::new(tls)).connect(ServerName::from(address.ip()), stream).await?;
        self.converse(stream, start).await
    }

    async fn converse(
        &mut self,
        stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
        start: tokio::time::Instant,
    ) -> Result<std::convert::Infallible> {
        let mut builder = h2::client::Builder::new();
        builder.initial_window_size(WINDOW).initial_connection_window_size(WINDOW);
        let (mut client, connection) = builder.handshake::<_, Bytes>(stream).await?;
        // It ends with its stream.
        tokio::spawn(connection);
        let method = if self.config.delta { "Delta" } else { "Stream" };
        let path = format!(
            "http://control-plane/envoy.service.discovery.v3.AggregatedDiscoveryService/{method}AggregatedResources"
        );
        let mut request =
            http::Request::post(path).header("content-type", "application/grpc").header("te", "trailers");
        let tokens = &self.config.tokens;
        if let Some(token) = tokens.get(self.number % tokens.len().max(1)) {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        let (response, mut requests) = client.send_request(request.body(())?, false)?;
        self.subscribe(&mut requests, 0)?;
        let response = response.await?;
        if let Some(status) = response.headers().get("grpc-status") {
            return Err(anyhow!(
                "refused with status {status:?}: {:?}",
                response.headers().get("grpc-message")
            ));
        }
        let mut body = response.into_body();
        let mut reader = ResponseReader::default();
        let mut subscribed = 1;
        // A control plane that has nothing newer sends nothing: a proxy that was here before asks for all at once.
        let is_eager = |versions: &[String; 3], index: usize| {
            self.config.read_limit.is_some() || !versions[index].is_empty()
        };
        while subscribed < SUBSCRIPTIONS.len() && is_eager(&self.versions, subscribed - 1) {
            self.subscribe(&mut requests, subscribed)?;
            subscribed += 1;
        }
        if self.versions.iter().all(|version| !version.is_empty()) && !self.config.delta {
            self.serve(None);
        }
        while let Some(bytes) = body.data().await {
            let bytes = bytes?;
            body.flow_control().release_capacity(bytes.len())?;
            self.state.received.fetch_add(bytes.len() as u64, Ordering::Relaxed);
            for response in reader.feed(&bytes) {
                let index = SUBSCRIPTIONS.iter().position(|(type_url, _)| *type_url == response.type_url);
                let index = index.context("a type that was not asked for")?;
                self.acknowledge(&mut requests, index, &response)?;
                self.versions[index] = response.version_info;
                if index == subscribed - 1 && subscribed < SUBSCRIPTIONS.len() {
                    self.subscribe(&mut requests, subscribed)?;
                    subscribed += 1;
                }
                if SUBSCRIPTIONS[index].0 == EXTENSION && !self.is_served {
                    self.serve(Some(start.elapsed()));
                }
            }
        }
        let trailers = body.trailers().await?;
        Err(anyhow!("the stream ended with {trailers:?}"))
    }

    fn serve(&mut self, delay: Option<Duration>) {
        self.is_served = true;
        self.state.served.fetch_add(1, Ordering::Relaxed);
        self.state.delays.lock().unwrap_or_else(PoisonError::into_inner).extend(delay);
    }

    fn subscribe(&self, requests: &mut SendStream<Bytes>, index: usize) -> Result<()> {
        let (type_url, names) = SUBSCRIPTIONS[index];
        let (type_url, names) = (type_url.to_owned(), names.iter().map(|name| (*name).to_owned()).collect());
        let account = self.number % self.config.accounts.max(1);
        let id = format!("fleet-{}.a{account}.curl", self.number);
        let node = (index == 0).then(|| Node { id, ..Node::default() });
        if self.config.delta {
            let resource_names_subscribe = names;
            return send(
                requests,
                &DeltaDiscoveryRequest { node, type_url, resource_names_subscribe, ..Default::default() },
            );
        }
        let version_info = self.versions[index].clone();
        send(
            requests,
            &DiscoveryRequest { node, type_url, version_info, resource_names: names, ..Default::default() },
        )
    }

    fn acknowledge(
        &self,
        requests: &mut SendStream<Bytes>,
        index: usize,
        response: &DiscoveryResponse,
    ) -> Result<()> {
        let (type_url, response_nonce) = (response.type_url.clone(), response.nonce.clone());
        if self.config.delta {
            return send(requests, &DeltaDiscoveryRequest { type_url, response_nonce, ..Default::default() });
        }
        let names = SUBSCRIPTIONS[index].1.iter().map(|name| (*name).to_owned());
        let (version_info, resource_names) = (response.version_info.clone(), names.collect());
        send(
            requests,
            &DiscoveryRequest {
                type_url,
                response_nonce,
                version_info,
                resource_names,
                ..Default::default()
            },
        )
    }
}

/// Sends a message in its frame of gRPC.
fn send(requests: &mut SendStream<Bytes>, message: &impl Message) -> Result<()> {
    let mut bytes = vec![0];
    bytes.extend(u32::try_from(message.encoded_len())?.to_be_bytes());
    message.encode(&mut bytes)?;
    Ok(requests.send_data(bytes.into(), false)?)
}

/// A connection that is read up to a limit.
#[derive(Debug)]
struct LimitedReader {
    stream: TcpStream,
    left: Option<usize>,
}

impl AsyncRead for LimitedReader {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        if self.left == Some(0) {
            return Poll::Pending;
        }
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(context, buffer))?;
        let read = buffer.filled().len() - before;
        self.left = self.left.map(|left| left.saturating_sub(read));
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for LimitedReader {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
