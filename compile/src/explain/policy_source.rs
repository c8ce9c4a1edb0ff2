//! The source of the policy that explains a connection: objects, or one document.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use egress_policy::{Document, Identity};
use serde::Serialize;

use super::ExplainError;
use crate::manifest::{Body, Diagnostic, Kind, ObjectRef, Severity};
use crate::store::{Index, Store};
use crate::{CompileOptions, Compiled, MONITORED_LABEL, ObjectStatus, compile};

/// The source of a policy.
#[derive(Debug)]
pub enum PolicySource {
    /// Objects and their compiled form.
    Objects(Box<Objects>),
    /// One policy document.
    Document(Arc<Document>),
}

/// Objects and their compiled form.
#[derive(Debug)]
pub struct Objects {
    store: Arc<Store>,
    compiled: Arc<Compiled>,
    /// The mesh identity namespaces alone are in force.
    mesh: Option<String>,
}

/// A location in a file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SourceLocation {
    /// The file.
    pub file: String,
    /// The line.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub line: Option<u32>,
}

impl PolicySource {
    /// Compiles objects. With a mesh, only objects of its namespaces are in force.
    #[must_use]
    pub fn compile(store: Arc<Store>, options: &CompileOptions, mesh: Option<String>) -> Self {
        let compiled = Arc::new(compile(&store, options, None));
        Self::from_compiled(store, compiled, mesh)
    }

    /// Takes objects that were compiled before.
    #[must_use]
    pub fn from_compiled(store: Arc<Store>, compiled: Arc<Compiled>, mesh: Option<String>) -> Self {
        Self::Objects(Box::new(Objects { store, compiled, mesh }))
    }

    /// The identity of the document, if the source is one document.
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
    /// Fails if the source is a document of another identity.
    pub fn document(&self, identity: &Identity) -> Result<Arc<Document>, ExplainError> {
        match self {
            Self::Objects(objects) => Ok(objects.compiled.document(identity)),
            Self::Document(document) => {
                if document.identity == *identity {
                    return Ok(Arc::clone(document));
                }
                Err(ExplainError::WrongIdentity {
                    owner: document.identity.clone(),
                    requested: identity.clone(),
                })
            }
        }
    }

    fn as_objects(&self) -> Option<&Objects> {
        match self {
            Self::Objects(objects) => Some(objects),
            Self::Document(_) => None,
        }
    }

    /// Indexes the locations of rules.
    pub(super) fn locations(&self) -> RuleLocations<'_> {
        RuleLocations(self.as_objects().map(|objects| objects.store.index()))
    }

    /// Returns the policies for an identity that have errors.
    pub(super) fn not_accepted(&self, identity: &Identity) -> Vec<ObjectStatus> {
        let Some(objects) = self.as_objects() else { return Vec::new() };
        let names: BTreeSet<ObjectRef> = objects
            .sources()
            .filter(|(_, namespace, name)| {
                (*namespace, *name) == (identity.namespace(), identity.service_account())
            })
            .map(|(object, _, _)| object.clone())
            .collect();
        let statuses = names.iter().filter_map(|name| objects.compiled.statuses.get(name));
        statuses
            .filter(|status| !status.accepted)
            .map(|status| {
                let mut status = status.clone();
                status.diagnostics.retain(|diagnostic| diagnostic.severity == Severity::Error);
                status
            })
            .collect()
    }

    /// Returns errors about unreadable files, identity policies may be missing.
    pub(super) fn unreadable(&self) -> Vec<Diagnostic> {
        let diagnostics = self.as_objects().into_iter().flat_map(|objects| objects.store.diagnostics());
        diagnostics.filter(|diagnostic| diagnostic.severity == Severity::Error).collect()
    }

    /// Returns the service accounts with the same name or in the same namespace, with the policies for them.
    pub(super) fn similar_identities(&self, identity: &Identity) -> Vec<(String, Vec<String>)> {
        let Some(objects) = self.as_objects() else { return Vec::new() };
        // The same name comes first: the namespace was probably mistaken.
        let mut others: BTreeMap<(bool, String), Vec<String>> = BTreeMap::new();
        for (object, namespace, name) in objects.sources() {
            let same_name = name == identity.service_account();
            // Errors in policies for the identity itself are reported elsewhere.
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
        others.into_iter().map(|((_, identity), objects)| (identity, objects)).collect()
    }

    /// Collects notes about the namespace of an identity.
    pub(super) fn notes(&self, identity: &Identity) -> Vec<String> {
        let Some(Objects { store, mesh: Some(mesh), .. }) = self.as_objects() else { return Vec::new() };
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
                             `{MONITORED_LABEL}={mesh}`, so its pods get no sidecar and its policies do not apply"
                        )
                    })
                    .into_iter()
                    .collect()
            }
        }
    }
}

/// The locations of rules, indexed once for all of them.
pub(super) struct RuleLocations<'e>(Option<Index<'e>>);

impl RuleLocations<'_> {
    /// The location of one rule.
    pub(super) fn find(&self, policy: &str, rule: &str) -> Option<SourceLocation> {
        let (namespace, name) = policy.split_once('/')?;
        let kind = if rule == "Service" { Kind::Service } else { Kind::Egress };
        let reference = ObjectRef::new(kind, namespace, name);
        let object = self.0.as_ref()?.objects.get(&reference)?;
        let line = object.position(rule).map(|at| at.line);
        // An object of a cluster is its own file.
        (*object.file != *reference.to_string())
            .then(|| SourceLocation { file: object.file.to_string(), line })
    }
}

impl Objects {
    /// Lists the sources of all policies: object, namespace and name.
    fn sources(&self) -> impl Iterator<Item = (&ObjectRef, &str, &str)> {
        self.store.index().objects.into_iter().flat_map(|(reference, object)| {
            let sources =
                if let Body::Egress(egress) = &object.body { egress.sources.as_slice() } else { &[] };
            sources.iter().map(move |source| (reference, source.namespace.as_str(), source.name.as_str()))
        })
    }
}
