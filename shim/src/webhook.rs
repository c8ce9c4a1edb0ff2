//! What an API server asks before it stores an object: over HTTPS, one `AdmissionReview` in and one out.

mod connections;
pub mod validate;

use std::sync::Arc;

use axum::Router;
use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use kube::api::DynamicObject;
use kube::core::admission::{AdmissionRequest, AdmissionResponse, AdmissionReview, META_API_VERSION_V1};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use tokio::sync::watch;

pub use self::connections::serve;
use self::validate::Known;
use crate::inject;
use crate::source::SourceState;
use egress_compile::{CompileOptions, Compiled};

/// The longest review: the new object and the old one, of which an API server takes 3 MiB each at most.
const LONGEST: usize = 8 << 20;
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
}

impl Webhooks {
    /// The paths that there are.
    pub fn routes(self) -> Router {
        let mut router = Router::new().route("/validate", post(validating));
        if self.sidecars.is_some() {
            router = router.route("/mutate", post(mutating));
        }
        router.layer(DefaultBodyLimit::max(LONGEST)).with_state(Arc::new(self))
    }

    fn validate(&self, request: &AdmissionRequest<DynamicObject>) -> AdmissionResponse {
        let store = Arc::clone(&self.source.borrow().store);
        let compiled = Arc::clone(&self.compiled.borrow());
        validate::review(request, &Known { options: &self.options, store: &store, compiled: &compiled })
    }

    fn mutate(&self, request: &AdmissionRequest<DynamicObject>) -> AdmissionResponse {
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

async fn validating(State(webhooks): State<Arc<Webhooks>>, headers: HeaderMap, body: Bytes) -> Response {
    review("validate", webhooks, headers, body, Webhooks::validate).await
}

async fn mutating(State(webhooks): State<Arc<Webhooks>>, headers: HeaderMap, body: Bytes) -> Response {
    review("mutate", webhooks, headers, body, Webhooks::mutate).await
}

/// Reads a review, has it answered, and writes it down.
async fn review(
    webhook: &'static str,
    webhooks: Arc<Webhooks>,
    headers: HeaderMap,
    body: Bytes,
    answer: fn(&Webhooks, &AdmissionRequest<DynamicObject>) -> AdmissionResponse,
) -> Response {
    let request = match read(&headers, &body) {
        Ok(request) => request,
        Err((status, why)) => {
            tracing::warn!(webhook, why, "this is no review");
            return (status, format!("{why}\n")).into_response();
        }
    };
    // A large object takes a while, and others must not wait for it.
    let answered = tokio::task::spawn_blocking(move || {
        let response = answer(&webhooks, &request);
        webhooks.answered(webhook, &request, &response);
        axum::Json(response.into_review()).into_response()
    });
    answered.await.unwrap_or_else(|_| StatusCode::INTERNAL_SERVER_ERROR.into_response())
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
