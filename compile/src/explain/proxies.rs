//! Which proxies have a document, where somebody asked a control plane.

use serde::Serialize;

/// The proxies that a question is about.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Proxies {
    /// The document that the control plane has for the identity, where it is not the one that was asked.
    pub other_document: Option<String>,
    /// Why the control plane cannot read its objects now.
    pub source_unavailable: Option<String>,
    /// The proxies.
    pub proxies: Vec<ProxyState>,
}

/// One of them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ProxyState {
    /// Its node id.
    pub node: String,
    /// Whether it has the document that was asked.
    pub acknowledged: bool,
    /// The document that it has.
    pub document: Option<String>,
    /// What it refused, in Envoy's words.
    pub rejected: Vec<String>,
}
