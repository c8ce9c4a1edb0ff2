//! Questions: may this leave, and what would allow what was refused. The answers are those of `osm-egress explain` and
//! `suggest`, of what this control plane serves now.

use std::net::IpAddr;
use std::sync::Arc;

use axum::Json;
use axum::extract::{Query, State};
use axum::http::StatusCode;
use egress_policy::Identity;
use serde::{Deserialize, Deserializer};
use serde_json::{Value, json};

use super::{Console, Served};
use crate::explain::call::Words;
use crate::explain::evidence::Evidence;
use crate::explain::{Ask, proxies};
use crate::flows::memory::Filter;
use crate::flows::suggest::Suggestion;
use crate::status::Shared;

/// No answer, and why.
pub(super) type Mistake = (StatusCode, String);

fn mistake(why: impl std::fmt::Display) -> Mistake {
    (StatusCode::BAD_REQUEST, format!("{why}\n"))
}

/// A question, as the flags of `osm-egress explain` have it. What is empty is not said.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub(super) struct Question {
    identity: String,
    to: String,
    address: String,
    method: String,
    /// `NAME: VALUE`, one a line.
    headers: String,
    sni: String,
    /// There is no server name at all.
    no_sni: bool,
    ech: bool,
    client_hello: String,
}

impl Question {
    fn words(&self) -> Words {
        Words {
            to: self.to.trim().to_owned(),
            method: some(&self.method),
            headers: self.headers.lines().filter_map(some).collect(),
            sni: if self.no_sni { Some(String::new()) } else { some(&self.sni) },
            ech: self.ech,
            client_hello: some(&self.client_hello),
        }
    }

    fn ask(&self, console: &Console) -> Result<Ask, Mistake> {
        let call = self.words().read().map_err(mistake)?;
        let address = some(&self.address)
            .map(|text| text.parse::<IpAddr>().map_err(|_| mistake(format!("`{text}` is not an IP address"))))
            .transpose()?;
        Ok(Ask {
            identity: identity(&self.identity)?,
            addresses: address.or(call.address).into_iter().collect(),
            call,
            resolved: false,
            listener_port: console.listener_port,
            never_resolve_to: console.never_resolve_to.clone(),
        })
    }
}

/// The answer about a connection: `report` is what `osm-egress explain -o json` prints, and `rules` says of each rule
/// of it what it lacks, in words.
pub(super) async fn explain(
    State(Served { shared, console }): State<Served>,
    Query(question): Query<Question>,
) -> Result<Json<Value>, Mistake> {
    let ask = question.ask(&console)?;
    // A large policy takes a while, and others must not wait for it.
    let answer = tokio::task::spawn_blocking(move || answer(&shared, &console, &ask));
    answer
        .await
        .map_err(|_| (StatusCode::INTERNAL_SERVER_ERROR, "there is no answer\n".to_owned()))?
        .map(Json)
}

fn answer(shared: &Shared, console: &Console, ask: &Ask) -> Result<Value, Mistake> {
    let compiled = Arc::clone(&shared.compiled.borrow());
    let store = Arc::clone(&shared.source.borrow().store);
    let mesh = console.of_cluster.then(|| console.options.mesh_name.clone());
    let evidence = Evidence::compiled(store, compiled, mesh);
    let mut report = crate::explain::explain(&evidence, ask).map_err(mistake)?;
    let document = evidence.document(&ask.identity).map_err(mistake)?;
    // What `proxies::of` reads of a status.
    let status = json!({
        "proxies": shared.proxies.list(),
        "sourceUnavailable": shared.source.borrow().availability.reason(),
    });
    report.proxies = Some(proxies::of(&status, &ask.identity, None, &document));
    let rules = report.rules.iter().map(|rule| rule.ruling.lacks.iter().map(ToString::to_string).collect());
    let rules: Vec<Vec<String>> = rules.collect();
    Ok(json!({ "report": report, "rules": rules }))
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
    let Some(memory) = shared.flows.clone() else {
        let why = "this control plane remembers no flows: run it with `serve --flow-log`\n";
        return Err((StatusCode::CONFLICT, why.to_owned()));
    };
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

pub(super) fn identity(text: &str) -> Result<Identity, Mistake> {
    let text = text.trim();
    if text.is_empty() {
        return Err(mistake("say who connects: NAMESPACE/SERVICE-ACCOUNT"));
    }
    text.parse().map_err(|error| mistake(format!("`{text}`: {error}")))
}

fn parsed<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Identity, D::Error> {
    String::deserialize(deserializer)?.trim().parse().map_err(serde::de::Error::custom)
}

fn some(text: &str) -> Option<String> {
    Some(text.trim()).filter(|text| !text.is_empty()).map(str::to_owned)
}
