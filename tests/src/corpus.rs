//! The shared corpus: manifests, connections and expected results. See `tests/corpus`.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fs;
use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::{Context, Result, anyhow, bail, ensure};
use egress_compile::manifest::yaml;
use egress_compile::store::{Change, FileUpdate, Store};
use egress_compile::{CompileOptions, compile};
use egress_policy::explain::{Explainer, Explanation, Question, Traffic, Verdict};
use egress_policy::{
    ConnectionOutcome, ConnectionStart, Decision, Destination, Document, Identity, Policy, Request,
    StartOutcome,
};
use serde::Deserialize;

use crate::repository_root;

/// A corpus file.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Corpus {
    /// The name of the file.
    #[serde(skip)]
    pub name: String,
    /// The manifests, as YAML documents.
    pub manifests: String,
    /// The connections.
    pub cases: Vec<Case>,
}

/// A connection and its expected result.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Case {
    /// The name, printed when the case fails.
    pub name: String,
    /// The original destination.
    pub to: SocketAddr,
    /// `METHOD authority/path`.
    pub http: Option<String>,
    /// The path as Envoy normalizes it, before the engine gets it; without it the path of `http`.
    pub normalized: Option<String>,
    /// Other headers of the request.
    #[serde(default)]
    pub headers: BTreeMap<String, String>,
    /// The server name of a TLS connection; empty for none.
    pub tls: Option<String>,
    /// The bytes of a plain connection.
    pub bytes: Option<String>,
    /// The expected result.
    pub expect: String,
}

/// The parts of a plaintext request.
#[derive(Debug, Clone, Copy)]
pub struct Http<'a> {
    /// The method.
    pub method: &'a str,
    /// The authority.
    pub authority: &'a str,
    /// The path, with its query.
    pub path: &'a str,
}

impl Case {
    /// The plaintext request, if the case has one.
    #[must_use]
    pub fn request(&self) -> Option<Http<'_>> {
        let (method, target) = self.http.as_deref()?.split_once(' ')?;
        let slash = target.find('/')?;
        let (authority, path) = target.split_at(slash);
        Some(Http { method, authority, path })
    }

    /// The path that the engine and the origin get, if the case has a request.
    #[must_use]
    pub fn normalized_path(&self) -> Option<&str> {
        self.normalized.as_deref().or_else(|| self.request().map(|request| request.path))
    }

    /// The expected destination of an allowed connection.
    #[must_use]
    pub fn destination(&self) -> Option<&str> {
        self.expect.split_once(" -> ").map(|(_, to)| to)
    }
}

/// All files, in the order of their names.
///
/// # Errors
/// Fails if one cannot be read.
pub fn load_all() -> Result<Vec<Corpus>> {
    let folder = repository_root().join("tests/corpus");
    let mut paths: Vec<_> = fs::read_dir(&folder)?.filter_map(|entry| Some(entry.ok()?.path())).collect();
    paths.sort();
    let mut found = Vec::new();
    for path in paths.iter().filter(|path| path.extension().is_some_and(|e| e == "yaml")) {
        let text = fs::read_to_string(path)?;
        let document = yaml::parse(&text).map_err(|e| anyhow!("{}: {e}", path.display()))?;
        let value = document.into_iter().next().context("an empty corpus file")?.value;
        let mut corpus: Corpus = serde_json::from_value(value).with_context(|| path.display().to_string())?;
        corpus.name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        found.push(corpus);
    }
    ensure!(!found.is_empty(), "there is no corpus in {}", folder.display());
    Ok(found)
}

impl Corpus {
    /// The document of `curl/curl`.
    ///
    /// # Errors
    /// Fails if the manifests do not parse.
    pub fn document(&self) -> Result<Arc<Document>> {
        let update = FileUpdate::read("corpus.yaml".into(), self.manifests.as_bytes());
        if let Change::Unreadable(problems) = &update.change {
            bail!("{}", problems[0]);
        }
        let mut store = Store::default();
        store.apply(update);
        let compiled = compile(&store, &CompileOptions::default(), None);
        Ok(compiled.document(&Identity::new("curl", "curl")?))
    }
}

/// Formats the native engine's decision for a case.
#[must_use]
pub fn decide(policy: &Policy, case: &Case) -> String {
    let opening = match (&case.tls, &case.bytes) {
        (Some(name), _) => ConnectionStart::Tls {
            server_name: Some(name.as_str()).filter(|name| !name.is_empty()),
            encrypted: false,
        },
        (None, _) => ConnectionStart::NotTls,
    };
    let decision = match policy.decide_connection(case.to) {
        ConnectionOutcome::Decided(decision) => decision,
        ConnectionOutcome::NeedFirstBytes => match policy.decide_start(case.to, opening) {
            StartOutcome::Decided(decision) => decision,
            StartOutcome::EachRequest => {
                match with_request(case, |request| policy.decide_request(case.to, request)) {
                    Some(decision) => decision,
                    None => return "each request".to_owned(),
                }
            }
        },
    };
    format_decision(&decision)
}

/// Passes the request of a case to `ask`.
fn with_request<T>(case: &Case, decide: impl FnOnce(&Request<'_>) -> T) -> Option<T> {
    let Http { method, authority, .. } = case.request()?;
    let path = case.normalized_path()?;
    let headers = CaseHeaders(&case.headers);
    let upgrade = case.headers.get("upgrade").map(String::as_str);
    Some(decide(&Request { authority: Some(authority), method, path, upgrade, headers: &headers }))
}

/// Explains a case.
#[must_use]
pub fn explain(explainer: &Explainer, case: &Case) -> Explanation {
    let decide = |traffic: Traffic<'_>| {
        let (address, port) = (Some(case.to.ip()), case.to.port());
        explainer.explain(&Question { address, port, listener_port: 15001, traffic })
    };
    match &case.tls {
        Some(name) => {
            let server_name = Some(name.as_str()).filter(|name| !name.is_empty());
            decide(Traffic::Tls { server_name, encrypted: false })
        }
        None => with_request(case, |request| decide(Traffic::Http(request)))
            .unwrap_or_else(|| decide(Traffic::Other)),
    }
}

/// The arguments of `osm-egress explain` for a case.
#[must_use]
pub fn explain_arguments(case: &Case) -> Vec<String> {
    let to = case.to;
    let mut arguments = match (&case.tls, case.request()) {
        (Some(name), _) => vec!["--to".to_owned(), format!("tcp://{to}"), format!("--sni={name}")],
        (None, Some(Http { method, authority, path })) => vec![
            "--to".to_owned(),
            format!("http://{to}{path}"),
            format!("--method={method}"),
            format!("--header=host: {authority}"),
        ],
        (None, None) if case.bytes.as_deref().is_none_or(str::is_empty) => {
            vec!["--to".to_owned(), format!("tcp-server-first://{to}")]
        }
        (None, None) => {
            let bytes = case.bytes.as_deref().unwrap_or_default().bytes();
            let hex: String = bytes.map(|byte| format!("{byte:02x}")).collect();
            vec!["--to".to_owned(), format!("tcp://{to}"), format!("--client-hello-hex={hex}")]
        }
    };
    if case.tls.is_none() {
        arguments.extend(case.headers.iter().map(|(name, value)| format!("--header={name}: {value}")));
    }
    arguments
}

/// Formats an explanation as the corpus does.
#[must_use]
pub fn format_explanation(explanation: &Explanation) -> String {
    let policy = explanation.rule.as_ref().map_or("-", |rule| rule.policy.as_str());
    let reason = explanation.reason.map_or("-", |reason| reason.as_str());
    match (explanation.verdict, &explanation.destination) {
        (Verdict::Allow, Some(Destination::Resolved(host, _))) => {
            format!("allow {reason} {policy} -> {host}")
        }
        (Verdict::Allow, Some(Destination::Passthrough)) => format!("allow {reason} {policy} -> passthrough"),
        (Verdict::Allow, Some(Destination::Original) | None) => format!("allow {reason} {policy} -> dialled"),
        (Verdict::Deny, _) => format!("deny {reason} {policy}"),
    }
}

/// Formats a report of `osm-egress explain` as the corpus does.
#[must_use]
pub fn format_report(report: &serde_json::Value) -> String {
    let text = |key: &str| report[key].as_str().unwrap_or("-").to_owned();
    let message = format!("{} {} {}", text("verdict"), text("reason"), text("policy"));
    match (report["route"]["addressSource"].as_str(), report["route"]["host"].as_str()) {
        (Some("resolved"), Some(host)) => format!("{message} -> {host}"),
        (Some(how), _) => format!("{message} -> {how}"),
        (None, _) => message,
    }
}

fn format_decision(decision: &Decision<'_>) -> String {
    let policy = decision.rule().map_or("-", |rule| rule.policy.as_str());
    let reason = decision.reason();
    match decision {
        Decision::Deny(_) => format!("deny {reason} {policy}"),
        Decision::Allow(permit) => {
            let to = match &permit.to {
                Destination::Original => "dialled",
                Destination::Resolved(host, _) => host.as_str(),
                Destination::Passthrough => "passthrough",
            };
            format!("allow {reason} {policy} -> {to}")
        }
    }
}

struct CaseHeaders<'a>(&'a BTreeMap<String, String>);

impl egress_policy::Headers for CaseHeaders<'_> {
    fn values(&self, name: &str) -> Vec<Cow<'_, str>> {
        self.0.get(name).map(|value| Cow::Borrowed(value.as_str())).into_iter().collect()
    }
}
