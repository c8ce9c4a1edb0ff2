//! The report of `verify`.

use serde::Serialize;

/// How something is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// As it should be.
    Ok,
    /// Nothing is broken, but somebody should look at it.
    Warn,
    /// It does not work.
    Fail,
    /// Nobody could be asked.
    Unknown,
    /// Neither good nor bad.
    Note,
}

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Check {
    /// What, in the same words at all times.
    pub check: &'static str,
    /// How it is.
    pub state: State,
    /// In full.
    pub message: String,
}

/// Everything that was looked at.
#[derive(Debug, Default, Serialize)]
pub struct Report {
    /// In the order in which one thing needs another.
    pub checks: Vec<Check>,
}

impl Report {
    /// Whether everything works.
    #[must_use]
    pub fn is_good(&self) -> bool {
        self.checks.iter().all(|check| check.state != State::Fail)
    }

    pub(super) fn add(&mut self, check: &'static str, state: State, message: impl Into<String>) {
        self.checks.push(Check { check, state, message: message.into() });
    }

    /// What is wrong, or that nothing is.
    pub(super) fn sum(
        &mut self,
        check: &'static str,
        state: State,
        wrong: &[String],
        good: impl Into<String>,
    ) {
        if wrong.is_empty() {
            self.add(check, State::Ok, good);
        } else {
            self.add(check, state, wrong.join("; "));
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
            writeln!(f, "{state:7}  {check}: {message}")?;
        }
        let failed = self.checks.iter().filter(|check| check.state == State::Fail).count();
        match failed {
            0 => writeln!(f, "nothing failed"),
            1 => writeln!(f, "1 check failed"),
            _ => writeln!(f, "{failed} checks failed"),
        }
    }
}
