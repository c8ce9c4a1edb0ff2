use std::borrow::Cow;
use std::cmp::Ordering;
use std::fmt;
use std::sync::Arc;

use serde::Serialize;

use super::{ObjectRef, Position};

/// The severity of a diagnostic.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Severity {
    /// Something in the manifest has no effect.
    Error,
    /// Something may have another effect than intended.
    Warning,
    /// A hint.
    Info,
}

impl Severity {
    /// The name in output and logs.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warning => "warning",
            Self::Info => "info",
        }
    }
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The cause of a diagnostic.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Cause {
    /// The object alone.
    #[default]
    Object,
    /// A reference to an object that is missing or invalid.
    Reference,
    /// Another object with a conflicting setting.
    Conflict,
    /// The size of the object: it alone exceeds a budget.
    Size,
    /// The size of several objects: together they exceed a shared budget.
    SharedBudget,
    /// A missing permission: the author may not grant this, and an administrator can permit it.
    Permission,
}

/// The text between a remedy and the consequence of doing nothing, in [`Diagnostic::advice`].
const CONSEQUENCE: &str = "; until then ";

/// A message about a manifest, with its place and a remedy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Diagnostic {
    /// The severity.
    pub severity: Severity,
    /// The file.
    #[serde(serialize_with = "serialize_text", skip_serializing_if = "Option::is_none")]
    pub file: Option<Arc<str>>,
    /// The line and column in the file.
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    pub position: Option<Position>,
    /// The object.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub object: Option<ObjectRef>,
    /// The path of the field in the object, as in `spec.ports[0].protocol`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub field: Option<String>,
    /// The message, in one line.
    pub message: String,
    /// The remedy, and the consequence of doing nothing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub advice: Option<String>,
    /// The cause.
    #[serde(skip)]
    pub cause: Cause,
}

/// Serializes an `Arc<str>` without serde's feature `rc`, which would be on for the whole workspace.
fn serialize_text<S: serde::Serializer>(file: &Option<Arc<str>>, serializer: S) -> Result<S::Ok, S::Error> {
    file.as_deref().serialize(serializer)
}

impl Diagnostic {
    /// Makes a diagnostic without a place.
    pub fn new(severity: Severity, message: impl AsRef<str>) -> Self {
        Self {
            severity,
            file: None,
            position: None,
            object: None,
            field: None,
            message: escape_controls(message.as_ref()).into_owned(),
            advice: None,
            cause: Cause::Object,
        }
    }

    /// Makes an error without a place.
    pub fn error(message: impl AsRef<str>) -> Self {
        Self::new(Severity::Error, message)
    }

    /// Adds the remedy.
    #[must_use]
    pub fn advice(mut self, advice: impl AsRef<str>) -> Self {
        self.advice = Some(escape_controls(advice.as_ref()).into_owned());
        self
    }

    /// Adds the file and the position.
    #[must_use]
    pub fn at(mut self, file: &Arc<str>, position: Option<Position>) -> Self {
        self.file = Some(Arc::clone(file));
        self.position = position;
        self
    }

    /// Adds the object.
    #[must_use]
    pub fn object(mut self, object: &ObjectRef) -> Self {
        self.object = Some(object.clone());
        self
    }

    /// Adds the path of the field.
    #[must_use]
    pub fn field(mut self, field: impl Into<String>) -> Self {
        self.field = Some(field.into());
        self
    }

    /// Adds the cause.
    #[must_use]
    pub fn cause(mut self, cause: Cause) -> Self {
        self.cause = cause;
        self
    }

    /// The remedy without the consequence of doing nothing (`…; until then the object grants nothing`), which
    /// holds only for objects that are in force.
    #[must_use]
    pub fn remedy(&self) -> Option<&str> {
        let advice = self.advice.as_deref()?;
        Some(advice.split_once(CONSEQUENCE).map_or(advice, |(remedy, _)| remedy))
    }

    /// Formats field and message in one line.
    #[must_use]
    pub fn format_brief(&self) -> String {
        match &self.field {
            Some(field) => format!("{field}: {}", self.message),
            None => self.message.clone(),
        }
    }

    /// Compares in reading order: by position, then the most severe first.
    #[must_use]
    pub fn cmp_reading_order(&self, other: &Self) -> Ordering {
        (&self.file, self.position, self.severity, &self.object, &self.field, &self.message).cmp(&(
            &other.file,
            other.position,
            other.severity,
            &other.object,
            &other.field,
            &other.message,
        ))
    }
}

/// Escapes line ends and control characters, which manifests may contain: diagnostics go to terminals and logs.
fn escape_controls(text: &str) -> Cow<'_, str> {
    if !text.contains(char::is_control) {
        return Cow::Borrowed(text);
    }
    let mut line = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_control() { line.extend(c.escape_default()) } else { line.push(c) }
    }
    Cow::Owned(line)
}

/// Writes `file:line:column: severity: object field: message`, and the remedy on a second line.
impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(file) = &self.file {
            write!(f, "{}:", escape_controls(file))?;
            if let Some(Position { line, column }) = self.position {
                write!(f, "{line}:{column}:")?;
            }
            f.write_str(" ")?;
        }
        write!(f, "{}: ", self.severity)?;
        match (&self.object, &self.field) {
            (Some(object), Some(field)) => write!(f, "{object} {}: ", escape_controls(field))?,
            (Some(object), None) => write!(f, "{object}: ")?,
            (None, Some(field)) => write!(f, "{}: ", escape_controls(field))?,
            (None, None) => {}
        }
        f.write_str(&self.message)?;
        if let Some(advice) = &self.advice {
            write!(f, "\n    help: {advice}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_diagnostic_takes_one_line_and_its_advice_another() {
        let diagnostic = Diagnostic::error("`a\nb\u{1b}[31m` is ü\t")
            .advice("x\ny")
            .at(&"f\n.yaml".into(), Some(Position { line: 1, column: 2 }))
            .field("a[\"\n\"]");
        assert_eq!(
            diagnostic.to_string(),
            "f\\n.yaml:1:2: error: a[\"\\n\"]: `a\\nb\\u{1b}[31m` is ü\\t\n    help: x\\ny"
        );
    }
}
