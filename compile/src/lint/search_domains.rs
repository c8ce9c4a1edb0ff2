//! Names that only search domains complete. Sidecars ask for every name as it stands, so a pod's search domains
//! (`NAMESPACE.svc.cluster.local` and those above) do not complete it.

use std::collections::BTreeSet;

use egress_policy::HostPattern;

use super::lint;
use crate::compile::host;
use crate::manifest::{Body, Kind, Object, ObjectRef, Problem, Severity};

/// The domain of a cluster, unless it was given another.
const CLUSTER_DOMAIN: &str = "cluster.local";

/// A host that was complete only with a search domain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Incomplete {
    /// The host with the search domain, as it is to be written.
    pub complete: String,
    /// Whether it may be meant as it stands, too: `web.dev` is a name, and a Service in a namespace `dev`.
    pub is_guess: bool,
}

/// What is to be written instead of a host that needs search domains.
///
/// `namespaces` are those of the cluster, and `own` is the workload's, where it is one.
#[must_use]
pub fn incomplete(text: &str, own: Option<&str>, namespaces: &BTreeSet<&str>) -> Option<Incomplete> {
    let pattern = host::pattern(text).ok()?;
    let (wildcard, name) = match &pattern {
        HostPattern::Exact(name) => ("", name.as_str()),
        HostPattern::Below(name) => ("*.", name.as_str()),
    };
    let complete = |rest: &str| format!("{wildcard}{name}.{rest}{CLUSTER_DOMAIN}");
    let last = name.rsplit('.').next().unwrap_or_default();
    let certain = |complete| Some(Incomplete { complete, is_guess: false });
    match (name.contains('.'), last) {
        (true, "svc") => certain(complete("")),
        (_, last) if namespaces.contains(last) && (name.contains('.') || !wildcard.is_empty()) => {
            Some(Incomplete { complete: complete("svc."), is_guess: true })
        }
        // A whole top-level domain, of which more is said elsewhere.
        (false, _) if !wildcard.is_empty() => None,
        (false, "localhost") => None,
        (false, _) => certain(complete(&format!("{}.svc.", own.unwrap_or("NAMESPACE")))),
        (true, _) => None,
    }
}

/// The namespaces and Services that manifests name.
#[derive(Debug, Default)]
pub(super) struct ClusterNames<'s> {
    namespaces: BTreeSet<&'s str>,
    /// Namespace and name.
    services: BTreeSet<(&'s str, &'s str)>,
}

impl<'s> ClusterNames<'s> {
    pub(super) fn of(objects: impl Iterator<Item = &'s ObjectRef>) -> Self {
        let mut names = Self::default();
        for ObjectRef { kind, namespace, name } in objects {
            if *kind == Kind::Namespace {
                names.namespaces.insert(name);
            } else {
                names.namespaces.insert(namespace);
            }
            if *kind == Kind::Service {
                names.services.insert((namespace, name));
            }
        }
        names
    }

    /// Whether a host is `SERVICE.NAMESPACE` of a Service that is known.
    fn has_service(&self, pattern: &HostPattern) -> bool {
        let HostPattern::Exact(name) = pattern else { return false };
        let parts = name.as_str().split_once('.');
        parts.is_some_and(|(name, namespace)| self.services.contains(&(namespace, name)))
    }

    /// What is said about a host of an object.
    pub(super) fn about(&self, object: &Object, field: &str, pattern: &HostPattern) -> Option<Problem> {
        let Body::Egress(egress) = &object.body else { return None };
        let mut own = egress.sources.iter().map(|source| source.namespace.as_str());
        let own = own.next().filter(|first| own.all(|other| other == *first));
        let Incomplete { complete, is_guess } = incomplete(&pattern.to_string(), own, &self.namespaces)?;
        let advice = format!("write `{complete}`, and let the workload ask for that name");
        if is_guess && !self.has_service(pattern) {
            let message = format!(
                "`{pattern}` is asked for as it stands: search domains, which would make it `{complete}`, do not count"
            );
            let advice = format!("if that Service is meant, {advice}");
            return Some(lint(Severity::Info, object, field, message).advice(advice));
        }
        let message = format!(
            "`{pattern}` is asked for as it stands, and is no whole name: search domains do not count"
        );
        Some(lint(Severity::Warning, object, field, message).advice(advice))
    }
}
