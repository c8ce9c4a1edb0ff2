//! The admin interface: health, metrics, status and flows over HTTP, and the console.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use axum::extract::{ConnectInfo, Query, Request, State};
use axum::http::{StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Extension, Json, Router, middleware};
use tokio::net::TcpListener;

use crate::console::{self, Console};
use crate::guard::{self, HostName};
use crate::metrics;
use crate::peer::Peer;
use crate::status::{Shared, current_status};
use egress_core::source::Availability;
use egress_flows::table::{FlowList, FlowQuery};
use egress_status::Status;
use egress_transport::connections::{self, ConnectionInfo, HttpLimits, plain};

/// How long a connection may wait for its client, and an answer be on its way.
const IDLE_TIMEOUT: Duration = Duration::from_secs(60);
const LIMITS: HttpLimits = HttpLimits {
    name: "admin",
    head_timeout: Duration::from_secs(15),
    grace: Duration::from_millis(200),
    streams: 64,
};

/// Serves until `stop` resolves.
pub async fn serve(
    shared: Shared,
    console: Console,
    listener: TcpListener,
    stop: impl Future<Output = ()> + Send + 'static,
) {
    let connections = plain(listener, Arc::clone(&shared.pools.admin), IDLE_TIMEOUT);
    let routes = routes(shared, console).layer(middleware::from_fn(answering));
    let of_peer = move |info: &ConnectionInfo| routes.clone().layer(Extension(ConnectInfo(Peer::from(info))));
    connections::serve(connections, of_peer, LIMITS, stop).await;
}

/// While it is answered, a request makes no room for others.
async fn answering(info: Option<Extension<ConnectionInfo>>, request: Request, next: Next) -> Response {
    let _carried = info.map(|Extension(info)| info.place.carry());
    next.run(request).await
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
    Json(current_status(&shared))
}

/// What workloads talk to: `?identity=ns/sa&verdict=deny&after=SEQUENCE`.
async fn flows(State(shared): State<Shared>, Query(query): Query<FlowQuery>) -> Json<FlowList> {
    Json(shared.flows.as_ref().map(|table| table.list_page(&query)).unwrap_or_default())
}

#[cfg(test)]
mod tests;
