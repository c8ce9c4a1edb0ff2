//! What an API server asks before it stores an object: over HTTPS, one `AdmissionReview` in and one out.

mod bodies;
mod client_names;
pub mod validate;

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use axum::{Extension, Router, middleware};
use kube::api::DynamicObject;
use kube::core::admission::{AdmissionRequest, AdmissionResponse, AdmissionReview, META_API_VERSION_V1};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use tokio::sync::watch;

use self::bodies::Bodies;
pub use self::client_names::ClientNames;
use self::validate::Known;
use crate::audit::Witness;
use egress_compile::{CompileOptions, Compiled};
use egress_core::source::SourceState;
use egress_inject as inject;
use egress_transport::connections::{ConnectionInfo, HttpLimits};

/// How many connections may wait for their client: an API server has a few, and keeps them.
pub const MAX_WAITING: usize = 256;
/// How long a connection may wait for its client.
pub const IDLE_TIMEOUT: Duration = Duration::from_secs(60);
/// What connections are held to. API servers open a new connection for one that was closed in silence.
/// They ask over HTTP/1.1; over HTTP/2 a connection asks for no more at once than one address is answered.
pub const LIMITS: HttpLimits = HttpLimits {
    name: "webhook",
    head_timeout: Duration::from_secs(15),
    grace: Duration::from_secs(2),
    streams: 8,
};
const JSON: &str = "application/json";

/// How many reviews were answered, by webhook and answer.
pub type Reviews = Family<[(&'static str, &'static str); 2], Counter>;

/// What the webhooks look at.
#[derive(Debug, Clone)]
pub struct Webhooks {
    /// The mesh's names.
    pub options: CompileOptions,
    /// How pods get their sidecars. Without it there is no `/mutate`, and what asks for it fails.
    pub sidecars: Option<inject::Settings>,
    /// The objects as they come.
    pub source: watch::Receiver<SourceState>,
    /// What follows from them.
    pub compiled: watch::Receiver<Arc<Compiled>>,
    /// What was answered.
    pub reviews: Reviews,
    /// Who may ask, of those whose certificate TLS has verified.
    pub clients: ClientNames,
    /// Who asked for what, for the audit record.
    pub witness: Arc<Witness>,
}

impl Webhooks {
    /// The paths that there are.
    pub fn routes(self) -> Router {
        let mut router = Router::new().route("/validate", post(validating));
        if self.sidecars.is_some() {
            router = router.route("/mutate", post(mutating));
        }
        let clients = middleware::from_fn_with_state(self.clients.clone(), client_names::authorize);
        router.layer(clients).with_state(Arc::new((self, Bodies::default())))
    }

    fn validate(&self, request: &AdmissionRequest<DynamicObject>, is_verified: bool) -> AdmissionResponse {
        let store = Arc::clone(&self.source.borrow().store);
        let compiled = Arc::clone(&self.compiled.borrow());
        let answer =
            validate::review(request, &Known { options: &self.options, store: &store, compiled: &compiled });
        if answer.allowed {
            validate::witness(request, is_verified, &self.witness);
        }
        answer
    }

    fn mutate(&self, request: &AdmissionRequest<DynamicObject>, _is_verified: bool) -> AdmissionResponse {
        let store = Arc::clone(&self.source.borrow().store);
        match &self.sidecars {
            Some(settings) => {
                let compiled = Arc::clone(&self.compiled.borrow());
                inject::review(settings, &store, &compiled, &self.options, request)
            }
            None => AdmissionResponse::from(request).deny("this control plane gives no sidecars"),
        }
    }

    fn answered(
        &self,
        webhook: &'static str,
        request: &AdmissionRequest<DynamicObject>,
        answer: &AdmissionResponse,
    ) {
        let allowed = if answer.allowed { "true" } else { "false" };
        self.reviews.get_or_create(&[("webhook", webhook), ("allowed", allowed)]).inc();
        if !answer.allowed {
            let (namespace, name) = (request.namespace.as_deref().unwrap_or_default(), &request.name);
            let (kind, reason) = (&request.kind.kind, &answer.result.message);
            tracing::info!(webhook, kind, namespace, name, reason, "refused");
        }
    }
}

/// Answers a request, of a client of whom TLS has verified a certificate or not.
type Answer = fn(&Webhooks, &AdmissionRequest<DynamicObject>, bool) -> AdmissionResponse;

/// What handlers are given.
type Served = Arc<(Webhooks, Bodies)>;

async fn validating(
    State(served): State<Served>,
    connection: Option<Extension<ConnectionInfo>>,
    headers: HeaderMap,
    body: Body,
) -> Response {
    review("validate", served, connection, headers, body, Webhooks::validate).await
}

async fn mutating(
    State(served): State<Served>,
    connection: Option<Extension<ConnectionInfo>>,
    headers: HeaderMap,
    body: Body,
) -> Response {
    review("mutate", served, connection, headers, body, Webhooks::mutate).await
}

/// Reads a review, has it answered, and writes it down.
async fn review(
    webhook: &'static str,
    served: Served,
    connection: Option<Extension<ConnectionInfo>>,
    headers: HeaderMap,
    body: Body,
    answer: Answer,
) -> Response {
    let refuse = |status: StatusCode, why: String| {
        tracing::warn!(webhook, why, "this is no review");
        (status, format!("{why}\n")).into_response()
    };
    let unspecified = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
    let address = connection.as_ref().map_or(unspecified, |Extension(info)| info.peer.ip());
    // Without `--webhook-client-ca` nobody is asked for one.
    let is_verified = connection.as_ref().is_some_and(|Extension(info)| info.certificates.is_some());
    let bodies = &served.1;
    let body = match bodies.read(address, &headers, body).await {
        Ok(body) => body,
        Err((status, why)) => return refuse(status, why),
    };
    // From here on the client waits for us.
    let carried = connection.map(|Extension(info)| info.place.carry());
    let turn = match bodies.turn(address, body).await {
        Ok(turn) => turn,
        Err((status, why)) => return refuse(status, why),
    };
    let webhooks = Arc::clone(&served);
    // A large object takes a while, and others must not wait for it.
    let answered = tokio::task::spawn_blocking(move || {
        // What the work takes is given back when it ends, and not when the client goes.
        let (turn, _carried) = (turn, carried);
        let request = match read(&headers, &turn.bytes) {
            Ok(request) => request,
            Err(bad) => return Err(bad),
        };
        let response = answer(&webhooks.0, &request, is_verified);
        webhooks.0.answered(webhook, &request, &response);
        Ok(axum::Json(response.into_review()).into_response())
    });
    match answered.await {
        Ok(Ok(response)) => response,
        Ok(Err((status, why))) => refuse(status, why),
        Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}

fn read(headers: &HeaderMap, body: &[u8]) -> Result<AdmissionRequest<DynamicObject>, (StatusCode, String)> {
    let kind = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    if kind.split(';').next().map(str::trim) != Some(JSON) {
        // As Open Service Mesh says it.
        let why = format!("Invalid content type {kind}; Expected {JSON}");
        return Err((StatusCode::UNSUPPORTED_MEDIA_TYPE, why));
    }
    let bad = |why: String| (StatusCode::BAD_REQUEST, why);
    let review: AdmissionReview<DynamicObject> =
        serde_json::from_slice(body).map_err(|error| bad(format!("this is no AdmissionReview: {error}")))?;
    if review.types.api_version != META_API_VERSION_V1 {
        let version = &review.types.api_version;
        return Err(bad(format!(
            "AdmissionReview of `{version}` is not understood; it must be {META_API_VERSION_V1}"
        )));
    }
    review.try_into().map_err(|_| bad("the AdmissionReview has no request".to_owned()))
}

#[cfg(test)]
mod tests;
