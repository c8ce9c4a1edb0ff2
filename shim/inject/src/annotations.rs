//! The annotations of pods and namespaces.

use serde_json::{Map, Value};

use super::Refusal;

/// The annotations of a pod or namespace.
#[derive(Clone, Copy, Debug)]
pub(super) struct Annotations<'a>(Option<&'a Map<String, Value>>);

impl<'a> Annotations<'a> {
    pub(super) fn of(object: &'a Value) -> Self {
        Self(object.pointer("/metadata/annotations").and_then(Value::as_object))
    }

    pub(super) fn get(self, name: &str) -> Option<&'a str> {
        self.0?.get(name)?.as_str()
    }
}

/// Whether an annotation says yes or no; nothing where there is none.
pub type Choice = Option<bool>;

/// Reads the value of an annotation that says yes or no, in Open Service Mesh's words.
///
/// # Errors
/// When it says neither, with Open Service Mesh's text.
pub fn choice(value: Option<&str>, annotation: &'static str) -> Result<Choice, Refusal> {
    let Some(value) = value.filter(|value| !value.is_empty()) else { return Ok(None) };
    match value.to_ascii_lowercase().as_str() {
        "enabled" | "yes" | "true" => Ok(Some(true)),
        "disabled" | "no" | "false" => Ok(Some(false)),
        _ => Err(Refusal::Switch { value: value.to_owned(), annotation }),
    }
}
