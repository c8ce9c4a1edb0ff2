//! The report of `osm-egress check` and of the playground: all diagnostics about manifests.

use std::fmt;

use serde::Serialize;

use crate::manifest::{Diagnostic, Kind, Severity};
use crate::store::Store;
use crate::{Compiled, lint};

/// The result of checking manifests.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    /// All diagnostics, ordered by file and line.
    pub diagnostics: Vec<Diagnostic>,
    /// The counts.
    pub summary: Summary,
}

/// Counts of files, objects and diagnostics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Summary {
    /// The number of files read.
    pub files: usize,
    /// The number of objects in force.
    pub objects: usize,
    /// The number of Egress objects among them.
    pub policies: usize,
    /// The number of identities that they name.
    pub identities: usize,
    /// The number of errors: something in a manifest has no effect.
    pub errors: usize,
    /// The number of warnings: something may have another effect than intended.
    pub warnings: usize,
}

impl Report {
    /// Collects the diagnostics of the store, the compiler and the linter.
    ///
    /// ```
    /// # use egress_compile::store::{FileUpdate, Store};
    /// # let text = b"
    /// # apiVersion: policy.openservicemesh.io/v1alpha1
    /// # kind: Egress
    /// # metadata: {name: web, namespace: shop}
    /// # spec:
    /// #   sources: [{kind: ServiceAccount, name: app, namespace: shop}]
    /// #   hosts: [example.com]
    /// #   ports: [{number: 443, protocol: https}]
    /// # ";
    /// # let mut store = Store::default();
    /// # store.apply(FileUpdate::read("web.yaml".into(), text));
    /// use egress_compile::check::Report;
    /// use egress_compile::{CompileOptions, compile};
    ///
    /// let compiled = compile(&store, &CompileOptions::default(), None);
    /// let report = Report::of(&store, &compiled);
    /// assert_eq!((report.summary.errors, report.exit_code(true)), (0, 0));
    /// ```
    #[must_use]
    pub fn of(store: &Store, compiled: &Compiled) -> Self {
        let diagnostics = store.diagnostics().chain(compiled.diagnostics().cloned());
        Self::with(diagnostics.chain(lint::lint_policies(store, compiled)).collect(), store, compiled)
    }

    /// Makes a report of the given diagnostics, and counts them.
    #[must_use]
    pub fn with(mut diagnostics: Vec<Diagnostic>, store: &Store, compiled: &Compiled) -> Self {
        diagnostics.sort_by(Diagnostic::cmp_reading_order);
        let count =
            |severity| diagnostics.iter().filter(|diagnostic| diagnostic.severity == severity).count();
        let summary = Summary {
            files: store.files().count(),
            objects: compiled.statuses.len(),
            policies: compiled.statuses.keys().filter(|object| object.kind == Kind::Egress).count(),
            identities: compiled.documents.len(),
            errors: count(Severity::Error),
            warnings: count(Severity::Warning),
        };
        Self { diagnostics, summary }
    }

    /// The exit code of the process: 0 without errors (`strict`: and without warnings), else 1.
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

/// Writes every diagnostic, and a line with the counts.
impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for diagnostic in &self.diagnostics {
            writeln!(f, "{diagnostic}")?;
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
