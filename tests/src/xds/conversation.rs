//! An xDS stream that a test drives message by message.

use std::net::SocketAddr;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use envoy_types::pb::envoy::config::core::v3::Node;
use envoy_types::pb::envoy::service::discovery::v3::aggregated_discovery_service_client::AggregatedDiscoveryServiceClient;
use envoy_types::pb::envoy::service::discovery::v3::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse,
};
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};
use tokio_stream::StreamExt;
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::transport::{Channel, Endpoint};
use tonic::{Status, Streaming};

use crate::client::IO_TIMEOUT;
use crate::netns::Netns;

/// The messages of a protocol.
pub trait Protocol: Sized + Send + 'static {
    /// The response type.
    type Response: Send + 'static;
    /// Opens a stream.
    fn open(
        client: AggregatedDiscoveryServiceClient<Channel>,
        requests: UnboundedReceiverStream<Self>,
    ) -> impl Future<Output = Result<Streaming<Self::Response>, Status>> + Send;
    /// Sets the node of the first message.
    fn set_node(&mut self, node: Node);
}

impl Protocol for DiscoveryRequest {
    type Response = DiscoveryResponse;

    async fn open(
        mut client: AggregatedDiscoveryServiceClient<Channel>,
        requests: UnboundedReceiverStream<Self>,
    ) -> Result<Streaming<DiscoveryResponse>, Status> {
        Ok(client.stream_aggregated_resources(requests).await?.into_inner())
    }

    fn set_node(&mut self, node: Node) {
        self.node = Some(node);
    }
}

impl Protocol for DeltaDiscoveryRequest {
    type Response = DeltaDiscoveryResponse;

    async fn open(
        mut client: AggregatedDiscoveryServiceClient<Channel>,
        requests: UnboundedReceiverStream<Self>,
    ) -> Result<Streaming<DeltaDiscoveryResponse>, Status> {
        Ok(client.delta_aggregated_resources(requests).await?.into_inner())
    }

    fn set_node(&mut self, node: Node) {
        self.node = Some(node);
    }
}

/// An xDS stream. It ends when this is dropped.
#[derive(Debug)]
pub struct XdsStream<R: Protocol> {
    requests: UnboundedSender<R>,
    answers: Receiver<Result<R::Response, Status>>,
    /// The node, for the first message.
    node: Option<Node>,
}

impl<R: Protocol> XdsStream<R> {
    /// Opens a stream of this node, in plaintext.
    ///
    /// # Errors
    /// Fails if the namespace cannot be entered.
    pub fn open(from: &Netns, to: SocketAddr, node: &str) -> Result<Self> {
        let (requests, receiver) = unbounded_channel();
        let (sender, answers) = channel();
        from.spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            let Ok(runtime) = runtime else { return };
            let converse = async {
                let endpoint = Endpoint::from_shared(format!("http://{to}"));
                let channel = endpoint.map_err(|e| Status::internal(e.to_string()))?.connect().await;
                let channel = channel.map_err(|e| Status::unavailable(format!("{e:?}")))?;
                let client =
                    AggregatedDiscoveryServiceClient::new(channel).max_decoding_message_size(64 << 20);
                let mut stream = R::open(client, UnboundedReceiverStream::new(receiver)).await?;
                while let Some(answer) = stream.next().await {
                    if sender.send(Ok(answer?)).is_err() {
                        break;
                    }
                }
                Err::<(), _>(Status::cancelled("the stream ended"))
            };
            if let Err(status) = runtime.block_on(converse) {
                let _ = sender.send(Err(status));
            }
        })?;
        Ok(Self { requests, answers, node: Some(Node { id: node.to_owned(), ..Node::default() }) })
    }

    /// Sends a message; the first one carries the node.
    ///
    /// # Errors
    /// Fails if the stream has ended.
    pub fn send(&mut self, mut request: R) -> Result<()> {
        if let Some(node) = self.node.take() {
            request.set_node(node);
        }
        self.requests.send(request).map_err(|_| anyhow!("the stream has ended"))
    }

    /// Receives the next message, if one arrives within this time.
    ///
    /// # Errors
    /// Fails if the stream ends.
    pub fn receive_within(&self, time: Duration) -> Result<Option<R::Response>> {
        match self.answers.recv_timeout(time) {
            Ok(Ok(answer)) => Ok(Some(answer)),
            Ok(Err(status)) => bail!("the stream ended: {status}"),
            Err(RecvTimeoutError::Timeout) => Ok(None),
            Err(RecvTimeoutError::Disconnected) => bail!("the stream ended"),
        }
    }

    /// Receives the next message.
    ///
    /// # Errors
    /// Fails if none comes.
    pub fn receive(&self) -> Result<R::Response> {
        self.receive_within(IO_TIMEOUT)?.context("no message came")
    }

    /// Waits for the end of the stream, ignoring earlier messages, and returns its status.
    ///
    /// # Errors
    /// Fails if it does not.
    pub fn wait_for_end(&self) -> Result<Status> {
        loop {
            match self.answers.recv_timeout(IO_TIMEOUT) {
                Ok(Ok(_)) => {}
                Ok(Err(status)) => return Ok(status),
                Err(error) => return Err(anyhow!("the stream does not end: {error}")),
            }
        }
    }
}
