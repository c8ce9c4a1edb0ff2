use std::borrow::Cow;
use std::cmp::Ordering;
use std::fmt;
use std::sync::Arc;

use serde::Serialize;

use super::{ObjectRef, Position};

/// How bad a problem is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Severity {
    /// Something that was written has no effect.
    Error,
    /// Something has another effect than one may think.
    Warning,
    /// Good to know.
    Info,
}

impl Severity {
    /// The name in texts and logs.
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

/// What a problem follows from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Cause {
    /// The object alone, whatever else there is.
    #[default]
    Itself,
    /// An object that this one names: it is missing, or has a mistake itself.
    Reference,
    /// Another object that says something else about the same.
    Conflict,
    /// The size of the object: it is over a budget, whatever other objects there are.
    Size,
    /// The size of all objects of an identity together.
    Crowding,
    /// That whoever may write the object may not grant this; an administrator can permit it.
    Permission,
}

/// Something to say about a manifest: where, what, and what to do about it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Problem {
    /// How bad it is.
    pub severity: Severity,
    /// The file that it is in.
    #[serde(serialize_with = "as_text", skip_serializing_if = "Option::is_none")]
    pub file: Option<Arc<str>>,
    /// Line and column in that file.
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    pub position: Option<Position>,
    /// The object that it is about.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub object: Option<ObjectRef>,
    /// The path of the field in that object, as in `spec.ports[0].protocol`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub field: Option<String>,
    /// What is wrong, in one line.
    pub message: String,
    /// What to do about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub advice: Option<String>,
    /// What it follows from.
    #[serde(skip)]
    pub cause: Cause,
}

/// Without serde's feature `rc`, which would be on for the whole workspace.
fn as_text<S: serde::Serializer>(file: &Option<Arc<str>>, serializer: S) -> Result<S::Ok, S::Error> {
    file.as_deref().serialize(serializer)
}

impl Problem {
    /// A problem that has no place yet.
    pub fn new(severity: Severity, message: impl AsRef<str>) -> Self {
        Self {
            severity,
            file: None,
            position: None,
            object: None,
            field: None,
            message: one_line(message.as_ref()).into_owned(),
            advice: None,
            cause: Cause::Itself,
        }
    }

    /// An error that has no place yet.
    pub fn error(message: impl AsRef<str>) -> Self {
        Self::new(Severity::Error, message)
    }

    /// Says what to do about it.
    #[must_use]
    pub fn advice(mut self, advice: impl AsRef<str>) -> Self {
        self.advice = Some(one_line(advice.as_ref()).into_owned());
        self
    }

    /// Says which file it is in, and where.
    #[must_use]
    pub fn at(mut self, file: &Arc<str>, position: Option<Position>) -> Self {
        self.file = Some(Arc::clone(file));
        self.position = position;
        self
    }

    /// Says which object it is about.
    #[must_use]
    pub fn object(mut self, object: &ObjectRef) -> Self {
        self.object = Some(object.clone());
        self
    }

    /// Says which field it is about.
    #[must_use]
    pub fn field(mut self, field: impl Into<String>) -> Self {
        self.field = Some(field.into());
        self
    }

    /// Says what it follows from.
    #[must_use]
    pub fn cause(mut self, cause: Cause) -> Self {
        self.cause = cause;
        self
    }

    /// What is wrong with which field, in one line.
    #[must_use]
    pub fn brief(&self) -> String {
        match &self.field {
            Some(field) => format!("{field}: {}", self.message),
            None => self.message.clone(),
        }
    }

    /// The order in which people read: by place, then the worst first.
    #[must_use]
    pub fn reading_order(&self, other: &Self) -> Ordering {
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

/// What manifests say may hold line ends and control characters; problems go to terminals and logs.
fn one_line(text: &str) -> Cow<'_, str> {
    if !text.contains(char::is_control) {
        return Cow::Borrowed(text);
    }
    let mut line = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_control() { line.extend(c.escape_default()) } else { line.push(c) }
    }
    Cow::Owned(line)
}

/// `file:line:column: severity: object field: message`, and the advice on a second line.
impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(file) = &self.file {
            write!(f, "{}:", one_line(file))?;
            if let Some(Position { line, column }) = self.position {
                write!(f, "{line}:{column}:")?;
            }
            f.write_str(" ")?;
        }
        write!(f, "{}: ", self.severity)?;
        match (&self.object, &self.field) {
            (Some(object), Some(field)) => write!(f, "{object} {}: ", one_line(field))?,
            (Some(object), None) => write!(f, "{object}: ")?,
            (None, Some(field)) => write!(f, "{}: ", one_line(field))?,
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
    fn a_problem_is_one_line_and_its_advice_another() {
        let problem = Problem::error("`a\nb\u{1b}[31m` is ü\t")
            .advice("x\ny")
            .at(&"f\n.yaml".into(), Some(Position { line: 1, column: 2 }))
            .field("a[\"\n\"]");
        assert_eq!(
            problem.to_string(),
            "f\\n.yaml:1:2: error: a[\"\\n\"]: `a\\nb\\u{1b}[31m` is ü\\t\n    help: x\\ny"
        );
    }
}
