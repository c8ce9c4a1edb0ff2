use crate::manifest::{Object, Problem, Severity};

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

    pub(super) fn error(&mut self, field: &str, message: impl AsRef<str>, advice: Option<&str>) {
        self.add(Severity::Error, field, message, advice);
    }

    pub(super) fn warning(&mut self, field: &str, message: impl AsRef<str>, advice: Option<&str>) {
        self.add(Severity::Warning, field, message, advice);
    }

    pub(super) fn info(&mut self, field: &str, message: impl AsRef<str>, advice: Option<&str>) {
        self.add(Severity::Info, field, message, advice);
    }

    fn add(&mut self, severity: Severity, field: &str, message: impl AsRef<str>, advice: Option<&str>) {
        let problem = Problem::new(severity, message)
            .at(&self.object.file, self.object.position(field))
            .object(&self.object.reference)
            .field(field);
        self.problems.push(match advice {
            Some(advice) => problem.advice(advice),
            None => problem,
        });
    }

    pub(super) fn into_parts(self) -> (&'o Object, Vec<Problem>) {
        (self.object, self.problems)
    }
}
