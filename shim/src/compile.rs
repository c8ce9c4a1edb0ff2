//! From objects to one policy document per identity.
//!
//! Pure: the same objects give the same bytes. Nothing here fails: what is invalid grants nothing
//! and is reported, and everything else lives on.

mod egress;
mod routes;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::Arc;

use egress_policy::{ApiVersion, Document, Identity, Mode, Rule};
use serde::Serialize;

use crate::manifest::{Content, Key, Kind, Object};
use crate::problem::{Problem, Severity};
use crate::store::Store;

/// The annotation of a Namespace or ServiceAccount that sets the mode.
pub const MODE_ANNOTATION: &str = "openservicemesh.io/egress-mode";

/// What is known of the mesh besides its objects.
#[derive(Debug, Clone)]
pub struct Options {
    /// The name of the MeshConfig that counts.
    pub mesh_config_name: String,
    /// Its namespace.
    pub mesh_config_namespace: String,
}

impl Default for Options {
    /// Open Service Mesh's names.
    fn default() -> Self {
        Self {
            mesh_config_name: "osm-mesh-config".to_owned(),
            mesh_config_namespace: "osm-system".to_owned(),
        }
    }
}

/// Everything that follows from the objects.
#[derive(Debug, Default)]
pub struct Compiled {
    documents: BTreeMap<Identity, Arc<Document>>,
    modes: Modes,
    /// What became of each object.
    pub objects: Vec<ObjectStatus>,
    /// What is wrong, with objects and with files.
    pub problems: Vec<Problem>,
}

/// What became of one object.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ObjectStatus {
    /// Its name.
    #[serde(flatten)]
    pub key: Key,
    /// The file that it stands in.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub file: Option<std::path::PathBuf>,
    /// All of it counts.
    pub accepted: bool,
    /// The parts that are wrong, or not as they may be meant.
    pub problems: Vec<Problem>,
}

#[derive(Debug)]
struct Modes {
    mesh: Mode,
    namespaces: BTreeMap<String, Mode>,
    accounts: BTreeMap<(String, String), Mode>,
}

impl Default for Modes {
    fn default() -> Self {
        Self { mesh: Mode::Enforce, namespaces: BTreeMap::new(), accounts: BTreeMap::new() }
    }
}

impl Modes {
    /// The service account's own mode, else its namespace's, else the mesh's.
    fn of(&self, identity: &Identity) -> Mode {
        let account = (identity.namespace().to_owned(), identity.service_account().to_owned());
        self.accounts
            .get(&account)
            .or_else(|| self.namespaces.get(identity.namespace()))
            .copied()
            .unwrap_or(self.mesh)
    }
}

/// Compiles what the store holds. Documents that did not change are those of `before`.
#[must_use]
pub fn compile(store: &Store, options: &Options, before: &Compiled) -> Compiled {
    let objects = store.objects();
    let mut problems: BTreeMap<&Key, Vec<Problem>> = BTreeMap::new();
    let mut report = |object: &'_ Arc<Object>, key, found: Vec<Problem>| {
        if !found.is_empty() {
            problems.entry(key).or_default().extend(found.into_iter().map(|problem| object.locate(problem)));
        }
    };
    let mut modes = Modes::default();
    let routes = routes::Groups::new(&objects);
    let mut rules: BTreeMap<Identity, Vec<Rule>> = BTreeMap::new();
    for (key, object) in &objects {
        let found = match (&object.content, key.kind) {
            (Content::MeshConfig(config), _) => {
                if key.name == options.mesh_config_name && key.namespace == options.mesh_config_namespace {
                    modes.mesh =
                        if config.spec.traffic.enable_egress { Mode::Passthrough } else { Mode::Enforce };
                    vec![]
                } else {
                    let Options { mesh_config_name: name, mesh_config_namespace: namespace } = options;
                    let message = format!("does not count: the mesh's own is {namespace}/{name}");
                    vec![Problem::new(Severity::Warning, message).at_field("metadata.name")]
                }
            }
            (Content::Egress(egress), _) => {
                let compiled = egress::compile(key, &egress.spec, &objects, &routes);
                for identity in compiled.sources {
                    rules.entry(identity).or_default().extend(compiled.rules.iter().cloned());
                }
                compiled.problems
            }
            (Content::HttpRouteGroup(_), _) => routes.problems(key).to_vec(),
            (Content::MetadataOnly, Kind::Namespace) => mode(object, |mode| {
                modes.namespaces.insert(key.name.clone(), mode);
            }),
            (Content::MetadataOnly, Kind::ServiceAccount) => mode(object, |mode| {
                modes.accounts.insert((key.namespace.clone(), key.name.clone()), mode);
            }),
            (Content::UpstreamTrafficSetting(_) | Content::MetadataOnly, _) => vec![],
        };
        report(object, *key, found);
    }
    let documents = rules
        .into_iter()
        .map(|(identity, rules)| {
            let new = document(&identity, modes.of(&identity), rules);
            let same = before.documents.get(&identity).filter(|old| old.version == new.version);
            let document = same.map_or_else(|| Arc::new(new), Arc::clone);
            (identity, document)
        })
        .collect();
    let statuses = objects
        .iter()
        .map(|(key, object)| {
            let problems = problems.get(key).cloned().unwrap_or_default();
            let accepted = problems.iter().all(|problem| problem.severity != Severity::Error);
            ObjectStatus { key: (*key).clone(), file: object.file.clone(), accepted, problems }
        })
        .collect();
    let mut all = store.problems();
    all.extend(problems.into_values().flatten());
    all.sort_by(|a, b| (&a.file, a.position, &a.message).cmp(&(&b.file, b.position, &b.message)));
    Compiled { documents, modes, objects: statuses, problems: all }
}

impl Compiled {
    /// The document of an identity, known or not.
    #[must_use]
    pub fn document(&self, identity: &Identity) -> Arc<Document> {
        self.documents
            .get(identity)
            .cloned()
            .unwrap_or_else(|| Arc::new(document(identity, self.modes.of(identity), vec![])))
    }

    /// The identities that some policy names.
    pub fn identities(&self) -> impl Iterator<Item = (&Identity, &Arc<Document>)> {
        self.documents.iter()
    }

    /// What happens to what no rule allows, where nothing else is said.
    #[must_use]
    pub fn mesh_mode(&self) -> Mode {
        self.modes.mesh
    }
}

/// A document whose version is a hash of what it says.
fn document(identity: &Identity, mode: Mode, mut rules: Vec<Rule>) -> Document {
    rules.sort_unstable();
    rules.dedup();
    let mut document = Document {
        api_version: ApiVersion::V1,
        identity: identity.clone(),
        version: String::new(),
        mode,
        rules,
    };
    // Strings, numbers and lists can always be written.
    let content = serde_json::to_vec(&document).unwrap_or_default();
    document.version = crate::snapshot::hash([content.as_slice()]);
    document
}

/// Reads the mode annotation. One that says nothing known falls back to the strictest.
fn mode(object: &Object, set: impl FnOnce(Mode)) -> Vec<Problem> {
    let (mode, problems) = match object.annotations.get(MODE_ANNOTATION).map(String::as_str) {
        None => return vec![],
        Some("enforce") => (Mode::Enforce, vec![]),
        Some("audit") => (Mode::Audit, vec![]),
        Some("passthrough") => (Mode::Passthrough, vec![]),
        Some(other) => {
            let message = format!("`{other}` is no egress mode, and `enforce` is in force instead");
            let problem = Problem::new(Severity::Error, message)
                .at_field(format!("metadata.annotations.{MODE_ANNOTATION}"))
                .advise("use `enforce`, `audit` or `passthrough`");
            (Mode::Enforce, vec![problem])
        }
    };
    set(mode);
    problems
}
