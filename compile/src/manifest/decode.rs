//! From the text of one file to typed objects.
//!
//! INVARIANT(whole-file): a file counts whole or not at all. Half a file could grant more than the
//! whole (`hosts` cut off means any host), so one unreadable object makes the file unreadable.

mod advice;

use std::sync::Arc;

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use self::advice::explain;
use super::source_map::push_field;
use super::spec::{PodStatus, Workload, WorkloadSpec};
use super::yaml::{self, YamlDocument, YamlError};
use super::{Body, Kind, Metadata, Object, ObjectRef, Places, Position, Problem, Severity};

/// What a file says.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Parsed {
    /// Its objects, in their order.
    pub objects: Vec<Arc<Object>>,
    /// What else there is to say about it.
    pub notes: Vec<Problem>,
}

/// Reads a file; `file` is what it is called in problems.
///
/// # Errors
/// With everything that is wrong, when anything is.
pub fn parse(file: &Arc<str>, bytes: &[u8]) -> Result<Parsed, Vec<Problem>> {
    let documents = yaml::parse_bytes(bytes).map_err(|e| vec![unreadable(file, e)])?;
    let mut reader = Reader { file, parsed: Parsed::default(), errors: Vec::new() };
    for document in documents {
        reader.document(document, None);
    }
    if reader.errors.is_empty() { Ok(reader.parsed) } else { Err(reader.errors) }
}

/// Reads one object that does not come from a text; `file` is what it is called in problems. It is read as
/// a file that holds it would be, so a source cannot make a difference.
///
/// # Errors
/// With everything that is wrong, when anything is.
pub fn parse_value(file: &Arc<str>, value: Value) -> Result<Parsed, Vec<Problem>> {
    let mut reader = Reader { file, parsed: Parsed::default(), errors: Vec::new() };
    reader.document(YamlDocument { value, places: Places::default() }, None);
    if reader.errors.is_empty() { Ok(reader.parsed) } else { Err(reader.errors) }
}

/// The problem of a file that is not YAML.
pub fn unreadable(file: &Arc<str>, error: YamlError) -> Problem {
    Problem::error(error.message).advice(error.advice).at(file, error.position)
}

/// `apiVersion` and `kind`.
#[derive(Clone)]
struct TypeMeta {
    api_version: String,
    kind: String,
}

impl TypeMeta {
    fn group(&self) -> &str {
        self.api_version.split_once('/').map_or("", |(group, _)| group)
    }

    fn version(&self) -> &str {
        self.api_version.split_once('/').map_or(&*self.api_version, |(_, version)| version)
    }
}

#[derive(Deserialize)]
struct Naming {
    #[serde(default)]
    name: Option<String>,
    #[serde(default)]
    namespace: Option<String>,
}

struct Reader<'f> {
    file: &'f Arc<str>,
    parsed: Parsed,
    errors: Vec<Problem>,
}

impl Reader<'_> {
    fn document(&mut self, document: YamlDocument, of_list: Option<&TypeMeta>) {
        let YamlDocument { value, places } = document;
        let at = places.at();
        let Value::Object(mut map) = value else {
            return self.error(
                at,
                "this is not an object",
                "write `apiVersion`, `kind`, `metadata` and `spec`",
            );
        };
        let (Some(api_version), Some(kind)) = (
            text_of(&map, "apiVersion").or_else(|| of_list.map(|t| t.api_version.clone())),
            text_of(&map, "kind").or_else(|| of_list.map(|t| t.kind.clone())),
        ) else {
            return self.error(
                at,
                "`apiVersion` and `kind` do not say what this is",
                "add both, as in `apiVersion: policy.openservicemesh.io/v1alpha1` and `kind: Egress`",
            );
        };
        let meta = TypeMeta { api_version, kind };
        if let Some(item_kind) = meta.kind.strip_suffix("List")
            && let Some(Value::Array(items)) = map.remove("items")
        {
            // A plain `List` says nothing about its items.
            let item = TypeMeta { api_version: meta.api_version.clone(), kind: item_kind.to_owned() };
            let item = Some(&item).filter(|item| !item.kind.is_empty());
            for (value, places) in items.into_iter().zip(places.field("items").into_items()) {
                self.document(YamlDocument { value, places }, item);
            }
            return;
        }
        if let Some(kind) = self.kind(&meta, at, &places)
            && let Err(problem) = self.object(kind, map, places)
        {
            self.errors.push(*problem);
        }
    }

    /// Which of our kinds this is; says so if it is none.
    fn kind(&mut self, meta: &TypeMeta, at: Option<Position>, places: &Places) -> Option<Kind> {
        let mut of_group = Kind::ALL.into_iter().filter(|kind| kind.group() == meta.group());
        let Some(kind) = of_group.clone().find(|kind| kind.as_str() == meta.kind) else {
            // Kubernetes' names are case-sensitive; a slip must not silently drop a policy.
            if let Some(meant) = of_group.find(|kind| kind.as_str().eq_ignore_ascii_case(&meta.kind)) {
                let message = format!("kind `{}` is not known", meta.kind);
                self.error(places.find("kind"), message, format!("write `{meant}`"));
            } else if is_policy_of_fsm(meta) {
                let message = format!(
                    "`{}` of `{}` is Flomesh Service Mesh's, and not looked at: it allows nothing here",
                    meta.kind, meta.api_version
                );
                let advice = "write `apiVersion: policy.openservicemesh.io/v1alpha1`; `mtls` and egress gateways do \
                              not exist here, and expressions must match the whole path";
                let note = Problem::new(Severity::Warning, message).advice(advice);
                self.parsed.notes.push(note.at(self.file, at));
            } else {
                let message = format!("`{}` of `{}` is not looked at", meta.kind, meta.api_version);
                self.parsed.notes.push(Problem::new(Severity::Info, message).at(self.file, at));
            }
            return None;
        };
        if kind.versions().contains(&meta.version()) {
            return Some(kind);
        }
        let group = kind.group();
        let slash = if group.is_empty() { "" } else { "/" };
        let best = kind.versions().first().copied().unwrap_or_default();
        let message = format!("{kind} of version `{}` is not understood", meta.version());
        self.error(places.find("apiVersion"), message, format!("write `apiVersion: {group}{slash}{best}`"));
        None
    }

    /// Reads one object. The problem has the path of the field.
    fn object(
        &mut self,
        kind: Kind,
        mut map: Map<String, Value>,
        places: Places,
    ) -> Result<(), Box<Problem>> {
        let locate = |mut problem: Box<Problem>| {
            problem.position = places.find(problem.field.as_deref().unwrap_or_default());
            problem.file = Some(Arc::clone(self.file));
            problem
        };
        let metadata = map.remove("metadata").filter(|v| !v.is_null()).unwrap_or_else(|| Map::new().into());
        let naming: Naming = typed("metadata", metadata.clone()).map_err(locate)?;
        let metadata: Metadata = typed("metadata", metadata).map_err(locate)?;
        let reference = reference(kind, naming).map_err(locate)?;
        if kind == Kind::Egress {
            restore_empty_lists(&mut map, metadata.annotation(LAST_APPLIED));
        }
        let body = body(kind, &metadata, map).map_err(|mut problem| {
            problem.object = Some(reference.clone());
            locate(problem)
        })?;
        let object = Object { reference, metadata, body, file: Arc::clone(self.file), places };
        self.parsed.objects.push(Arc::new(object));
        Ok(())
    }

    fn error(&mut self, at: Option<Position>, message: impl AsRef<str>, advice: impl AsRef<str>) {
        self.errors.push(Problem::error(message).advice(advice).at(self.file, at));
    }
}

/// The annotation in which `kubectl apply` keeps what was written.
pub const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// Gives back the lists that were written without a value, as they are left when every entry is commented out. An API
/// server does not keep them: `kubectl apply` removes such a field when it changes an object, and a definition that has
/// no `nullable` drops it. The object would allow anything instead of nothing. What the annotation [`LAST_APPLIED`] adds
/// only narrows, so that anybody may write it.
pub fn restore_empty_lists(map: &mut Map<String, Value>, applied: Option<&str>) {
    let Some(text) = applied.filter(|text| text.contains("null")) else { return };
    let Ok(applied) = serde_json::from_str::<Value>(text) else { return };
    let Some(spec) = map.get_mut("spec").and_then(Value::as_object_mut) else { return };
    for field in ["hosts", "ipAddresses", "matches"] {
        if !spec.contains_key(field) && applied.pointer(&format!("/spec/{field}")).is_some_and(Value::is_null)
        {
            spec.insert(field.to_owned(), Value::Null);
        }
    }
}

fn reference(kind: Kind, naming: Naming) -> Result<ObjectRef, Box<Problem>> {
    let name = naming.name.unwrap_or_default();
    let is_label = kind == Kind::Namespace;
    if !is_name(&name, is_label) {
        return Err(Box::new(name_problem(kind, &name, is_label).field("metadata.name")));
    }
    if !kind.is_namespaced() {
        return Ok(ObjectRef::new(kind, "", name));
    }
    let namespace = naming.namespace.filter(|n| !n.is_empty()).unwrap_or_else(|| "default".to_owned());
    if !is_name(&namespace, true) {
        return Err(Box::new(name_problem(kind, &namespace, true).field("metadata.namespace")));
    }
    Ok(ObjectRef::new(kind, namespace, name))
}

fn body(kind: Kind, metadata: &Metadata, mut map: Map<String, Value>) -> Result<Body, Box<Problem>> {
    Ok(match kind {
        Kind::MeshConfig => Body::MeshConfig(specification(map)?),
        Kind::Egress => Body::Egress(specification(map)?),
        Kind::HttpRouteGroup => Body::HttpRouteGroup(specification(map)?),
        Kind::UpstreamTrafficSetting => Body::UpstreamTrafficSetting(specification(map)?),
        Kind::Namespace => Body::Namespace,
        Kind::ServiceAccount => Body::ServiceAccount,
        Kind::Service => Body::Service(part(&mut map, "spec")?),
        Kind::Endpoints | Kind::EndpointSlice => Body::Endpoints(kind, typed("", Value::Object(map))?),
        Kind::Pod => {
            let status: PodStatus = part(&mut map, "status")?;
            let pod = Workload::new(metadata.labels.clone(), part(&mut map, "spec")?);
            Body::Workload(kind, pod.with_status(&status))
        }
        Kind::Deployment | Kind::StatefulSet | Kind::DaemonSet => {
            let spec: WorkloadSpec = part(&mut map, "spec")?;
            Body::Workload(kind, Workload::new(spec.template.metadata.labels, spec.template.spec))
        }
        Kind::TrafficTarget => Body::TrafficTarget(specification(map)?),
    })
}

/// Reads a part of an object of Kubernetes' own.
fn part<T: DeserializeOwned>(map: &mut Map<String, Value>, name: &str) -> Result<T, Box<Problem>> {
    typed(name, map.remove(name).filter(|v| !v.is_null()).unwrap_or_else(|| Map::new().into()))
}

/// Reads `spec` of an object that has nothing beside it.
fn specification<T: DeserializeOwned>(mut map: Map<String, Value>) -> Result<T, Box<Problem>> {
    let spec = map.remove("spec").filter(|v| !v.is_null());
    if let Some(odd) = map.keys().find(|k| !matches!(k.as_str(), "apiVersion" | "kind" | "status")) {
        let mut field = String::new();
        push_field(&mut field, odd);
        let unknown = Problem::error(format!("unknown field `{odd}`"))
            .advice("an object has `apiVersion`, `kind`, `metadata`, `spec` and `status`");
        return Err(Box::new(unknown.field(field)));
    }
    let missing = || Box::new(Problem::error("missing field `spec`").advice("add `spec`").field("spec"));
    typed("spec", spec.ok_or_else(missing)?)
}

/// Reads a value. The problem has the path of the field, which begins with `prefix`.
fn typed<T: DeserializeOwned>(prefix: &str, value: Value) -> Result<T, Box<Problem>> {
    serde_path_to_error::deserialize(value).map_err(|error| {
        let mut field = prefix.to_owned();
        for segment in error.path().iter() {
            match segment {
                serde_path_to_error::Segment::Seq { index } => field.push_str(&format!("[{index}]")),
                serde_path_to_error::Segment::Map { key } => push_field(&mut field, key),
                serde_path_to_error::Segment::Enum { .. } | serde_path_to_error::Segment::Unknown => {}
            }
        }
        Box::new(explain(&error.into_inner().to_string()).field(field))
    })
}

/// Whether this is a policy in the form of the successor of Open Service Mesh: all but the same text, under another name.
fn is_policy_of_fsm(meta: &TypeMeta) -> bool {
    meta.group() == "policy.flomesh.io"
        && matches!(meta.kind.as_str(), "Egress" | "EgressGateway" | "UpstreamTrafficSetting")
}

fn text_of(map: &Map<String, Value>, key: &str) -> Option<String> {
    map.get(key).and_then(Value::as_str).map(str::to_owned)
}

/// Whether Kubernetes accepts this as a name: RFC 1123, a label or several with dots between.
fn is_name(text: &str, is_label: bool) -> bool {
    text.len() <= longest(is_label)
        && !(is_label && text.contains('.'))
        && text.split('.').all(|label| {
            !label.is_empty()
                && !label.starts_with('-')
                && !label.ends_with('-')
                && label.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
        })
}

const fn longest(is_label: bool) -> usize {
    if is_label { 63 } else { 253 }
}

fn name_problem(kind: Kind, text: &str, is_label: bool) -> Problem {
    if text.is_empty() {
        return Problem::error(format!("this {kind} has no name")).advice("add `metadata.name`");
    }
    let letters = if is_label { "digits and `-`" } else { "digits, `-` and `.`" };
    Problem::error(format!("`{text}` is not a Kubernetes name"))
        .advice(format!("use lower-case letters, {letters}, at most {} characters", longest(is_label)))
}

#[cfg(test)]
mod tests;
