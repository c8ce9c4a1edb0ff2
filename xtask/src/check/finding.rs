//! Findings: the output of a rule.

use std::fmt;

/// One breach of a rule: where it is, the subject, the problem and the remedy.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Finding {
    file: String,
    /// Counted from 1; 0 stands for the file as a whole.
    line: usize,
    problem: String,
    remedy: String,
}

impl Finding {
    pub(super) fn new(
        file: impl Into<String>,
        line: usize,
        problem: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        Self { file: file.into(), line, problem: problem.into(), remedy: remedy.into() }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            0 => write!(f, "{}: ", self.file)?,
            line => write!(f, "{}:{line}: ", self.file)?,
        }
        write!(f, "{}; {}", self.problem, self.remedy)
    }
}

/// The result of one rule.
#[derive(Debug, Default)]
pub(super) struct Report {
    /// The things that were checked, a line each.
    pub(super) checked: Vec<String>,
    pub(super) findings: Vec<Finding>,
}

impl Report {
    pub(super) fn verdict(&self) -> String {
        match self.findings.len() {
            0 => "ok".to_owned(),
            1 => "1 finding".to_owned(),
            count => format!("{count} findings"),
        }
    }

    pub(super) fn add(&mut self, finding: Finding) {
        self.findings.push(finding);
    }

    /// The findings as text, for tests.
    #[cfg(test)]
    pub(super) fn text(&self) -> String {
        self.findings.iter().map(|finding| format!("{finding}\n")).collect()
    }
}
