//! What the page of the playground asks: texts in, JSON out. Nothing here decides anything; the answers are
//! those of `osm-egress check`, `explain` and `test`, by the same code.

mod connection;
mod case;
mod render;

use std::sync::Arc;

use egress_compile::check::{Report, Summary};
use egress_compile::explain::policy_source::Evidence;
use egress_compile::manifest::Problem;
use egress_compile::store::{FileUpdate, Store};
use egress_compile::{CompileOptions, Compiled, compile};
use serde::Serialize;
use serde_json::{Value, json};
use wasm_bindgen::prelude::wasm_bindgen;

/// What the one text of manifests is called in places.
const FILE: &str = "manifests.yaml";

/// Everything that there is to say about manifests, and the identities that they name.
#[wasm_bindgen]
#[must_use]
pub fn check(manifests: &str) -> String {
    #[derive(Serialize)]
    struct Checked {
        problems: Vec<Problem>,
        summary: Summary,
        identities: Vec<String>,
    }
    let (store, compiled) = compiled(manifests);
    let identities = compiled.documents.keys().map(ToString::to_string).collect();
    let Report { problems, summary } = Report::of(&store, &compiled);
    json!(Checked { problems, summary, identities }).to_string()
}

/// The answer about a connection: `{report, rules}`, where `rules` says of each rule of the report what it
/// `lacks`, in words, and whether it is `unrelated`; or `{error}`.
#[wasm_bindgen]
#[must_use]
pub fn explain(manifests: &str, connection: &str) -> String {
    answer(connection::explain(&evidence(manifests), connection))
}

/// What becomes of each case: a list of `{asExpected, expected, found}` or `{error}`.
#[wasm_bindgen]
#[must_use]
pub fn run(manifests: &str, cases: &str) -> String {
    answer(case::run(&evidence(manifests), cases))
}

/// What becomes of each case under other manifests: a list of `{before, after, changed}` or `{error}`.
#[wasm_bindgen]
#[must_use]
pub fn diff(before: &str, after: &str, cases: &str) -> String {
    answer(case::diff(&evidence(before), &evidence(after), cases))
}

/// The cases as a file for `osm-egress test`.
#[wasm_bindgen]
#[must_use]
pub fn file(cases: &str) -> String {
    answer(case::file(cases))
}

/// What an Envoy with the policy of an identity is given: `{document, envoy}`, or `{error}`. `module` is where it finds
/// the filter.
#[wasm_bindgen]
#[must_use]
pub fn given(manifests: &str, identity: &str, version: &str, module: &str) -> String {
    answer(render::given(manifests, identity, version, module))
}

/// What there is to choose from for that: `{versions, module}`.
#[wasm_bindgen]
#[must_use]
pub fn choices() -> String {
    render::choices().to_string()
}

fn store(manifests: &str) -> Store {
    let mut store = Store::default();
    store.apply(FileUpdate::read(FILE.into(), manifests.as_bytes()));
    store
}

fn compiled(manifests: &str) -> (Store, Compiled) {
    let store = store(manifests);
    let compiled = compile(&store, &CompileOptions::default(), None);
    (store, compiled)
}

fn evidence(manifests: &str) -> Evidence {
    Evidence::objects(Arc::new(store(manifests)), &CompileOptions::default(), None)
}

fn answer(answer: Result<Value, String>) -> String {
    answer.unwrap_or_else(|error| json!({ "error": error })).to_string()
}

#[cfg(test)]
mod tests;
