//! The proxies of an identity, and the document that each has acknowledged.

use std::collections::BTreeMap;

pub use egress_compile::explain::proxies::{Proxies, ProxyState};
use egress_policy::{Document, Identity};

use crate::Status;

/// Finds the proxies of an identity, or of one pod, in the status of a control plane.
#[must_use]
pub fn find_proxies(status: &Status, identity: &Identity, pod: Option<&str>, document: &Document) -> Proxies {
    let name = identity.to_string();
    let served = status.identities.get(&name).map(|identity| identity.document.clone());
    let mut proxies: Vec<ProxyState> = status
        .proxies
        .iter()
        .map(|status| &status.proxy)
        .filter(|proxy| proxy.identity == name && pod.is_none_or(|pod| is_sidecar_of(&proxy.node, pod)))
        .map(|proxy| {
            let rejected = proxy.types.iter().filter_map(|(kind, status)| {
                status.rejected.as_ref().map(|rejection| format!("{kind}: {}", rejection.error))
            });
            ProxyState {
                node: proxy.node.clone(),
                acknowledged: proxy.document_acknowledged.as_ref() == Some(&document.version),
                document: proxy.document_acknowledged.clone(),
                rejected: rejected.collect(),
            }
        })
        .collect();
    proxies.sort_by(|a, b| a.node.cmp(&b.node));
    Proxies {
        other_document: served.filter(|served| *served != document.version),
        source_unavailable: status.source_unavailable.clone(),
        proxies,
    }
}

/// Formats the number of proxies of an identity that have a document, from the number of proxies by document version.
#[must_use]
pub fn format_summary(
    count_by_version: &BTreeMap<String, u64>,
    identity: &Identity,
    document: &Document,
) -> String {
    let connected: u64 = count_by_version.values().sum();
    let current = count_by_version.get(&document.version).copied().unwrap_or_default();
    if connected == 0 {
        return format!("no proxy of {identity} is connected to a control plane");
    }
    let advice = if current == connected { "" } else { ": pass `--admin` to list them" };
    format!("{current} of {connected} proxies of {identity} have acknowledged this document{advice}")
}

/// Returns true if a node id is that of a pod's sidecar: it begins with the pod's name.
fn is_sidecar_of(node: &str, pod: &str) -> bool {
    node.strip_prefix(pod).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
}

#[cfg(test)]
mod tests {
    use egress_policy::{ApiVersion, Mode};
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn proxies_are_found_by_identity_and_pod() {
        let identity = Identity::new("ns", "sa").expect("valid");
        let document = Document {
            api_version: ApiVersion::V1,
            identity: identity.clone(),
            version: "2".to_owned(),
            mode: Mode::Enforce,
            rules: vec![],
            in_mesh: vec![].into(),
        };
        let proxy = |node: &str, identity: &str, has: Value| {
            json!({"node": node, "identity": identity, "documentSent": "2", "documentAcknowledged": has,
                   "types": {"listener": {"rejected": null}, "extension": {"rejected": {"error": "no"}}}})
        };
        let status = serde_json::from_value(json!({
            "identities": {"ns/sa": {"document": "3"}},
            "proxies": [
                proxy("p-2.sa.ns", "ns/sa", json!("1")),
                proxy("p-1.sa.ns", "ns/sa", json!("2")),
                proxy("p-10.sa.ns", "ns/sa", Value::Null),
                proxy("p-1.other.ns", "ns/other", json!("2")),
            ],
        }))
        .expect("a status");
        let find = |pod| -> Vec<String> {
            let found = find_proxies(&status, &identity, pod, &document);
            assert_eq!(found.other_document.as_deref(), Some("3"));
            found.proxies.iter().map(|proxy| format!("{} {}", proxy.node, proxy.acknowledged)).collect()
        };
        assert_eq!(find(None), ["p-1.sa.ns true", "p-10.sa.ns false", "p-2.sa.ns false"]);
        assert_eq!(find(Some("p-1")), ["p-1.sa.ns true"]);
        assert_eq!(find_proxies(&status, &identity, None, &document).proxies[0].rejected, ["extension: no"]);
    }
}
