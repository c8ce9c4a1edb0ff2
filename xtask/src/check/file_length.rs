//! The length of Rust files: a long one has two ideas, or a reason.

use anyhow::Result;

use super::finding::{Finding, Report};
use super::tree::Tree;

/// More than this, and a file is split by its ideas: ten screens are what one keeps in mind.
const MAX_LINES: usize = 500;

/// Files with one idea that are longer, and why.
const EXCEPTIONS: &[(&str, &str)] = &[
    ("fuzz/src/manifests.rs", "one fuzz target: what it makes of bytes, and what must hold of that"),
    ("shim/kubernetes/src/webhook/validate/tests.rs", "one table of objects and answers"),
    ("shim/xds/src/session/tests.rs", "one table of what a stream is sent, for both protocols"),
    ("tests/tests/interception.rs", "one table of interception rules against real iptables"),
    ("tests/tests/kubernetes/install.rs", "one life of an installation, from install to uninstall"),
];

const FILE: &str = "xtask/src/check/file_length.rs";

pub(super) fn check(tree: &Tree) -> Result<Report> {
    check_files(tree, EXCEPTIONS)
}

fn check_files(tree: &Tree, exceptions: &[(&str, &str)]) -> Result<Report> {
    let mut report = Report::default();
    let mut files = 0;
    for (path, text) in tree.texts(".rs") {
        files += 1;
        let lines = text.lines().count();
        if lines > MAX_LINES && !exceptions.iter().any(|(file, _)| *file == path) {
            let problem = format!("the file has {lines} lines, more than {MAX_LINES}");
            let remedy = format!("move one of its ideas to a file, or add it with a reason to {FILE}");
            report.add(Finding::new(path, 0, problem, remedy));
        }
    }
    report.checked.push(format!("{files} files"));
    for (path, reason) in exceptions {
        report.checked.push(format!("{path} may be longer: {reason}"));
        if tree.text(path).is_none_or(|text| text.lines().count() <= MAX_LINES) {
            let problem = format!("{path} has at most {MAX_LINES} lines, or is gone");
            report.add(Finding::new(FILE, 0, problem, "remove the exception"));
        }
    }
    Ok(report)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn findings(lines: usize, exceptions: &[(&str, &str)]) -> String {
        check_files(&Tree::of(&[("a.rs", &"\n".repeat(lines))]), exceptions).expect("report").text()
    }

    #[test]
    fn a_file_over_the_limit_needs_a_reason() {
        assert_eq!(findings(500, &[]), "");
        assert!(
            findings(501, &[]).contains("a.rs: the file has 501 lines, more than 500; move one of its ideas")
        );
        assert_eq!(findings(501, &[("a.rs", "a table")]), "");
    }

    #[test]
    fn an_exception_that_is_not_needed_is_reported() {
        assert!(
            findings(500, &[("a.rs", "a table")]).contains("a.rs has at most 500 lines, or is gone; remove")
        );
        assert!(findings(1, &[("b.rs", "a table")]).contains("b.rs has at most"));
    }
}
