//! Functions that the page of the playground calls: text in, JSON out. They decide nothing themselves; the
//! answers are those of `osm-egress check`, `explain` and `test`, from the same code.

mod case;
mod connection;
mod render;

use std::sync::Arc;

use egress_compile::check::{Report, Summary};
use egress_compile::explain::policy_source::PolicySource;
use egress_compile::manifest::Diagnostic;
use egress_compile::store::{FileUpdate, Store};
use egress_compile::{CompileOptions, Compiled, compile};
use serde::Serialize;
use serde_json::{Value, json};
use wasm_bindgen::prelude::wasm_bindgen;

/// The name of the manifests' text in diagnostics.
const FILE: &str = "manifests.yaml";

/// Checks manifests. Returns the diagnostics, the counts and the identities.
#[wasm_bindgen]
#[must_use]
pub fn check(manifests: &str) -> String {
    #[derive(Serialize)]
    struct Checked {
        diagnostics: Vec<Diagnostic>,
        summary: Summary,
        identities: Vec<String>,
    }
    let (store, compiled) = compile_manifests(manifests);
    let identities = compiled.documents.keys().map(ToString::to_string).collect();
    let Report { diagnostics, summary } = Report::of(&store, &compiled);
    json!(Checked { diagnostics, summary, identities }).to_string()
}

/// Explains the verdict on a connection: `{report, rules}`, where `rules` holds for each rule of the report its
/// `mismatches` as text and whether it is `unrelated`; or `{error}`.
#[wasm_bindgen]
#[must_use]
pub fn explain(manifests: &str, connection: &str) -> String {
    to_json(connection::explain(&compile_source(manifests), connection))
}

/// Runs test cases: a list of `{passed, expected, actual}` or `{error}`.
#[wasm_bindgen]
#[must_use]
pub fn run_cases(manifests: &str, cases: &str) -> String {
    to_json(case::run_cases(&compile_source(manifests), cases))
}

/// Runs test cases with two versions of the manifests: a list of `{before, after, changed}` or `{error}`.
#[wasm_bindgen]
#[must_use]
pub fn compare_cases(before: &str, after: &str, cases: &str) -> String {
    to_json(case::compare_cases(&compile_source(before), &compile_source(after), cases))
}

/// Writes test cases as a file for `osm-egress test`.
#[wasm_bindgen]
#[must_use]
pub fn export_cases(cases: &str) -> String {
    to_json(case::export_cases(cases))
}

/// Renders the policy document and the Envoy configuration of an identity: `{document, envoy}`, or `{error}`.
/// `module` is the path of the filter.
#[wasm_bindgen]
#[must_use]
pub fn render_config(manifests: &str, identity: &str, version: &str, module: &str) -> String {
    to_json(render::render_config(manifests, identity, version, module))
}

/// Lists the choices for [`render_config`]: `{versions, module}`.
#[wasm_bindgen]
#[must_use]
pub fn list_choices() -> String {
    render::list_choices().to_string()
}

fn read_store(manifests: &str) -> Store {
    let mut store = Store::default();
    store.apply(FileUpdate::read(FILE.into(), manifests.as_bytes()));
    store
}

fn compile_manifests(manifests: &str) -> (Store, Compiled) {
    let store = read_store(manifests);
    let compiled = compile(&store, &CompileOptions::default(), None);
    (store, compiled)
}

fn compile_source(manifests: &str) -> PolicySource {
    PolicySource::compile(Arc::new(read_store(manifests)), &CompileOptions::default(), None)
}

fn to_json(answer: Result<Value, String>) -> String {
    answer.unwrap_or_else(|error| json!({ "error": error })).to_string()
}

#[cfg(test)]
mod tests;
