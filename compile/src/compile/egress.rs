//! Egress objects.

mod port_rule;
mod reader;
mod references;

use std::collections::BTreeSet;

use egress_policy::{EncryptedHello, Identity};

use self::reader::Reader;
use super::Objects;
use super::diagnostic_sink::DiagnosticSink;
use super::namespace::Namespaces;
use super::policy_rule::PolicyRule;
use super::route::Groups;
use super::upstream::{OwnCluster, Settings};
use crate::budget::{self, Content, Usage};
use crate::manifest::{Body, ObjectRef};

/// The access that one Egress object grants.
#[derive(Debug)]
pub(super) struct Policy<'s> {
    /// The object.
    pub(super) reference: &'s ObjectRef,
    /// The identities that it grants access to.
    pub(super) sources: BTreeSet<Identity>,
    /// The rules, in the order of documents.
    pub(super) rules: Vec<PolicyRule>,
    /// The resources that its rules use, for each identity.
    pub(super) usage: Usage,
    /// The size of its lists.
    content: Content,
    /// True if it grants nothing because a shared budget is exceeded.
    pub(super) is_over_shared_budget: bool,
    /// The creation time, if a server set it.
    pub(super) made: Option<&'s str>,
    /// The clusters that its rules name.
    pub(super) clusters: Vec<OwnCluster>,
    /// The rules and clusters for sources of other namespaces, if those must not share the clusters.
    apart: Option<(Vec<PolicyRule>, Vec<OwnCluster>)>,
    /// The field that references the connection settings.
    pub(super) settings_field: String,
    /// The diagnostics about it.
    pub(super) sink: DiagnosticSink<'s>,
}

impl Policy<'_> {
    /// Estimates the memory that it costs the control plane with its current sources.
    pub(super) fn memory(&self) -> usize {
        budget::estimate_memory(self.content, &self.usage, self.sources.len())
    }

    /// Returns true if an identity belongs to another namespace.
    pub(super) fn is_foreign_to(&self, identity: &Identity) -> bool {
        self.sink.namespace() != identity.namespace()
    }

    pub(super) fn rules_for(&self, identity: &Identity) -> &[PolicyRule] {
        match &self.apart {
            Some((rules, _)) if self.is_foreign_to(identity) => rules,
            _ => &self.rules,
        }
    }

    pub(super) fn clusters_for(&self, identity: &Identity) -> &[OwnCluster] {
        match &self.apart {
            Some((_, clusters)) if self.is_foreign_to(identity) => clusters,
            _ => &self.clusters,
        }
    }
}

/// Reads all Egress objects.
pub(super) fn read_policies<'s>(
    objects: &Objects<'s>,
    groups: &Groups<'_>,
    settings: &Settings<'_>,
    namespaces: &Namespaces<'_>,
    encrypted_hello: EncryptedHello,
) -> Vec<Policy<'s>> {
    let mut policies = Vec::new();
    for (reference, object) in objects {
        if let Body::Egress(egress) = &object.body {
            let sink = DiagnosticSink::new(object);
            let settings_field = "spec.matches".to_owned();
            let reader = Reader {
                reference,
                object,
                egress,
                groups,
                settings,
                namespaces,
                encrypted_hello,
                settings_field,
                sink,
            };
            policies.push(reader.read_policy());
        }
    }
    policies
}
