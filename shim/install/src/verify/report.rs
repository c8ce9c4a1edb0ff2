//! The report of `verify`.

use serde::Serialize;

/// The state of a check.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// Passed.
    Ok,
    /// Works, but needs attention.
    Warn,
    /// Failed.
    Fail,
    /// Could not be checked.
    Unknown,
    /// Information only.
    Note,
}

/// The result of one check.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Check {
    /// The name of the check, which is stable.
    pub check: &'static str,
    /// The state.
    pub state: State,
    /// The details.
    pub message: String,
}

/// The results of all checks.
#[derive(Debug, Default, Serialize)]
pub struct Report {
    /// The checks, each after those that it depends on.
    pub checks: Vec<Check>,
}

impl Report {
    /// Returns true if no check failed.
    #[must_use]
    pub fn is_passed(&self) -> bool {
        self.checks.iter().all(|check| check.state != State::Fail)
    }

    pub(super) fn add(&mut self, check: &'static str, state: State, message: impl Into<String>) {
        self.checks.push(Check { check, state, message: message.into() });
    }

    /// Adds a check: `state` with the findings, or `Ok` with `summary` if there are none.
    pub(super) fn add_findings(
        &mut self,
        check: &'static str,
        state: State,
        findings: &[String],
        summary: impl Into<String>,
    ) {
        if findings.is_empty() {
            self.add(check, State::Ok, summary);
        } else {
            self.add(check, state, findings.join("\n"));
        }
    }
}

impl std::fmt::Display for Report {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for Check { check, state, message } in &self.checks {
            let state = match state {
                State::Ok => "ok",
                State::Warn => "warn",
                State::Fail => "FAIL",
                State::Unknown => "unknown",
                State::Note => "note",
            };
            // A list has one finding on each line.
            match message.split_once('\n') {
                None => writeln!(f, "{state:7}  {check}: {message}")?,
                Some(_) => {
                    writeln!(f, "{state:7}  {check}:")?;
                    message.lines().try_for_each(|finding| writeln!(f, "{:11}{finding}", ""))?;
                }
            }
        }
        let failed = self.checks.iter().filter(|check| check.state == State::Fail).count();
        match failed {
            0 => writeln!(f, "nothing failed"),
            1 => writeln!(f, "1 check failed"),
            _ => writeln!(f, "{failed} checks failed"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_has_one_finding_on_each_line() {
        let mut report = Report::default();
        report.add_findings("pods", State::Warn, &["a/b: no sidecar".to_owned(), "a/c".to_owned()], "none");
        report.add_findings("images", State::Fail, &["one".to_owned()], "good");
        report.add_findings("modes", State::Fail, &[], "good");
        assert_eq!(
            report.to_string(),
            "warn     pods:\n           a/b: no sidecar\n           a/c\nFAIL     images: one\nok       modes: good\n\
             1 check failed\n"
        );
    }
}
