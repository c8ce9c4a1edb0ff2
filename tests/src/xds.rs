//! An xDS client whose messages a test chooses.

use std::net::SocketAddr;

use anyhow::{Result, anyhow};
use envoy_types::pb::envoy::config::core::v3::Node;
use envoy_types::pb::envoy::service::accesslog::v3::StreamAccessLogsMessage;
use envoy_types::pb::envoy::service::accesslog::v3::access_log_service_client::AccessLogServiceClient;
use envoy_types::pb::envoy::service::accesslog::v3::stream_access_logs_message::{Identifier, LogEntries};
use envoy_types::pb::envoy::service::discovery::v3::DiscoveryRequest;
use envoy_types::pb::envoy::service::discovery::v3::aggregated_discovery_service_client::AggregatedDiscoveryServiceClient;
use envoy_types::pb::google::protobuf::value::Kind;
use envoy_types::pb::google::protobuf::{Struct, Value};
use tokio_stream::StreamExt;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};
use tonic::{Code, Request, Status};

use crate::authority::Pair;
use crate::client::IO_TIMEOUT;
use crate::netns::Netns;

mod abuse;
mod conversation;

pub use self::conversation::{Protocol, XdsStream};

/// The type of clusters.
pub const CLUSTER: &str = "type.googleapis.com/envoy.config.cluster.v3.Cluster";
/// The type of listeners.
pub const LISTENER: &str = "type.googleapis.com/envoy.config.listener.v3.Listener";
/// The type of extension configurations (ECDS).
pub const EXTENSION: &str = "type.googleapis.com/envoy.config.core.v3.TypedExtensionConfig";

/// An xDS client.
#[derive(Debug, Clone, Default)]
pub struct XdsClient<'a> {
    /// The certificate authority of the control plane; without one the client speaks plaintext.
    pub authority: Option<&'a str>,
    /// The host that the control plane's certificate must name.
    pub host: &'a str,
    /// The client certificate.
    pub certificate: Option<&'a Pair>,
    /// The values of the `authorization` header.
    pub authorization: &'a [&'a str],
    /// The node id.
    pub node: &'a str,
    /// The node's metadata.
    pub metadata: &'a [(&'a str, &'a str)],
    /// The node id of the second message.
    pub second_node: Option<&'a str>,
}

impl XdsClient<'_> {
    /// Subscribes to listener and policy, and returns the first answers as text, or the status that ends the
    /// stream.
    ///
    /// # Errors
    /// Fails if there is no connection, or no end.
    pub fn fetch_policy(&self, from: &Netns, to: SocketAddr) -> Result<Result<String, Status>> {
        self.run(from, self.stream(to))
    }

    /// Sends entries message by message to the access log service, and returns the status that ends the
    /// stream.
    ///
    /// # Errors
    /// Fails if there is no connection, or no end.
    pub fn send_log_entries(
        &self,
        from: &Netns,
        to: SocketAddr,
        entries: Vec<LogEntries>,
    ) -> Result<Result<(), Status>> {
        self.run(from, async {
            let channel = match self.connect(to).await? {
                Ok(channel) => channel,
                Err(status) => return Ok(Err(status)),
            };
            let identifier = Identifier { node: Some(self.node(self.node)), log_name: "test".to_owned() };
            let messages = entries.into_iter().map(move |entries| StreamAccessLogsMessage {
                identifier: Some(identifier.clone()),
                log_entries: Some(entries),
            });
            let messages: Vec<_> = messages.collect();
            let request = self.with_authorization(tokio_stream::iter(messages))?;
            let mut client = AccessLogServiceClient::new(channel);
            Ok(client.stream_access_logs(request).await.map(|_| ()))
        })
    }

    fn run<T: Send>(
        &self,
        from: &Netns,
        stream: impl Future<Output = Result<Result<T, Status>>> + Send,
    ) -> Result<Result<T, Status>> {
        from.run(|| {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            let ended = runtime.block_on(async { tokio::time::timeout(IO_TIMEOUT * 2, stream).await });
            ended.map_err(|_| anyhow!("the stream of `{}` neither gives anything nor ends", self.node))?
        })?
    }

    fn endpoint(&self, to: SocketAddr) -> Result<Endpoint> {
        let scheme = if self.authority.is_some() { "https" } else { "http" };
        let mut endpoint = Endpoint::from_shared(format!("{scheme}://{to}"))?;
        if let Some(authority) = self.authority {
            let mut tls = ClientTlsConfig::new()
                .ca_certificate(Certificate::from_pem(authority))
                .domain_name(self.host);
            if let Some(pair) = self.certificate {
                tls = tls.identity(Identity::from_pem(&pair.certificate, &pair.key));
            }
            endpoint = endpoint.tls_config(tls)?;
        }
        Ok(endpoint)
    }

    async fn connect(&self, to: SocketAddr) -> Result<Result<Channel, Status>> {
        // In TLS 1.3 a client's first read reports that its certificate was refused.
        let connected = self.endpoint(to)?.connect().await;
        Ok(connected.map_err(|error| Status::new(Code::Unavailable, format!("{error:?}"))))
    }

    fn node(&self, id: &str) -> Node {
        let value = |text: &str| Value { kind: Some(Kind::StringValue(text.to_owned())) };
        let fields = self.metadata.iter().map(|(key, text)| ((*key).to_owned(), value(text))).collect();
        Node { id: id.to_owned(), metadata: Some(Struct { fields }), ..Node::default() }
    }

    fn with_authorization<T>(&self, message: T) -> Result<Request<T>> {
        let mut request = Request::new(message);
        for value in self.authorization {
            request.metadata_mut().append("authorization", value.parse()?);
        }
        Ok(request)
    }

    async fn stream(&self, to: SocketAddr) -> Result<Result<String, Status>> {
        let channel = match self.connect(to).await? {
            Ok(channel) => channel,
            Err(status) => return Ok(Err(status)),
        };
        let first = DiscoveryRequest {
            node: Some(self.node(self.node)),
            type_url: LISTENER.to_owned(),
            ..DiscoveryRequest::default()
        };
        let second = DiscoveryRequest {
            node: self.second_node.map(|id| Node { id: id.to_owned(), ..Node::default() }),
            type_url: EXTENSION.to_owned(),
            resource_names: vec!["egress-policy".to_owned()],
            ..DiscoveryRequest::default()
        };
        // The stream stays open after its requests.
        let requests = tokio_stream::iter([first, second]).chain(tokio_stream::pending());
        let request = self.with_authorization(requests)?;
        let mut client = AggregatedDiscoveryServiceClient::new(channel).max_decoding_message_size(64 << 20);
        let mut answers = match client.stream_aggregated_resources(request).await {
            Ok(answers) => answers.into_inner(),
            Err(status) => return Ok(Err(status)),
        };
        let mut text = String::new();
        while let Some(answer) = answers.next().await {
            match answer {
                Ok(answer) => {
                    for resource in answer.resources {
                        text += &String::from_utf8_lossy(&resource.value);
                    }
                    if answer.type_url == EXTENSION {
                        return Ok(Ok(text));
                    }
                }
                Err(status) => return Ok(Err(status)),
            }
        }
        Ok(Err(Status::cancelled("the stream ended without a word")))
    }
}
