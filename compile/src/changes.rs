//! The difference between two policy states, for the audit record: which object opens or closes what, for which
//! identities.
//!
//! It is computed from the documents, so it describes what is enforced. An edit that changes no document is no
//! change, and a change of another object (a route group, a Namespace) counts where it opens or closes
//! something.

mod rules;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use egress_policy::{Document, Identity, Mode, Rule};
use serde::Serialize;

use crate::Compiled;
use crate::manifest::{Body, Kind, Object, ObjectRef};
use crate::store::Store;

/// The most lines, identities and effects of one record. A person reads it, and a Kubernetes event takes 1 kB.
const MAX_LISTED: usize = 10;

/// The effect of a change on the grants of one object.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct GrantChange {
    /// The Egress object that grants access, or the Namespace, ServiceAccount or MeshConfig that sets a mode.
    pub object: ObjectRef,
    /// The file that defines it, or defined it before the change.
    pub file: String,
    /// The changed objects: the object itself, or others that it depends on.
    pub changed: Vec<ObjectRef>,
    /// The effects, grouped by identities.
    pub effects: Vec<Effect>,
    /// The number of effects that `effects` leaves out.
    pub more_effects: usize,
}

/// The access that opens and closes for some identities.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Effect {
    /// Access that is newly allowed.
    pub opens: TruncatedList,
    /// Access that is no longer allowed.
    pub closes: TruncatedList,
    /// The identities.
    pub identities: TruncatedList,
}

/// A list that keeps only its first items.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct TruncatedList {
    /// The first items.
    pub first: Vec<String>,
    /// The number of items left out.
    pub more: usize,
}

impl TruncatedList {
    fn push(&mut self, item: impl FnOnce() -> String) {
        if self.first.len() < MAX_LISTED {
            self.first.push(item());
        } else {
            self.more = self.more.saturating_add(1);
        }
    }

    fn single(text: String) -> Self {
        Self { first: vec![text], more: 0 }
    }

    /// Returns true if the list is empty.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.first.is_empty()
    }
}

/// Writes the items, separated by semicolons, and the number of items left out.
impl std::fmt::Display for TruncatedList {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.first.join("; "))?;
        if self.more > 0 { write!(f, "; and {} more", self.more) } else { Ok(()) }
    }
}

/// The policy state at one time: the objects and their compiled form.
#[derive(Clone, Copy, Debug)]
pub struct PolicyState<'s> {
    /// The objects.
    pub store: &'s Store,
    /// The documents compiled from them.
    pub compiled: &'s Compiled,
}

/// Compares two states. Returns a record for each object whose grants changed, in the order of objects.
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
/// use egress_compile::changes::{PolicyState, compare_grants};
/// use egress_compile::{CompileOptions, compile};
///
/// let options = CompileOptions::default();
/// let empty = Store::default();
/// let (before, after) = (compile(&empty, &options, None), compile(&store, &options, None));
/// let changes = compare_grants(
///     PolicyState { store: &empty, compiled: &before },
///     PolicyState { store: &store, compiled: &after },
/// );
/// assert_eq!(changes[0].effects[0].opens.first, ["https 443 to example.com"]);
/// ```
#[must_use]
pub fn compare_grants(old: PolicyState<'_>, new: PolicyState<'_>) -> Vec<GrantChange> {
    let mut found: BTreeMap<ObjectRef, PolicyChanges<'_>> = BTreeMap::new();
    let (before, after) = (&old.compiled.documents, &new.compiled.documents);
    let identities: BTreeSet<&Identity> = before.keys().chain(after.keys()).collect();
    for identity in identities {
        if let (Some(before), Some(after)) = (before.get(identity), after.get(identity))
            && (Arc::ptr_eq(before, after) || before.rules == after.rules)
        {
            continue;
        }
        let (before, after) = (group_rules(before.get(identity)), group_rules(after.get(identity)));
        // In passthrough no rule is looked at: then it is the change of the mode that opens or closes.
        if [old, new].iter().any(|state| state.compiled.modes.of(identity) == Mode::Passthrough) {
            continue;
        }
        let policies: BTreeSet<&str> = before.keys().chain(after.keys()).copied().collect();
        for policy in policies {
            let before = before.get(policy).cloned().unwrap_or_default();
            let after = after.get(policy).cloned().unwrap_or_default();
            if let Some((namespace, name)) = policy.split_once('/').filter(|_| before != after) {
                let object = ObjectRef::new(Kind::Egress, namespace, name);
                found.entry(object).or_default().add(identity, before, after);
            }
        }
    }
    let mut changes: BTreeMap<ObjectRef, Vec<Effect>> =
        found.into_iter().map(|(object, found)| (object, found.into_effects())).collect();
    changes.retain(|_, effects| !effects.is_empty());
    for (object, effect) in compare_modes(old.compiled, new.compiled) {
        changes.entry(object).or_default().push(effect);
    }
    if changes.is_empty() {
        return Vec::new();
    }
    let indexes = (old.store.index().objects, new.store.index().objects);
    let changes = changes.into_iter().map(|(object, mut effects)| {
        let more_effects = effects.len().saturating_sub(MAX_LISTED);
        effects.truncate(MAX_LISTED);
        let is_different = |object: &ObjectRef| indexes.0.get(object) != indexes.1.get(object);
        let changed = list_dependencies(&object, &effects, &[&indexes.0, &indexes.1])
            .into_iter()
            .filter(is_different)
            .collect();
        let stands = indexes.1.get(&object).or_else(|| indexes.0.get(&object));
        let file = stands.map(|object| object.file.to_string()).unwrap_or_default();
        GrantChange { object, file, changed, effects, more_effects }
    });
    changes.collect()
}

/// Groups the rules of a document by policy.
fn group_rules(document: Option<&Arc<Document>>) -> BTreeMap<&str, Vec<&Rule>> {
    let mut by_policy: BTreeMap<&str, Vec<&Rule>> = BTreeMap::new();
    for rule in document.into_iter().flat_map(|document| &document.rules) {
        by_policy.entry(&rule.policy).or_default().push(rule);
    }
    by_policy
}

/// The changes of one policy, grouped by rules. Most identities of a policy share the same rules, so each group
/// is compared only once.
#[derive(Default)]
struct PolicyChanges<'d>(Vec<(Vec<&'d Rule>, Vec<&'d Rule>, TruncatedList)>);

impl<'d> PolicyChanges<'d> {
    fn add(&mut self, identity: &Identity, before: Vec<&'d Rule>, after: Vec<&'d Rule>) {
        let known = self.0.iter_mut().find(|(b, a, _)| *b == before && *a == after);
        if let Some((_, _, identities)) = known {
            identities.push(|| identity.to_string());
        } else {
            self.0.push((before, after, TruncatedList::single(identity.to_string())));
        }
    }

    fn into_effects(self) -> Vec<Effect> {
        let effects = self.0.into_iter().map(|(before, after, identities)| {
            let (mut opens, mut closes) = (TruncatedList::default(), TruncatedList::default());
            rules::compare_rules(&before, &after, &mut opens, &mut closes);
            Effect { opens, closes, identities }
        });
        effects.filter(|effect| !(effect.opens.is_empty() && effect.closes.is_empty())).collect()
    }
}

/// Lists the objects that set another mode than before, and the identities that it affects.
fn compare_modes(old: &Compiled, new: &Compiled) -> Vec<(ObjectRef, Effect)> {
    let mut found = Vec::new();
    let mut add = |object: ObjectRef, before: Mode, after: Mode, scope: String| {
        if before == after {
            return;
        }
        let text =
            TruncatedList::single(format!("mode `{}` instead of `{}`", after.as_str(), before.as_str()));
        let identities = TruncatedList::single(scope);
        let none = TruncatedList::default();
        let (opens, closes) = if after > before { (text, none) } else { (none, text) };
        found.push((object, Effect { opens, closes, identities }));
    };
    let (old, new) = (&old.modes, &new.modes);
    if let Some(config) = new.config().or(old.config()) {
        let scope = "every service account whose mode nothing else sets".to_owned();
        add(config.clone(), old.default_mode(), new.default_mode(), scope);
    }
    for namespace in old.namespaces().chain(new.namespaces()).collect::<BTreeSet<_>>() {
        if old.own_of_namespace(namespace) != new.own_of_namespace(namespace) {
            let (before, after) = (old.of_namespace(namespace), new.of_namespace(namespace));
            let object = ObjectRef::new(Kind::Namespace, "", namespace);
            add(object, before, after, format!("the service accounts of namespace {namespace}"));
        }
    }
    for identity in old.identities().chain(new.identities()).collect::<BTreeSet<_>>() {
        if old.own_of(identity) != new.own_of(identity) {
            let (namespace, name) = (identity.namespace(), identity.service_account());
            let object = ObjectRef::new(Kind::ServiceAccount, namespace, name);
            add(object, old.of(identity), new.of(identity), identity.to_string());
        }
    }
    found
}

/// Lists the objects that a grant depends on: the object itself, the objects that it references, and the
/// Namespaces of its identities.
fn list_dependencies(
    object: &ObjectRef,
    effects: &[Effect],
    indexes: &[&BTreeMap<&ObjectRef, &Object>],
) -> BTreeSet<ObjectRef> {
    let mut all = BTreeSet::from([object.clone()]);
    let namespace = |name: &str| ObjectRef::new(Kind::Namespace, "", name);
    if !object.namespace.is_empty() {
        all.insert(namespace(&object.namespace));
    }
    if object.kind == Kind::Egress {
        let identities = effects.iter().flat_map(|effect| &effect.identities.first);
        all.extend(identities.filter_map(|identity| Some(namespace(identity.split_once('/')?.0))));
    }
    for found in indexes.iter().filter_map(|index| index.get(object)) {
        let Body::Egress(egress) = &found.body else { continue };
        all.extend(egress.matches.iter().flatten().filter_map(|reference| {
            let kinds = [Kind::HttpRouteGroup, Kind::UpstreamTrafficSetting];
            let kind = kinds.into_iter().find(|kind| kind.as_str() == reference.kind)?;
            Some(ObjectRef::new(kind, &object.namespace, &reference.name))
        }));
    }
    all
}

#[cfg(test)]
mod tests;
