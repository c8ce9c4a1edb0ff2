//! Manifests in, manifests out: whatever makes pods in them gets a sidecar.
//!
//! A document that does not change is put out as it was, comments and all. In one that changes, comments are
//! lost and fields are sorted.

use std::fmt::Write;

use egress_compile::manifest::spec::MeshConfig;
use egress_compile::manifest::yaml::{self, YamlError};
use serde_json::{Value, json};

use super::annotations::Annotations;
use super::{Change, INJECTION_ANNOTATION, PodDns, Refusal, Settings, choice, led_names, mutate};

/// Manifests after the injection.
#[derive(Clone, Debug, Default)]
pub struct Manifests {
    documents: Vec<Document>,
    /// What there is to say about them, a line each.
    pub notes: Vec<String>,
}

#[derive(Clone, Debug)]
struct Document {
    /// As it was, with its separator.
    text: String,
    value: Value,
    changed: bool,
}

/// Why manifests are not rewritten.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    /// They cannot be read.
    #[error("{0}")]
    Unreadable(String),
    /// A pod in them cannot have a sidecar.
    #[error("{0}: {1}")]
    Refused(String, #[source] Refusal),
}

/// Gives the pods of all documents their sidecars; those that say that they want none are left alone.
///
/// # Errors
/// When a document cannot be read, or the pods of one cannot have a sidecar.
pub fn inject(text: &str, settings: &Settings, mesh: &MeshConfig) -> Result<Manifests, ManifestError> {
    let mut manifests = Manifests::default();
    let mut injector = Injector { settings, mesh, notes: Vec::new(), pods: 0 };
    for (line, text) in split(text) {
        let documents = yaml::parse_as_kubectl(text).map_err(|error| unreadable(error, line))?;
        for document in documents {
            let mut value = document.value;
            let before = value.clone();
            injector.document(&mut value)?;
            let changed = value != before;
            manifests.documents.push(Document { text: text.to_owned(), value, changed });
        }
    }
    if injector.pods == 0 {
        injector.notes.push("nothing here makes pods".to_owned());
    }
    manifests.notes = injector.notes;
    Ok(manifests)
}

impl Manifests {
    /// As YAML.
    #[must_use]
    pub fn yaml(&self) -> String {
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

    /// As one object of JSON: a list where there are several.
    #[must_use]
    pub fn json(&self) -> Value {
        match self.documents.as_slice() {
            [only] => only.value.clone(),
            several => {
                let items: Vec<_> = several.iter().map(|document| &document.value).collect();
                json!({"apiVersion": "v1", "kind": "List", "items": items})
            }
        }
    }
}

/// The documents of a text, each with the number of lines before it. `---` at the beginning of a line ends a
/// document whatever it stands in.
fn split(text: &str) -> Vec<(u32, &str)> {
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

fn unreadable(error: YamlError, lines_before: u32) -> ManifestError {
    let mut text = String::new();
    if let Some(at) = error.position {
        let _ = write!(text, "{}:{}: ", at.line + lines_before, at.column);
    }
    let _ = write!(text, "{}: {}", error.message, error.advice);
    ManifestError::Unreadable(text)
}

struct Injector<'a> {
    settings: &'a Settings,
    mesh: &'a MeshConfig,
    notes: Vec<String>,
    pods: usize,
}

impl Injector<'_> {
    fn document(&mut self, object: &mut Value) -> Result<(), ManifestError> {
        if let Some(items) = items(object) {
            return items.iter_mut().try_for_each(|item| self.document(item));
        }
        let Some(place) = place_of_pod(object) else { return Ok(()) };
        let name = name_of(object);
        let refused = |refusal| ManifestError::Refused(name.clone(), refusal);
        let pod = object.pointer_mut(place).filter(|pod| pod.is_object());
        let pod = pod.ok_or_else(|| refused(Refusal::Shape("spec.template")))?;
        self.pods += 1;
        let wanted = choice(Annotations::of(pod).get(INJECTION_ANNOTATION), INJECTION_ANNOTATION);
        if wanted.map_err(refused)? == Some(false) {
            if !self.settings.pod_annotations.permits(Change::Less) {
                return Err(refused(Refusal::Annotation {
                    annotation: INJECTION_ANNOTATION,
                    change: Change::Less,
                }));
            }
            self.notes.push(format!("{name}: left as it is, because `{INJECTION_ANNOTATION}` says so: nothing of it is intercepted"));
            return Ok(());
        }
        let mut injected = mutate(pod, self.settings, self.mesh).map_err(refused)?;
        // Policies are not known here.
        let led: Vec<_> = led_names(pod, None).iter().map(ToString::to_string).collect();
        match self.settings.pod_dns {
            PodDns::Refuse if !led.is_empty() => return Err(refused(Refusal::LedNames(led.join("; ")))),
            PodDns::Warn => injected.warnings.extend(led),
            PodDns::Allow | PodDns::Refuse => {}
        }
        *pod = injected.pod;
        self.notes.extend(injected.warnings.into_iter().map(|warning| format!("{name}: {warning}")));
        Ok(())
    }
}

/// The items of a list of objects.
fn items(object: &mut Value) -> Option<&mut Vec<Value>> {
    object.get("kind")?.as_str()?.strip_suffix("List")?;
    object.get_mut("items")?.as_array_mut()
}

/// Where the pod, or its template, stands in an object that makes any.
fn place_of_pod(object: &Value) -> Option<&'static str> {
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

fn name_of(object: &Value) -> String {
    let text = |pointer: &str| object.pointer(pointer).and_then(Value::as_str);
    let name = text("/metadata/name").or_else(|| text("/metadata/generateName")).unwrap_or_default();
    format!("{} {name}", text("/kind").unwrap_or_default())
}
