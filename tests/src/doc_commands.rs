//! Runs the commands of documents: each block of ```` ```console ```` has commands after `$ ` and their
//! output. A line `…` stands for any lines, and `…` within a line for any text.

use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

/// A command and its expected output.
#[derive(Debug, PartialEq, Eq)]
pub struct Step {
    /// The command, for a shell.
    pub command: String,
    /// The lines of both outputs.
    pub expected: Vec<String>,
}

/// The steps of a document, in order.
#[must_use]
pub fn steps(text: &str) -> Vec<Step> {
    let mut steps: Vec<Step> = Vec::new();
    let (mut inside, mut continues) = (false, false);
    for line in text.lines() {
        match line {
            "```console" => inside = true,
            "```" => inside = false,
            _ if !inside => {}
            _ => match (line.strip_prefix("$ "), steps.last_mut()) {
                (Some(command), _) => {
                    continues = command.ends_with('\\');
                    steps.push(Step { command: command.to_owned(), expected: Vec::new() });
                }
                (None, Some(step)) if continues => {
                    step.command += &format!("\n{line}");
                    continues = line.ends_with('\\');
                }
                (None, Some(step)) => step.expected.push(line.to_owned()),
                (None, None) => {}
            },
        }
    }
    steps
}

impl Step {
    /// Runs the command until it prints the expected output, because an earlier change takes a moment. A
    /// command without expected output runs once.
    ///
    /// # Errors
    /// Fails if it does not, with both.
    pub fn run(&self, shell: impl Fn(&str) -> Command, patience: Duration) -> Result<()> {
        let start = Instant::now();
        loop {
            let output = shell(&format!("{{ {}\n}} 2>&1", self.command)).output()?;
            let printed = String::from_utf8_lossy(&output.stdout).into_owned();
            let lines: Vec<_> = printed.lines().map(str::trim_end).collect();
            if matches(&self.expected, &lines) {
                return Ok(());
            }
            if self.expected.is_empty() || start.elapsed() > patience {
                bail!("$ {}\nprints\n{printed}\ninstead of\n{}", self.command, self.expected.join("\n"));
            }
        }
    }
}

fn matches(expected: &[String], lines: &[&str]) -> bool {
    match expected.split_first() {
        None => lines.is_empty(),
        Some((first, rest)) if first == "…" => (0..=lines.len()).any(|skip| matches(rest, &lines[skip..])),
        Some((first, rest)) => {
            lines.split_first().is_some_and(|(line, lines)| is_like(first, line) && matches(rest, lines))
        }
    }
}

fn is_like(pattern: &str, line: &str) -> bool {
    match pattern.split_once('…') {
        None => pattern == line,
        Some((before, after)) => line.strip_prefix(before).is_some_and(|rest| {
            rest.char_indices().any(|(at, _)| is_like(after, &rest[at..])) || is_like(after, "")
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_are_read_from_console_blocks() {
        let text = "Words.\n```console\n$ one \\\n  two\nsaid\n$ three\n```\n```sh\n$ four\n```\n";
        let found = steps(text);
        assert_eq!(found.len(), 2);
        assert_eq!(found[0], Step { command: "one \\\n  two".into(), expected: vec!["said".into()] });
        assert_eq!(found[1], Step { command: "three".into(), expected: vec![] });
    }

    #[test]
    fn ellipses_match_any_text() {
        let lines = |text: &str| text.lines().map(str::to_owned).collect::<Vec<_>>();
        for (expected, printed, like) in [
            ("a\nb", "a\nb", true),
            ("a\nb", "a", false),
            ("a", "a\nb", false),
            ("", "a", false),
            ("a\n…\nd", "a\nb\nc\nd", true),
            ("a\n…\nd", "a\nb\nc", false),
            ("…", "", true),
            ("took … ms", "took 12 ms", true),
            ("took … ms", "took 12 s", false),
            ("took …", "took ", true),
        ] {
            let printed: Vec<_> = printed.lines().collect();
            assert_eq!(matches(&lines(expected), &printed), like, "{expected:?} {printed:?}");
        }
    }

    #[test]
    fn unexpected_output_is_an_error() {
        let shell = |script: &str| {
            let mut command = Command::new("bash");
            command.arg("-c").arg(script);
            command
        };
        let step = |command: &str, expected: &[&str]| Step {
            command: command.to_owned(),
            expected: expected.iter().map(|line| (*line).to_owned()).collect(),
        };
        let none = Duration::ZERO;
        step("echo one; echo two >&2", &["one", "two"]).run(shell, none).expect("right");
        step("true", &[]).run(shell, none).expect("right");
        let error = step("echo one", &["two"]).run(shell, none).expect_err("wrong");
        assert_eq!(error.to_string(), "$ echo one\nprints\none\n\ninstead of\ntwo");
        step("echo one", &[]).run(shell, none).expect_err("wrong");
    }
}
