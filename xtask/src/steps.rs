//! The steps of a run, with a table of their times at its end.

use std::fmt::{self, Display};
use std::time::Instant;

use anyhow::Result;

/// The steps so far: times, and what was skipped or failed.
pub(crate) struct Steps {
    start: Instant,
    rows: Vec<String>,
    skipped: usize,
    has_failed: bool,
}

impl Steps {
    pub(crate) fn start() -> Self {
        Self { start: Instant::now(), rows: Vec::new(), skipped: 0, has_failed: false }
    }

    /// Runs a step and notes its time, also when it fails.
    pub(crate) fn run<T>(&mut self, name: &str, step: impl FnOnce() -> Result<T>) -> Result<T> {
        println!("\n== {name}");
        let start = Instant::now();
        let result = step();
        let seconds = start.elapsed().as_secs_f64();
        self.has_failed |= result.is_err();
        let failed = if result.is_err() { "FAILED: " } else { "" };
        self.rows.push(format!("{seconds:>5.0} s  {failed}{name}"));
        result
    }

    /// Notes that something was not tried, so that the table at the end says it too.
    pub(crate) fn skip(&mut self, name: &str, reason: impl Display) {
        println!("\n== {name}\n  NOT RUN: {reason}");
        self.rows.push(format!("NOT RUN  {name}: {reason}"));
        self.skipped += 1;
    }

    fn verdict(&self) -> String {
        match (self.has_failed, self.skipped) {
            (true, _) => "FAILED; the steps after it did not run".to_owned(),
            (false, 0) => "all passed".to_owned(),
            (false, skipped) => format!("{skipped} NOT RUN, the others passed"),
        }
    }
}

/// The table of times, and the verdict.
impl Display for Steps {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for row in &self.rows {
            writeln!(f, "{row}")?;
        }
        write!(f, "{} in {:.0} s", self.verdict(), self.start.elapsed().as_secs_f64())
    }
}

#[cfg(test)]
mod tests {
    use anyhow::bail;

    use super::*;

    #[test]
    fn the_table_has_the_time_of_the_step_that_failed() {
        let mut steps = Steps::start();
        steps.run("format", || Ok(())).expect("passes");
        steps.run("lints", || -> Result<()> { bail!("a lint") }).expect_err("fails");
        let table = steps.to_string();
        assert!(table.starts_with("    0 s  format\n    0 s  FAILED: lints\nFAILED; "), "{table}");
    }

    #[test]
    fn the_verdict_counts_what_was_not_run() {
        let mut steps = Steps::start();
        assert!(steps.to_string().starts_with("all passed in"));
        steps.skip("fuzzing", "no nightly compiler");
        let table = steps.to_string();
        assert!(
            table.starts_with("NOT RUN  fuzzing: no nightly compiler\n1 NOT RUN, the others passed"),
            "{table}"
        );
    }
}
