//! What the control plane knows: for `/status`, and for `osm-egress status`.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, Result, ensure};
use serde::Serialize;
use tokio::sync::watch;

use crate::connections::Pools;
use crate::flows::memory::Memory;
use crate::source::kubernetes::{PolicyStatus, PolicyStatuses};
use crate::source::{Availability, SourceState};
use crate::tls::ServerTls;
use crate::webhook::Reviews;
use crate::xds::fallback::HeldBack;
use crate::xds::identify::Identification;
use crate::xds::proxies::{Proxies, Proxy};
use egress_compile::manifest::Diagnostic;
use egress_compile::{Compiled, ObjectStatus};

/// What the admin interface looks at.
#[derive(Debug, Clone)]
pub struct Shared {
    /// The objects as they come.
    pub source: watch::Receiver<SourceState>,
    /// What follows from them.
    pub compiled: watch::Receiver<Arc<Compiled>>,
    /// Who is connected.
    pub proxies: Arc<Proxies>,
    /// Whether proxies are served: from the first complete state on.
    pub serving: Arc<AtomicBool>,
    /// What webhooks answered.
    pub reviews: Reviews,
    /// What connections are encrypted with.
    pub tls: Option<ServerTls>,
    /// How proxies are identified.
    pub identification: Arc<Identification>,
    /// What workloads talk to, where proxies tell of it.
    pub flows: Option<Arc<Memory>>,
    /// What is said of policies.
    pub policies: PolicyStatuses,
    /// The connections that wait.
    pub pools: Pools,
}

/// Everything, at one moment.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Status {
    /// The version of this program.
    pub version: &'static str,
    /// Why the source cannot be read now.
    pub source_unavailable: Option<String>,
    /// Whether proxies are served.
    pub serving: bool,
    /// What happens to what no rule allows, where nothing else is said.
    pub mesh_mode: &'static str,
    /// What became of each object.
    pub objects: Vec<ObjectStatus>,
    /// The conditions of each policy.
    pub policies: Vec<PolicyStatus>,
    /// All that is wrong, with objects and with files.
    pub diagnostics: Vec<Diagnostic>,
    /// The identities that some policy names, and their documents.
    pub identities: BTreeMap<String, IdentityStatus>,
    /// Who is connected.
    pub proxies: Vec<ProxyStatus>,
    /// Whether proxies tell of their decisions (`serve --flow-log`).
    pub flow_log: bool,
}

/// One proxy, and what is to be said of it.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ProxyStatus {
    /// The proxy.
    #[serde(flatten)]
    pub proxy: Proxy,
    /// What an operator should look at, in sentences.
    pub warnings: Vec<String>,
}

impl ProxyStatus {
    fn new(proxy: Proxy, flows: Option<&Memory>) -> Self {
        let mut warnings = Vec::new();
        if flows.is_some_and(|flows| !flows.has_decided(&proxy.identity, &proxy.node)) {
            warnings.push(
                "it told of no decision yet: does the workload's traffic get to it? `osm-egress iptables` redirects it"
                    .to_owned(),
            );
        }
        let lacking: Vec<_> = egress_standalone::versions::lacking(&proxy.envoy).collect();
        if let Some(patch) = lacking.iter().map(|fix| fix.patch).max() {
            let advisories: Vec<_> = lacking.iter().map(|fix| fix.advisory).collect();
            warnings.push(format!(
                "Envoy {} is advised against: it lacks the fixes of {}. Use {}.{patch} or newer",
                proxy.envoy,
                advisories.join(", "),
                proxy.envoy.rsplit_once('.').map_or("", |(minor, _)| minor),
            ));
        }
        Self { proxy, warnings }
    }
}

/// One identity's document.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct IdentityStatus {
    /// The document's version.
    pub document: String,
    /// Its mode.
    pub mode: &'static str,
    /// How many rules it has.
    pub rules: usize,
}

impl Status {
    /// Takes stock.
    #[must_use]
    pub fn now(shared: &Shared) -> Self {
        let compiled = shared.compiled.borrow().clone();
        let source = shared.source.borrow().clone();
        let mut diagnostics: Vec<_> =
            source.store.diagnostics().chain(compiled.diagnostics().cloned()).collect();
        diagnostics.sort_by(Diagnostic::cmp_reading_order);
        let identity = |document: &egress_policy::Document| IdentityStatus {
            document: document.version.clone(),
            mode: document.mode.as_str(),
            rules: document.rules.len(),
        };
        Self {
            version: env!("CARGO_PKG_VERSION"),
            source_unavailable: match source.availability {
                Availability::Available => None,
                Availability::Unavailable { reason } => Some(reason),
            },
            serving: shared.serving.load(Ordering::Acquire),
            mesh_mode: compiled.default_mode().as_str(),
            objects: compiled.statuses.values().cloned().collect(),
            policies: shared.policies.now(&compiled, &source.store, &shared.proxies),
            diagnostics,
            identities: compiled
                .documents
                .iter()
                .map(|(id, document)| (id.to_string(), identity(document)))
                .collect(),
            proxies: {
                let flows = shared.flows.as_deref();
                shared.proxies.list().into_iter().map(|proxy| ProxyStatus::new(proxy, flows)).collect()
            },
            flow_log: shared.flows.is_some(),
        }
    }
}

/// Asks a running control plane, and returns its JSON.
///
/// # Errors
/// When nobody answers.
pub async fn fetch(admin: SocketAddr) -> Result<String> {
    ask(admin, "/status").await
}

/// Asks a running control plane whether it serves what the user wrote.
///
/// # Errors
/// When it does not, or nobody answers.
pub async fn ready(admin: SocketAddr) -> Result<String> {
    ask(admin, "/readyz").await
}

pub(crate) async fn ask(admin: SocketAddr, path: &str) -> Result<String> {
    let stream = tokio::net::TcpStream::connect(admin).await.with_context(|| {
        format!("cannot reach a control plane at {admin}: is `osm-egress serve` running?")
    })?;
    let (mut client, connection) =
        hyper::client::conn::http1::handshake(hyper_util::rt::TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    let request = hyper::Request::get(path)
        .header("host", admin.to_string())
        .body(http_body_util::Empty::<bytes::Bytes>::new())?;
    let response = client.send_request(request).await?;
    let status = response.status();
    let body = http_body_util::BodyExt::collect(response.into_body()).await?.to_bytes();
    ensure!(status.is_success(), "{admin}{path}: {status}, {}", String::from_utf8_lossy(&body).trim());
    Ok(String::from_utf8(body.to_vec())?)
}

/// The same for people.
///
/// # Errors
/// When the text is not what `/status` gives.
pub fn describe(json: &str) -> Result<String> {
    let status: serde_json::Value = serde_json::from_str(json).context("the control plane sent no JSON")?;
    let list = |value: &'_ serde_json::Value| value.as_array().cloned().unwrap_or_default();
    let text = |value: &serde_json::Value, key: &str| value[key].as_str().unwrap_or("-").to_owned();
    let mut out = format!("mesh mode: {}\n", text(&status, "meshMode"));
    if let Some(error) = status["sourceUnavailable"].as_str() {
        out += &format!("source: {error}; the last good state is in force\n");
    }
    out += "\nOBJECTS\n";
    for object in list(&status["objects"]) {
        let accepted = if object["accepted"] == true { "accepted" } else { "NOT ACCEPTED" };
        out += &format!(
            "  {} {}/{}: {accepted}\n",
            text(&object["object"], "kind"),
            text(&object["object"], "namespace"),
            text(&object["object"], "name")
        );
    }
    out += "\nIDENTITIES\n";
    for (identity, document) in status["identities"].as_object().into_iter().flatten() {
        let (mode, version) = (text(document, "mode"), text(document, "document"));
        out += &format!("  {identity}: {mode}, {} rules, document {version}\n", document["rules"]);
    }
    out += "\nPROXIES\n";
    for proxy in list(&status["proxies"]) {
        let acknowledged = text(&proxy, "documentAcknowledged");
        let state =
            if acknowledged == text(&proxy, "documentSent") { "up to date" } else { "NOT UP TO DATE" };
        let (node, identity, envoy) = (text(&proxy, "node"), text(&proxy, "identity"), text(&proxy, "envoy"));
        out += &format!("  {node} ({identity}, Envoy {envoy}): {state}, document {acknowledged}\n");
        for (kind, status) in proxy["types"].as_object().into_iter().flatten() {
            if let Some(error) = status["rejected"]["error"].as_str() {
                out += &format!("    rejected {kind}: {error}\n");
            }
        }
        if let Ok(held_back) = serde_json::from_value::<HeldBack>(proxy["heldBack"].clone()) {
            out += &format!("    document {} is not in force: {held_back}\n", held_back.document);
        }
        for warning in list(&proxy["warnings"]) {
            out += &format!("    WARNING: {}\n", warning.as_str().unwrap_or_default());
        }
    }
    if status["flowLog"] == false && !list(&status["proxies"]).is_empty() {
        out += "  whether connections get to them is not known: `serve --flow-log` lets proxies tell of their decisions\n";
    }
    let problems = list(&status["diagnostics"]);
    if !problems.is_empty() {
        out += "\nPROBLEMS\n";
        for problem in problems {
            let place = match (problem["file"].as_str(), problem["line"].as_u64()) {
                (Some(file), Some(line)) => format!("{file}:{line}: "),
                (Some(file), None) => format!("{file}: "),
                (None, _) => String::new(),
            };
            out += &format!("  {place}{}: {}\n", text(&problem, "severity"), text(&problem, "message"));
        }
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroUsize;

    use egress_policy::{Identity, Protocol};
    use serde_json::json;

    use super::*;
    use crate::flows::{Decided, Observation};

    fn proxy(envoy: &str) -> Proxy {
        Proxy {
            node: "node".to_owned(),
            identity: "shop/app".to_owned(),
            envoy: envoy.to_owned(),
            protocol: crate::xds::proxies::Protocol::Delta,
            document_sent: "v".to_owned(),
            document_acknowledged: Some("v".to_owned()),
            types: BTreeMap::new(),
            held_back: None,
        }
    }

    #[test]
    fn a_proxy_that_told_of_no_decision() {
        let flows = Memory::new(NonZeroUsize::MIN);
        let warnings = |flows: Option<&Memory>| ProxyStatus::new(proxy("1.40.0"), flows).warnings;
        assert_eq!(warnings(None), [""; 0], "it cannot be known");
        assert!(
            warnings(Some(&flows))[0].contains("it told of no decision yet"),
            "{:?}",
            warnings(Some(&flows))
        );
        let (app, other) = (Identity::new("shop", "app"), Identity::new("shop", "other"));
        let observation = || {
            let decided = Decided::read("deny no-rule - -").expect("a decision");
            let to = SocketAddr::from(([192, 0, 2, 1], 25));
            vec![Some(Observation { decided, to, protocol: Protocol::Tcp, name: None, request: None })]
        };
        for (identity, node) in [(other, "node"), (app.clone(), "another")] {
            flows.record(&identity.expect("valid"), node, jiff::Timestamp::UNIX_EPOCH, observation());
        }
        flows.record(&app.clone().expect("valid"), "node", jiff::Timestamp::UNIX_EPOCH, vec![None]);
        assert_eq!(warnings(Some(&flows)).len(), 1, "others told of theirs");
        flows.record(&app.expect("valid"), "node", jiff::Timestamp::UNIX_EPOCH, observation());
        assert_eq!(warnings(Some(&flows)), [""; 0]);
    }

    #[test]
    fn an_envoy_that_is_advised_against() {
        let warnings = |envoy: &str| ProxyStatus::new(proxy(envoy), None).warnings;
        assert_eq!(
            warnings("1.39.1"),
            ["Envoy 1.39.1 is advised against: it lacks the fixes of CVE-2026-35189. Use 1.39.2 or newer"]
        );
        assert!(warnings("1.39.0")[0].contains("CVE-2026-73551, "), "{:?}", warnings("1.39.0"));
        for envoy in ["1.39.3", "1.40.0", "", "1.41.0-dev"] {
            assert_eq!(warnings(envoy), [""; 0], "{envoy}");
        }
    }

    #[test]
    fn warnings_in_words() {
        let with = |flow_log: bool, proxies: Vec<serde_json::Value>| {
            describe(&json!({ "flowLog": flow_log, "proxies": proxies }).to_string()).expect("a status")
        };
        let proxy = json!({ "node": "n", "identity": "a/b", "warnings": ["look here"] });
        let text = with(true, vec![proxy.clone()]);
        assert!(text.contains("up to date, document -\n    WARNING: look here\n"), "{text}");
        assert!(!text.contains("is not known"), "{text}");
        let text = with(false, vec![proxy]);
        assert!(text.contains("whether connections get to them is not known: `serve --flow-log`"), "{text}");
        assert!(!with(false, vec![]).contains("is not known"));
    }
}
