//! The console: a page on the admin port that shows the state of the control plane and answers queries.
//!
//! It decides nothing: `/status` and `/flows` serve what `osm-egress status` and `flows` print, `/explain` and
//! `/suggest` call the code of `osm-egress explain` and `suggest`. It is read-only unless `serve --console-write`
//! (the module `write`).

mod destination;
mod files;
mod manifests;
pub mod playground;
mod queries;
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

use self::state::ConsoleState;
pub use self::state::{ConsoleConfig, WriteConfig, WriteTarget};
use crate::status::AdminState;

/// Builds the routes of the console.
pub(crate) fn routes(shared: AdminState, console: ConsoleConfig) -> Router {
    let served = ConsoleState { shared, console: Arc::new(console) };
    let writing = Router::new()
        .route("/console/global-egress", post(write::set_global_egress))
        .route("/console/policies", post(write::create_policies))
        .layer(axum::extract::DefaultBodyLimit::max(write::MAX_BODY_SIZE))
        // Runs before the body is read.
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

/// Returns the settings that the page depends on.
async fn settings(State(ConsoleState { shared, console }): State<ConsoleState>) -> Json<Value> {
    let CompileOptions { mesh_config_namespace, mesh_config_name, .. } = &console.options;
    Json(json!({
        "writes": console.writes.is_some(),
        "playground": console.playground.is_some(),
        "flows": shared.flows.is_some(),
        "source": if console.from_cluster { "cluster" } else { "folder" },
        "meshConfig": format!("{mesh_config_namespace}/{mesh_config_name}"),
    }))
}

async fn playground_index(state: State<ConsoleState>, headers: HeaderMap) -> Response {
    playground_file(state, Path(playground::INDEX.to_owned()), headers).await
}

async fn playground_file(
    State(served): State<ConsoleState>,
    Path(name): Path<String>,
    headers: HeaderMap,
) -> Response {
    match &served.console.playground {
        Some(playground) => playground.serve_file(&name, &headers).await,
        None => StatusCode::NOT_FOUND.into_response(),
    }
}
