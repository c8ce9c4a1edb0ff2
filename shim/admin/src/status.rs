//! The state of the control plane that the admin port reads, and the status that follows from it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::watch;

use crate::pools::Pools;
use egress_compile::Compiled;
use egress_core::proxies::Proxy;
use egress_core::source::SourceState;
use egress_flows::table::FlowTable;
use egress_kubernetes::PolicyStatuses;
use egress_kubernetes::webhook::Reviews;
use egress_status::{Diagnostic, IdentityStatus, ObjectStatus, ProxyStatus, Status};
use egress_transport::tls::ServerTls;
use egress_xds::identify::Identification;
use egress_xds::proxies::Proxies;

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
    pub flows: Option<Arc<FlowTable>>,
    /// What is said of policies.
    pub policies: PolicyStatuses,
    /// The connections that wait.
    pub pools: Pools,
}

/// A proxy with the warnings that follow from its version and its flows.
fn proxy_status(proxy: Proxy, flows: Option<&FlowTable>) -> ProxyStatus {
    let mut warnings = Vec::new();
    if flows.is_some_and(|flows| !flows.has_reported(&proxy.identity, &proxy.node)) {
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
    ProxyStatus { proxy, warnings }
}

/// Takes the status of the control plane at this moment.
#[must_use]
pub fn current_status(shared: &Shared) -> Status {
    let compiled = shared.compiled.borrow().clone();
    let source = shared.source.borrow().clone();
    let mut diagnostics: Vec<_> = source.store.diagnostics().chain(compiled.diagnostics().cloned()).collect();
    diagnostics.sort_by(egress_compile::manifest::Diagnostic::cmp_reading_order);
    let identity = |document: &egress_policy::Document| IdentityStatus {
        document: document.version.clone(),
        mode: document.mode.as_str().to_owned(),
        rules: document.rules.len(),
    };
    let flows = shared.flows.as_deref();
    Status {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        source_unavailable: source.availability.reason().map(str::to_owned),
        serving: shared.serving.load(Ordering::Acquire),
        mesh_mode: compiled.default_mode().as_str().to_owned(),
        objects: compiled.statuses.values().map(ObjectStatus::from).collect(),
        policies: shared.policies.now(&compiled, &source.store, &*shared.proxies),
        diagnostics: diagnostics.iter().map(Diagnostic::from).collect(),
        identities: compiled
            .documents
            .iter()
            .map(|(id, document)| (id.to_string(), identity(document)))
            .collect(),
        proxies: shared.proxies.list().into_iter().map(|proxy| proxy_status(proxy, flows)).collect(),
        flow_log: flows.is_some(),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::net::SocketAddr;
    use std::num::NonZeroUsize;

    use egress_policy::{Identity, Protocol};

    use super::*;
    use egress_flows::{DecisionRecord, Observation};

    fn proxy(envoy: &str) -> Proxy {
        Proxy {
            node: "node".to_owned(),
            identity: "shop/app".to_owned(),
            envoy: envoy.to_owned(),
            protocol: egress_core::proxies::Protocol::Delta,
            document_sent: "v".to_owned(),
            document_acknowledged: Some("v".to_owned()),
            types: BTreeMap::new(),
            held_back: None,
        }
    }

    #[test]
    fn a_proxy_that_told_of_no_decision() {
        let flows = FlowTable::new(NonZeroUsize::MIN);
        let warnings = |flows: Option<&FlowTable>| proxy_status(proxy("1.40.0"), flows).warnings;
        assert_eq!(warnings(None), [""; 0], "it cannot be known");
        assert!(
            warnings(Some(&flows))[0].contains("it told of no decision yet"),
            "{:?}",
            warnings(Some(&flows))
        );
        let (app, other) = (Identity::new("shop", "app"), Identity::new("shop", "other"));
        let observation = || {
            let decision = DecisionRecord::parse("deny no-rule - -").expect("a decision");
            let original_destination = SocketAddr::from(([192, 0, 2, 1], 25));
            vec![Some(Observation {
                decision,
                original_destination,
                protocol: Protocol::Tcp,
                name: None,
                request: None,
            })]
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
        let warnings = |envoy: &str| proxy_status(proxy(envoy), None).warnings;
        assert_eq!(
            warnings("1.39.1"),
            ["Envoy 1.39.1 is advised against: it lacks the fixes of CVE-2026-35189. Use 1.39.2 or newer"]
        );
        assert!(warnings("1.39.0")[0].contains("CVE-2026-73551, "), "{:?}", warnings("1.39.0"));
        for envoy in ["1.39.3", "1.40.0", "", "1.41.0-dev"] {
            assert_eq!(warnings(envoy), [""; 0], "{envoy}");
        }
    }
}
