//! The difference between two states: which object opens or closes what, for whom. For the audit record.
//!
//! It is taken from the documents, so it is about what is enforced: an edit that changes no document is no change, and
//! one that opens something by way of another object (a route group, a Namespace) is one.

mod rules;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use egress_policy::{Document, Identity, Mode, Rule};
use serde::Serialize;

use crate::Compiled;
use crate::manifest::{Body, Kind, Object, ObjectRef};
use crate::store::Store;

/// The most lines, identities and effects of one record: a person reads it, and an event takes 1 kB.
const MAX_LISTED: usize = 10;

/// What a change of objects does to the grants of one object.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct GrantChange {
    /// The Egress object that grants, or the Namespace, ServiceAccount or MeshConfig that sets a mode.
    pub object: ObjectRef,
    /// The file in which it stands, or stood.
    pub file: String,
    /// The objects that were changed: the object itself, or others that it depends on.
    pub changed: Vec<ObjectRef>,
    /// What follows, by whom it concerns.
    pub effects: Vec<Effect>,
    /// The effects that are left out of `effects`.
    pub more_effects: usize,
}

/// What opens and closes for some identities.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Effect {
    /// What is allowed now and was not before.
    pub opens: Listed,
    /// What was allowed before and is not any more.
    pub closes: Listed,
    /// For whom.
    pub identities: Listed,
}

/// A list of which some may be left out.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Listed {
    /// The first of them.
    pub first: Vec<String>,
    /// How many more there are.
    pub more: usize,
}

impl Listed {
    fn push(&mut self, item: impl FnOnce() -> String) {
        if self.first.len() < MAX_LISTED { self.first.push(item()) } else { self.more += 1 }
    }

    fn one(text: String) -> Self {
        Self { first: vec![text], more: 0 }
    }

    /// Whether nothing is listed.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.first.is_empty()
    }
}

/// The items, separated by semicolons, and the number of those that are left out.
impl std::fmt::Display for Listed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.first.join("; "))?;
        if self.more > 0 { write!(f, "; and {} more", self.more) } else { Ok(()) }
    }
}

/// A state: objects and what follows from them.
#[derive(Clone, Copy, Debug)]
pub struct State<'s> {
    /// The objects.
    pub store: &'s Store,
    /// What follows from them.
    pub compiled: &'s Compiled,
}

/// Compares two states: a record for each object whose grants changed, in the order of objects.
#[must_use]
pub fn grant_changes(old: State<'_>, new: State<'_>) -> Vec<GrantChange> {
    let mut found: BTreeMap<ObjectRef, Found<'_>> = BTreeMap::new();
    let (before, after) = (&old.compiled.documents, &new.compiled.documents);
    let identities: BTreeSet<&Identity> = before.keys().chain(after.keys()).collect();
    for identity in identities {
        if let (Some(before), Some(after)) = (before.get(identity), after.get(identity))
            && (Arc::ptr_eq(before, after) || before.rules == after.rules)
        {
            continue;
        }
        let (before, after) = (rules(before.get(identity)), rules(after.get(identity)));
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
        found.into_iter().map(|(object, found)| (object, found.effects())).collect();
    changes.retain(|_, effects| !effects.is_empty());
    for (object, effect) in modes(old.compiled, new.compiled) {
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
        let changed = concerned(&object, &effects, &[&indexes.0, &indexes.1])
            .into_iter()
            .filter(is_different)
            .collect();
        let stands = indexes.1.get(&object).or_else(|| indexes.0.get(&object));
        let file = stands.map(|object| object.file.to_string()).unwrap_or_default();
        GrantChange { object, file, changed, effects, more_effects }
    });
    changes.collect()
}

/// The rules of a document, by policy.
fn rules(document: Option<&Arc<Document>>) -> BTreeMap<&str, Vec<&Rule>> {
    let mut by_policy: BTreeMap<&str, Vec<&Rule>> = BTreeMap::new();
    for rule in document.into_iter().flat_map(|document| &document.rules) {
        by_policy.entry(&rule.policy).or_default().push(rule);
    }
    by_policy
}

/// The changes of one policy. Most identities of a policy have the same, so each is compared only once.
#[derive(Default)]
struct Found<'d>(Vec<(Vec<&'d Rule>, Vec<&'d Rule>, Listed)>);

impl<'d> Found<'d> {
    fn add(&mut self, identity: &Identity, before: Vec<&'d Rule>, after: Vec<&'d Rule>) {
        let known = self.0.iter_mut().find(|(b, a, _)| *b == before && *a == after);
        if let Some((_, _, identities)) = known {
            identities.push(|| identity.to_string());
        } else {
            self.0.push((before, after, Listed::one(identity.to_string())));
        }
    }

    fn effects(self) -> Vec<Effect> {
        let effects = self.0.into_iter().map(|(before, after, identities)| {
            let (mut opens, mut closes) = (Listed::default(), Listed::default());
            rules::compare(&before, &after, &mut opens, &mut closes);
            Effect { opens, closes, identities }
        });
        effects.filter(|effect| !(effect.opens.is_empty() && effect.closes.is_empty())).collect()
    }
}

/// The objects that set another mode than before, and for whom.
fn modes(old: &Compiled, new: &Compiled) -> Vec<(ObjectRef, Effect)> {
    let mut found = Vec::new();
    let mut add = |object: ObjectRef, before: Mode, after: Mode, whose: String| {
        if before == after {
            return;
        }
        let text = Listed::one(format!("mode `{}` instead of `{}`", after.as_str(), before.as_str()));
        let identities = Listed::one(whose);
        let none = Listed::default();
        let (opens, closes) = if after > before { (text, none) } else { (none, text) };
        found.push((object, Effect { opens, closes, identities }));
    };
    let (old, new) = (&old.modes, &new.modes);
    if let Some(config) = new.config().or(old.config()) {
        let whose = "every service account whose mode nothing else sets".to_owned();
        add(config.clone(), old.default_mode(), new.default_mode(), whose);
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

/// The objects that what an object grants depends on: itself, what it names, and the Namespaces of those it is for.
fn concerned(
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
