//! `osm-egress check`: reads a folder once and says everything that is wrong with it.

use std::fmt;
use std::path::Path;

use serde::Serialize;

use crate::source::folder::Folder;
use crate::source::{Availability, SourceState};
use egress_compile::manifest::{Kind, Problem, Severity};
use egress_compile::{CompileOptions, Compiled, compile};

/// What there is to say about a folder.
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

/// Reads a folder and checks it.
#[must_use]
pub fn check(dir: &Path, options: &CompileOptions) -> Report {
    compiled(dir, options).0
}

/// The same, and what follows from it.
#[must_use]
pub fn compiled(dir: &Path, options: &CompileOptions) -> (Report, Compiled) {
    let state = Folder::load_once(dir);
    let compiled = compile(&state.store, options, None);
    (report(dir, &state, &compiled), compiled)
}

fn report(dir: &Path, state: &SourceState, compiled: &Compiled) -> Report {
    let SourceState { store, availability } = state;
    let mut problems: Vec<Problem> = match availability {
        Availability::Available if store.files().next().is_none() => {
            let message = format!("there is no manifest in `{}`", dir.display());
            let advice =
                "manifests are files that end in `.yaml`, `.yml` or `.json` and do not begin with `.`";
            vec![Problem::new(Severity::Warning, message).advice(advice)]
        }
        Availability::Available => Vec::new(),
        Availability::Unavailable { reason } => {
            vec![Problem::error(reason).advice("name a folder that exists and that you may read")]
        }
    };
    if availability.is_available() {
        problems.extend(store.problems());
        problems.extend(compiled.problems().cloned());
    }
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
    Report { problems, summary }
}

impl Report {
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

#[cfg(test)]
mod tests;
