//! The admin interface: health, metrics, status and flows over HTTP, and the console.

mod guard;
mod peer;

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use axum::extract::{Query, State};
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use axum::{Json, Router, middleware};
use tokio::net::TcpListener;

pub use self::guard::HostName;
pub use self::peer::Peer;
use crate::console::{self, Console};
use crate::flows::memory::{Filter, Flows};
use crate::metrics;
use crate::source::Availability;
use crate::status::{Shared, Status};

/// Serves until `stop` resolves.
///
/// # Errors
/// When the transport fails.
pub async fn serve(
    shared: Shared,
    console: Console,
    listener: TcpListener,
    stop: impl Future<Output = ()> + Send + 'static,
) -> std::io::Result<()> {
    let routes = routes(shared, console).into_make_service_with_connect_info::<Peer>();
    axum::serve(listener, routes).with_graceful_shutdown(stop).await
}

/// The paths that there are. Those of probes and of Prometheus answer whoever asks, by any name; what says more
/// is guarded against web pages of others.
fn routes(shared: Shared, console: Console) -> Router {
    let names: Arc<[HostName]> = console.names.clone().into();
    let guarded = Router::new()
        .route("/status", get(status))
        .route("/flows", get(flows))
        .with_state(shared.clone())
        .merge(console::routes(shared.clone(), console))
        .layer(middleware::from_fn_with_state(names, guard::guard));
    Router::new()
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(ready))
        .route("/servingz", get(serving))
        .route("/metrics", get(metrics_text))
        .with_state(shared)
        .merge(guarded)
        .layer(middleware::map_response(guard::headers))
}

/// Ready while proxies are served and the source can be read: then what they get is what the user wrote.
async fn ready(State(shared): State<Shared>) -> (StatusCode, String) {
    let serving = shared.serving.load(Ordering::Acquire);
    match &shared.source.borrow().availability {
        Availability::Available if !serving => {
            (StatusCode::SERVICE_UNAVAILABLE, "the first state is being compiled\n".to_owned())
        }
        Availability::Available => (StatusCode::OK, "ok\n".to_owned()),
        Availability::Unavailable { reason } => {
            (StatusCode::SERVICE_UNAVAILABLE, format!("{reason}; the last good state stays in force\n"))
        }
    }
}

/// Good from the first complete state on, whether the source can be read now or not: what proxies get is the
/// last good state, and without this one they might get nothing.
async fn serving(State(shared): State<Shared>) -> (StatusCode, &'static str) {
    if shared.serving.load(Ordering::Acquire) {
        (StatusCode::OK, "ok\n")
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, "there is no complete state yet\n")
    }
}

async fn metrics_text(State(shared): State<Shared>) -> impl IntoResponse {
    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    ([(header::CONTENT_TYPE, kind)], metrics::text(&shared))
}

async fn status(State(shared): State<Shared>) -> Json<Status> {
    Json(Status::now(&shared))
}

/// What workloads talk to: `?identity=ns/sa&verdict=deny&after=SEQUENCE`.
async fn flows(State(shared): State<Shared>, Query(filter): Query<Filter>) -> Json<Flows> {
    Json(shared.flows.as_ref().map(|memory| memory.flows(&filter)).unwrap_or_default())
}

#[cfg(test)]
mod tests;
