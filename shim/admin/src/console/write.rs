//! What the console may change, where `serve --console-write` lets it: the switch of global egress, and policies that
//! are new. Nothing that exists is overwritten but that switch.
//!
//! INVARIANT(write): a request changes something only if all of this holds (decision 70): writing is switched on; it
//! comes from this machine or pod, so that the token never crosses a network as it is; it is not from another site
//! (`guard.rs`); and it has the token.

mod folder;
mod policy;
mod error;
mod global_egress;

use std::sync::Arc;

use axum::Json;
use axum::extract::{ConnectInfo, Request, State};
use axum::http::{StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use egress_compile::CompileOptions;
use egress_compile::explain::Ask;
use egress_compile::explain::form::Form;
use serde::Deserialize;
use serde_json::{Value, json};

use self::folder::Folder;
use self::policy::Policies;
use self::error::Problem;
use super::destination::Destination;
use super::state::{Served, Target};
use crate::peer::Peer;
use crate::status::Shared;

/// The longest request.
pub(super) const LONGEST: usize = 256 << 10;

/// Lets a request write, or says why not.
pub(super) async fn authorize(State(served): State<Served>, request: Request, next: Next) -> Response {
    let refuse = |status: StatusCode, why: &str| (status, format!("{why}\n")).into_response();
    let Some(writes) = &served.console.writes else {
        return refuse(
            StatusCode::FORBIDDEN,
            "the console is read-only here: `osm-egress serve --console-write` lets it write",
        );
    };
    let peer = request.extensions().get::<ConnectInfo<Peer>>().map(|ConnectInfo(peer)| *peer);
    let Some(peer) = peer.filter(|peer| peer.is_local) else {
        return refuse(
            StatusCode::FORBIDDEN,
            "the console writes only for who connects from the control plane's own machine or pod: use `kubectl \
             port-forward` or `ssh -L`, and open it at localhost",
        );
    };
    let bearer = request.headers().get(header::AUTHORIZATION).map(|value| value.as_bytes());
    let bearer = bearer.and_then(|value| value.strip_prefix(b"Bearer "));
    match writes.token.check(bearer).await {
        Ok(()) => next.run(request).await,
        Err(refusal) => {
            let path = request.uri().path();
            tracing::warn!(remote = %peer.address, path, why = %refusal, "the console was not let write");
            let mut response = refuse(refusal.status(), &refusal.to_string());
            if refusal.status() == StatusCode::UNAUTHORIZED {
                let challenge = axum::http::HeaderValue::from_static("Bearer");
                response.headers_mut().insert(header::WWW_AUTHENTICATE, challenge);
            }
            response
        }
    }
}

/// The switch of global egress.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Switch {
    enabled: bool,
}

pub(super) async fn global_egress(
    State(served): State<Served>,
    ConnectInfo(peer): ConnectInfo<Peer>,
    Json(Switch { enabled }): Json<Switch>,
) -> Response {
    let done = served.switch(enabled).await;
    match &done {
        Ok(what) => {
            tracing::warn!(remote = %peer.address, enabled, what, "the console switched global egress")
        }
        Err(Problem(_, why)) => {
            tracing::warn!(remote = %peer.address, enabled, why, "the console did not switch global egress");
        }
    }
    answer(done.map(|what| json!({ "written": [what] })))
}

/// A policy for the destination of a question, with the text that was shown and confirmed.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct New {
    question: Form,
    yaml: String,
}

pub(super) async fn policies(
    State(served): State<Served>,
    ConnectInfo(peer): ConnectInfo<Peer>,
    Json(New { question, yaml }): Json<New>,
) -> Response {
    let identity = question.source.clone();
    let to = question.to.clone();
    let done = match question.ask(served.console.listener_port, served.console.blocked.clone()) {
        Ok(ask) => served.create(&ask, yaml).await,
        Err(error) => Err(Problem::invalid(error)),
    };
    match &done {
        Ok(written) => {
            tracing::warn!(remote = %peer.address, identity, to, ?written, "the console made policies")
        }
        Err(Problem(_, why)) => {
            tracing::warn!(remote = %peer.address, identity, to, why, "the console made no policy");
        }
    }
    answer(done.map(|written| json!({ "written": written })))
}

fn answer(done: Result<Value, Problem>) -> Response {
    done.map(Json).into_response()
}

impl Served {
    fn target(&self) -> Result<&Target, Problem> {
        let writes = self.console.writes.as_ref();
        writes.map(|writes| &writes.target).ok_or_else(|| Problem::conflict("the console is read-only here"))
    }

    async fn switch(&self, on: bool) -> Result<String, Problem> {
        match self.target()? {
            Target::Cluster(writer) => Ok(writer.global_egress(on).await?),
            Target::Folder(folder) => {
                let folder = Folder::new(folder);
                let (options, store) = (self.console.options.clone(), self.store());
                blocking(move || folder.switch(&store, &options, on)).await
            }
        }
    }

    async fn create(&self, ask: &Ask, text: String) -> Result<Vec<String>, Problem> {
        let target = self.target()?;
        let (options, store): (CompileOptions, _) = (self.console.options.clone(), self.store());
        let (identity, destination) = (ask.identity.clone(), Destination::of(ask));
        let policies =
            blocking(move || Policies::read(&identity, &destination, text, &store, &options)).await?;
        let mut written = policies.names();
        match target {
            Target::Cluster(writer) => writer.create(&policies.objects()).await?,
            Target::Folder(folder) => {
                let folder = Folder::new(folder);
                written.push(blocking(move || folder.add(&policies)).await?);
            }
        }
        Ok(written)
    }

    fn store(&self) -> Arc<egress_compile::store::Store> {
        let Shared { source, .. } = &self.shared;
        Arc::clone(&source.borrow().store)
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Problem> + Send + 'static,
) -> Result<T, Problem> {
    let lost =
        |_| Problem(StatusCode::INTERNAL_SERVER_ERROR, "it stopped half-way: look at the log".to_owned());
    tokio::task::spawn_blocking(work).await.map_err(lost)?
}
