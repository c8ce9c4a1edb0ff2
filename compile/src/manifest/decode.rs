//! Decodes the text of one file into typed objects.
//!
//! INVARIANT(whole-file): a file is accepted as a whole or not at all. Half a file could grant more than all of
//! it (a cut-off `hosts` means any host), so one unreadable object makes the file unreadable.

mod advice;

use std::sync::Arc;

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use self::advice::describe_serde_error;
use super::source_map::push_field;
use super::spec::{PodStatus, Workload, WorkloadSpec};
use super::yaml::{self, YamlDocument, YamlError};
use super::{Body, Diagnostic, Kind, Metadata, Object, ObjectRef, Position, Severity, SourceMap};

/// The content of a file.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ParsedFile {
    /// Its objects, in order.
    pub objects: Vec<Arc<Object>>,
    /// Warnings and hints about the file.
    pub notes: Vec<Diagnostic>,
}

/// Parses the manifests in the bytes of a file. `file` is its name in diagnostics.
///
/// ```
/// use egress_compile::manifest::parse;
///
/// let file = "a.yaml".into();
/// let parsed = parse(&file, b"apiVersion: v1\nkind: Namespace\nmetadata: {name: shop}\n");
/// let object = parsed.expect("valid").objects.remove(0);
/// assert_eq!(object.reference.to_string(), "Namespace shop");
///
/// let diagnostics = parse(&file, b"a: [").expect_err("not YAML");
/// assert!(diagnostics[0].to_string().starts_with("a.yaml:2:1: error: this is not YAML"));
/// ```
///
/// # Errors
/// Returns all errors if there is any.
pub fn parse(file: &Arc<str>, bytes: &[u8]) -> Result<ParsedFile, Vec<Diagnostic>> {
    let documents = yaml::parse_bytes(bytes).map_err(|e| vec![yaml_diagnostic(file, e)])?;
    let mut reader = ManifestReader { file, parsed: ParsedFile::default(), errors: Vec::new() };
    for document in documents {
        reader.read_document(document, None);
    }
    if reader.errors.is_empty() { Ok(reader.parsed) } else { Err(reader.errors) }
}

/// Parses one object that does not come from a text. `file` is its name in diagnostics. It is treated like a
/// file that contains it, so that all sources give the same result.
///
/// # Errors
/// Returns all errors if there is any.
pub fn parse_value(file: &Arc<str>, value: Value) -> Result<ParsedFile, Vec<Diagnostic>> {
    let mut reader = ManifestReader { file, parsed: ParsedFile::default(), errors: Vec::new() };
    reader.read_document(YamlDocument { value, source_map: SourceMap::default() }, None);
    if reader.errors.is_empty() { Ok(reader.parsed) } else { Err(reader.errors) }
}

/// Makes the diagnostic for a file that is not YAML.
pub fn yaml_diagnostic(file: &Arc<str>, error: YamlError) -> Diagnostic {
    Diagnostic::error(error.message).advice(error.advice).at(file, error.position)
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
struct ObjectName {
    #[serde(default)]
    name: Option<String>,
    #[serde(default)]
    namespace: Option<String>,
}

struct ManifestReader<'f> {
    file: &'f Arc<str>,
    parsed: ParsedFile,
    errors: Vec<Diagnostic>,
}

impl ManifestReader<'_> {
    fn read_document(&mut self, document: YamlDocument, of_list: Option<&TypeMeta>) {
        let YamlDocument { value, source_map } = document;
        let at = source_map.start();
        let Value::Object(mut map) = value else {
            return self.error(
                at,
                "this is not a Kubernetes object",
                "write `apiVersion`, `kind`, `metadata` and `spec`",
            );
        };
        let (Some(api_version), Some(kind)) = (
            string_field(&map, "apiVersion").or_else(|| of_list.map(|t| t.api_version.clone())),
            string_field(&map, "kind").or_else(|| of_list.map(|t| t.kind.clone())),
        ) else {
            return self.error(
                at,
                "`apiVersion` or `kind` is missing",
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
            for (value, source_map) in items.into_iter().zip(source_map.field("items").into_items()) {
                self.read_document(YamlDocument { value, source_map }, item);
            }
            return;
        }
        if let Some(kind) = self.read_kind(&meta, at, &source_map)
            && let Err(diagnostic) = self.read_object(kind, map, source_map)
        {
            self.errors.push(*diagnostic);
        }
    }

    /// Looks up the kind of an object, and reports kinds that are not supported.
    fn read_kind(&mut self, meta: &TypeMeta, at: Option<Position>, source_map: &SourceMap) -> Option<Kind> {
        let mut of_group = Kind::ALL.into_iter().filter(|kind| kind.group() == meta.group());
        let Some(kind) = of_group.clone().find(|kind| kind.as_str() == meta.kind) else {
            // Kubernetes' names are case-sensitive; a slip must not silently drop a policy.
            if let Some(meant) = of_group.find(|kind| kind.as_str().eq_ignore_ascii_case(&meta.kind)) {
                let message = format!("unknown kind `{}`", meta.kind);
                self.error(source_map.find("kind"), message, format!("write `{meant}`"));
            } else if is_fsm_policy(meta) {
                let message = format!(
                    "`{}` of `{}` belongs to Flomesh Service Mesh and is ignored: it allows nothing here",
                    meta.kind, meta.api_version
                );
                let advice = "write `apiVersion: policy.openservicemesh.io/v1alpha1`; `mtls` and egress gateways are \
                              not supported, and path expressions must match the whole path";
                let note = Diagnostic::new(Severity::Warning, message).advice(advice);
                self.parsed.notes.push(note.at(self.file, at));
            } else {
                let message = format!("`{}` of `{}` is ignored", meta.kind, meta.api_version);
                self.parsed.notes.push(Diagnostic::new(Severity::Info, message).at(self.file, at));
            }
            return None;
        };
        if kind.versions().contains(&meta.version()) {
            return Some(kind);
        }
        let group = kind.group();
        let slash = if group.is_empty() { "" } else { "/" };
        let best = kind.versions().first().copied().unwrap_or_default();
        let message = format!("version `{}` of {kind} is not supported", meta.version());
        self.error(
            source_map.find("apiVersion"),
            message,
            format!("write `apiVersion: {group}{slash}{best}`"),
        );
        None
    }

    /// Reads one object. The diagnostic holds the path of the field.
    fn read_object(
        &mut self,
        kind: Kind,
        mut map: Map<String, Value>,
        source_map: SourceMap,
    ) -> Result<(), Box<Diagnostic>> {
        let locate = |mut diagnostic: Box<Diagnostic>| {
            diagnostic.position = source_map.find(diagnostic.field.as_deref().unwrap_or_default());
            diagnostic.file = Some(Arc::clone(self.file));
            diagnostic
        };
        let metadata = map.remove("metadata").filter(|v| !v.is_null()).unwrap_or_else(|| Map::new().into());
        let naming: ObjectName = deserialize("metadata", metadata.clone()).map_err(locate)?;
        let metadata: Metadata = deserialize("metadata", metadata).map_err(locate)?;
        let reference = read_reference(kind, naming).map_err(locate)?;
        restore_empty_fields(kind, &mut map, metadata.annotation(LAST_APPLIED));
        let body = read_body(kind, &metadata, map).map_err(|mut diagnostic| {
            diagnostic.object = Some(reference.clone());
            locate(diagnostic)
        })?;
        let object = Object { reference, metadata, body, file: Arc::clone(self.file), source_map };
        self.parsed.objects.push(Arc::new(object));
        Ok(())
    }

    fn error(&mut self, at: Option<Position>, message: impl AsRef<str>, advice: impl AsRef<str>) {
        self.errors.push(Diagnostic::error(message).advice(advice).at(self.file, at));
    }
}

/// The annotation in which `kubectl apply` stores the applied manifest.
pub const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// Restores fields that were written without a value, which is what remains when every entry of a list is commented out.
/// An API server does not keep them: `kubectl apply` removes such a field when it changes an object (current versions also
/// when they create one), and a definition without `nullable` drops it. The object would then allow anything instead of
/// nothing. A field restored from the annotation [`LAST_APPLIED`] only narrows the object, so anybody may write the
/// annotation.
pub fn restore_empty_fields(kind: Kind, map: &mut Map<String, Value>, applied: Option<&str>) {
    let Some(text) = applied.filter(|text| text.contains("null")) else { return };
    let Ok(applied) = serde_json::from_str::<Value>(text) else { return };
    let (Some(spec), Some(applied)) = (map.get_mut("spec"), applied.get("spec")) else { return };
    if kind == Kind::Egress {
        restore_nulls(spec, applied, &["hosts", "ipAddresses", "matches"]);
    } else if kind == Kind::HttpRouteGroup {
        let matches = |spec: &'_ Value| spec.get("matches").and_then(Value::as_array).cloned();
        let applied = matches(applied).unwrap_or_default();
        for one in spec.get_mut("matches").and_then(Value::as_array_mut).into_iter().flatten() {
            let name = one.get("name").cloned();
            for was in applied.iter().filter(|was| was.get("name") == name.as_ref()) {
                restore_nulls(one, was, &["pathRegex", "methods", "headers"]);
            }
        }
    }
}

/// Restores those of these fields that are absent and were applied as null.
fn restore_nulls(target: &mut Value, applied: &Value, fields: &[&str]) {
    let Some(target) = target.as_object_mut() else { return };
    for field in fields {
        if !target.contains_key(*field) && applied.get(field).is_some_and(Value::is_null) {
            target.insert((*field).to_owned(), Value::Null);
        }
    }
}

fn read_reference(kind: Kind, naming: ObjectName) -> Result<ObjectRef, Box<Diagnostic>> {
    let name = naming.name.unwrap_or_default();
    let is_label = kind == Kind::Namespace;
    if !is_name(&name, is_label) {
        return Err(Box::new(name_diagnostic(kind, &name, is_label).field("metadata.name")));
    }
    if !kind.is_namespaced() {
        return Ok(ObjectRef::new(kind, "", name));
    }
    let namespace = naming.namespace.filter(|n| !n.is_empty()).unwrap_or_else(|| "default".to_owned());
    if !is_name(&namespace, true) {
        return Err(Box::new(name_diagnostic(kind, &namespace, true).field("metadata.namespace")));
    }
    Ok(ObjectRef::new(kind, namespace, name))
}

fn read_body(kind: Kind, metadata: &Metadata, mut map: Map<String, Value>) -> Result<Body, Box<Diagnostic>> {
    Ok(match kind {
        Kind::MeshConfig => Body::MeshConfig(read_spec(map)?),
        Kind::Egress => Body::Egress(read_spec(map)?),
        Kind::HttpRouteGroup => Body::HttpRouteGroup(read_spec(map)?),
        Kind::UpstreamTrafficSetting => Body::UpstreamTrafficSetting(read_spec(map)?),
        Kind::Namespace => Body::Namespace,
        Kind::ServiceAccount => Body::ServiceAccount,
        Kind::Service => Body::Service(read_section(&mut map, "spec")?),
        Kind::Endpoints | Kind::EndpointSlice => Body::Endpoints(kind, deserialize("", Value::Object(map))?),
        Kind::Pod => {
            let status: PodStatus = read_section(&mut map, "status")?;
            let pod = Workload::new(metadata.labels.clone(), read_section(&mut map, "spec")?);
            Body::Workload(kind, pod.with_status(&status))
        }
        Kind::Deployment | Kind::StatefulSet | Kind::DaemonSet => {
            let spec: WorkloadSpec = read_section(&mut map, "spec")?;
            Body::Workload(kind, Workload::new(spec.template.metadata.labels, spec.template.spec))
        }
        Kind::TrafficTarget => Body::TrafficTarget(read_spec(map)?),
    })
}

/// Reads a section of one of Kubernetes' own objects.
fn read_section<T: DeserializeOwned>(map: &mut Map<String, Value>, name: &str) -> Result<T, Box<Diagnostic>> {
    deserialize(name, map.remove(name).filter(|v| !v.is_null()).unwrap_or_else(|| Map::new().into()))
}

/// Reads `spec` of an object that has no other section.
fn read_spec<T: DeserializeOwned>(mut map: Map<String, Value>) -> Result<T, Box<Diagnostic>> {
    let spec = map.remove("spec").filter(|v| !v.is_null());
    if let Some(odd) = map.keys().find(|k| !matches!(k.as_str(), "apiVersion" | "kind" | "status")) {
        let mut field = String::new();
        push_field(&mut field, odd);
        let unknown = Diagnostic::error(format!("unknown field `{odd}`"))
            .advice("an object has `apiVersion`, `kind`, `metadata`, `spec` and `status`");
        return Err(Box::new(unknown.field(field)));
    }
    let missing = || Box::new(Diagnostic::error("missing field `spec`").advice("add `spec`").field("spec"));
    deserialize("spec", spec.ok_or_else(missing)?)
}

/// Deserializes a value. The diagnostic holds the path of the field, which begins with `prefix`.
fn deserialize<T: DeserializeOwned>(prefix: &str, value: Value) -> Result<T, Box<Diagnostic>> {
    serde_path_to_error::deserialize(value).map_err(|error| {
        let mut field = prefix.to_owned();
        for segment in error.path().iter() {
            match segment {
                serde_path_to_error::Segment::Seq { index } => field.push_str(&format!("[{index}]")),
                serde_path_to_error::Segment::Map { key } => push_field(&mut field, key),
                serde_path_to_error::Segment::Enum { .. } | serde_path_to_error::Segment::Unknown => {}
            }
        }
        Box::new(describe_serde_error(&error.into_inner().to_string()).field(field))
    })
}

/// Returns true for policies of Flomesh Service Mesh, the successor of Open Service Mesh: nearly the same text
/// in another API group.
fn is_fsm_policy(meta: &TypeMeta) -> bool {
    meta.group() == "policy.flomesh.io"
        && matches!(meta.kind.as_str(), "Egress" | "EgressGateway" | "UpstreamTrafficSetting")
}

fn string_field(map: &Map<String, Value>, key: &str) -> Option<String> {
    map.get(key).and_then(Value::as_str).map(str::to_owned)
}

/// Returns true if Kubernetes accepts this as a name: an RFC 1123 label, or several joined by dots.
fn is_name(text: &str, is_label: bool) -> bool {
    text.len() <= max_length(is_label)
        && !(is_label && text.contains('.'))
        && text.split('.').all(|label| {
            !label.is_empty()
                && !label.starts_with('-')
                && !label.ends_with('-')
                && label.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
        })
}

const fn max_length(is_label: bool) -> usize {
    if is_label { 63 } else { 253 }
}

fn name_diagnostic(kind: Kind, text: &str, is_label: bool) -> Diagnostic {
    if text.is_empty() {
        return Diagnostic::error(format!("this {kind} has no name")).advice("add `metadata.name`");
    }
    let letters = if is_label { "digits and `-`" } else { "digits, `-` and `.`" };
    Diagnostic::error(format!("`{text}` is not a Kubernetes name"))
        .advice(format!("use lower-case letters, {letters}, at most {} characters", max_length(is_label)))
}

#[cfg(test)]
mod tests;
