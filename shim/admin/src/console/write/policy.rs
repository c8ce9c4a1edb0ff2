//! Proposed policies, validated before anything is written.

use std::sync::Arc;

use egress_compile::manifest::{self, Body, Kind, Object, Severity, yaml};
use egress_compile::store::{Change, FileUpdate, Store};
use egress_compile::{CompileOptions, compile};
use egress_policy::Identity;
use serde_json::{Value, json};

use super::error::WriteError;
use crate::console::destination::Destination;
use crate::console::manifests::manifest_value;

/// Maximum number of policies in one request; nobody reviews more.
const MAX_POLICIES: usize = 50;
/// File name in diagnostics.
const FILE: &str = "policies";

/// Validated policies.
#[derive(Debug)]
pub(super) struct ProposedPolicies {
    pub(super) text: String,
    objects: Vec<Arc<Object>>,
}

impl ProposedPolicies {
    /// Validates policies: only Egress objects of this identity, in its namespace, without errors, with unused names,
    /// and allowing only this destination. The console can write nothing else.
    pub(super) fn validate(
        identity: &Identity,
        destination: &Destination,
        text: String,
        store: &Store,
        options: &CompileOptions,
    ) -> Result<Self, WriteError> {
        let documents = yaml::parse(&text).map_err(|error| {
            let line = error.position.map(|at| format!("line {}: ", at.line)).unwrap_or_default();
            WriteError::invalid(format!("{line}{error}: {}", error.advice))
        })?;
        let parsed = manifest::parse(&FILE.into(), text.as_bytes()).map_err(|problems| {
            format_diagnostics(problems.iter().map(|problem| (problem.object.as_ref(), problem)))
        })?;
        let objects = parsed.objects.clone();
        if objects.is_empty() {
            return Err(WriteError::invalid("the text contains no policy"));
        }
        if objects.len() > MAX_POLICIES {
            return Err(WriteError::invalid(format!(
                "the text has {} policies: send at most {MAX_POLICIES} at a time",
                objects.len()
            )));
        }
        if objects.len() != documents.len() {
            return Err(WriteError::invalid("the console creates Egress objects only"));
        }
        for object in &objects {
            let name = &object.reference;
            let Body::Egress(egress) = &object.body else {
                return Err(WriteError::invalid(format!("{name}: the console creates Egress objects only")));
            };
            if name.namespace != identity.namespace() {
                return Err(WriteError::invalid(format!(
                    "{name} is not in the namespace of {identity}: write `namespace: {}`",
                    identity.namespace()
                )));
            }
            let is_own = |namespace: &str, account: &str| {
                (namespace, account) == (identity.namespace(), identity.service_account())
            };
            if !egress.sources.iter().all(|source| is_own(&source.namespace, &source.name)) {
                return Err(WriteError::invalid(format!(
                    "`spec.sources` of {name} lists other identities than {identity}: remove them"
                )));
            }
            if store.object(name).is_some() {
                return Err(WriteError::conflict(format!("{name} already exists and was not changed")));
            }
        }
        let mut new = Store::default();
        new.apply(FileUpdate { file: FILE.into(), change: Change::Read(parsed) });
        let compiled = compile(&store.overlay(&new), options, None);
        let wrong = objects.iter().filter_map(|object| compiled.statuses.get(&object.reference));
        let duplicates = new.index().duplicates;
        let errors: Vec<_> = wrong
            .flat_map(|condition| {
                condition.diagnostics.iter().map(|problem| (Some(&condition.object), problem))
            })
            .filter(|(_, problem)| problem.severity == Severity::Error)
            .chain(duplicates.iter().map(|problem| (problem.object.as_ref(), problem)))
            .collect();
        if !errors.is_empty() {
            return Err(format_diagnostics(errors.into_iter()));
        }
        let document = compiled.document(identity);
        for object in &objects {
            let name = format!("{}/{}", object.reference.namespace, object.reference.name);
            let excess = document.rules.iter().filter(|rule| rule.policy == name).find_map(|rule| {
                destination.find_excess(rule).map(|excess| format!("`{}` allows {excess}", rule.name))
            });
            if let Some(excess) = excess {
                return Err(WriteError::invalid(format!(
                    "{}: {excess}, but only {destination} was asked about: write other policies to the folder or with \
                     `kubectl`",
                    object.reference
                )));
            }
        }
        Ok(Self { text, objects })
    }

    /// Names of the policies, as `Egress NAMESPACE/NAME`.
    pub(super) fn names(&self) -> Vec<String> {
        self.objects.iter().map(|object| object.reference.to_string()).collect()
    }

    /// Namespace and name of the first policy.
    pub(super) fn first(&self) -> (&str, &str) {
        let reference = self.objects.first().map(|object| &object.reference);
        reference.map(|it| (it.namespace.as_str(), it.name.as_str())).unwrap_or_default()
    }

    /// Renders the policies for an API server, with no other fields than those that were parsed.
    pub(super) fn objects(&self) -> Vec<Value> {
        let policies = self.objects.iter().filter(|object| object.reference.kind == Kind::Egress);
        policies
            .filter_map(|object| match &object.body {
                Body::Egress(egress) => Some(manifest_value(object, json!(egress))),
                Body::MeshConfig(_)
                | Body::HttpRouteGroup(_)
                | Body::UpstreamTrafficSetting(_)
                | Body::Namespace
                | Body::ServiceAccount
                | Body::Service(_)
                | Body::Endpoints(..)
                | Body::Workload(..)
                | Body::TrafficTarget(_) => None,
            })
            .collect()
    }
}

fn format_diagnostics<'p>(
    problems: impl Iterator<Item = (Option<&'p manifest::ObjectRef>, &'p manifest::Diagnostic)>,
) -> WriteError {
    let lines = problems.map(|(object, problem)| {
        let object = object.map(|object| format!("{object} ")).unwrap_or_default();
        let advice = problem.advice.as_ref().map(|advice| format!(" ({advice})")).unwrap_or_default();
        format!("{object}{}{advice}", problem.format_brief())
    });
    WriteError::invalid(lines.collect::<Vec<_>>().join("; "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use egress_compile::blocked_ranges::BlockedRanges;
    use egress_compile::explain::probe_form::ProbeForm;

    const GOOD: &str = "# Kept.\napiVersion: policy.openservicemesh.io/v1alpha1\nkind: Egress\n\
        metadata: {name: new, namespace: shop}\nspec:\n  sources: [{kind: ServiceAccount, name: app, namespace: shop}]\n  \
        hosts: [httpbin.org]\n  ports: [{number: 443, protocol: https}]\n";

    fn read(text: &str) -> Result<ProposedPolicies, WriteError> {
        let mut store = Store::default();
        let there = GOOD.replace("name: new", "name: old");
        store.apply(FileUpdate::read("old.yaml".into(), there.as_bytes()));
        let identity = Identity::new("shop", "app").expect("valid");
        let form = ProbeForm {
            identity: "shop/app".into(),
            to: "https://httpbin.org".into(),
            ..ProbeForm::default()
        };
        let explain_request = form.to_request(15001, BlockedRanges::default()).expect("sense");
        ProposedPolicies::validate(
            &identity,
            &Destination::from_request(&explain_request),
            text.to_owned(),
            &store,
            &CompileOptions::default(),
        )
    }

    #[test]
    fn a_policy_of_the_identity_is_accepted() {
        let policies = read(GOOD).expect("good");
        assert_eq!(policies.names(), ["Egress shop/new"]);
        assert_eq!(policies.text, GOOD);
        assert_eq!(
            policies.objects(),
            [json!({
                "apiVersion": "policy.openservicemesh.io/v1alpha1", "kind": "Egress",
                "metadata": {"name": "new", "namespace": "shop"},
                "spec": {
                    "sources": [{"kind": "ServiceAccount", "name": "app", "namespace": "shop"}],
                    "hosts": ["httpbin.org"], "ports": [{"number": 443, "protocol": "https"}],
                },
            })]
        );
    }

    #[test]
    fn everything_else_is_refused() {
        let others = "apiVersion: v1\nkind: Secret\nmetadata: {name: a, namespace: shop}\n";
        let mesh = "apiVersion: config.openservicemesh.io/v1alpha2\nkind: MeshConfig\n\
            metadata: {name: osm-mesh-config, namespace: osm-system}\nspec: {traffic: {enableEgress: true}}\n";
        for (text, status, expected) in [
            (String::new(), 422, "the text contains no policy"),
            ("a: b".to_owned(), 422, "`apiVersion` or `kind` is missing"),
            ("a: [".to_owned(), 422, "this is not YAML"),
            (
                mesh.to_owned(),
                422,
                "MeshConfig osm-system/osm-mesh-config: the console creates Egress objects",
            ),
            (format!("{GOOD}---\n{others}"), 422, "the console creates Egress objects only"),
            (
                GOOD.replace("name: new, namespace: shop", "name: new, namespace: x"),
                422,
                "write `namespace: shop`",
            ),
            (GOOD.replace("name: app", "name: other"), 422, "other identities than shop/app"),
            (GOOD.replace("name: new", "name: old"), 409, "Egress shop/old already exists"),
            (format!("{GOOD}---\n{GOOD}"), 422, "duplicate definition"),
            (GOOD.replace("httpbin.org", "\"*\""), 422, "spec.hosts[0]"),
            (GOOD.replace("protocol: https", "protocol: no"), 422, "spec.ports[0].protocol"),
            // More than the query's destination.
            (
                GOOD.replace("[httpbin.org]", "[httpbin.org, a.org]"),
                422,
                "Egress shop/new: `spec.ports[0]` allows `a.org`, but only httpbin.org:443 was asked about",
            ),
            (GOOD.replace("httpbin.org", "\"*.httpbin.org\""), 422, "allows `*.httpbin.org`"),
            (GOOD.replace("  hosts: [httpbin.org]\n", ""), 422, "allows any destination"),
            (GOOD.replace("protocol: https", "protocol: tcp"), 422, "allows any destination"),
            (GOOD.replace("number: 443", "number: 8443"), 422, "allows port 8443"),
            (GOOD.replace("hosts: [httpbin.org]", "ipAddresses: [0.0.0.0/0]"), 422, "allows 0.0.0.0/0"),
            (
                format!("{GOOD}---\n{}", GOOD.replace("name: new", "name: new2").replace("httpbin", "other")),
                422,
                "Egress shop/new2: `spec.ports[0]` allows `other.org`",
            ),
        ] {
            let WriteError(found, why) = read(&text).expect_err(&text);
            assert!(found == status && why.contains(expected), "{text}\n{found} {why}");
        }
    }
}
