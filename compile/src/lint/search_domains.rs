//! Names that rely on search domains. Sidecars resolve every name as written, so a pod's search domains
//! (`NAMESPACE.svc.cluster.local` and its parents) do not complete it.

use std::collections::BTreeSet;

use egress_policy::HostPattern;

use super::lint;
use crate::compile::host;
use crate::manifest::{Body, Diagnostic, Kind, Object, ObjectRef, Severity};

/// The default domain of a cluster.
const CLUSTER_DOMAIN: &str = "cluster.local";

/// The completion of a host that relies on a search domain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostCompletion {
    /// The host with the search domain, as it should be written.
    pub complete: String,
    /// True if the host may also be meant as written: `web.dev` is a public name, and a Service in a namespace
    /// `dev`.
    pub is_guess: bool,
}

/// Completes a host that relies on a search domain; `None` if it does not.
///
/// `namespaces` are those of the cluster, and `own` is that of the workload, if there is one.
#[must_use]
pub fn complete_host(text: &str, own: Option<&str>, namespaces: &BTreeSet<&str>) -> Option<HostCompletion> {
    let pattern = host::parse_pattern(text).ok()?;
    let (wildcard, name) = match &pattern {
        HostPattern::Exact(name) => ("", name.as_str()),
        HostPattern::Below(name) => ("*.", name.as_str()),
    };
    let complete = |rest: &str| format!("{wildcard}{name}.{rest}{CLUSTER_DOMAIN}");
    let last = name.rsplit('.').next().unwrap_or_default();
    let certain = |complete| Some(HostCompletion { complete, is_guess: false });
    match (name.contains('.'), last) {
        (true, "svc") => certain(complete("")),
        (_, last) if namespaces.contains(last) && (name.contains('.') || !wildcard.is_empty()) => {
            Some(HostCompletion { complete: complete("svc."), is_guess: true })
        }
        // A whole top-level domain is reported elsewhere.
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
    pub(super) fn collect(objects: impl Iterator<Item = &'s ObjectRef>) -> Self {
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

    /// Returns true if a host is `SERVICE.NAMESPACE` of a known Service.
    fn has_service(&self, pattern: &HostPattern) -> bool {
        let HostPattern::Exact(name) = pattern else { return false };
        let parts = name.as_str().split_once('.');
        parts.is_some_and(|(name, namespace)| self.services.contains(&(namespace, name)))
    }

    /// Reports a host that relies on a search domain.
    pub(super) fn check_host(
        &self,
        object: &Object,
        field: &str,
        pattern: &HostPattern,
    ) -> Option<Diagnostic> {
        let Body::Egress(egress) = &object.body else { return None };
        let mut own = egress.sources.iter().map(|source| source.namespace.as_str());
        let own = own.next().filter(|first| own.all(|other| other == *first));
        let HostCompletion { complete, is_guess } =
            complete_host(&pattern.to_string(), own, &self.namespaces)?;
        let advice = format!("write `{complete}`, and let the workload use that name");
        if is_guess && !self.has_service(pattern) {
            let message = format!(
                "`{pattern}` is resolved as written: search domains, which would complete it to `{complete}`, do not apply"
            );
            let advice = format!("if you mean that Service, {advice}");
            return Some(lint(Severity::Info, object, field, message).advice(advice));
        }
        let message = format!(
            "`{pattern}` is resolved as written and is not a fully qualified name: search domains do not apply"
        );
        Some(lint(Severity::Warning, object, field, message).advice(advice))
    }
}
