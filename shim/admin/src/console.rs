//! The console: a page on the admin port that shows what the control plane knows, and answers questions.
//!
//! It decides nothing. `/status` and `/flows` are what `osm-egress status` and `flows` print; `/explain` and `/suggest`
//! call what `osm-egress explain` and `suggest` call. It writes nothing, unless `serve --console-write` ([`mod@write`]).

mod queries;
mod destination;
mod files;
mod manifests;
pub mod playground;
mod state;
pub mod token;
mod write;

use std::sync::Arc;

use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Redirect, Response};
use axum::routing::{get, post};
use axum::{Json, Router, middleware};
use egress_compile::CompileOptions;
use serde_json::{Value, json};

use self::state::Served;
pub use self::state::{Console, Target, Writes};
use crate::status::Shared;

/// The paths of the console.
pub(crate) fn routes(shared: Shared, console: Console) -> Router {
    let served = Served { shared, console: Arc::new(console) };
    let writing = Router::new()
        .route("/console/global-egress", post(write::global_egress))
        .route("/console/policies", post(write::policies))
        .layer(axum::extract::DefaultBodyLimit::max(write::LONGEST))
        // Before the body is read.
        .route_layer(middleware::from_fn_with_state(served.clone(), write::authorize));
    let mut router = Router::new()
        .route("/", get(|| async { Redirect::temporary("/console/") }))
        .route("/console", get(|| async { Redirect::temporary("/console/") }))
        .route("/console/", get(files::index))
        .route("/console/{file}", get(files::file))
        .route("/console/settings", get(settings))
        .route("/console/manifests", get(manifests::manifests))
        .route("/explain", get(queries::explain))
        .route("/suggest", get(queries::suggest))
        .route("/console/suggestion", get(queries::suggestion))
        .merge(writing);
    if served.console.playground.is_some() {
        router = router
            .route("/playground", get(|| async { Redirect::temporary("/playground/") }))
            .route("/playground/", get(playground_index))
            .route("/playground/{file}", get(playground_file));
    }
    router.with_state(served)
}

/// What the page has to know of how the control plane was started.
async fn settings(State(Served { shared, console }): State<Served>) -> Json<Value> {
    let CompileOptions { mesh_config_namespace, mesh_config_name, .. } = &console.options;
    Json(json!({
        "writes": console.writes.is_some(),
        "playground": console.playground.is_some(),
        "flows": shared.flows.is_some(),
        "source": if console.of_cluster { "cluster" } else { "folder" },
        "meshConfig": format!("{mesh_config_namespace}/{mesh_config_name}"),
    }))
}

async fn playground_index(state: State<Served>, headers: HeaderMap) -> Response {
    playground_file(state, Path(playground::INDEX.to_owned()), headers).await
}

async fn playground_file(
    State(served): State<Served>,
    Path(name): Path<String>,
    headers: HeaderMap,
) -> Response {
    match &served.console.playground {
        Some(playground) => playground.give(&name, &headers).await,
        None => StatusCode::NOT_FOUND.into_response(),
    }
}
