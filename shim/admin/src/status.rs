//! What the control plane knows: for `/status`, and for `osm-egress status`.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use serde::Serialize;
use tokio::sync::watch;

use crate::pools::Pools;
use egress_compile::manifest::Problem;
use egress_compile::{Compiled, Condition};
use egress_core::source::{Availability, SourceState};
use egress_flows::memory::Memory;
use egress_kubernetes::webhook::Reviews;
use egress_kubernetes::{PolicyStatus, PolicyStatuses};
use egress_transport::tls::ServerTls;
use egress_xds::identify::Identification;
use egress_xds::proxies::{Proxies, Proxy};

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
    pub objects: Vec<Condition>,
    /// The conditions of each policy.
    pub policies: Vec<PolicyStatus>,
    /// All that is wrong, with objects and with files.
    pub problems: Vec<Problem>,
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
        let mut problems: Vec<_> = source.store.problems().chain(compiled.problems().cloned()).collect();
        problems.sort_by(Problem::reading_order);
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
            objects: compiled.conditions.values().cloned().collect(),
            policies: shared.policies.now(&compiled, &source.store, &*shared.proxies),
            problems,
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

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;
    use std::num::NonZeroUsize;

    use egress_policy::{Identity, Protocol};

    use super::*;
    use egress_flows::{Decided, Observation};

    fn proxy(envoy: &str) -> Proxy {
        Proxy {
            node: "node".to_owned(),
            identity: "shop/app".to_owned(),
            envoy: envoy.to_owned(),
            protocol: egress_xds::proxies::Protocol::Delta,
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
}
