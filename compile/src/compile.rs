//! From the store to one immutable document per identity. Pure: the same objects and options give the
//! same documents and the same conditions, whatever the order of files, lists and events.
//!
//! INVARIANT(fail-closed): a rule with anything invalid in it grants nothing, and its object's
//! condition says why. Other rules live on.

mod address;
mod annotations;
mod shared_budgets;
mod digest;
mod egress;
pub(crate) mod host;
mod in_mesh;
mod diagnostic_sink;
mod list;
mod mesh;
mod namespace;
mod route;
mod upstream;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use egress_policy::{ApiVersion, Document, EncryptedHello, Identity, Mode};
use serde::Serialize;

use self::digest::Digest;
use self::egress::PolicyRule;
use self::in_mesh::{Mesh, View};
use self::diagnostic_sink::Issues;
pub use self::mesh::LooserMode;
use self::mesh::Modes;
pub use self::namespace::{PolicyNamespaces, PolicyNamespacesError};
pub use self::upstream::{Limits, OwnCluster};
use crate::manifest::{Cause, Object, ObjectRef, Problem, Severity};
use crate::store::{Index, Store};

/// The annotation that gives a namespace or a service account its own mode.
pub const MODE_ANNOTATION: &str = "openservicemesh.io/egress-mode";
/// The annotation by which a Namespace lets its ServiceAccounts loosen their own mode.
pub const MODE_DELEGATION_ANNOTATION: &str = "openservicemesh.io/egress-mode-delegation";
/// The annotation by which a Namespace lists the namespaces whose Egress objects may grant to its service accounts.
pub const POLICY_NAMESPACES_ANNOTATION: &str = "openservicemesh.io/egress-policy-namespaces";
/// The annotation that lets the http rules of an Egress object upgrade connections.
pub const UPGRADES_ANNOTATION: &str = "openservicemesh.io/egress-upgrades";
/// The annotation that says what the https rules of an Egress object do with encrypted ClientHellos.
pub const ENCRYPTED_HELLO_ANNOTATION: &str = "openservicemesh.io/egress-ech";
/// The label of a namespace that belongs to a mesh.
pub const MONITORED_LABEL: &str = "openservicemesh.io/monitored-by";
/// The label of a namespace that belongs to no mesh, whatever else it says.
pub const IGNORE_LABEL: &str = "openservicemesh.io/ignore";

/// What is not said by objects.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CompileOptions {
    /// The namespace of the MeshConfig that counts.
    pub mesh_config_namespace: String,
    /// The name of the MeshConfig that counts.
    pub mesh_config_name: String,
    /// The name of the mesh, in the labels of its namespaces.
    pub mesh_name: String,
    /// The namespaces whose Egress objects count for service accounts of every namespace.
    pub policy_namespaces: PolicyNamespaces,
    /// What becomes of encrypted ClientHellos where no annotation says it, and a name chooses the address.
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

/// What all objects together mean.
#[derive(Clone, Debug, Default)]
pub struct Compiled {
    /// The documents of all identities that a policy or an annotation names. Documents that did not
    /// change are the same `Arc` as before.
    pub documents: BTreeMap<Identity, Arc<Document>>,
    /// The clusters that the documents name, of identities that have any.
    pub clusters: BTreeMap<Identity, Vec<OwnCluster>>,
    /// What became of each object.
    pub conditions: BTreeMap<ObjectRef, Condition>,
    /// What there is to say about no object in particular.
    pub notes: Vec<Problem>,
    pub(crate) modes: Modes,
    mesh: Mesh,
    /// The number of older Egress objects, for each.
    ages: Arc<BTreeMap<String, usize>>,
    /// What each document says, but for the services of the mesh.
    digests: BTreeMap<Identity, Digest>,
}

/// What became of an object.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Condition {
    /// Which object.
    pub object: ObjectRef,
    /// The file that it stands in.
    pub file: String,
    /// The line on which it begins.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub line: Option<u32>,
    /// Whether everything in it counts: no problem is an error.
    pub accepted: bool,
    /// Counts changes of what it says, where a server keeps it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub generation: Option<i64>,
    /// How many rules it contributes.
    pub rules: usize,
    /// To whom it applies: the sources of a policy that can be read.
    #[serde(skip)]
    pub sources: BTreeSet<Identity>,
    /// What is wrong with it, or good to know about it.
    pub problems: Vec<Problem>,
}

impl Condition {
    /// The reason of `Accepted`, as in the status of an object.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        let mut errors =
            self.problems.iter().filter(|problem| problem.severity == Severity::Error).peekable();
        if errors.peek().is_none() {
            "Accepted"
        } else if self.problems.iter().any(|problem| matches!(problem.cause, Cause::Size | Cause::Crowding)) {
            "TooLarge"
        } else if errors.all(|problem| problem.cause == Cause::Permission) {
            "NotPermitted"
        } else {
            "Invalid"
        }
    }
}

impl Compiled {
    /// The document of an identity. One that nothing names has no rules, and the mode of its
    /// namespace or of the mesh.
    #[must_use]
    pub fn document(&self, identity: &Identity) -> Arc<Document> {
        self.documents.get(identity).map_or_else(
            || {
                let in_mesh = self.mesh.view(identity);
                let mode = self.modes.of(identity);
                Arc::new(document(identity, mode, &[], &content(identity, mode, &[], in_mesh), in_mesh))
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

    /// The MeshConfig that counts, where there is one.
    #[must_use]
    pub fn mesh_config(&self) -> Option<&ObjectRef> {
        self.modes.config()
    }

    /// The most proxies that one control plane lets connect, where there is a limit.
    #[must_use]
    pub fn most_proxies(&self) -> Option<usize> {
        self.modes.most_proxies()
    }

    /// The mode of identities for which nothing else is said.
    #[must_use]
    pub fn default_mode(&self) -> Mode {
        self.modes.default_mode()
    }

    /// Every Namespace and ServiceAccount that loosens a mode.
    #[must_use]
    pub fn looser_modes(&self) -> Vec<LooserMode> {
        self.modes.loosened()
    }

    /// The object that gives an identity its mode; none: there is no MeshConfig.
    #[must_use]
    pub fn mode_decided_by(&self, identity: &Identity) -> Option<ObjectRef> {
        self.modes.decided_by(identity)
    }

    /// Everything that there is to say, in no particular order.
    pub fn problems(&self) -> impl Iterator<Item = &Problem> {
        self.conditions.values().flat_map(|condition| &condition.problems).chain(&self.notes)
    }
}

/// Compiles everything. Documents that are equal to those of `previous` are the same `Arc`.
#[must_use]
pub fn compile(store: &Store, options: &CompileOptions, previous: Option<&Compiled>) -> Compiled {
    let Index { objects, duplicates: _ } = store.index();
    let mut compiler = Compiler::default();

    let namespaces = namespace::namespaces(&objects, options, &mut compiler);
    let (modes, notes) = mesh::modes(&objects, &namespaces, options, &mut compiler);
    let mesh = in_mesh::mesh(&objects, options, modes.permissive(), &mut compiler);
    let mesh = match previous {
        Some(previous) => mesh.sharing(&previous.mesh),
        None => mesh,
    };
    let groups = route::groups(&objects, &mut compiler);
    let settings = upstream::settings(&objects, &mut compiler);
    let mut policies = egress::policies(&objects, &groups, &settings, &namespaces, options.encrypted_hello);
    let ages = shared_budgets::make_room(&mut policies).into_iter().enumerate().map(|(age, name)| (name, age));
    let ages = Arc::new(ages.collect());
    let clusters = clusters(&mut policies);

    let mut granted: BTreeMap<Identity, Vec<(bool, &PolicyRule)>> = BTreeMap::new();
    // Documents are sorted by the text of policies' names.
    let mut sorted: Vec<&egress::Policy<'_>> = policies.iter().collect();
    sorted.sort_by_key(|policy| policy.issues.name());
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
            // Of rules that allow the same, the first one leads the connection: those of the identity's own namespace
            // come before those of others.
            rules.sort_by_key(|(is_foreign, _)| *is_foreign);
            let rules: Vec<&PolicyRule> = rules.into_iter().map(|(_, rule)| rule).collect();
            let in_mesh = mesh.view(&identity);
            let content = content(&identity, mode, &rules, in_mesh);
            // Whole digests, and not versions, which are short enough to be made equal on purpose.
            let former = previous.and_then(|p| p.documents.get(&identity).zip(p.digests.get(&identity)));
            let former = former
                .filter(|(document, digest)| **digest == content && document.in_mesh == in_mesh.services);
            let document = former.map_or_else(
                || Arc::new(document(&identity, mode, &rules, &content, in_mesh)),
                |(document, _)| Arc::clone(document),
            );
            digests.insert(identity.clone(), content);
            (identity, document)
        })
        .collect();
    for policy in policies {
        let sources = policy.sources;
        let rules = if policy.is_crowded_out { 0 } else { policy.rules.len() };
        let condition = Condition { sources, ..condition(policy.issues, rules) };
        compiler.conditions.insert(condition.object.clone(), condition);
    }
    compiler.describe_others(&objects);
    Compiled { documents, clusters, conditions: compiler.conditions, notes, modes, mesh, ages, digests }
}

/// The clusters of each identity. Where policies give one cluster different settings, those of the first
/// policy count, and the others' conditions say so.
fn clusters(policies: &mut [egress::Policy<'_>]) -> BTreeMap<Identity, Vec<OwnCluster>> {
    let mut clusters: BTreeMap<Identity, BTreeMap<String, (OwnCluster, String)>> = BTreeMap::new();
    for policy in policies {
        let mut overruled = BTreeMap::new();
        let own = policy.issues.name();
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
            let message = format!("`{cluster}` has the connection settings of policy `{by}`, not these");
            let advice = "name the same UpstreamTrafficSetting in both policies";
            policy.issues.conflict(&policy.settings_field, message, advice);
        }
    }
    let list = |named: BTreeMap<String, (OwnCluster, String)>| named.into_values().map(|(c, _)| c).collect();
    clusters.into_iter().map(|(identity, named)| (identity, list(named))).collect()
}

/// Digests what a document says. It names clusters, but a change of their settings is no change of policy.
fn content(identity: &Identity, mode: Mode, rules: &[&PolicyRule], in_mesh: &View) -> Digest {
    let rules = Digest::join(rules.iter().map(|rule| &rule.digest));
    Digest::of(&(identity, mode, rules.hash, &in_mesh.digest))
}

/// A document, versioned by its content.
fn document(
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

/// Something was invalid, which is said already; what it is part of grants nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Invalid;

/// The objects that count.
type Objects<'s> = BTreeMap<&'s ObjectRef, &'s Object>;

/// What became of an object.
fn condition(issues: Issues<'_>, rules: usize) -> Condition {
    let (object, mut problems) = issues.into_parts();
    problems.sort_by(Problem::reading_order);
    Condition {
        object: object.reference.clone(),
        file: object.file.to_string(),
        line: object.places.at().map(|at| at.line),
        accepted: problems.iter().all(|problem| problem.severity != Severity::Error),
        generation: object.metadata.generation,
        rules,
        sources: BTreeSet::new(),
        problems,
    }
}

#[derive(Default)]
struct Compiler {
    conditions: BTreeMap<ObjectRef, Condition>,
}

impl Compiler {
    /// Writes down what became of an object.
    fn describe(&mut self, issues: Issues<'_>, rules: usize) {
        let condition = condition(issues, rules);
        self.conditions.insert(condition.object.clone(), condition);
    }

    /// Objects that nothing was said about are accepted.
    fn describe_others(&mut self, objects: &Objects<'_>) {
        for object in objects.values() {
            if !self.conditions.contains_key(&object.reference) {
                self.describe(Issues::new(object), 0);
            }
        }
    }
}

#[cfg(test)]
mod tests;
