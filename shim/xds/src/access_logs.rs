//! The access logs of sidecars (AccessLogService). The stream's credentials determine its identity, as for xDS, and all its
//! entries are of that identity.

use std::sync::Arc;

use egress_policy::Identity;
use envoy_types::pb::envoy::config::core::v3::Node;
use envoy_types::pb::envoy::service::accesslog::v3::access_log_service_server::AccessLogService;
use envoy_types::pb::envoy::service::accesslog::v3::stream_access_logs_message::LogEntries;
use envoy_types::pb::envoy::service::accesslog::v3::{StreamAccessLogsMessage, StreamAccessLogsResponse};
use jiff::Timestamp;
use tonic::{Request, Response, Status, Streaming};

use super::identify::{Identification, ReviewMode, StreamRefusal};
use super::limits::{Service, StreamLimits};
use super::proxies::Proxies;
use super::stream::{FIRST_MESSAGE_TIMEOUT, place, presented_credentials, refuse};
use egress_flows::access_log::grpc;
use egress_flows::table::FlowTable;

/// The service.
#[derive(Debug)]
pub(super) struct AccessLogs {
    pub(super) flows: Arc<FlowTable>,
    pub(super) identify: Arc<Identification>,
    pub(super) proxies: Arc<Proxies>,
    pub(super) limits: Arc<StreamLimits>,
}

#[tonic::async_trait]
impl AccessLogService for AccessLogs {
    async fn stream_access_logs(
        &self,
        request: Request<Streaming<StreamAccessLogsMessage>>,
    ) -> Result<Response<StreamAccessLogsResponse>, Status> {
        let (credentials, place) = (presented_credentials(&request), place(&request));
        let mut messages = request.into_inner();
        let refuse = |refusal: StreamRefusal| refuse(&self.proxies, &credentials, &refusal);
        let verified = self.identify.verify(&credentials, ReviewMode::CacheAllowed).await.map_err(refuse)?;
        let admit = |identity: &Identity| {
            let (service, place) = (Service::AccessLog, place.as_ref());
            self.limits.admit(service, identity, verified.as_ref(), &credentials, place).map_err(refuse)
        };
        // Before anything of it is read.
        let admitted = verified.as_ref().map(|verified| admit(&verified.identity)).transpose()?;
        let first = tokio::time::timeout(FIRST_MESSAGE_TIMEOUT, messages.message())
            .await
            .map_err(|_| Status::deadline_exceeded(format!("no message within {FIRST_MESSAGE_TIMEOUT:?}")))??
            .ok_or_else(|| Status::invalid_argument("a stream without a message"))?;
        // Only the first message has a node.
        let node = first.identifier.as_ref().and_then(|identifier| identifier.node.clone());
        let node = node.ok_or(StreamRefusal::NoNode).map_err(refuse)?;
        let identity = self.identify.resolve_identity(verified.as_ref(), &node).map_err(refuse)?;
        let _admission = match admitted {
            Some(admission) => admission,
            None => admit(&identity)?,
        };
        tokio::select! {
            ended = self.listen(&identity, &node, first, messages) => ended.map(|()| {
                Response::new(StreamAccessLogsResponse::default())
            }),
            refusal = self.identify.watch_expiry(&credentials, verified) => Err(refuse(refusal)),
        }
    }
}

impl AccessLogs {
    /// Records the messages of a stream. A message is read when the one before was recorded, so that a proxy that sends too much
    /// meets flow control, and drops what is beyond its own buffer.
    async fn listen(
        &self,
        identity: &Identity,
        node: &Node,
        first: StreamAccessLogsMessage,
        mut messages: Streaming<StreamAccessLogsMessage>,
    ) -> Result<(), Status> {
        let mut next = Some(first);
        while let Some(StreamAccessLogsMessage { identifier, log_entries }) = next {
            if let Some(now) = identifier.and_then(|identifier| identifier.node).map(|now| now.id)
                && now != node.id
            {
                return Err(Status::from(&StreamRefusal::NodeChanged { first: node.id.clone(), now }));
            }
            let observations = match log_entries {
                Some(LogEntries::TcpLogs(logs)) => logs.log_entry.iter().map(grpc::read_connection).collect(),
                Some(LogEntries::HttpLogs(logs)) => logs.log_entry.iter().map(grpc::read_request).collect(),
                None => Vec::new(),
            };
            self.flows.record(identity, &node.id, Timestamp::now(), observations);
            next = messages.message().await?;
        }
        Ok(())
    }
}
