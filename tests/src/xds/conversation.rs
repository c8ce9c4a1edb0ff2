//! A stream on which a test says what it wants, message by message.

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

use crate::client::PATIENCE;
use crate::netns::Netns;

/// The messages of a protocol.
pub trait Protocol: Sized + Send + 'static {
    /// What comes back.
    type Answer: Send + 'static;
    /// Opens a stream.
    fn open(
        client: AggregatedDiscoveryServiceClient<Channel>,
        requests: UnboundedReceiverStream<Self>,
    ) -> impl Future<Output = Result<Streaming<Self::Answer>, Status>> + Send;
    /// Says who is there.
    fn set_node(&mut self, node: Node);
}

impl Protocol for DiscoveryRequest {
    type Answer = DiscoveryResponse;

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
    type Answer = DeltaDiscoveryResponse;

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

/// A stream; it ends when this is dropped.
#[derive(Debug)]
pub struct Conversation<R: Protocol> {
    requests: UnboundedSender<R>,
    answers: Receiver<Result<R::Answer, Status>>,
    /// Who says the first message.
    node: Option<Node>,
}

impl<R: Protocol> Conversation<R> {
    /// Opens a stream of this node, in plaintext.
    ///
    /// # Errors
    /// When the namespace cannot be entered.
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

    /// Sends a message; the first says who is there.
    ///
    /// # Errors
    /// When the stream has ended.
    pub fn say(&mut self, mut request: R) -> Result<()> {
        if let Some(node) = self.node.take() {
            request.set_node(node);
        }
        self.requests.send(request).map_err(|_| anyhow!("the stream has ended"))
    }

    /// The next message, if one comes within this time.
    ///
    /// # Errors
    /// When the stream ends.
    pub fn hear_within(&self, time: Duration) -> Result<Option<R::Answer>> {
        match self.answers.recv_timeout(time) {
            Ok(Ok(answer)) => Ok(Some(answer)),
            Ok(Err(status)) => bail!("the stream ended: {status}"),
            Err(RecvTimeoutError::Timeout) => Ok(None),
            Err(RecvTimeoutError::Disconnected) => bail!("the stream ended"),
        }
    }

    /// The next message.
    ///
    /// # Errors
    /// When none comes.
    pub fn hear(&self) -> Result<R::Answer> {
        self.hear_within(PATIENCE)?.context("no message came")
    }

    /// How the stream ends, whatever comes before.
    ///
    /// # Errors
    /// When it does not.
    pub fn end(&self) -> Result<Status> {
        loop {
            match self.answers.recv_timeout(PATIENCE) {
                Ok(Ok(_)) => {}
                Ok(Err(status)) => return Ok(status),
                Err(error) => return Err(anyhow!("the stream does not end: {error}")),
            }
        }
    }
}
