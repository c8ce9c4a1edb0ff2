//! Compiles a store to one immutable document per identity. Compilation is pure: the same objects and options
//! give the same documents and statuses, whatever the order of files, lists and events.
//!
//! INVARIANT(fail-closed): a rule with anything invalid in it grants nothing, and the status of its object says
//! why. Other rules stay in force.

mod address;
mod annotations;
mod diagnostic_sink;
mod digest;
mod egress;
pub(crate) mod host;
mod in_mesh;
mod list;
mod mesh;
mod namespace;
mod policy_rule;
mod route;
mod shared_budgets;
mod upstream;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use egress_policy::{ApiVersion, Document, EncryptedHello, Identity, Mode};
use serde::Serialize;

use self::diagnostic_sink::DiagnosticSink;
use self::digest::Digest;
use self::in_mesh::{Mesh, View};
pub use self::mesh::LooserMode;
use self::mesh::Modes;
pub use self::namespace::{PolicyNamespaces, PolicyNamespacesError};
use self::policy_rule::PolicyRule;
pub use self::upstream::{Limits, OwnCluster};
use crate::manifest::{Cause, Diagnostic, Object, ObjectRef, Severity};
use crate::store::{Index, Store};

/// The annotation that sets the mode of a namespace or of a service account.
pub const MODE_ANNOTATION: &str = "openservicemesh.io/egress-mode";
/// The annotation by which a Namespace lets its ServiceAccounts loosen their own mode.
pub const MODE_DELEGATION_ANNOTATION: &str = "openservicemesh.io/egress-mode-delegation";
/// The annotation by which a Namespace lists the namespaces whose Egress objects may grant to its service accounts.
pub const POLICY_NAMESPACES_ANNOTATION: &str = "openservicemesh.io/egress-policy-namespaces";
/// The annotation that lets the http rules of an Egress object upgrade connections.
pub const UPGRADES_ANNOTATION: &str = "openservicemesh.io/egress-upgrades";
/// The annotation that sets how the https rules of an Egress object treat encrypted ClientHellos.
pub const ENCRYPTED_HELLO_ANNOTATION: &str = "openservicemesh.io/egress-ech";
/// The label of a namespace that belongs to a mesh.
pub const MONITORED_LABEL: &str = "openservicemesh.io/monitored-by";
/// The label of a namespace that belongs to no mesh, whatever its other labels.
pub const IGNORE_LABEL: &str = "openservicemesh.io/ignore";

/// Settings of the compiler that no object carries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CompileOptions {
    /// The namespace of the MeshConfig in use.
    pub mesh_config_namespace: String,
    /// The name of the MeshConfig in use.
    pub mesh_config_name: String,
    /// The name of the mesh, in the labels of its namespaces.
    pub mesh_name: String,
    /// The namespaces whose Egress objects may grant access to service accounts of every namespace.
    pub policy_namespaces: PolicyNamespaces,
    /// The treatment of encrypted ClientHellos where no annotation sets it and a name chooses the address.
    pub encrypted_hello: EncryptedHello,
}

impl Default for CompileOptions {
    fn default() -> Self {
        Self {
            mesh_config_namespace: "osm-system".to_owned(),
            mesh_config_name: "osm-mesh-config".to_owned(),
            mesh_name: "osm".to_owned(),
            policy_namespaces: PolicyNamespaces::one("osm-system"),
            encrypted_hello: EncryptedHello::AllowOuter,
        }
    }
}

/// The result of compiling all objects.
#[derive(Clone, Debug, Default)]
pub struct Compiled {
    /// The documents of all identities that a policy or an annotation names. A document that did not change is
    /// the same `Arc` as in the previous result.
    pub documents: BTreeMap<Identity, Arc<Document>>,
    /// The clusters that the documents name, for each identity that has any.
    pub clusters: BTreeMap<Identity, Vec<OwnCluster>>,
    /// The status of each object.
    pub statuses: BTreeMap<ObjectRef, ObjectStatus>,
    /// Diagnostics that belong to no object.
    pub notes: Vec<Diagnostic>,
    pub(crate) modes: Modes,
    mesh: Mesh,
    /// The number of older Egress objects, for each Egress object.
    ages: Arc<BTreeMap<String, usize>>,
    /// The digest of each document, without the services of the mesh.
    digests: BTreeMap<Identity, Digest>,
}

/// The status of an object after compilation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ObjectStatus {
    /// The object.
    pub object: ObjectRef,
    /// The file that defines it.
    pub file: String,
    /// The line on which it begins.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub line: Option<u32>,
    /// True if all of the object is in force: it has no error.
    pub accepted: bool,
    /// The generation of the object: the server's count of changes of its specification.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub generation: Option<i64>,
    /// The number of rules that it contributes.
    pub rules: usize,
    /// The identities that it grants access to.
    #[serde(skip)]
    pub sources: BTreeSet<Identity>,
    /// Diagnostics about it.
    pub diagnostics: Vec<Diagnostic>,
}

impl ObjectStatus {
    /// The reason of the condition `Accepted`, as in the status of a Kubernetes object.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        let mut errors =
            self.diagnostics.iter().filter(|diagnostic| diagnostic.severity == Severity::Error).peekable();
        if errors.peek().is_none() {
            "Accepted"
        } else if self
            .diagnostics
            .iter()
            .any(|diagnostic| matches!(diagnostic.cause, Cause::Size | Cause::SharedBudget))
        {
            "TooLarge"
        } else if errors.all(|diagnostic| diagnostic.cause == Cause::Permission) {
            "NotPermitted"
        } else {
            "Invalid"
        }
    }
}

impl Compiled {
    /// The document of an identity. An identity that no object names has no rules, and the mode of its
    /// namespace or of the mesh.
    #[must_use]
    pub fn document(&self, identity: &Identity) -> Arc<Document> {
        self.documents.get(identity).map_or_else(
            || {
                let in_mesh = self.mesh.view(identity);
                let mode = self.modes.of(identity);
                Arc::new(build_document(
                    identity,
                    mode,
                    &[],
                    &digest_content(identity, mode, &[], in_mesh),
                    in_mesh,
                ))
            },
            Arc::clone,
        )
    }

    /// The clusters that an identity's document names.
    #[must_use]
    pub fn clusters(&self, identity: &Identity) -> &[OwnCluster] {
        self.clusters.get(identity).map_or(&[], Vec::as_slice)
    }

    /// Sorts Egress objects, `namespace/name` each, the newest first.
    pub fn sort_newest_first(&self, policies: &mut [String]) {
        policies.sort_by_key(|policy| std::cmp::Reverse(self.ages.get(policy).copied()));
    }

    /// The MeshConfig in use, if there is one.
    #[must_use]
    pub fn mesh_config(&self) -> Option<&ObjectRef> {
        self.modes.config()
    }

    /// The most proxies that one control plane lets connect; `None` means no limit.
    #[must_use]
    pub fn max_proxies(&self) -> Option<usize> {
        self.modes.max_proxies()
    }

    /// The mode of identities for which nothing else sets one.
    #[must_use]
    pub fn default_mode(&self) -> Mode {
        self.modes.default_mode()
    }

    /// Every Namespace and ServiceAccount that loosens a mode.
    #[must_use]
    pub fn looser_modes(&self) -> Vec<LooserMode> {
        self.modes.looser_modes()
    }

    /// The object that sets the mode of an identity; `None` if there is no MeshConfig.
    #[must_use]
    pub fn mode_source(&self, identity: &Identity) -> Option<ObjectRef> {
        self.modes.source(identity)
    }

    /// All diagnostics, in no particular order.
    pub fn diagnostics(&self) -> impl Iterator<Item = &Diagnostic> {
        self.statuses.values().flat_map(|status| &status.diagnostics).chain(&self.notes)
    }
}

/// Compiles all objects. Documents that are equal to those of `previous` are the same `Arc`.
///
/// ```
/// # use egress_compile::store::{FileUpdate, Store};
/// # let text = b"
/// # apiVersion: policy.openservicemesh.io/v1alpha1
/// # kind: Egress
/// # metadata: {name: web, namespace: shop}
/// # spec:
/// #   sources: [{kind: ServiceAccount, name: app, namespace: shop}]
/// #   hosts: [example.com]
/// #   ports: [{number: 443, protocol: https}]
/// # ";
/// # let mut store = Store::default();
/// # store.apply(FileUpdate::read("web.yaml".into(), text));
/// use std::sync::Arc;
///
/// use egress_compile::{CompileOptions, compile};
///
/// let options = CompileOptions::default();
/// let first = compile(&store, &options, None);
/// let again = compile(&store, &options, Some(&first));
/// let identity = "shop/app".parse().expect("an identity");
/// assert!(Arc::ptr_eq(&first.document(&identity), &again.document(&identity)));
/// ```
#[must_use]
pub fn compile(store: &Store, options: &CompileOptions, previous: Option<&Compiled>) -> Compiled {
    let Index { objects, duplicates: _ } = store.index();
    let mut collector = StatusCollector::default();

    let namespaces = namespace::read_namespaces(&objects, options, &mut collector);
    let (modes, notes) = mesh::read_modes(&objects, &namespaces, options, &mut collector);
    let mesh = in_mesh::read_mesh(&objects, options, modes.permissive(), &mut collector);
    let mesh = match previous {
        Some(previous) => mesh.reuse_views(&previous.mesh),
        None => mesh,
    };
    let groups = route::read_groups(&objects, &mut collector);
    let settings = upstream::read_settings(&objects, &mut collector);
    let mut policies =
        egress::read_policies(&objects, &groups, &settings, &namespaces, options.encrypted_hello);
    let ages = shared_budgets::enforce(&mut policies).into_iter().enumerate().map(|(age, name)| (name, age));
    let ages = Arc::new(ages.collect());
    let clusters = collect_clusters(&mut policies);

    let mut granted: BTreeMap<Identity, Vec<(bool, &PolicyRule)>> = BTreeMap::new();
    // Documents are sorted by the names of policies.
    let mut sorted: Vec<&egress::Policy<'_>> = policies.iter().collect();
    sorted.sort_by_key(|policy| policy.sink.name());
    for policy in sorted {
        for identity in &policy.sources {
            let (is_foreign, rules) = (policy.is_foreign_to(identity), policy.rules_for(identity));
            granted.entry(identity.clone()).or_default().extend(rules.iter().map(|rule| (is_foreign, rule)));
        }
    }
    for identity in modes.annotated() {
        granted.entry(identity.clone()).or_default();
    }
    let mut digests = BTreeMap::new();
    let documents = granted
        .into_iter()
        .map(|(identity, rules)| {
            let mode = modes.of(&identity);
            let mut rules = if mode == Mode::Passthrough { Vec::new() } else { rules };
            // Of rules that allow the same, the first one routes the connection: rules of the identity's own
            // namespace come before those of others.
            rules.sort_by_key(|(is_foreign, _)| *is_foreign);
            let rules: Vec<&PolicyRule> = rules.into_iter().map(|(_, rule)| rule).collect();
            let in_mesh = mesh.view(&identity);
            let content = digest_content(&identity, mode, &rules, in_mesh);
            // Whole digests are compared. Versions are short enough to be made equal on purpose.
            let former = previous.and_then(|p| p.documents.get(&identity).zip(p.digests.get(&identity)));
            let former = former
                .filter(|(document, digest)| **digest == content && document.in_mesh == in_mesh.services);
            let document = former.map_or_else(
                || Arc::new(build_document(&identity, mode, &rules, &content, in_mesh)),
                |(document, _)| Arc::clone(document),
            );
            digests.insert(identity.clone(), content);
            (identity, document)
        })
        .collect();
    for policy in policies {
        let sources = policy.sources;
        let rules = if policy.is_over_shared_budget { 0 } else { policy.rules.len() };
        let status = ObjectStatus { sources, ..build_status(policy.sink, rules) };
        collector.statuses.insert(status.object.clone(), status);
    }
    collector.record_accepted(&objects);
    Compiled { documents, clusters, statuses: collector.statuses, notes, modes, mesh, ages, digests }
}

/// Collects the clusters of each identity. Where policies give one cluster different settings, those of the
/// first policy apply, and the statuses of the others say so.
fn collect_clusters(policies: &mut [egress::Policy<'_>]) -> BTreeMap<Identity, Vec<OwnCluster>> {
    let mut clusters: BTreeMap<Identity, BTreeMap<String, (OwnCluster, String)>> = BTreeMap::new();
    for policy in policies {
        let mut overruled = BTreeMap::new();
        let own = policy.sink.name();
        for (identity, cluster) in
            policy.sources.iter().flat_map(|id| policy.clusters_for(id).iter().map(move |c| (id, c)))
        {
            let known = clusters.entry(identity.clone()).or_default();
            let (first, by) =
                known.entry(cluster.name.clone()).or_insert_with(|| (cluster.clone(), own.clone()));
            if first.limits != cluster.limits {
                overruled.insert(cluster.name.clone(), by.clone());
            }
        }
        for (cluster, by) in overruled {
            let message =
                format!("cluster `{cluster}` uses the connection settings of policy `{by}` instead of these");
            let advice = "reference the same UpstreamTrafficSetting in both policies";
            policy.sink.conflict(&policy.settings_field, message, advice);
        }
    }
    let list = |named: BTreeMap<String, (OwnCluster, String)>| named.into_values().map(|(c, _)| c).collect();
    clusters.into_iter().map(|(identity, named)| (identity, list(named))).collect()
}

/// Digests the content of a document. It names clusters, but a change of a cluster's settings is no change of
/// policy.
fn digest_content(identity: &Identity, mode: Mode, rules: &[&PolicyRule], in_mesh: &View) -> Digest {
    let rules = Digest::join(rules.iter().map(|rule| &rule.digest));
    Digest::of(&(identity, mode, rules.hash, &in_mesh.digest))
}

/// Builds a document, versioned by its content.
fn build_document(
    identity: &Identity,
    mode: Mode,
    rules: &[&PolicyRule],
    content: &Digest,
    in_mesh: &View,
) -> Document {
    Document {
        api_version: ApiVersion::V1,
        identity: identity.clone(),
        version: content.version(),
        mode,
        rules: rules.iter().map(|rule| Arc::clone(&rule.rule)).collect(),
        in_mesh: Arc::clone(&in_mesh.services),
    }
}

/// The first 16 hexadecimal digits of a digest.
pub(crate) fn digest(value: &impl Serialize) -> String {
    Digest::of(value).version()
}

/// A part is invalid and has been reported; everything that contains it grants nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Invalid;

/// The objects in force.
type Objects<'s> = BTreeMap<&'s ObjectRef, &'s Object>;

/// Builds the status of an object.
fn build_status(sink: DiagnosticSink<'_>, rules: usize) -> ObjectStatus {
    let (object, mut diagnostics) = sink.into_parts();
    diagnostics.sort_by(Diagnostic::cmp_reading_order);
    ObjectStatus {
        object: object.reference.clone(),
        file: object.file.to_string(),
        line: object.source_map.start().map(|at| at.line),
        accepted: diagnostics.iter().all(|diagnostic| diagnostic.severity != Severity::Error),
        generation: object.metadata.generation,
        rules,
        sources: BTreeSet::new(),
        diagnostics,
    }
}

#[derive(Default)]
struct StatusCollector {
    statuses: BTreeMap<ObjectRef, ObjectStatus>,
}

impl StatusCollector {
    /// Records the status of an object.
    fn record(&mut self, sink: DiagnosticSink<'_>, rules: usize) {
        let status = build_status(sink, rules);
        self.statuses.insert(status.object.clone(), status);
    }

    /// Records the remaining objects as accepted.
    fn record_accepted(&mut self, objects: &Objects<'_>) {
        for object in objects.values() {
            if !self.statuses.contains_key(&object.reference) {
                self.record(DiagnosticSink::new(object), 0);
            }
        }
    }
}

#[cfg(test)]
mod tests;
