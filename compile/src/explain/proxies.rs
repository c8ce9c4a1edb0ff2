//! The proxies that have a policy document, as a control plane reports them.

use serde::Serialize;

/// The proxies of an identity.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Proxies {
    /// The control plane's document for the identity, if it differs from the explained one.
    pub other_document: Option<String>,
    /// The reason why the control plane cannot read its objects now.
    pub source_unavailable: Option<String>,
    /// The proxies.
    pub proxies: Vec<ProxyState>,
}

/// The state of one proxy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ProxyState {
    /// The node id.
    pub node: String,
    /// True if it has acknowledged the explained document.
    pub acknowledged: bool,
    /// The document that it has acknowledged.
    pub document: Option<String>,
    /// The updates that it rejected, in Envoy's words.
    pub rejected: Vec<String>,
}
