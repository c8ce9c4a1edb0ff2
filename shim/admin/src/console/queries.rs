//! Questions: may this leave, and what would allow what was refused. The answers are those of `osm-egress explain` and
//! `suggest`, of what this control plane serves now.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Query, State};
use axum::http::StatusCode;
use egress_compile::explain::InWords;
use egress_compile::explain::form::Form;
use egress_policy::Identity;
use serde::{Deserialize, Deserializer};
use serde_json::{Value, json};

use super::destination::Destination;
use super::state::{Console, Served};
use crate::status::Shared;
use egress_compile::explain::Ask;
use egress_compile::explain::evidence::Evidence;
use egress_flows::memory::Filter;
use egress_flows::suggest::Suggestion;
use egress_status::{ProxyStatus, Status, proxies};

/// No answer, and why.
pub(super) type Mistake = (StatusCode, String);

fn mistake(why: impl std::fmt::Display) -> Mistake {
    (StatusCode::BAD_REQUEST, format!("{why}\n"))
}

/// The answer about a connection: `report` is what `osm-egress explain -o json` prints, and `rules` says of each rule
/// of it what it lacks, in words.
pub(super) async fn explain(
    State(Served { shared, console }): State<Served>,
    Query(form): Query<Form>,
) -> Result<Json<InWords>, Mistake> {
    let ask = form.ask(console.listener_port, console.blocked.clone()).map_err(mistake)?;
    // A large policy takes a while, and others must not wait for it.
    let answer = tokio::task::spawn_blocking(move || answer(&shared, &console, &ask));
    answer
        .await
        .map_err(|_| (StatusCode::INTERNAL_SERVER_ERROR, "there is no answer\n".to_owned()))?
        .map(Json)
}

fn answer(shared: &Shared, console: &Console, ask: &Ask) -> Result<InWords, Mistake> {
    let compiled = Arc::clone(&shared.compiled.borrow());
    let store = Arc::clone(&shared.source.borrow().store);
    let mesh = console.of_cluster.then(|| console.options.mesh_name.clone());
    let evidence = Evidence::compiled(store, compiled, mesh);
    let mut report = egress_compile::explain::explain(&evidence, ask).map_err(mistake)?;
    let document = evidence.document(&ask.identity).map_err(mistake)?;
    let proxies = shared.proxies.list().into_iter();
    let status = Status {
        proxies: proxies.map(|proxy| ProxyStatus { proxy, ..ProxyStatus::default() }).collect(),
        source_unavailable: shared.source.borrow().availability.reason().map(str::to_owned),
        ..Status::default()
    };
    report.proxies = Some(proxies::of(&status, &ask.identity, None, &document));
    Ok(InWords::from(report))
}

/// Whose suggestion is wanted.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Whose {
    #[serde(deserialize_with = "parsed")]
    pub(super) identity: Identity,
}

/// What `osm-egress suggest` prints.
pub(super) async fn suggest(
    State(Served { shared, .. }): State<Served>,
    Query(Whose { identity }): Query<Whose>,
) -> Result<Json<Value>, Mistake> {
    let Some(memory) = shared.flows.clone() else { return Err(no_flows()) };
    let suggestion = tokio::task::spawn_blocking(move || {
        let flows = memory.all(&Filter { identity: Some(identity.clone()), ..Filter::default() });
        let suggestion = Suggestion::of(&identity, &flows.flows);
        json!({
            "identity": identity.to_string(),
            "yaml": suggestion.yaml(),
            "empty": suggestion.is_empty(),
            "flows": flows.flows.len(),
            "dropped": flows.dropped,
        })
    });
    suggestion
        .await
        .map(Json)
        .map_err(|_| (StatusCode::INTERNAL_SERVER_ERROR, "there is no suggestion\n".to_owned()))
}

/// What would allow the one destination of a question, and how many others were refused. The page offers no more than
/// that to be made a policy.
pub(super) async fn suggestion(
    State(Served { shared, console }): State<Served>,
    Query(form): Query<Form>,
) -> Result<Json<Value>, Mistake> {
    let Some(memory) = shared.flows.clone() else { return Err(no_flows()) };
    let ask = form.ask(console.listener_port, console.blocked.clone()).map_err(mistake)?;
    let suggestion = tokio::task::spawn_blocking(move || {
        let destination = Destination::of(&ask);
        let identity = ask.identity;
        let flows = memory.all(&Filter { identity: Some(identity.clone()), ..Filter::default() });
        let these: Vec<_> = flows.flows.iter().filter_map(|flow| destination.narrow(flow)).collect();
        let suggestion = Suggestion::of(&identity, &these);
        let refused = flows.flows.iter().filter(|flow| flow.decided.word() != "allow");
        json!({
            "identity": identity.to_string(),
            "destination": destination.to_string(),
            "yaml": suggestion.yaml(),
            "empty": suggestion.is_empty(),
            "others": refused.filter(|flow| destination.narrow(flow).is_none()).count(),
            "dropped": flows.dropped,
        })
    });
    suggestion
        .await
        .map(Json)
        .map_err(|_| (StatusCode::INTERNAL_SERVER_ERROR, "there is no suggestion\n".to_owned()))
}

fn no_flows() -> Mistake {
    let why = "this control plane remembers no flows: run it with `serve --flow-log`\n";
    (StatusCode::CONFLICT, why.to_owned())
}

fn parsed<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Identity, D::Error> {
    String::deserialize(deserializer)?.trim().parse().map_err(serde::de::Error::custom)
}
