//! Admission webhooks: the API server sends one `AdmissionReview` over HTTPS before it stores an object, and gets one
//! back.

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

use self::bodies::BodyReader;
pub use self::client_names::ClientNames;
use self::validate::ReviewContext;
use crate::audit::RequestLog;
use egress_compile::{CompileOptions, Compiled};
use egress_core::source::SourceState;
use egress_inject as inject;
use egress_transport::connections::{ConnectionInfo, HttpLimits};

/// Maximum number of idle connections. An API server opens a few and keeps them.
pub const MAX_WAITING: usize = 256;
/// Time after which an idle connection is closed.
pub const IDLE_TIMEOUT: Duration = Duration::from_secs(60);
/// Limits of the webhook server. API servers reconnect when an idle connection was closed. They use HTTP/1.1; over
/// HTTP/2 a connection may have no more open requests than one client address gets turns.
pub const HTTP_LIMITS: HttpLimits = HttpLimits {
    name: "webhook",
    head_timeout: Duration::from_secs(15),
    shutdown_grace: Duration::from_secs(2),
    max_streams: 8,
};
const JSON: &str = "application/json";

/// Number of answered reviews, by webhook and verdict.
pub type ReviewCounters = Family<[(&'static str, &'static str); 2], Counter>;

/// State and settings of the webhooks.
#[derive(Debug, Clone)]
pub struct Webhooks {
    /// Names of the mesh.
    pub options: CompileOptions,
    /// Injection settings. Without them there is no `/mutate`, and the API server's calls to it fail.
    pub sidecars: Option<inject::Settings>,
    /// Current objects of the source.
    pub source: watch::Receiver<SourceState>,
    /// Policy documents compiled from them.
    pub compiled: watch::Receiver<Arc<Compiled>>,
    /// Counters of answered reviews.
    pub reviews: ReviewCounters,
    /// Client certificate names that may call the webhooks, once TLS has verified the certificate.
    pub clients: ClientNames,
    /// Users who changed objects, for the audit record.
    pub request_log: Arc<RequestLog>,
}

impl Webhooks {
    /// Builds the router.
    pub fn routes(self) -> Router {
        let mut router = Router::new().route("/validate", post(handle_validate));
        if self.sidecars.is_some() {
            router = router.route("/mutate", post(handle_mutate));
        }
        let clients = middleware::from_fn_with_state(self.clients.clone(), client_names::authorize);
        router.layer(clients).with_state(Arc::new((self, BodyReader::default())))
    }

    fn validate(&self, request: &AdmissionRequest<DynamicObject>, is_verified: bool) -> AdmissionResponse {
        let store = Arc::clone(&self.source.borrow().store);
        let compiled = Arc::clone(&self.compiled.borrow());
        let answer = validate::review(
            request,
            &ReviewContext { options: &self.options, store: &store, compiled: &compiled },
        );
        if answer.allowed {
            validate::record_user(request, is_verified, &self.request_log);
        }
        answer
    }

    fn mutate(&self, request: &AdmissionRequest<DynamicObject>, _is_verified: bool) -> AdmissionResponse {
        let store = Arc::clone(&self.source.borrow().store);
        match &self.sidecars {
            Some(settings) => {
                let compiled = Arc::clone(&self.compiled.borrow());
                inject::review_pod(settings, &store, &compiled, &self.options, request)
            }
            None => AdmissionResponse::from(request).deny(
                "injection is off in this control plane: pass its injection flags, or remove the webhook",
            ),
        }
    }

    fn record_answer(
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

/// Answers a review. The flag is true if TLS has verified the client's certificate.
type ReviewFn = fn(&Webhooks, &AdmissionRequest<DynamicObject>, bool) -> AdmissionResponse;

/// Shared state of the handlers.
type WebhookState = Arc<(Webhooks, BodyReader)>;

async fn handle_validate(
    State(served): State<WebhookState>,
    connection: Option<Extension<ConnectionInfo>>,
    headers: HeaderMap,
    body: Body,
) -> Response {
    answer_review("validate", served, connection, headers, body, Webhooks::validate).await
}

async fn handle_mutate(
    State(served): State<WebhookState>,
    connection: Option<Extension<ConnectionInfo>>,
    headers: HeaderMap,
    body: Body,
) -> Response {
    answer_review("mutate", served, connection, headers, body, Webhooks::mutate).await
}

/// Reads a review, answers it, and records the answer.
async fn answer_review(
    webhook: &'static str,
    served: WebhookState,
    connection: Option<Extension<ConnectionInfo>>,
    headers: HeaderMap,
    body: Body,
    answer: ReviewFn,
) -> Response {
    let refuse = |status: StatusCode, why: String| {
        tracing::warn!(webhook, why, "not a review");
        (status, format!("{why}\n")).into_response()
    };
    let unspecified = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
    let address = connection.as_ref().map_or(unspecified, |Extension(info)| info.peer.ip());
    // Without `--webhook-client-ca` no client presents a certificate.
    let is_verified = connection.as_ref().is_some_and(|Extension(info)| info.certificates.is_some());
    let bodies = &served.1;
    let body = match bodies.read(address, &headers, body).await {
        Ok(body) => body,
        Err((status, why)) => return refuse(status, why),
    };
    // The client now waits for the server, so the connection is not idle.
    let active = connection.map(|Extension(info)| info.slot.activate());
    let turn = match bodies.wait_turn(address, body).await {
        Ok(turn) => turn,
        Err((status, why)) => return refuse(status, why),
    };
    let webhooks = Arc::clone(&served);
    // A large object takes a while; run it off the async threads.
    let answered = tokio::task::spawn_blocking(move || {
        // The permits are released when the work ends, not when the client disconnects.
        let (turn, _active) = (turn, active);
        let request = match parse_review(&headers, &turn.bytes) {
            Ok(request) => request,
            Err(bad) => return Err(bad),
        };
        let response = answer(&webhooks.0, &request, is_verified);
        webhooks.0.record_answer(webhook, &request, &response);
        Ok(axum::Json(response.into_review()).into_response())
    });
    match answered.await {
        Ok(Ok(response)) => response,
        Ok(Err((status, why))) => refuse(status, why),
        Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}

fn parse_review(
    headers: &HeaderMap,
    body: &[u8],
) -> Result<AdmissionRequest<DynamicObject>, (StatusCode, String)> {
    let kind = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    if kind.split(';').next().map(str::trim) != Some(JSON) {
        // Open Service Mesh's text.
        let why = format!("Invalid content type {kind}; Expected {JSON}");
        return Err((StatusCode::UNSUPPORTED_MEDIA_TYPE, why));
    }
    let bad = |why: String| (StatusCode::BAD_REQUEST, why);
    let review: AdmissionReview<DynamicObject> = serde_json::from_slice(body)
        .map_err(|error| bad(format!("the body is not an AdmissionReview: {error}")))?;
    if review.types.api_version != META_API_VERSION_V1 {
        let version = &review.types.api_version;
        return Err(bad(format!(
            "AdmissionReview of `{version}` is not supported: use {META_API_VERSION_V1}"
        )));
    }
    review.try_into().map_err(|_| bad("the AdmissionReview has no request".to_owned()))
}

#[cfg(test)]
mod tests;
