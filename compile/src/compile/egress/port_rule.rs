//! Rules of one port of an Egress object.

use std::sync::Arc;

use egress_policy::{Cidr, HostPattern, Route, Rule};

use crate::budget::{Content, Usage};
use crate::compile::digest::Digest;
use crate::compile::list::List;
use crate::compile::policy_rule::PolicyRule;
use crate::compile::upstream::{Limits, OwnCluster};

/// The most bytes that a cluster's name takes in a rule, without its host: the field, the port, and `@` with a
/// namespace.
const MAX_CLUSTER_BYTES: usize = 96;

/// The grants of an object to each of its sources.
#[derive(Default)]
pub(super) struct Granted {
    pub(super) rules: Vec<PolicyRule>,
    pub(super) clusters: Vec<OwnCluster>,
    pub(super) usage: Usage,
    pub(super) content: Content,
}

/// One compiled port entry of an Egress object, before it becomes rules.
#[derive(Debug)]
pub(super) struct PortRule {
    /// The rule without its lists.
    pub(super) bare: Rule,
    pub(super) digest: Digest,
    pub(super) addresses: Option<List<Cidr>>,
    pub(super) hosts: Option<List<HostPattern>>,
    pub(super) routes: Option<List<Arc<Route>>>,
    /// The connection settings; `None` if the rule uses shared clusters.
    pub(super) limits: Option<Limits>,
}

impl PortRule {
    /// The host patterns with clusters of their own: those with connection settings that are resolved.
    fn clustered_hosts(&self) -> Option<&List<HostPattern>> {
        self.hosts.as_ref().filter(|_| self.limits.is_some() && self.addresses.is_none())
    }

    /// The resources that its rules use.
    pub(super) fn usage(&self) -> Usage {
        // The length includes the name of the field.
        let length = |digest: Option<Digest>| digest.map_or(0, |digest| digest.length.saturating_add(13));
        let rules = self.clustered_hosts().map_or(1, |hosts| hosts.items.len());
        let blocks = self.addresses.as_ref().map_or(0, |blocks| blocks.items.len());
        let routes = self.routes.as_ref().map_or(0, |routes| routes.items.len());
        let hosts = self.hosts.as_ref().map_or(1, |hosts| hosts.items.len().max(1));
        let each = Usage {
            rules: 1,
            routes,
            pattern_bytes: self.routes.as_ref().map_or(0, |routes| routes.pattern_bytes),
            clusters: usize::from(self.limits.is_some()),
            // One byte is for a comma.
            document_bytes: [
                self.digest.length,
                1,
                if self.limits.is_some() { MAX_CLUSTER_BYTES } else { 0 },
                length(self.addresses.as_ref().map(|list| list.digest)),
                length(self.routes.as_ref().map(|list| list.digest)),
            ]
            .into_iter()
            .fold(0, usize::saturating_add),
            entries: 0,
        };
        let hosts_bytes = length(self.hosts.as_ref().map(|list| list.digest));
        let all = Usage {
            entries: hosts.saturating_mul(blocks.saturating_mul(2).saturating_add(1)),
            // Names of clusters repeat their hosts.
            document_bytes: if self.clustered_hosts().is_some() {
                hosts_bytes.saturating_mul(2)
            } else {
                hosts_bytes
            },
            ..Usage::default()
        };
        each.times(rules).plus(all)
    }

    /// Adds its rules to the grants: one rule, or with connection settings one for each host pattern with a
    /// cluster.
    pub(super) fn grant(&self, granted: &mut Granted) {
        let zero = Digest::default();
        let (addresses, routes) = (self.addresses.as_ref(), self.routes.as_ref());
        let rule = |hosts: Option<Arc<[HostPattern]>>, cluster: Option<&OwnCluster>| Rule {
            addresses: addresses.map(|list| Arc::clone(&list.items)),
            hosts,
            routes: routes.map(|list| Arc::clone(&list.items)),
            cluster: cluster.map(|cluster| cluster.name.clone()),
            ..self.bare.clone()
        };
        let digest = |hosts: Digest, cluster: Option<&OwnCluster>| {
            let cluster = cluster.map_or(zero, |cluster| Digest::of(&cluster.name));
            let part = |digest: Option<Digest>| digest.unwrap_or(zero);
            let (addresses, routes) = (addresses.map(|list| list.digest), routes.map(|list| list.digest));
            Digest::join([&self.digest, &hosts, &part(addresses), &part(routes), &cluster])
        };
        let mut add = |hosts: Option<Arc<[HostPattern]>>, hosts_digest, cluster: Option<OwnCluster>| {
            let (rule, digest) = (rule(hosts, cluster.as_ref()), digest(hosts_digest, cluster.as_ref()));
            granted.rules.push(PolicyRule { rule: Arc::new(rule), digest });
            granted.clusters.extend(cluster);
        };
        let port = self.bare.port;
        match (self.limits, self.clustered_hosts()) {
            (Some(limits), Some(hosts)) => {
                for host in hosts.items.iter() {
                    let cluster = OwnCluster::new(Some(host), port, limits);
                    let hosts: Arc<[HostPattern]> = [host.clone()].into();
                    add(Some(Arc::clone(&hosts)), Digest::of(&hosts), Some(cluster));
                }
            }
            (limits, _) => {
                let (items, digest) = self
                    .hosts
                    .as_ref()
                    .map_or((None, zero), |list| (Some(Arc::clone(&list.items)), list.digest));
                add(items, digest, limits.map(|limits| OwnCluster::new(None, port, limits)));
            }
        }
    }
}
