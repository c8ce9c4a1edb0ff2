//! The gRPC service: one task per stream between a session, the snapshots and the registry.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use egress_policy::Identity;
use envoy_types::pb::envoy::config::core::v3::Node;
use envoy_types::pb::envoy::service::discovery::v3::aggregated_discovery_service_server::{
    AggregatedDiscoveryService, AggregatedDiscoveryServiceServer,
};
use envoy_types::pb::envoy::service::discovery::v3::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse,
};
use futures::Stream;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tokio_stream::StreamExt;
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tonic::{Request, Response, Status, Streaming};
use tracing::Instrument;

use super::identify::{Identify, Refusal};
use super::proxies::{Protocol, Proxies, Registration};
use super::session::{Delta, Event, Sotw};
use crate::snapshot::Snapshot;

/// Where snapshots come from.
pub trait Snapshots: Send + Sync + 'static {
    /// The snapshot of an identity, now and whenever it changes.
    fn subscribe(&self, identity: &Identity) -> watch::Receiver<Arc<Snapshot>>;
}

/// The service.
#[derive(Debug)]
pub struct Server<S, I> {
    snapshots: Arc<S>,
    identify: Arc<I>,
    proxies: Arc<Proxies>,
}

impl<S, I> Clone for Server<S, I> {
    fn clone(&self) -> Self {
        let Self { snapshots, identify, proxies } = self;
        Self {
            snapshots: Arc::clone(snapshots),
            identify: Arc::clone(identify),
            proxies: Arc::clone(proxies),
        }
    }
}

/// A protocol: how its session answers.
trait Session: Default + Send + 'static {
    type Request: Send + 'static;
    type Response: Send + 'static;
    const PROTOCOL: Protocol;
    fn node(request: &Self::Request) -> Option<&Node>;
    fn on_request(&mut self, request: &Self::Request, to: &Snapshot) -> (Vec<Self::Response>, Vec<Event>);
    fn on_snapshot(&mut self, to: &Snapshot) -> (Vec<Self::Response>, Vec<Event>);
}

macro_rules! session {
    ($session:ty, $request:ty, $response:ty, $protocol:expr) => {
        impl Session for $session {
            type Request = $request;
            type Response = $response;
            const PROTOCOL: Protocol = $protocol;

            fn node(request: &$request) -> Option<&Node> {
                request.node.as_ref()
            }

            fn on_request(&mut self, request: &$request, to: &Snapshot) -> (Vec<$response>, Vec<Event>) {
                <$session>::on_request(self, request, to)
            }

            fn on_snapshot(&mut self, to: &Snapshot) -> (Vec<$response>, Vec<Event>) {
                <$session>::on_snapshot(self, to)
            }
        }
    };
}

session!(Sotw, DiscoveryRequest, DiscoveryResponse, Protocol::Sotw);
session!(Delta, DeltaDiscoveryRequest, DeltaDiscoveryResponse, Protocol::Delta);

impl<S: Snapshots, I: Identify> Server<S, I> {
    /// A service of these snapshots.
    pub fn new(snapshots: Arc<S>, identify: Arc<I>, proxies: Arc<Proxies>) -> Self {
        Self { snapshots, identify, proxies }
    }

    /// Serves until `stop` resolves.
    ///
    /// # Errors
    /// When the transport fails.
    pub async fn serve(
        self,
        listener: TcpListener,
        stop: impl Future<Output = ()> + Send,
    ) -> Result<(), tonic::transport::Error> {
        let service = AggregatedDiscoveryServiceServer::new(self)
            // A policy of a hundred thousand hosts, twice, and the module.
            .max_encoding_message_size(256 << 20);
        tonic::transport::Server::builder()
            .http2_keepalive_interval(Some(Duration::from_secs(60)))
            .http2_keepalive_timeout(Some(Duration::from_secs(20)))
            .tcp_nodelay(true)
            .add_service(service)
            .serve_with_incoming_shutdown(TcpListenerStream::new(listener), stop)
            .await
    }

    async fn open<T: Session>(
        &self,
        mut requests: Streaming<T::Request>,
    ) -> Result<Response<Answers<T::Response>>, Status> {
        let refuse = |refusal: Refusal| {
            self.proxies.counts.refused.fetch_add(1, Ordering::Relaxed);
            tracing::warn!(error = %refusal, "proxy refused");
            Status::unauthenticated(refusal.to_string())
        };
        let first = requests
            .message()
            .await?
            .ok_or_else(|| Status::invalid_argument("a stream without a request"))?;
        // Only the first message has a node.
        let node = T::node(&first).cloned().ok_or(Refusal::NoNode).map_err(refuse)?;
        let identity = self.identify.identify(&node).map_err(refuse)?;
        let (answers, receiver) = mpsc::channel(4);
        let span = tracing::info_span!("proxy", node = %node.id, %identity);
        let server = self.clone();
        tokio::spawn(
            async move {
                tracing::info!("connected");
                let registration = server.proxies.register(&node, &identity, T::PROTOCOL);
                let snapshots = server.snapshots.subscribe(&identity);
                if let Err(status) = talk::<T>(first, requests, snapshots, &registration, &answers).await {
                    tracing::info!(error = %status.message(), "stream broke");
                }
                tracing::info!("disconnected");
            }
            .instrument(span),
        );
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver).map(Ok))))
    }
}

/// One stream until it ends. A proxy that does not read only makes itself wait, and then gets the
/// newest snapshot.
async fn talk<T: Session>(
    first: T::Request,
    mut requests: Streaming<T::Request>,
    mut snapshots: watch::Receiver<Arc<Snapshot>>,
    registration: &Registration<'_>,
    answers: &mpsc::Sender<T::Response>,
) -> Result<(), Status> {
    let mut session = T::default();
    let mut snapshot = Arc::clone(&snapshots.borrow_and_update());
    let mut next = Some(first);
    loop {
        let (responses, events) = match next.take() {
            Some(request) => session.on_request(&request, &snapshot),
            None => session.on_snapshot(&snapshot),
        };
        log(&events);
        registration.record(&events, snapshot.document_version());
        for response in responses {
            if answers.send(response).await.is_err() {
                return Ok(());
            }
        }
        tokio::select! {
            request = requests.message() => match request? {
                Some(request) => next = Some(request),
                None => return Ok(()),
            },
            changed = snapshots.changed() => match changed {
                Ok(()) => snapshot = Arc::clone(&snapshots.borrow_and_update()),
                Err(_) => return Ok(()),
            },
        }
    }
}

fn log(events: &[Event]) {
    for event in events {
        match event {
            Event::Sent { type_url, version } => tracing::debug!(type_url, version, "sent"),
            Event::Acknowledged { type_url, version } => tracing::debug!(type_url, version, "acknowledged"),
            Event::Rejected { type_url, version, error } => {
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

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl<S: Snapshots, I: Identify> AggregatedDiscoveryService for Server<S, I> {
    type StreamAggregatedResourcesStream = Answers<DiscoveryResponse>;
    type DeltaAggregatedResourcesStream = Answers<DeltaDiscoveryResponse>;

    async fn stream_aggregated_resources(
        &self,
        request: Request<Streaming<DiscoveryRequest>>,
    ) -> Result<Response<Self::StreamAggregatedResourcesStream>, Status> {
        self.open::<Sotw>(request.into_inner()).await
    }

    async fn delta_aggregated_resources(
        &self,
        request: Request<Streaming<DeltaDiscoveryRequest>>,
    ) -> Result<Response<Self::DeltaAggregatedResourcesStream>, Status> {
        self.open::<Delta>(request.into_inner()).await
    }
}
