//! The intersection of two documents.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::{Document, InMesh, Rule};
use crate::{Address, Port};

impl Document {
    /// Makes the document that allows only what both allow: rules that are equal in both, the stricter mode, and of the
    /// addresses and ports of the mesh those that both allow; the others are refused. The version stays this document's.
    ///
    /// A proxy that refuses a new document gets it at once: the proxy accepted its rules before, and it lacks everything
    /// that the new document revokes.
    #[must_use]
    pub fn intersection(&self, other: &Self) -> Self {
        let others: BTreeSet<&Rule> = other.rules.iter().map(AsRef::as_ref).collect();
        Self {
            api_version: self.api_version,
            identity: self.identity.clone(),
            version: self.version.clone(),
            // Modes are ordered, the strictest first.
            mode: self.mode.min(other.mode),
            rules: self.rules.iter().filter(|rule| others.contains(rule.as_ref())).cloned().collect(),
            in_mesh: intersect_services(&self.in_mesh, &other.in_mesh),
        }
    }
}

/// Intersects services by address and port: an object that gains or loses an address, as a headless service does with
/// each pod, keeps the others. An address and port of only one document is egress in the other, whose rules may refuse
/// it, so it is refused.
fn intersect_services(one: &Arc<[InMesh]>, other: &Arc<[InMesh]>) -> Arc<[InMesh]> {
    if one == other {
        return Arc::clone(one);
    }
    let (ones, others) = (map_permissions(one), map_permissions(other));
    let is_in_both = |key: &Key| ones.get(key) == Some(&true) && others.get(key) == Some(&true);
    // Keyed so that a service with many addresses stays one.
    let mut services: BTreeMap<(&str, Vec<Port>, bool), BTreeSet<Address>> = BTreeMap::new();
    for service in one.iter().chain(other.iter()) {
        for address in &service.addresses {
            let (stay, go): (BTreeSet<Port>, BTreeSet<Port>) =
                service.ports.iter().partition(|port| is_in_both(&(*address, **port)));
            for (ports, allowed) in [(stay, true), (go, false)] {
                if !ports.is_empty() {
                    let ports = ports.into_iter().collect();
                    services.entry((&service.service, ports, allowed)).or_default().insert(*address);
                }
            }
        }
    }
    let service = |((service, ports, allowed), addresses): ((&str, Vec<Port>, bool), BTreeSet<Address>)| {
        InMesh { service: service.to_owned(), addresses: addresses.into_iter().collect(), ports, allowed }
    };
    services.into_iter().map(service).collect()
}

type Key = (Address, Port);

/// Maps each address and port to whether it is allowed. Of services with one address and port, one that is refused counts.
fn map_permissions(services: &[InMesh]) -> BTreeMap<Key, bool> {
    let mut allowed = BTreeMap::new();
    for service in services {
        for address in &service.addresses {
            for port in &service.ports {
                let known = allowed.entry((*address, *port)).or_insert(true);
                *known &= service.allowed;
            }
        }
    }
    allowed
}

#[cfg(test)]
mod tests {
    use crate::{Document, InMesh};

    fn document(in_mesh: serde_json::Value) -> Document {
        serde_json::from_value(serde_json::json!({
            "apiVersion": "egress-policy/v1", "identity": {"namespace": "n", "serviceAccount": "a"}, "version": "v", "mode": "enforce", "rules": [],
            "inMesh": in_mesh,
        }))
        .expect("a document")
    }

    fn service(addresses: &[&str], ports: &[u16], allowed: bool) -> serde_json::Value {
        serde_json::json!({"service": "n/s", "addresses": addresses, "ports": ports, "allowed": allowed})
    }

    /// Connections to other pods of the service stay open.
    #[test]
    fn a_headless_service_keeps_the_addresses_that_both_have() {
        let one =
            document(serde_json::json!([service(&["10.0.0.1", "10.0.0.2", "10.0.0.3"], &[80, 81], true)]));
        let other = document(serde_json::json!([
            service(&["10.0.0.4", "10.0.0.3", "10.0.0.2"], &[80], true),
            service(&["10.0.0.3"], &[80], false),
        ]));
        let both = one.intersection(&other).in_mesh;
        assert_eq!(both, other.intersection(&one).in_mesh);
        let mut keys: Vec<String> = Vec::new();
        for InMesh { addresses, ports, allowed, .. } in both.iter() {
            for address in addresses {
                keys.extend(ports.iter().map(|port| format!("{}:{} {allowed}", address.get(), port.get())));
            }
        }
        keys.sort();
        keys.dedup();
        let expected = [
            "10.0.0.1:80 false",
            "10.0.0.1:81 false",
            "10.0.0.2:80 true",
            "10.0.0.2:81 false",
            "10.0.0.3:80 false",
            "10.0.0.3:81 false",
            "10.0.0.4:80 false",
        ];
        assert_eq!(keys, expected);
    }
}
