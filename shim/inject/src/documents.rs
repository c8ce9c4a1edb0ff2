//! Injection into manifests: every object that creates pods gets a sidecar.
//!
//! A document that does not change is printed unchanged, with its comments. A changed one loses its comments, and its
//! fields are sorted.

use std::fmt::Write;

use egress_compile::manifest::spec::MeshConfig;
use egress_compile::manifest::yaml::{self, YamlError};
use serde_json::{Value, json};

use super::annotations::Annotations;
use super::{
    INJECTION_ANNOTATION, InjectionError, InterceptionChange, PodDns, Settings, find_name_overrides,
    inject_sidecar, parse_enabled,
};

/// InjectedManifests after injection.
#[derive(Clone, Debug, Default)]
pub struct InjectedManifests {
    documents: Vec<Document>,
    /// Notes about the objects, one per line.
    pub notes: Vec<String>,
}

#[derive(Clone, Debug)]
struct Document {
    /// Original text, with its separator.
    text: String,
    value: Value,
    changed: bool,
}

/// Reason why manifests cannot be injected.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    /// The text is not valid YAML.
    #[error("{0}")]
    Unreadable(String),
    /// A pod cannot have a sidecar.
    #[error("{0}: {1}")]
    Refused(String, #[source] InjectionError),
}

/// Injects a sidecar into the pods of all documents, except those that opt out.
///
/// # Errors
/// Returns an error if a document is not valid YAML or a pod cannot have a sidecar.
pub fn inject_manifests(
    text: &str,
    settings: &Settings,
    mesh: &MeshConfig,
) -> Result<InjectedManifests, ManifestError> {
    let mut manifests = InjectedManifests::default();
    let mut injector = ManifestInjector { settings, mesh, notes: Vec::new(), pods: 0 };
    for (line, text) in split_documents(text) {
        let documents = yaml::parse_as_kubectl(text).map_err(|error| locate_error(error, line))?;
        for document in documents {
            let mut value = document.value;
            let before = value.clone();
            injector.inject_object(&mut value)?;
            let changed = value != before;
            manifests.documents.push(Document { text: text.to_owned(), value, changed });
        }
    }
    if injector.pods == 0 {
        injector.notes.push("no document creates pods".to_owned());
    }
    manifests.notes = injector.notes;
    Ok(manifests)
}

impl InjectedManifests {
    /// Renders the manifests as YAML.
    #[must_use]
    pub fn to_yaml(&self) -> String {
        let mut out = String::new();
        for Document { text, value, changed } in &self.documents {
            let text = if *changed { egress_core::yaml::text(value) } else { text.clone() };
            if !out.is_empty() && !text.starts_with("---") {
                out.push_str("---\n");
            }
            out.push_str(&text);
            if !out.ends_with('\n') {
                out.push('\n');
            }
        }
        out
    }

    /// Renders the manifests as one JSON object: a list if there are several.
    #[must_use]
    pub fn to_json(&self) -> Value {
        match self.documents.as_slice() {
            [only] => only.value.clone(),
            several => {
                let items: Vec<_> = several.iter().map(|document| &document.value).collect();
                json!({"apiVersion": "v1", "kind": "List", "items": items})
            }
        }
    }
}

/// Splits a text into documents, each with the number of lines before it. `---` at the beginning of a line ends a
/// document, even inside a block scalar.
fn split_documents(text: &str) -> Vec<(u32, &str)> {
    let mut documents = Vec::new();
    let (mut start, mut start_line, mut at) = (0, 0, 0);
    for (number, line) in (0..).zip(text.split_inclusive('\n')) {
        let rest = line.strip_prefix("---");
        if at > start && rest.is_some_and(|rest| rest.is_empty() || rest.starts_with([' ', '\t', '\r', '\n']))
        {
            documents.push((start_line, &text[start..at]));
            (start, start_line) = (at, number);
        }
        at += line.len();
    }
    documents.push((start_line, &text[start..]));
    documents
}

fn locate_error(error: YamlError, lines_before: u32) -> ManifestError {
    let mut text = String::new();
    if let Some(at) = error.position {
        let _ = write!(text, "{}:{}: ", at.line + lines_before, at.column);
    }
    let _ = write!(text, "{}: {}", error.message, error.advice);
    ManifestError::Unreadable(text)
}

struct ManifestInjector<'a> {
    settings: &'a Settings,
    mesh: &'a MeshConfig,
    notes: Vec<String>,
    pods: usize,
}

impl ManifestInjector<'_> {
    fn inject_object(&mut self, object: &mut Value) -> Result<(), ManifestError> {
        if let Some(items) = items(object) {
            return items.iter_mut().try_for_each(|item| self.inject_object(item));
        }
        let Some(place) = pod_pointer(object) else { return Ok(()) };
        let name = object_name(object);
        let refused = |refusal| ManifestError::Refused(name.clone(), refusal);
        let pod = object.pointer_mut(place).filter(|pod| pod.is_object());
        let pod = pod.ok_or_else(|| refused(InjectionError::InvalidField("spec.template")))?;
        self.pods += 1;
        let wanted =
            parse_enabled(Annotations::from_object(pod).get(INJECTION_ANNOTATION), INJECTION_ANNOTATION);
        if wanted.map_err(refused)? == Some(false) {
            if !self.settings.pod_annotations.permits(InterceptionChange::Reduce) {
                return Err(refused(InjectionError::ForbiddenAnnotation {
                    annotation: INJECTION_ANNOTATION,
                    change: InterceptionChange::Reduce,
                }));
            }
            self.notes.push(format!("{name}: not changed, because it opts out with `{INJECTION_ANNOTATION}`: none of its connections are intercepted"));
            return Ok(());
        }
        let mut injected = inject_sidecar(pod, self.settings, self.mesh).map_err(refused)?;
        // Policies are not known here.
        let overrides: Vec<_> = find_name_overrides(pod, None).iter().map(ToString::to_string).collect();
        match self.settings.pod_dns {
            PodDns::Refuse if !overrides.is_empty() => {
                return Err(refused(InjectionError::NameOverrides(overrides.join("; "))));
            }
            PodDns::Warn => injected.warnings.extend(overrides),
            PodDns::Allow | PodDns::Refuse => {}
        }
        *pod = injected.pod;
        self.notes.extend(injected.warnings.into_iter().map(|warning| format!("{name}: {warning}")));
        Ok(())
    }
}

/// Items of a list of objects.
fn items(object: &mut Value) -> Option<&mut Vec<Value>> {
    object.get("kind")?.as_str()?.strip_suffix("List")?;
    object.get_mut("items")?.as_array_mut()
}

/// JSON pointer to the pod or pod template of an object that creates pods.
fn pod_pointer(object: &Value) -> Option<&'static str> {
    let text = |key: &str| object.get(key).and_then(Value::as_str).unwrap_or_default();
    let group = text("apiVersion").split_once('/').map_or("", |(group, _)| group);
    match (group, text("kind")) {
        ("", "Pod") => Some(""),
        ("", "ReplicationController")
        | ("apps", "Deployment" | "StatefulSet" | "DaemonSet" | "ReplicaSet")
        | ("batch", "Job") => Some("/spec/template"),
        ("batch", "CronJob") => Some("/spec/jobTemplate/spec/template"),
        _ => None,
    }
}

fn object_name(object: &Value) -> String {
    let text = |pointer: &str| object.pointer(pointer).and_then(Value::as_str);
    let name = text("/metadata/name").or_else(|| text("/metadata/generateName")).unwrap_or_default();
    format!("{} {name}", text("/kind").unwrap_or_default())
}
