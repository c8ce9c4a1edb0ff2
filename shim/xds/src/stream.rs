//! The start of a gRPC stream, for discovery and access logs alike: its credentials, its connection and its refusal.

use std::sync::Arc;
use std::time::Duration;

use egress_transport::connections::{ConnectionInfo, Slot};
use tonic::{Request, Status};

use super::identify::{Authorization, PresentedCredentials, StreamRefusal};
use super::proxies::Proxies;

/// The time that the first message of a stream may take.
pub(super) const FIRST_MESSAGE_TIMEOUT: Duration = Duration::from_secs(30);
/// Counts and logs a refusal.
pub(super) fn refuse(
    proxies: &Proxies,
    credentials: &PresentedCredentials,
    refusal: &StreamRefusal,
) -> Status {
    proxies.counts.refused(refusal.reason());
    if matches!(refusal, StreamRefusal::Unavailable(_)) {
        // The outage is logged once, and not for each proxy of a fleet.
        tracing::debug!(peer = %credentials.peer(), error = %refusal, "proxy refused");
    } else {
        tracing::warn!(peer = %credentials.peer(), reason = refusal.reason(), error = %refusal, "proxy refused");
    }
    Status::from(refusal)
}

/// The credentials that a stream presents.
pub(super) fn presented_credentials<T>(request: &Request<T>) -> PresentedCredentials {
    let authorization = request.metadata().get_all("authorization").iter();
    let connection = request.extensions().get::<ConnectionInfo>();
    PresentedCredentials {
        address: connection.map(|connection| connection.peer),
        certificates: connection.and_then(|connection| connection.certificates.clone()),
        // What is no text is not one of ours, and is refused as such.
        authorization: authorization
            .map(|value| Authorization(value.to_str().unwrap_or_default().to_owned()))
            .collect(),
    }
}

/// The place of the connection in its pool.
pub(super) fn place<T>(request: &Request<T>) -> Option<Arc<Slot>> {
    request.extensions().get::<ConnectionInfo>().map(|connection| Arc::clone(&connection.slot))
}
