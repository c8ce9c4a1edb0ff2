//! The gRPC service: one task per stream between a session, the snapshots and the registry.

use std::convert::Infallible;
use std::future::Future;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use egress_policy::Identity;
use egress_standalone::OLDEST;
use envoy_types::pb::envoy::config::core::v3::Node;
use envoy_types::pb::envoy::service::accesslog::v3::access_log_service_server::AccessLogServiceServer;
use envoy_types::pb::envoy::service::discovery::v3::aggregated_discovery_service_server::SERVICE_NAME;
use envoy_types::pb::envoy::service::discovery::v3::{DeltaDiscoveryRequest, DiscoveryRequest};
use futures::TryStreamExt;
use tokio::net::TcpListener;
use tokio::sync::{OwnedSemaphorePermit, watch};
use tokio::time::Instant;
use tonic::body::Body;
use tonic::codec::Codec;
use tonic::codegen::{BoxFuture, Service as HttpService, http};
use tonic::server::NamedService;
use tonic::{Request, Status, Streaming};
use tonic_prost::ProstCodec;
use tracing::Instrument;

use super::access_logs::AccessLogs;
use super::connection::Connection;
use super::fallback::{Fallback, SnapshotBuilder};
use super::identify::{Identification, ReviewMode, StreamRefusal};
use super::limits::{self, Service, StreamLimits, Throttle, Unacknowledged};
use super::proxies::{Proxies, Registration};
use super::push_budget::{MAX_PUSH_TIME, PushBudget};
use super::removal_timer::RemovalTimer;
use super::session::{Answer, Delta, Event, MakeBeforeBreak, Sotw};
use super::stream::{FIRST_MESSAGE_TIMEOUT, place, presented_credentials, refuse};
use super::wire::{self, Message, Sender};
use egress_core::proxies::Protocol;
use egress_envoy::reported;
use egress_envoy::snapshot::Snapshot;
use egress_flows::table::FlowTable;
use egress_transport::connections::{Pool, accept_plaintext, accept_tls};
use egress_transport::tls::ServerTls;

/// The age after which a connection accepts no new streams. A stream that ends with its certificate must not come back by the
/// connection of that certificate.
const CONNECTION_AGE: Duration = Duration::from_secs(3600);

/// The source of snapshots.
pub trait SnapshotProvider: SnapshotBuilder + Send + Sync + 'static {
    /// The snapshot of an identity, now and whenever it changes.
    fn subscribe(&self, identity: &Identity) -> watch::Receiver<Arc<Snapshot>>;
    /// The most proxies that may connect, where there is a limit.
    fn most_proxies(&self) -> Option<usize>;
}

/// The service.
#[derive(Debug)]
pub struct Server<S> {
    snapshots: Arc<S>,
    identify: Arc<Identification>,
    proxies: Arc<Proxies>,
    limits: Arc<StreamLimits>,
    pushes: Arc<PushBudget>,
}

impl<S> Clone for Server<S> {
    fn clone(&self) -> Self {
        let Self { snapshots, identify, proxies, limits, pushes } = self;
        Self {
            snapshots: Arc::clone(snapshots),
            identify: Arc::clone(identify),
            proxies: Arc::clone(proxies),
            limits: Arc::clone(limits),
            pushes: Arc::clone(pushes),
        }
    }
}

/// A protocol: how its session answers.
trait Session: MakeBeforeBreak + Default + Send + 'static {
    type Request: prost::Message + Default + Send + 'static;
    const PROTOCOL: Protocol;
    fn node(request: &Self::Request) -> Option<&Node>;
    fn type_url(request: &Self::Request) -> &str;
    fn on_request(&mut self, request: &Self::Request, to: &Snapshot) -> (Vec<Answer>, Vec<Event>);
    fn encode(answer: Answer) -> Message;
    /// The number of names that it holds, and of their bytes.
    fn size(&self) -> (usize, usize);
    /// The error that the proxy reports.
    fn error(request: &mut Self::Request) -> Option<&mut String>;
}

macro_rules! session {
    ($session:ty, $request:ty, $protocol:expr, $encode:expr) => {
        impl Session for $session {
            type Request = $request;
            const PROTOCOL: Protocol = $protocol;

            fn node(request: &$request) -> Option<&Node> {
                request.node.as_ref()
            }

            fn type_url(request: &$request) -> &str {
                &request.type_url
            }

            fn on_request(&mut self, request: &$request, to: &Snapshot) -> (Vec<Answer>, Vec<Event>) {
                <$session>::on_request(self, request, to)
            }

            fn encode(answer: Answer) -> Message {
                $encode(answer)
            }

            fn size(&self) -> (usize, usize) {
                <$session>::size(self)
            }

            fn error(request: &mut $request) -> Option<&mut String> {
                request.error_detail.as_mut().map(|error| &mut error.message)
            }
        }
    };
}

session!(Sotw, DiscoveryRequest, Protocol::Sotw, Message::sotw);
session!(Delta, DeltaDiscoveryRequest, Protocol::Delta, Message::delta);

impl<S: SnapshotProvider> Server<S> {
    /// A service of these snapshots.
    pub fn new(snapshots: Arc<S>, identify: Arc<Identification>, proxies: Arc<Proxies>) -> Self {
        Self { snapshots, identify, proxies, limits: Arc::default(), pushes: Arc::default() }
    }

    /// Serves until `stop` resolves: over TLS, if there is any; with `flows`, access logs too.
    ///
    /// # Errors
    /// When the transport fails.
    pub async fn serve(
        self,
        listener: TcpListener,
        tls: Option<ServerTls>,
        flows: Option<Arc<FlowTable>>,
        pool: Arc<Pool>,
        stop: impl Future<Output = ()> + Send,
    ) -> Result<(), tonic::transport::Error> {
        let access_logs = flows.map(|flows| {
            let (identify, proxies) = (Arc::clone(&self.identify), Arc::clone(&self.proxies));
            let limits = Arc::clone(&self.limits);
            AccessLogServiceServer::new(AccessLogs { flows, identify, proxies, limits })
                .max_decoding_message_size(limits::MAX_LOG_MESSAGE_SIZE)
        });
        let router = tonic::transport::Server::builder()
            .http2_keepalive_interval(Some(Duration::from_secs(60)))
            .http2_keepalive_timeout(Some(Duration::from_secs(20)))
            .max_connection_age(CONNECTION_AGE)
            .max_concurrent_streams(limits::MAX_STREAMS_OF_CONNECTION)
            .initial_stream_window_size(limits::STREAM_WINDOW)
            .initial_connection_window_size(limits::CONNECTION_WINDOW)
            .http2_max_header_list_size(limits::MAX_HEADERS_SIZE)
            .http2_max_pending_accept_reset_streams(Some(limits::MAX_PENDING_RESETS))
            .add_service(self)
            .add_optional_service(access_logs);
        match tls {
            Some(tls) => {
                let incoming = accept_tls(listener, tls, ServerTls::xds, pool, limits::IDLE_TIMEOUT);
                let incoming = incoming.map_ok(Connection);
                router.serve_with_incoming_shutdown(incoming, stop).await
            }
            None => {
                let incoming = accept_plaintext(listener, pool, limits::IDLE_TIMEOUT).map_ok(Connection);
                router.serve_with_incoming_shutdown(incoming, stop).await
            }
        }
    }

    /// A stream of one protocol, or why there is none.
    async fn answer<T: Session>(&self, request: http::Request<Body>) -> http::Response<Body> {
        let mut codec = ProstCodec::<(), T::Request>::default();
        let request = Request::from_http(request);
        let request = request
            .map(|body| Streaming::new_request(codec.decoder(), body, None, Some(limits::MAX_REQUEST_SIZE)));
        match self.open::<T>(request).await {
            Ok(body) => {
                let mut response = http::Response::new(body);
                let content_type = http::HeaderValue::from_static("application/grpc");
                response.headers_mut().insert(http::header::CONTENT_TYPE, content_type);
                response
            }
            Err(status) => status.into_http(),
        }
    }

    async fn open<T: Session>(&self, request: Request<Streaming<T::Request>>) -> Result<Body, Status> {
        let (credentials, place) = (presented_credentials(&request), place(&request));
        let mut requests = request.into_inner();
        let refuse = |refusal: StreamRefusal| refuse(&self.proxies, &credentials, &refusal);
        let verified = self.identify.verify(&credentials, ReviewMode::CacheAllowed).await.map_err(refuse)?;
        let admit = |identity: &Identity| {
            let (service, place) = (Service::Discovery, place.as_ref());
            self.limits.admit(service, identity, verified.as_ref(), &credentials, place).map_err(refuse)
        };
        // Before anything of it is read.
        let admitted = verified.as_ref().map(|verified| admit(&verified.identity)).transpose()?;
        let mut first = tokio::time::timeout(FIRST_MESSAGE_TIMEOUT, requests.message())
            .await
            .map_err(|_| Status::deadline_exceeded(format!("no request within {FIRST_MESSAGE_TIMEOUT:?}")))??
            .ok_or_else(|| Status::invalid_argument("a stream without a request"))?;
        // Only the first message has a node, and it says for the whole stream who is there.
        let node = T::node(&first).cloned().ok_or(StreamRefusal::NoNode).map_err(refuse)?;
        let identity = self.identify.resolve_identity(verified.as_ref(), &node).map_err(refuse)?;
        let admission = Arc::new(match admitted {
            Some(admission) => admission,
            None => admit(&identity)?,
        });
        if let Some(version) = reported::version(&node).filter(|version| *version < OLDEST) {
            return Err(refuse(StreamRefusal::TooOld(version)));
        }
        let connected = self.proxies.connected();
        if self.snapshots.most_proxies().is_some_and(|most| connected >= most) {
            return Err(refuse(StreamRefusal::TooMany(connected)));
        }
        let by = verified.as_ref().map_or("node id", |verified| verified.by);
        T::error(&mut first).map(limits::shorten);
        // Counted until the last answer was read, or the connection is gone.
        let (answers, body) = wire::stream(Arc::clone(&admission));
        let span = tracing::info_span!("proxy", node = %node.id, %identity);
        let server = self.clone();
        tokio::spawn(
            async move {
                let _admission = admission;
                tracing::info!(peer = %credentials.peer(), by, "connected");
                let registration = server.proxies.register(&node, &identity, T::PROTOCOL);
                let snapshots = server.snapshots.subscribe(&identity);
                let output = Output { answers: &answers, pushes: &server.pushes };
                let stream =
                    run_stream::<T>(&node, first, requests, snapshots, &*server.snapshots, &registration, output);
                let ended = tokio::select! {
                    ended = stream => ended,
                    refusal = server.identify.watch_expiry(&credentials, verified) => Err(End::Refused(refusal)),
                };
                match ended {
                    Ok(()) => {}
                    Err(End::Broken(status)) => tracing::info!(error = %status.message(), "stream broke"),
                    Err(End::Refused(refusal)) => {
                        if let (StreamRefusal::NotReading(_), Some(place)) = (&refusal, &place) {
                            // What it did not read would stay for as long as its connection.
                            place.close();
                        }
                        let status = super::stream::refuse(&server.proxies, &credentials, &refusal);
                        answers.end(status);
                    }
                }
                tracing::info!("disconnected");
            }
            .instrument(span),
        );
        Ok(Body::new(body))
    }
}

/// The reason why a stream ended, if the proxy did not end it.
enum End {
    Broken(Status),
    Refused(StreamRefusal),
}

impl From<Status> for End {
    fn from(status: Status) -> Self {
        Self::Broken(status)
    }
}

/// Waits until the answer before has gone. A proxy that reads nothing of it for a while is refused.
async fn ready(answers: &Sender) -> Result<Option<OwnedSemaphorePermit>, End> {
    let (mut progress, mut since) = (answers.progress(), Instant::now());
    loop {
        match tokio::time::timeout(limits::READ_TIMEOUT / 6, answers.ready()).await {
            Ok(Ok(place)) => return Ok(Some(place)),
            Ok(Err(wire::Closed)) => return Ok(None),
            Err(_) if answers.progress() != progress => {
                (progress, since) = (answers.progress(), Instant::now());
            }
            Err(_) if since.elapsed() < limits::READ_TIMEOUT => {}
            Err(_) => return Err(End::Refused(StreamRefusal::NotReading("did not read an answer"))),
        }
    }
}

/// The way out of a stream.
struct Output<'s> {
    answers: &'s Sender,
    pushes: &'s PushBudget,
}

impl Output<'_> {
    /// Sends a message. A large one waits for its place in the budget, and keeps it until it has gone.
    async fn send(&self, place: OwnedSemaphorePermit, message: Message) -> Result<(), wire::Closed> {
        let share = self.pushes.acquire(message.len()).await;
        self.answers.send(place, message)?;
        if share.is_some() {
            // One that takes longer goes on outside of the budget.
            if let Ok(gone) = tokio::time::timeout(MAX_PUSH_TIME, self.answers.ready()).await {
                drop(gone?);
            }
        }
        Ok(())
    }
}

/// One stream until it ends. A proxy that does not read makes itself wait, and then gets the newest snapshot; after a
/// while it is cut. Its requests are not read before it has read what it asked for.
async fn run_stream<T: Session>(
    node: &Node,
    first: T::Request,
    mut requests: Streaming<T::Request>,
    mut snapshots: watch::Receiver<Arc<Snapshot>>,
    builder: &impl SnapshotBuilder,
    registration: &Registration<'_>,
    output: Output<'_>,
) -> Result<(), End> {
    let answers = output.answers;
    let mut session = T::default();
    let mut snapshot = Arc::clone(&snapshots.borrow_and_update());
    let mut fallback = Fallback::new(Arc::clone(&snapshot));
    let mut next = Step::Request(first);
    let (mut unacknowledged, mut throttle) = (Unacknowledged::default(), Throttle::default());
    let mut removal = RemovalTimer::default();
    loop {
        let is_change = matches!(next, Step::Snapshot);
        let (responses, events) = match std::mem::replace(&mut next, Step::Snapshot) {
            Step::Request(request) if T::type_url(&request).is_empty() => {
                return Err(End::Refused(StreamRefusal::NoType));
            }
            Step::Request(request) => session.on_request(&request, &snapshot),
            Step::Snapshot => session.on_snapshot(&snapshot),
            Step::Removals => session.finish_removals(&snapshot),
        };
        removal.update(session.has_removals(), is_change, session.is_policy_answered(), Instant::now());
        limits::check_size(session.size()).map_err(End::Refused)?;
        log(&events);
        registration.record(&events, snapshot.document_version());
        let instead = fallback.observe(&events, builder);
        if fallback.take_change() {
            registration.hold_back(fallback.held_back(builder));
        }
        unacknowledged.record(&events);
        for response in responses {
            let Some(place) = ready(answers).await? else { return Ok(()) };
            if output.send(place, T::encode(response)).await.is_err() {
                return Ok(());
            }
        }
        if let Some(instead) = instead {
            if instead.document_version() != snapshot.document_version() {
                tracing::warn!(
                    document = instead.document_version(),
                    "the proxy gets another policy instead"
                );
            }
            snapshot = instead;
            continue;
        }
        if ready(answers).await?.is_none() {
            return Ok(());
        }
        tokio::select! {
            request = requests.message() => match request? {
                Some(mut request) => {
                    throttle.wait().await;
                    T::error(&mut request).map(limits::shorten);
                    // It need not be said again.
                    let now = T::node(&request).map(|now| now.id.clone()).filter(|now| !now.is_empty());
                    if let Some(now) = now.filter(|now| *now != node.id) {
                        let first = node.id.clone();
                        return Err(End::Refused(StreamRefusal::NodeChanged { first, now }));
                    }
                    next = Step::Request(request);
                }
                None => return Ok(()),
            },
            changed = snapshots.changed() => match changed {
                Ok(()) => {
                    let target = Arc::clone(&snapshots.borrow_and_update());
                    snapshot = fallback.retarget(target, builder);
                }
                Err(_) => return Ok(()),
            },
            () = until(removal.deadline()) => next = Step::Removals,
            () = unacknowledged.overdue() => {
                return Err(End::Refused(StreamRefusal::NotReading("did not acknowledge an answer")));
            }
        }
    }
}

/// The next step of a stream.
enum Step<R> {
    /// Answers a request.
    Request(R),
    /// Sends what is different in the snapshot.
    Snapshot,
    /// Removes clusters that waited for the proxy.
    Removals,
}

/// Resolves at a time, if there is one.
async fn until(time: Option<Instant>) {
    match time {
        Some(time) => tokio::time::sleep_until(time).await,
        None => std::future::pending().await,
    }
}

fn log(events: &[Event]) {
    for event in events {
        match event {
            Event::Sent { type_url, version } => tracing::debug!(type_url, version, "sent"),
            Event::Acknowledged { type_url, version, .. } => {
                tracing::debug!(type_url, version, "acknowledged")
            }
            Event::Rejected { type_url, version, error, .. } => {
                tracing::error!(
                    type_url,
                    version,
                    error,
                    "the proxy rejected its configuration and keeps the last"
                );
            }
        }
    }
}

impl<S> NamedService for Server<S> {
    const NAME: &'static str = SERVICE_NAME;
}

impl<S: SnapshotProvider> HttpService<http::Request<Body>> for Server<S> {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<Self::Response, Infallible>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let server = self.clone();
        Box::pin(async move {
            let path = request.uri().path().strip_prefix('/').unwrap_or_default();
            let method = path.strip_prefix(SERVICE_NAME).unwrap_or_default();
            Ok(match method {
                "/StreamAggregatedResources" => server.answer::<Sotw>(request).await,
                "/DeltaAggregatedResources" => server.answer::<Delta>(request).await,
                _ => Status::unimplemented("there is no such method").into_http(),
            })
        })
    }
}
