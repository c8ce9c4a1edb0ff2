//! Query endpoints: explain a connection, and suggest a policy for denied flows. The answers are those of `osm-egress
//! explain` and `suggest` for the state that this control plane serves.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Query, State};
use axum::http::StatusCode;
use egress_compile::explain::ReportText;
use egress_compile::explain::probe_form::ProbeForm;
use egress_policy::Identity;
use serde::{Deserialize, Deserializer};
use serde_json::{Value, json};

use super::destination::Destination;
use super::state::{ConsoleConfig, ConsoleState};
use crate::status::AdminState;
use egress_compile::explain::ExplainRequest;
use egress_compile::explain::policy_source::PolicySource;
use egress_flows::suggest::Suggestion;
use egress_flows::table::FlowQuery;
use egress_status::{ProxyStatus, Status, proxies};

/// Status and reason of a query that has no answer.
pub(super) type QueryError = (StatusCode, String);

fn bad_request(why: impl std::fmt::Display) -> QueryError {
    (StatusCode::BAD_REQUEST, format!("{why}\n"))
}

/// Explains a connection: `report` is what `osm-egress explain -o json` prints, and `rules` formats the mismatches of
/// each rule.
pub(super) async fn explain(
    State(ConsoleState { shared, console }): State<ConsoleState>,
    Query(form): Query<ProbeForm>,
) -> Result<Json<ReportText>, QueryError> {
    let explain_request =
        form.to_request(console.listener_port, console.blocked.clone()).map_err(bad_request)?;
    // A large policy takes a while; run it off the async threads.
    let answer = tokio::task::spawn_blocking(move || explain_connection(&shared, &console, &explain_request));
    answer
        .await
        .map_err(|_| {
            (StatusCode::INTERNAL_SERVER_ERROR, "the query failed: see the control plane's log\n".to_owned())
        })?
        .map(Json)
}

fn explain_connection(
    shared: &AdminState,
    console: &ConsoleConfig,
    explain_request: &ExplainRequest,
) -> Result<ReportText, QueryError> {
    let compiled = Arc::clone(&shared.compiled.borrow());
    let store = Arc::clone(&shared.source.borrow().store);
    let mesh = console.from_cluster.then(|| console.options.mesh_name.clone());
    let evidence = PolicySource::from_compiled(store, compiled, mesh);
    let mut report = egress_compile::explain::explain(&evidence, explain_request).map_err(bad_request)?;
    let document = evidence.document(&explain_request.identity).map_err(bad_request)?;
    let proxies = shared.proxies.list().into_iter();
    let status = Status {
        proxies: proxies.map(|proxy| ProxyStatus { proxy, ..ProxyStatus::default() }).collect(),
        source_unavailable: shared.source.borrow().availability.reason().map(str::to_owned),
        ..Status::default()
    };
    report.proxies = Some(proxies::find_proxies(&status, &explain_request.identity, None, &document));
    Ok(ReportText::from(report))
}

/// Query for an identity.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct IdentityQuery {
    #[serde(deserialize_with = "parse_identity")]
    pub(super) identity: Identity,
}

/// Suggests a policy, as `osm-egress suggest` does.
pub(super) async fn suggest(
    State(ConsoleState { shared, .. }): State<ConsoleState>,
    Query(IdentityQuery { identity }): Query<IdentityQuery>,
) -> Result<Json<Value>, QueryError> {
    let Some(table) = shared.flows.clone() else { return Err(flow_log_disabled()) };
    let suggestion = tokio::task::spawn_blocking(move || {
        let flows = table.list_all(&FlowQuery::for_identity(identity.clone()));
        let suggestion = Suggestion::for_identity(&identity, &flows.flows);
        json!({
            "identity": identity.to_string(),
            "yaml": suggestion.to_yaml(),
            "empty": suggestion.is_empty(),
            "flows": flows.flows.len(),
            "dropped": flows.dropped,
        })
    });
    suggestion.await.map(Json).map_err(|_| {
        (StatusCode::INTERNAL_SERVER_ERROR, "the query failed: see the control plane's log\n".to_owned())
    })
}

/// Suggests a policy for the one destination of a query, and counts the other denied flows. The page can create no
/// other policy.
pub(super) async fn suggestion(
    State(ConsoleState { shared, console }): State<ConsoleState>,
    Query(form): Query<ProbeForm>,
) -> Result<Json<Value>, QueryError> {
    let Some(table) = shared.flows.clone() else { return Err(flow_log_disabled()) };
    let explain_request =
        form.to_request(console.listener_port, console.blocked.clone()).map_err(bad_request)?;
    let suggestion = tokio::task::spawn_blocking(move || {
        let destination = Destination::from_request(&explain_request);
        let identity = explain_request.identity;
        let flows = table.list_all(&FlowQuery::for_identity(identity.clone()));
        let matching: Vec<_> = flows.flows.iter().filter_map(|flow| destination.narrow_flow(flow)).collect();
        let suggestion = Suggestion::for_identity(&identity, &matching);
        let refused = flows.flows.iter().filter(|flow| flow.decision.verdict_label() != "allow");
        json!({
            "identity": identity.to_string(),
            "destination": destination.to_string(),
            "yaml": suggestion.to_yaml(),
            "empty": suggestion.is_empty(),
            "others": refused.filter(|flow| destination.narrow_flow(flow).is_none()).count(),
            "dropped": flows.dropped,
        })
    });
    suggestion.await.map(Json).map_err(|_| {
        (StatusCode::INTERNAL_SERVER_ERROR, "the query failed: see the control plane's log\n".to_owned())
    })
}

fn flow_log_disabled() -> QueryError {
    let why = "this control plane records no flows: run it with `serve --flow-log`\n";
    (StatusCode::CONFLICT, why.to_owned())
}

fn parse_identity<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Identity, D::Error> {
    String::deserialize(deserializer)?.trim().parse().map_err(serde::de::Error::custom)
}
