//! Annotations of pods and namespaces.

use serde_json::{Map, Value};

use super::InjectionError;

/// Annotations of a pod or namespace.
#[derive(Clone, Copy, Debug)]
pub(super) struct Annotations<'a>(Option<&'a Map<String, Value>>);

impl<'a> Annotations<'a> {
    pub(super) fn from_object(object: &'a Value) -> Self {
        Self(object.pointer("/metadata/annotations").and_then(Value::as_object))
    }

    pub(super) fn get(self, name: &str) -> Option<&'a str> {
        self.0?.get(name)?.as_str()
    }
}

/// Parses an annotation that enables or disables something, with Open Service Mesh's words; `None` if it is absent or
/// empty.
///
/// # Errors
/// Returns Open Service Mesh's error if the value is neither.
pub fn parse_enabled(value: Option<&str>, annotation: &'static str) -> Result<Option<bool>, InjectionError> {
    let Some(value) = value.filter(|value| !value.is_empty()) else { return Ok(None) };
    match value.to_ascii_lowercase().as_str() {
        "enabled" | "yes" | "true" => Ok(Some(true)),
        "disabled" | "no" | "false" => Ok(Some(false)),
        _ => Err(InjectionError::InvalidSwitch { value: value.to_owned(), annotation }),
    }
}
