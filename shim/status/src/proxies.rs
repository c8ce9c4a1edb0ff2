//! The proxies that have a document, by the status of a control plane.

use std::collections::BTreeMap;

pub use egress_compile::explain::proxies::{Proxies, ProxyState};
use egress_policy::{Document, Identity};

use crate::Status;

/// Finds the proxies of an identity, or of one pod, in the status of a control plane.
#[must_use]
pub fn of(status: &Status, identity: &Identity, pod: Option<&str>, document: &Document) -> Proxies {
    let name = identity.to_string();
    let known = status.identities.get(&name).map(|known| known.document.clone());
    let mut proxies: Vec<ProxyState> = status
        .proxies
        .iter()
        .map(|status| &status.proxy)
        .filter(|proxy| proxy.identity == name && pod.is_none_or(|pod| is_of(&proxy.node, pod)))
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
        other_document: known.filter(|known| *known != document.version),
        source_unavailable: status.source_unavailable.clone(),
        proxies,
    }
}

/// The number of proxies with a document, as a sentence.
#[must_use]
pub fn in_short(has: &BTreeMap<String, u64>, identity: &Identity, document: &Document) -> String {
    let connected: u64 = has.values().sum();
    let current = has.get(&document.version).copied().unwrap_or_default();
    if connected == 0 {
        return format!("control planes know of no proxy of {identity}");
    }
    let which = if current == connected { "" } else { ": `--admin` says which" };
    format!("{current} of {connected} proxies of {identity} have acknowledged this document{which}")
}

/// Returns whether a node id is that of a pod's sidecar: it begins with the pod's name.
fn is_of(node: &str, pod: &str) -> bool {
    node.strip_prefix(pod).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
}

#[cfg(test)]
mod tests {
    use egress_policy::{ApiVersion, Mode};
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn who_has_it() {
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
        let who = |pod| -> Vec<String> {
            let found = of(&status, &identity, pod, &document);
            assert_eq!(found.other_document.as_deref(), Some("3"));
            found.proxies.iter().map(|proxy| format!("{} {}", proxy.node, proxy.acknowledged)).collect()
        };
        assert_eq!(who(None), ["p-1.sa.ns true", "p-10.sa.ns false", "p-2.sa.ns false"]);
        assert_eq!(who(Some("p-1")), ["p-1.sa.ns true"]);
        assert_eq!(of(&status, &identity, None, &document).proxies[0].rejected, ["extension: no"]);
    }
}
