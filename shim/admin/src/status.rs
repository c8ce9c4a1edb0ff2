//! State of the control plane that the admin port reads, and the status derived from it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::watch;

use crate::pools::Pools;
use egress_compile::Compiled;
use egress_core::proxies::Proxy;
use egress_core::source::SourceState;
use egress_flows::table::FlowTable;
use egress_kubernetes::PolicyStatuses;
use egress_kubernetes::webhook::ReviewCounters;
use egress_status::{Diagnostic, IdentityStatus, ObjectStatus, ProxyStatus, Status};
use egress_transport::tls::ServerTls;
use egress_xds::identify::Identification;
use egress_xds::proxies::Proxies;

/// State that the admin interface reads.
#[derive(Debug, Clone)]
pub struct AdminState {
    /// Current objects of the source.
    pub source: watch::Receiver<SourceState>,
    /// Policy documents compiled from them.
    pub compiled: watch::Receiver<Arc<Compiled>>,
    /// Connected proxies.
    pub proxies: Arc<Proxies>,
    /// True once proxies are served, from the first complete state on.
    pub serving: Arc<AtomicBool>,
    /// Counters of webhook reviews.
    pub reviews: ReviewCounters,
    /// TLS configuration, if TLS is enabled.
    pub tls: Option<ServerTls>,
    /// Identification of proxies.
    pub identification: Arc<Identification>,
    /// Flow table, if proxies report flows.
    pub flows: Option<Arc<FlowTable>>,
    /// Statuses of policies.
    pub policies: PolicyStatuses,
    /// Connection pools of the ports.
    pub pools: Pools,
}

/// Builds the status of a proxy, with warnings about its version and its flows.
fn proxy_status(proxy: Proxy, flows: Option<&FlowTable>) -> ProxyStatus {
    let mut warnings = Vec::new();
    if flows.is_some_and(|flows| !flows.has_reported(&proxy.identity, &proxy.node)) {
        warnings.push(
                "it has reported no decision yet: check that the workload's traffic is redirected to it (`osm-egress iptables`)"
                    .to_owned(),
            );
    }
    let lacking: Vec<_> = egress_standalone::versions::lacking(&proxy.envoy).collect();
    if let Some(patch) = lacking.iter().map(|fix| fix.patch).max() {
        let advisories: Vec<_> = lacking.iter().map(|fix| fix.advisory).collect();
        warnings.push(format!(
            "Envoy {} has known vulnerabilities: it lacks the fixes of {}. Use {}.{patch} or newer",
            proxy.envoy,
            advisories.join(", "),
            proxy.envoy.rsplit_once('.').map_or("", |(minor, _)| minor),
        ));
    }
    ProxyStatus { proxy, warnings }
}

/// Builds the current status of the control plane.
#[must_use]
pub fn current_status(shared: &AdminState) -> Status {
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
    fn a_proxy_without_decisions_has_a_warning() {
        let flows = FlowTable::new(NonZeroUsize::MIN);
        let warnings = |flows: Option<&FlowTable>| proxy_status(proxy("1.40.0"), flows).warnings;
        assert_eq!(warnings(None), [""; 0], "without flows it is unknown");
        assert!(
            warnings(Some(&flows))[0].contains("it has reported no decision yet"),
            "{:?}",
            warnings(Some(&flows))
        );
        let (app, other) = (Identity::new("shop", "app"), Identity::new("shop", "other"));
        let observation = || {
            let decision: DecisionRecord = "deny no-rule - -".parse().expect("a decision");
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
        assert_eq!(warnings(Some(&flows)).len(), 1, "other proxies have reported theirs");
        flows.record(&app.expect("valid"), "node", jiff::Timestamp::UNIX_EPOCH, observation());
        assert_eq!(warnings(Some(&flows)), [""; 0]);
    }

    #[test]
    fn an_envoy_with_known_vulnerabilities_has_a_warning() {
        let warnings = |envoy: &str| proxy_status(proxy(envoy), None).warnings;
        assert_eq!(
            warnings("1.39.1"),
            [
                "Envoy 1.39.1 has known vulnerabilities: it lacks the fixes of CVE-2026-35189. Use 1.39.2 or newer"
            ]
        );
        assert!(warnings("1.39.0")[0].contains("CVE-2026-73551, "), "{:?}", warnings("1.39.0"));
        for envoy in ["1.39.3", "1.40.0", "", "1.41.0-dev"] {
            assert_eq!(warnings(envoy), [""; 0], "{envoy}");
        }
    }
}
