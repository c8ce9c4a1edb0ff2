//! WriteConfig of the console (`serve --console-write`): the switch of global egress, and new policies. No existing object
//! changes except for that switch.
//!
//! INVARIANT(write): a request changes something only if all of this holds (decision 70): writing is enabled; the
//! request comes from this machine or pod, so that the token never crosses a network in plaintext; it does not come
//! from another site (`guard.rs`); and it has the token.

mod error;
mod folder;
mod global_egress;
mod policy;

use std::sync::Arc;

use axum::Json;
use axum::extract::{ConnectInfo, Request, State};
use axum::http::{StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use egress_compile::CompileOptions;
use egress_compile::explain::ExplainRequest;
use egress_compile::explain::probe_form::ProbeForm;
use serde::Deserialize;
use serde_json::{Value, json};

use self::error::WriteError;
use self::folder::ManifestFolder;
use self::policy::ProposedPolicies;
use super::destination::Destination;
use super::state::{ConsoleState, WriteTarget};
use crate::peer::Peer;
use crate::status::AdminState;

/// Maximum size of a request's body.
pub(super) const MAX_BODY_SIZE: usize = 256 << 10;

/// Lets a write pass, or refuses it with a reason.
pub(super) async fn authorize(State(served): State<ConsoleState>, request: Request, next: Next) -> Response {
    let refuse = |status: StatusCode, why: &str| (status, format!("{why}\n")).into_response();
    let Some(writes) = &served.console.writes else {
        return refuse(
            StatusCode::FORBIDDEN,
            "the console is read-only: start the control plane with `serve --console-write`",
        );
    };
    let peer = request.extensions().get::<ConnectInfo<Peer>>().map(|ConnectInfo(peer)| *peer);
    let Some(peer) = peer.filter(|peer| peer.is_local) else {
        return refuse(
            StatusCode::FORBIDDEN,
            "writes are accepted only from the control plane's own machine or pod: use `kubectl port-forward` or \
             `ssh -L`, and open the console at localhost",
        );
    };
    let bearer = request.headers().get(header::AUTHORIZATION).map(|value| value.as_bytes());
    let bearer = bearer.and_then(|value| value.strip_prefix(b"Bearer "));
    match writes.token.check(bearer).await {
        Ok(()) => next.run(request).await,
        Err(refusal) => {
            let path = request.uri().path();
            tracing::warn!(remote = %peer.address, path, why = %refusal, "a write by the console was refused");
            let mut response = refuse(refusal.status(), &refusal.to_string());
            if refusal.status() == StatusCode::UNAUTHORIZED {
                let challenge = axum::http::HeaderValue::from_static("Bearer");
                response.headers_mut().insert(header::WWW_AUTHENTICATE, challenge);
            }
            response
        }
    }
}

/// Request to switch global egress.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct SwitchRequest {
    enabled: bool,
}

pub(super) async fn set_global_egress(
    State(served): State<ConsoleState>,
    ConnectInfo(peer): ConnectInfo<Peer>,
    Json(SwitchRequest { enabled }): Json<SwitchRequest>,
) -> Response {
    let done = served.write_global_egress(enabled).await;
    match &done {
        Ok(what) => {
            tracing::warn!(remote = %peer.address, enabled, what, "the console switched global egress")
        }
        Err(WriteError(_, why)) => {
            tracing::warn!(remote = %peer.address, enabled, why, "the console could not switch global egress");
        }
    }
    answer(done.map(|what| json!({ "written": [what] })))
}

/// Request to create the policy that was shown and confirmed, for the destination of a query.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct PolicyRequest {
    question: ProbeForm,
    yaml: String,
}

pub(super) async fn create_policies(
    State(served): State<ConsoleState>,
    ConnectInfo(peer): ConnectInfo<Peer>,
    Json(PolicyRequest { question, yaml }): Json<PolicyRequest>,
) -> Response {
    let identity = question.identity.clone();
    let to = question.to.clone();
    let done = match question.to_request(served.console.listener_port, served.console.blocked.clone()) {
        Ok(explain_request) => served.write_policies(&explain_request, yaml).await,
        Err(error) => Err(WriteError::invalid(error)),
    };
    match &done {
        Ok(written) => {
            tracing::warn!(remote = %peer.address, identity, to, ?written, "the console created policies")
        }
        Err(WriteError(_, why)) => {
            tracing::warn!(remote = %peer.address, identity, to, why, "the console created no policy");
        }
    }
    answer(done.map(|written| json!({ "written": written })))
}

fn answer(done: Result<Value, WriteError>) -> Response {
    done.map(Json).into_response()
}

impl ConsoleState {
    fn target(&self) -> Result<&WriteTarget, WriteError> {
        let writes = self.console.writes.as_ref();
        writes.map(|writes| &writes.target).ok_or_else(|| {
            WriteError::conflict(
                "the console is read-only: start the control plane with `serve --console-write`",
            )
        })
    }

    async fn write_global_egress(&self, on: bool) -> Result<String, WriteError> {
        match self.target()? {
            WriteTarget::Cluster(writer) => Ok(writer.global_egress(on).await?),
            WriteTarget::Folder(folder) => {
                let folder = ManifestFolder::new(folder);
                let (options, store) = (self.console.options.clone(), self.store());
                run_blocking(move || folder.set_global_egress(&store, &options, on)).await
            }
        }
    }

    async fn write_policies(
        &self,
        explain_request: &ExplainRequest,
        text: String,
    ) -> Result<Vec<String>, WriteError> {
        let target = self.target()?;
        let (options, store): (CompileOptions, _) = (self.console.options.clone(), self.store());
        let (identity, destination) =
            (explain_request.identity.clone(), Destination::from_request(explain_request));
        let policies =
            run_blocking(move || ProposedPolicies::validate(&identity, &destination, text, &store, &options))
                .await?;
        let mut written = policies.names();
        match target {
            WriteTarget::Cluster(writer) => writer.create(&policies.objects()).await?,
            WriteTarget::Folder(folder) => {
                let folder = ManifestFolder::new(folder);
                written.push(run_blocking(move || folder.write_policies(&policies)).await?);
            }
        }
        Ok(written)
    }

    fn store(&self) -> Arc<egress_compile::store::Store> {
        let AdminState { source, .. } = &self.shared;
        Arc::clone(&source.borrow().store)
    }
}

async fn run_blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, WriteError> + Send + 'static,
) -> Result<T, WriteError> {
    let lost = |_| {
        WriteError(
            StatusCode::INTERNAL_SERVER_ERROR,
            "the write failed: see the control plane's log".to_owned(),
        )
    };
    tokio::task::spawn_blocking(work).await.map_err(lost)?
}
