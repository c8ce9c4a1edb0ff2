use std::collections::BTreeMap;

use crate::budget::{Excess, MAX_DIAGNOSTICS};
use crate::manifest::{Cause, Diagnostic, Object, Severity};

/// Collects the diagnostics about one object.
#[derive(Debug)]
pub(super) struct DiagnosticSink<'o> {
    object: &'o Object,
    diagnostics: Vec<Diagnostic>,
    /// The number of diagnostics of each severity that were dropped.
    dropped: BTreeMap<Severity, usize>,
    kept: BTreeMap<Severity, usize>,
}

impl<'o> DiagnosticSink<'o> {
    pub(super) fn new(object: &'o Object) -> Self {
        Self { object, diagnostics: Vec::new(), dropped: BTreeMap::new(), kept: BTreeMap::new() }
    }

    /// The object's `namespace/name`.
    pub(super) fn name(&self) -> String {
        let reference = &self.object.reference;
        format!("{}/{}", reference.namespace, reference.name)
    }

    /// The object's namespace.
    pub(super) fn namespace(&self) -> &str {
        &self.object.reference.namespace
    }

    /// Returns true if the object lacks a permission.
    pub(super) fn lacks_permission(&self) -> bool {
        self.diagnostics.iter().any(|diagnostic| diagnostic.cause == Cause::Permission)
    }

    pub(super) fn error(&mut self, field: &str, message: impl AsRef<str>, advice: Option<&str>) {
        self.add(Severity::Error, Cause::Object, field, message, advice);
    }

    pub(super) fn warning(&mut self, field: &str, message: impl AsRef<str>, advice: Option<&str>) {
        self.add(Severity::Warning, Cause::Object, field, message, advice);
    }

    pub(super) fn info(&mut self, field: &str, message: impl AsRef<str>, advice: Option<&str>) {
        self.add(Severity::Info, Cause::Object, field, message, advice);
    }

    /// Reports a reference to an object that is missing or invalid.
    pub(super) fn wrong_reference(&mut self, field: &str, message: impl AsRef<str>, advice: &str) {
        self.add(Severity::Error, Cause::Reference, field, message, Some(advice));
    }

    /// Reports something that the author may not grant and an administrator can permit.
    pub(super) fn not_permitted(&mut self, field: &str, message: impl AsRef<str>, advice: &str) {
        self.add(Severity::Error, Cause::Permission, field, message, Some(advice));
    }

    /// Reports a setting that another object overrides.
    pub(super) fn conflict(&mut self, field: &str, message: impl AsRef<str>, advice: &str) {
        self.add(Severity::Warning, Cause::Conflict, field, message, Some(advice));
    }

    /// Reports an object that exceeds its own budget.
    pub(super) fn too_large(&mut self, field: &str, excess: Excess, what: &str) {
        let advice = format!("{}; until then {what} grants nothing", excess.remedy);
        self.add(Severity::Error, Cause::Size, field, excess.to_string(), Some(&advice));
    }

    /// Reports an object that, together with older objects, exceeds a shared budget.
    pub(super) fn over_shared_budget(&mut self, field: &str, message: impl AsRef<str>, advice: &str) {
        self.add(Severity::Error, Cause::SharedBudget, field, message, Some(advice));
    }

    fn add(
        &mut self,
        severity: Severity,
        cause: Cause,
        field: &str,
        message: impl AsRef<str>,
        advice: Option<&str>,
    ) {
        let kept = self.kept.entry(severity).or_default();
        // Sizes are reported once, and must not be lost.
        if *kept >= MAX_DIAGNOSTICS && !matches!(cause, Cause::Size | Cause::SharedBudget) {
            let dropped = self.dropped.entry(severity).or_default();
            *dropped = dropped.saturating_add(1);
            return;
        }
        *kept = kept.saturating_add(1);
        let diagnostic = self.diagnostic(severity, field, message).cause(cause);
        self.diagnostics.push(match advice {
            Some(advice) => diagnostic.advice(advice),
            None => diagnostic,
        });
    }

    fn diagnostic(&self, severity: Severity, field: &str, message: impl AsRef<str>) -> Diagnostic {
        Diagnostic::new(severity, message)
            .at(&self.object.file, self.object.position(field))
            .object(&self.object.reference)
            .field(field)
    }

    pub(super) fn into_parts(mut self) -> (&'o Object, Vec<Diagnostic>) {
        for (severity, count) in std::mem::take(&mut self.dropped) {
            let message = format!("{count} more diagnostics of severity `{severity}` are not listed");
            self.diagnostics.push(self.diagnostic(severity, "spec", message));
        }
        (self.object, self.diagnostics)
    }
}
