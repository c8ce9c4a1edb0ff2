use crate::manifest::{Cause, Object, Problem, Severity};

/// Collects what there is to say about one object.
#[derive(Debug)]
pub(super) struct Issues<'o> {
    object: &'o Object,
    problems: Vec<Problem>,
}

impl<'o> Issues<'o> {
    pub(super) fn new(object: &'o Object) -> Self {
        Self { object, problems: Vec::new() }
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
        self.add(Severity::Error, field, message, advice);
    }

    pub(super) fn warning(&mut self, field: &str, message: impl AsRef<str>, advice: Option<&str>) {
        self.add(Severity::Warning, field, message, advice);
    }

    pub(super) fn info(&mut self, field: &str, message: impl AsRef<str>, advice: Option<&str>) {
        self.add(Severity::Info, field, message, advice);
    }

    /// An object that this one names is missing or wrong.
    pub(super) fn wrong_reference(&mut self, field: &str, message: impl AsRef<str>, advice: &str) {
        let problem = self.problem(Severity::Error, field, message).advice(advice).cause(Cause::Reference);
        self.problems.push(problem);
    }

    /// Its author may not say this; somebody else can permit it.
    pub(super) fn not_permitted(&mut self, field: &str, message: impl AsRef<str>, advice: &str) {
        let problem = self.problem(Severity::Error, field, message).advice(advice).cause(Cause::Permission);
        self.problems.push(problem);
    }

    /// Another object says something else, and that counts.
    pub(super) fn conflict(&mut self, field: &str, message: impl AsRef<str>, advice: &str) {
        let problem = self.problem(Severity::Warning, field, message).advice(advice).cause(Cause::Conflict);
        self.problems.push(problem);
    }

    fn add(&mut self, severity: Severity, field: &str, message: impl AsRef<str>, advice: Option<&str>) {
        let problem = self.problem(severity, field, message);
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

    pub(super) fn into_parts(self) -> (&'o Object, Vec<Problem>) {
        (self.object, self.problems)
    }
}
