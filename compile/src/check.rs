//! Everything that there is to say about manifests: what `osm-egress check` and the playground say.

use std::fmt;

use serde::Serialize;

use crate::manifest::{Kind, Problem, Severity};
use crate::store::Store;
use crate::{Compiled, lint};

/// What there is to say.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    /// Everything, by file and line.
    pub problems: Vec<Problem>,
    /// How much of each.
    pub summary: Summary,
}

/// Counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Summary {
    /// Files that were read.
    pub files: usize,
    /// Objects that count.
    pub objects: usize,
    /// Egress policies among them.
    pub policies: usize,
    /// Identities that they name.
    pub identities: usize,
    /// Problems that make something have no effect.
    pub errors: usize,
    /// Problems that give something another effect than one may think.
    pub warnings: usize,
}

impl Report {
    /// Collects it.
    #[must_use]
    pub fn of(store: &Store, compiled: &Compiled) -> Self {
        let problems = store.problems().chain(compiled.problems().cloned());
        Self::with(problems.chain(lint::lints(store, compiled)).collect(), store, compiled)
    }

    /// Says only what was collected elsewhere, with the counts.
    #[must_use]
    pub fn with(mut problems: Vec<Problem>, store: &Store, compiled: &Compiled) -> Self {
        problems.sort_by(Problem::reading_order);
        let count = |severity| problems.iter().filter(|problem| problem.severity == severity).count();
        let summary = Summary {
            files: store.files().count(),
            objects: compiled.conditions.len(),
            policies: compiled.conditions.keys().filter(|object| object.kind == Kind::Egress).count(),
            identities: compiled.documents.len(),
            errors: count(Severity::Error),
            warnings: count(Severity::Warning),
        };
        Self { problems, summary }
    }

    /// What the process exits with: 0 without errors (`strict`: and without warnings), else 1.
    #[must_use]
    pub fn exit_code(&self, strict: bool) -> u8 {
        let Summary { errors, warnings, .. } = self.summary;
        u8::from(errors > 0 || (strict && warnings > 0))
    }

    /// The report as JSON.
    #[must_use]
    pub fn to_json(&self) -> serde_json::Value {
        serde_json::json!(self)
    }
}

/// Every problem, and a line of counts.
impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for problem in &self.problems {
            writeln!(f, "{problem}")?;
        }
        writeln!(f, "{}", self.summary)
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { files, objects, policies, identities, errors, warnings } = *self;
        write!(
            f,
            "{}, {} ({}, {}): {}, {}",
            Count(files, "file", "files"),
            Count(objects, "object", "objects"),
            Count(policies, "policy", "policies"),
            Count(identities, "identity", "identities"),
            Count(errors, "error", "errors"),
            Count(warnings, "warning", "warnings"),
        )
    }
}

struct Count(usize, &'static str, &'static str);

impl fmt::Display for Count {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(number, one, many) = *self;
        write!(f, "{number} {}", if number == 1 { one } else { many })
    }
}
