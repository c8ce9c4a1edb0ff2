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

use crate::console::{self, ConsoleConfig};
use crate::guard::{self, HostName};
use crate::metrics::render_metrics;
use crate::peer::Peer;
use crate::status::{AdminState, current_status};
use egress_core::source::Availability;
use egress_flows::table::{FlowList, FlowQuery};
use egress_status::Status;
use egress_transport::connections::{self, ConnectionInfo, HttpLimits, accept_plaintext};

/// Time that a connection may be idle, and that an answer may take.
const IDLE_TIMEOUT: Duration = Duration::from_secs(60);
const HTTP_LIMITS: HttpLimits = HttpLimits {
    name: "admin",
    head_timeout: Duration::from_secs(15),
    shutdown_grace: Duration::from_millis(200),
    max_streams: 64,
};

/// Serves until `stop` resolves.
pub async fn serve(
    shared: AdminState,
    console: ConsoleConfig,
    listener: TcpListener,
    stop: impl Future<Output = ()> + Send + 'static,
) {
    let connections = accept_plaintext(listener, Arc::clone(&shared.pools.admin), IDLE_TIMEOUT);
    let routes = routes(shared, console).layer(middleware::from_fn(hold_connection));
    let of_peer = move |info: &ConnectionInfo| routes.clone().layer(Extension(ConnectInfo(Peer::from(info))));
    connections::serve_http(connections, of_peer, HTTP_LIMITS, stop).await;
}

/// Keeps the connection from being evicted while it serves a request.
async fn hold_connection(info: Option<Extension<ConnectionInfo>>, request: Request, next: Next) -> Response {
    let _active = info.map(|Extension(info)| info.slot.activate());
    next.run(request).await
}

/// Builds the routes. Probes and Prometheus are answered under any host name; everything else is guarded against web
/// pages of other sites.
fn routes(shared: AdminState, console: ConsoleConfig) -> Router {
    let names: Arc<[HostName]> = console.names.clone().into();
    let guarded = Router::new()
        .route("/status", get(status))
        .route("/flows", get(flows))
        .with_state(shared.clone())
        .merge(console::routes(shared.clone(), console))
        .layer(middleware::from_fn_with_state(names, guard::check_request));
    Router::new()
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(ready))
        .route("/servingz", get(serving))
        .route("/metrics", get(metrics))
        .with_state(shared)
        .merge(guarded)
        .layer(middleware::map_response(guard::add_security_headers))
}

/// Readiness: proxies are served, and the source is available, so proxies have what the user wrote.
async fn ready(State(shared): State<AdminState>) -> (StatusCode, String) {
    let serving = shared.serving.load(Ordering::Acquire);
    match &shared.source.borrow().availability {
        Availability::Available if !serving => {
            (StatusCode::SERVICE_UNAVAILABLE, "the first state is not compiled yet\n".to_owned())
        }
        Availability::Available => (StatusCode::OK, "ok\n".to_owned()),
        Availability::Unavailable { reason } => {
            (StatusCode::SERVICE_UNAVAILABLE, format!("{reason}; the last good state stays in force\n"))
        }
    }
}

/// Serving state: true from the first complete state on, even if the source is unavailable now. Proxies keep the last
/// good state, and without this replica they might get none.
async fn serving(State(shared): State<AdminState>) -> (StatusCode, &'static str) {
    if shared.serving.load(Ordering::Acquire) {
        (StatusCode::OK, "ok\n")
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, "the first state is not complete yet\n")
    }
}

async fn metrics(State(shared): State<AdminState>) -> impl IntoResponse {
    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    ([(header::CONTENT_TYPE, kind)], render_metrics(&shared))
}

async fn status(State(shared): State<AdminState>) -> Json<Status> {
    Json(current_status(&shared))
}

/// Lists flows: `?identity=ns/sa&verdict=deny&after=SEQUENCE`.
async fn flows(State(shared): State<AdminState>, Query(query): Query<FlowQuery>) -> Json<FlowList> {
    Json(shared.flows.as_ref().map(|table| table.list_page(&query)).unwrap_or_default())
}

#[cfg(test)]
mod tests;
