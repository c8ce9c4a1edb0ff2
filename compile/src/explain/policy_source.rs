//! The objects, or the document, that a question is asked of.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use egress_policy::{Document, Identity};
use serde::Serialize;

use super::ExplainError;
use crate::manifest::{Body, Kind, ObjectRef, Problem, Severity};
use crate::store::{Index, Store};
use crate::{CompileOptions, Compiled, Condition, MONITORED_LABEL, compile};

/// What a question is asked of.
#[derive(Debug)]
pub enum Evidence {
    /// Objects, and what follows from them.
    Objects(Box<Objects>),
    /// One document.
    Document(Arc<Document>),
}

/// Objects, and what follows from them.
#[derive(Debug)]
pub struct Objects {
    store: Arc<Store>,
    compiled: Arc<Compiled>,
    /// The mesh of whose namespaces alone objects count.
    mesh: Option<String>,
}

/// Where something stands in a file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Place {
    /// The file.
    pub file: String,
    /// The line.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub line: Option<u32>,
}

impl Evidence {
    /// Takes objects; with a mesh, only those of its namespaces count.
    #[must_use]
    pub fn objects(store: Arc<Store>, options: &CompileOptions, mesh: Option<String>) -> Self {
        let compiled = Arc::new(compile(&store, options, None));
        Self::compiled(store, compiled, mesh)
    }

    /// Takes objects of which it is known what follows from them.
    #[must_use]
    pub fn compiled(store: Arc<Store>, compiled: Arc<Compiled>, mesh: Option<String>) -> Self {
        Self::Objects(Box::new(Objects { store, compiled, mesh }))
    }

    /// Whose document this is, if there is only one.
    #[must_use]
    pub fn only_identity(&self) -> Option<&Identity> {
        match self {
            Self::Objects(_) => None,
            Self::Document(document) => Some(&document.identity),
        }
    }

    /// The document of an identity.
    ///
    /// # Errors
    /// When it is another's.
    pub fn document(&self, identity: &Identity) -> Result<Arc<Document>, ExplainError> {
        match self {
            Self::Objects(objects) => Ok(objects.compiled.document(identity)),
            Self::Document(document) => {
                if document.identity == *identity {
                    return Ok(Arc::clone(document));
                }
                Err(ExplainError::Others { whose: document.identity.clone(), asked: identity.clone() })
            }
        }
    }

    fn read(&self) -> Option<&Objects> {
        match self {
            Self::Objects(objects) => Some(objects),
            Self::Document(_) => None,
        }
    }

    /// Where rules stand.
    pub(super) fn places(&self) -> Places<'_> {
        Places(self.read().map(|objects| objects.store.index()))
    }

    /// The policies that name an identity and have mistakes.
    pub(super) fn not_accepted(&self, identity: &Identity) -> Vec<Condition> {
        let Some(objects) = self.read() else { return Vec::new() };
        let names: BTreeSet<ObjectRef> = objects
            .sources()
            .filter(|(_, namespace, name)| {
                (*namespace, *name) == (identity.namespace(), identity.service_account())
            })
            .map(|(object, _, _)| object.clone())
            .collect();
        let conditions = names.iter().filter_map(|name| objects.compiled.conditions.get(name));
        conditions
            .filter(|condition| !condition.accepted)
            .map(|condition| {
                let mut condition = condition.clone();
                condition.problems.retain(|problem| problem.severity == Severity::Error);
                condition
            })
            .collect()
    }

    /// What cannot be read: policies may be missing.
    pub(super) fn unreadable(&self) -> Vec<Problem> {
        let problems = self.read().into_iter().flat_map(|objects| objects.store.problems());
        problems.filter(|problem| problem.severity == Severity::Error).collect()
    }

    /// Service accounts with the same name, or in the same namespace, and the policies that name them.
    pub(super) fn others(&self, identity: &Identity) -> Vec<(String, Vec<String>)> {
        let Some(objects) = self.read() else { return Vec::new() };
        // The same name comes first: the namespace was probably mistaken.
        let mut others: BTreeMap<(bool, String), Vec<String>> = BTreeMap::new();
        for (object, namespace, name) in objects.sources() {
            let same_name = name == identity.service_account();
            // What is wrong with those that name the identity itself is said as that.
            if same_name && namespace == identity.namespace() {
                continue;
            }
            if same_name || namespace == identity.namespace() {
                others
                    .entry((!same_name, format!("{namespace}/{name}")))
                    .or_default()
                    .push(object.to_string());
            }
        }
        others.into_iter().map(|((_, whose), objects)| (whose, objects)).collect()
    }

    /// What there is to know about the objects.
    pub(super) fn notes(&self, identity: &Identity) -> Vec<String> {
        let Some(Objects { store, mesh: Some(mesh), .. }) = self.read() else { return Vec::new() };
        let namespace = identity.namespace();
        let index = store.index();
        match index.objects.get(&ObjectRef::new(Kind::Namespace, "", namespace)) {
            None => vec![format!("there is no namespace `{namespace}`")],
            Some(object) => {
                let label = object.metadata.labels.as_ref().and_then(|labels| labels.get(MONITORED_LABEL));
                let is_monitored = label == Some(mesh);
                (!is_monitored)
                    .then(|| {
                        format!(
                            "namespace `{namespace}` does not belong to the mesh: it has no label \
                             `{MONITORED_LABEL}={mesh}`, so its pods get no sidecar and its policies do not count"
                        )
                    })
                    .into_iter()
                    .collect()
            }
        }
    }
}

/// Where rules stand, looked up once for all of them.
pub(super) struct Places<'e>(Option<Index<'e>>);

impl Places<'_> {
    /// Where one stands.
    pub(super) fn of(&self, policy: &str, rule: &str) -> Option<Place> {
        let (namespace, name) = policy.split_once('/')?;
        let kind = if rule == "Service" { Kind::Service } else { Kind::Egress };
        let reference = ObjectRef::new(kind, namespace, name);
        let object = self.0.as_ref()?.objects.get(&reference)?;
        let line = object.position(rule).map(|at| at.line);
        // An object of a cluster is its own file.
        (*object.file != *reference.to_string()).then(|| Place { file: object.file.to_string(), line })
    }
}

impl Objects {
    /// Who is named by which policy: object, namespace and name.
    fn sources(&self) -> impl Iterator<Item = (&ObjectRef, &str, &str)> {
        self.store.index().objects.into_iter().flat_map(|(reference, object)| {
            let sources =
                if let Body::Egress(egress) = &object.body { egress.sources.as_slice() } else { &[] };
            sources.iter().map(move |source| (reference, source.namespace.as_str(), source.name.as_str()))
        })
    }
}
