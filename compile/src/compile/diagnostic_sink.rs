use std::collections::BTreeMap;

use crate::budget::{Excess, MAX_PROBLEMS};
use crate::manifest::{Cause, Object, Problem, Severity};

/// Collects what there is to say about one object.
#[derive(Debug)]
pub(super) struct Issues<'o> {
    object: &'o Object,
    problems: Vec<Problem>,
    /// How many more there are of each severity than are kept.
    dropped: BTreeMap<Severity, usize>,
    kept: BTreeMap<Severity, usize>,
}

impl<'o> Issues<'o> {
    pub(super) fn new(object: &'o Object) -> Self {
        Self { object, problems: Vec::new(), dropped: BTreeMap::new(), kept: BTreeMap::new() }
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

    /// Whether something in it is not permitted.
    pub(super) fn lack_permission(&self) -> bool {
        self.problems.iter().any(|problem| problem.cause == Cause::Permission)
    }

    pub(super) fn error(&mut self, field: &str, message: impl AsRef<str>, advice: Option<&str>) {
        self.add(Severity::Error, Cause::Itself, field, message, advice);
    }

    pub(super) fn warning(&mut self, field: &str, message: impl AsRef<str>, advice: Option<&str>) {
        self.add(Severity::Warning, Cause::Itself, field, message, advice);
    }

    pub(super) fn info(&mut self, field: &str, message: impl AsRef<str>, advice: Option<&str>) {
        self.add(Severity::Info, Cause::Itself, field, message, advice);
    }

    /// An object that this one names is missing or wrong.
    pub(super) fn wrong_reference(&mut self, field: &str, message: impl AsRef<str>, advice: &str) {
        self.add(Severity::Error, Cause::Reference, field, message, Some(advice));
    }

    /// Its author may not say this; somebody else can permit it.
    pub(super) fn not_permitted(&mut self, field: &str, message: impl AsRef<str>, advice: &str) {
        self.add(Severity::Error, Cause::Permission, field, message, Some(advice));
    }

    /// Another object says something else, and that counts.
    pub(super) fn conflict(&mut self, field: &str, message: impl AsRef<str>, advice: &str) {
        self.add(Severity::Warning, Cause::Conflict, field, message, Some(advice));
    }

    /// The object is over a budget.
    pub(super) fn too_large(&mut self, field: &str, excess: Excess, what: &str) {
        let advice = format!("{}: until then {what} grants nothing", excess.remedy);
        self.add(Severity::Error, Cause::Size, field, excess.to_string(), Some(&advice));
    }

    /// The object and older ones are together over the budget of an identity.
    pub(super) fn crowded_out(&mut self, field: &str, message: impl AsRef<str>, advice: &str) {
        self.add(Severity::Error, Cause::Crowding, field, message, Some(advice));
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
        // What is said of sizes is said once, and must not be lost.
        if *kept >= MAX_PROBLEMS && !matches!(cause, Cause::Size | Cause::Crowding) {
            *self.dropped.entry(severity).or_default() += 1;
            return;
        }
        *kept += 1;
        let problem = self.problem(severity, field, message).cause(cause);
        self.problems.push(match advice {
            Some(advice) => problem.advice(advice),
            None => problem,
        });
    }

    fn problem(&self, severity: Severity, field: &str, message: impl AsRef<str>) -> Problem {
        Problem::new(severity, message)
            .at(&self.object.file, self.object.position(field))
            .object(&self.object.reference)
            .field(field)
    }

    pub(super) fn into_parts(mut self) -> (&'o Object, Vec<Problem>) {
        for (severity, count) in std::mem::take(&mut self.dropped) {
            let message = format!("{count} more of severity `{severity}` are not listed");
            self.problems.push(self.problem(severity, "spec", message));
        }
        (self.object, self.problems)
    }
}
