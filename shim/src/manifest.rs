//! Manifests: YAML text into typed objects that know where they were written.

pub mod kinds;
pub mod yaml;

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use self::kinds::{Egress, HttpRouteGroup, MeshConfig, Metadata, UpstreamTrafficSetting};
use self::yaml::{Lines, Yaml};
use crate::problem::{Position, Problem, Severity};

/// The kinds of objects that are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub enum Kind {
    /// The mesh's switches.
    MeshConfig,
    /// An egress policy.
    Egress,
    /// Routes that an egress policy refers to.
    #[serde(rename = "HTTPRouteGroup")]
    HttpRouteGroup,
    /// Connection settings that an egress policy refers to.
    UpstreamTrafficSetting,
    /// A namespace, for its annotations.
    Namespace,
    /// A service account, for its annotations.
    ServiceAccount,
    /// A service of the mesh.
    Service,
}

/// Names an object.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct Key {
    /// The kind.
    pub kind: Kind,
    /// The namespace; empty for a Namespace.
    pub namespace: String,
    /// The name.
    pub name: String,
}

/// What an object says.
#[derive(Debug)]
pub enum Content {
    /// See [`Kind`].
    MeshConfig(MeshConfig),
    /// See [`Kind`].
    Egress(Egress),
    /// See [`Kind`].
    HttpRouteGroup(HttpRouteGroup),
    /// See [`Kind`].
    UpstreamTrafficSetting(UpstreamTrafficSetting),
    /// Nothing but its metadata is looked at.
    MetadataOnly,
}

/// An object and where it stands.
#[derive(Debug)]
pub struct Object {
    /// Its name.
    pub key: Key,
    /// Its annotations.
    pub annotations: BTreeMap<String, String>,
    /// What it says.
    pub content: Content,
    /// The file that it stands in.
    pub file: Option<PathBuf>,
    lines: Lines,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::MeshConfig => "MeshConfig",
            Self::Egress => "Egress",
            Self::HttpRouteGroup => "HTTPRouteGroup",
            Self::UpstreamTrafficSetting => "UpstreamTrafficSetting",
            Self::Namespace => "Namespace",
            Self::ServiceAccount => "ServiceAccount",
            Self::Service => "Service",
        })
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { kind, namespace, name } = self;
        if namespace.is_empty() { write!(f, "{kind} {name}") } else { write!(f, "{kind} {namespace}/{name}") }
    }
}

impl Object {
    /// Where a field of the object stands.
    #[must_use]
    pub fn position(&self, field: &str) -> Option<Position> {
        self.lines.find(field)
    }

    /// Puts a problem of this object in its place.
    #[must_use]
    pub fn locate(&self, mut problem: Problem) -> Problem {
        problem.position = self.position(problem.field.as_deref().unwrap_or_default());
        problem.file.clone_from(&self.file);
        problem.object = Some(self.key.to_string());
        problem
    }
}

/// Reads all objects of a text. Kinds that have nothing to do with egress are left out.
///
/// # Errors
/// All that is wrong with the text; then none of its objects is used.
pub fn read(file: &Path, text: &str) -> Result<Vec<Arc<Object>>, Vec<Problem>> {
    let documents = yaml::documents(text).map_err(|error| {
        let mut problem = Problem::new(Severity::Error, error.to_string());
        problem.file = Some(file.to_owned());
        problem.position = Some(error.position);
        vec![problem]
    })?;
    let mut objects = Vec::new();
    let mut problems = Vec::new();
    for Yaml { value, lines } in documents {
        let is_list = value.get("kind").and_then(Value::as_str).is_some_and(|kind| kind.ends_with("List"));
        let items = if is_list { value.get("items").and_then(Value::as_array) } else { None };
        let found: Vec<_> = match items {
            Some(items) => items
                .iter()
                .enumerate()
                .map(|(n, item)| object(file, item, &lines, &format!("items[{n}].")))
                .collect(),
            None => vec![object(file, &value, &lines, "")],
        };
        for found in found {
            match found {
                Ok(Some(object)) => objects.push(Arc::new(object)),
                Ok(None) => {}
                Err(problem) => problems.push(*problem),
            }
        }
    }
    if problems.is_empty() { Ok(objects) } else { Err(problems) }
}

/// One object; `None` when its kind is none of ours.
fn object(file: &Path, value: &Value, lines: &Lines, prefix: &str) -> Result<Option<Object>, Box<Problem>> {
    let problem = |field: &str, message: String| {
        let mut problem = Problem::new(Severity::Error, message).at_field(format!("{prefix}{field}"));
        problem.file = Some(file.to_owned());
        problem.position = lines.find(&format!("{prefix}{field}"));
        Box::new(problem)
    };
    let text = |field: &str| value.get(field).and_then(Value::as_str);
    let Some(kind) = text("kind") else {
        return Err(problem("kind", "there is no `kind`: this is not a Kubernetes object".to_owned()));
    };
    let Some(api_version) = text("apiVersion") else {
        return Err(problem(
            "apiVersion",
            "there is no `apiVersion`: this is not a Kubernetes object".to_owned(),
        ));
    };
    let Some(kind) = kind_of(api_version, kind).map_err(|message| problem("apiVersion", message))? else {
        return Ok(None);
    };
    let metadata: Metadata = field(value, "metadata").map_err(|(path, message)| problem(&path, message))?;
    let namespace = match kind {
        Kind::Namespace => String::new(),
        Kind::MeshConfig
        | Kind::Egress
        | Kind::HttpRouteGroup
        | Kind::UpstreamTrafficSetting
        | Kind::ServiceAccount
        | Kind::Service => metadata.namespace.unwrap_or_else(|| "default".to_owned()),
    };
    let key = Key { kind, namespace, name: metadata.name };
    let content = content(kind, value).map_err(|(path, message)| {
        let mut problem = problem(&path, message);
        problem.object = Some(key.to_string());
        problem
    })?;
    Ok(Some(Object {
        annotations: metadata.annotations.unwrap_or_default(),
        content,
        file: Some(file.to_owned()),
        lines: lines.below(prefix),
        key,
    }))
}

/// Which of our kinds this is. An unknown version of a known kind is an error: to leave it out would
/// leave its grants or its switch out without a word.
fn kind_of(api_version: &str, kind: &str) -> Result<Option<Kind>, String> {
    let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
    let (found, versions): (Kind, &[&str]) = match (group, kind) {
        ("config.openservicemesh.io", "MeshConfig") => (Kind::MeshConfig, &["v1alpha1", "v1alpha2"]),
        ("policy.openservicemesh.io", "Egress") => (Kind::Egress, &["v1alpha1"]),
        ("policy.openservicemesh.io", "UpstreamTrafficSetting") => {
            (Kind::UpstreamTrafficSetting, &["v1alpha1"])
        }
        ("specs.smi-spec.io", "HTTPRouteGroup") => (Kind::HttpRouteGroup, &["v1alpha4"]),
        ("", "Namespace") => (Kind::Namespace, &["v1"]),
        ("", "ServiceAccount") => (Kind::ServiceAccount, &["v1"]),
        ("", "Service") => (Kind::Service, &["v1"]),
        _ => return Ok(None),
    };
    if versions.contains(&version) {
        Ok(Some(found))
    } else {
        Err(format!("version `{version}` of {kind} is not supported: use {}", versions.join(" or ")))
    }
}

fn content(kind: Kind, value: &Value) -> Result<Content, (String, String)> {
    Ok(match kind {
        Kind::MeshConfig => Content::MeshConfig(whole(value)?),
        Kind::Egress => Content::Egress(whole(value)?),
        Kind::HttpRouteGroup => Content::HttpRouteGroup(whole(value)?),
        Kind::UpstreamTrafficSetting => Content::UpstreamTrafficSetting(whole(value)?),
        Kind::Namespace | Kind::ServiceAccount | Kind::Service => Content::MetadataOnly,
    })
}

/// Reads a value; an error comes with the path of its field.
fn whole<T: DeserializeOwned>(value: &Value) -> Result<T, (String, String)> {
    serde_path_to_error::deserialize(value).map_err(|error| {
        let path = error.path().to_string();
        (if path == "." { String::new() } else { path }, error.into_inner().to_string())
    })
}

fn field<T: DeserializeOwned>(value: &Value, name: &str) -> Result<T, (String, String)> {
    let inner = value.get(name).ok_or_else(|| (name.to_owned(), format!("there is no `{name}`")))?;
    whole(inner).map_err(|(path, message)| {
        (if path.is_empty() { name.to_owned() } else { format!("{name}.{path}") }, message)
    })
}
