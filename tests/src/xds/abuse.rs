//! Abusive clients, and many clients at once.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Result, anyhow};
use envoy_types::pb::envoy::service::discovery::v3::DiscoveryRequest;
use envoy_types::pb::envoy::service::discovery::v3::aggregated_discovery_service_client::AggregatedDiscoveryServiceClient;
use tokio_stream::StreamExt;
use tonic::transport::Endpoint;
use tonic::{Code, Status};

use super::{EXTENSION, LISTENER, XdsClient};
use crate::client::IO_TIMEOUT;
use crate::netns::Netns;

impl XdsClient<'_> {
    fn request(&self, type_url: &str, resource_names: Vec<String>) -> DiscoveryRequest {
        let node = Some(self.node(self.node));
        DiscoveryRequest {
            node,
            type_url: type_url.to_owned(),
            resource_names,
            ..DiscoveryRequest::default()
        }
    }

    /// Subscribes to this many names, and returns the status that ends the stream.
    ///
    /// # Errors
    /// Fails if there is no connection, or no end.
    pub fn subscribe_to_names(&self, from: &Netns, to: SocketAddr, names: usize) -> Result<Status> {
        let ended = self.run(from, async {
            let channel = match self.connect(to).await? {
                Ok(channel) => channel,
                Err(status) => return Ok(Err(status)),
            };
            let names = (0..names).map(|number| format!("name-{number}")).collect();
            let requests =
                tokio_stream::iter([self.request(EXTENSION, names)]).chain(tokio_stream::pending());
            let mut client = AggregatedDiscoveryServiceClient::new(channel);
            let opened = client.stream_aggregated_resources(self.with_authorization(requests)?).await;
            let mut answers = match opened {
                Ok(answers) => answers.into_inner(),
                Err(status) => return Ok(Err(status)),
            };
            while let Some(answer) = answers.next().await {
                if let Err(status) = answer {
                    return Ok(Err(status));
                }
            }
            Ok(Ok(()))
        })?;
        Ok(ended.err().unwrap_or_else(|| Status::ok("it ended")))
    }

    /// Opens streams, each on a connection of its own, until one is refused. Returns their number and the
    /// refusal.
    ///
    /// # Errors
    /// Fails if there is no connection, or none is refused.
    pub fn open_until_refused(&self, from: &Netns, to: SocketAddr, most: usize) -> Result<(usize, Status)> {
        let refused = self.run(from, async {
            let mut open = Vec::new();
            while open.len() < most {
                let channel = match self.connect(to).await? {
                    Ok(channel) => channel,
                    Err(status) => return Ok(Err(status)),
                };
                let request = self.request(LISTENER, Vec::new());
                let requests = tokio_stream::iter([request]).chain(tokio_stream::pending());
                let mut client =
                    AggregatedDiscoveryServiceClient::new(channel).max_decoding_message_size(64 << 20);
                let opened = client.stream_aggregated_resources(self.with_authorization(requests)?).await;
                let mut answers = match opened {
                    Ok(answers) => answers.into_inner(),
                    Err(status) => return Ok(Ok((open.len(), status))),
                };
                match answers.next().await {
                    Some(Ok(_)) => open.push((client, answers)),
                    Some(Err(status)) => return Ok(Ok((open.len(), status))),
                    None => return Ok(Err(Status::cancelled("the stream ended without a word"))),
                }
            }
            Ok(Err(Status::new(Code::Ok, format!("{most} streams are open"))))
        })?;
        refused.map_err(|status| anyhow!("{status}"))
    }

    /// Subscribes to everything, reads at most this many bytes and answers pings. Returns true if the control
    /// plane has ended the stream after `longest`.
    ///
    /// # Errors
    /// Fails if there is no connection.
    pub fn is_cut_off(&self, from: &Netns, to: SocketAddr, bytes: u32, longest: Duration) -> Result<bool> {
        from.run(|| {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(async {
                // No more of an answer may be sent than the window permits.
                let endpoint =
                    Endpoint::from_shared(format!("http://{to}"))?.initial_stream_window_size(bytes);
                let channel = endpoint.connect().await?;
                let names = vec!["egress-policy".to_owned()];
                let requests = [self.request(LISTENER, Vec::new()), self.request(EXTENSION, names)];
                let requests = tokio_stream::iter(requests).chain(tokio_stream::pending());
                let mut client = AggregatedDiscoveryServiceClient::new(channel);
                let opened =
                    tokio::time::timeout(IO_TIMEOUT, client.stream_aggregated_resources(requests)).await?;
                let mut answers = opened?.into_inner();
                // The elapsed time is under test: reading would open the window.
                tokio::time::sleep(longest).await;
                let ended = async { while let Some(Ok(_)) = answers.next().await {} };
                Ok(tokio::time::timeout(Duration::from_secs(2), ended).await.is_ok())
            })
        })?
    }

    /// Opens this many streams at once, each on a connection of its own, and holds them. Each reconnects as
    /// Envoy does, with growing delays. Returns the number of reconnects.
    ///
    /// # Errors
    /// Fails if not all are served within a minute.
    pub fn hold_fleet(&self, from: &Netns, to: SocketAddr, count: usize) -> Result<usize> {
        from.run(|| {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(async {
                let endpoint = self.endpoint(to)?;
                let mut proxies = tokio::task::JoinSet::new();
                for number in 0..count {
                    let mut request = self.request(LISTENER, Vec::new());
                    request.node = Some(self.node(&format!("p{number}.{}", self.node)));
                    proxies.spawn(open_with_retries(endpoint.clone(), request, number));
                }
                let longest = Duration::from_secs(60);
                let served = tokio::time::timeout(longest, proxies.join_all()).await;
                let served = served.map_err(|_| anyhow!("not all are served within {longest:?}"))?;
                Ok(served.iter().map(|(retries, _)| retries).sum())
            })
        })?
    }
}

/// Opens a stream and retries until it has its first answer. Returns the number of failed attempts.
async fn open_with_retries(
    endpoint: Endpoint,
    request: DiscoveryRequest,
    number: usize,
) -> (usize, impl Sized + Send) {
    for attempt in 0.. {
        let opened = async {
            let channel = endpoint.connect().await.ok()?;
            let mut client =
                AggregatedDiscoveryServiceClient::new(channel).max_decoding_message_size(64 << 20);
            let requests = tokio_stream::iter([request.clone()]).chain(tokio_stream::pending());
            let mut answers = client.stream_aggregated_resources(requests).await.ok()?.into_inner();
            answers.next().await?.ok()?;
            Some((client, answers))
        };
        if let Some(stream) = opened.await {
            return (attempt, Some(stream));
        }
        // Envoy's backoff, without jitter.
        let pause = (500_u64 << attempt.min(5)) * (number as u64 % 16 + 1) / 16;
        tokio::time::sleep(Duration::from_millis(pause)).await;
    }
    (0, None)
}
