//! Renders `docs/bypasses.md` from the table and its results.

use std::fmt::Write as _;

use super::{KNOWN_BYPASSES, Row};

const INTRODUCTION: &str = "# Bypasses

The known bypasses of an egress filter, and the result of each. A test suite writes this page:
`tests/tests/bypasses.rs` sends the real bytes through a real Envoy with the real control plane, and compares
the results with this page (`UPDATE=1` writes it).

A check passes if the workload, the access log and the outside servers agree: the client gets the expected
answer, the log has the expected decision, and connections arrive at the expected addresses only. No check may
reach 198.51.100.66, a forbidden host, or a server inside the pod.

`httpbin.org` (203.0.113.10) is an exact name in the policies, a wildcard covers `www.example.com`
(203.0.113.20), and no policy lists `evil.example`. The policies are in `tests/src/bypass/policies.yaml`.
";

/// The result of a row's checks.
#[derive(Debug)]
pub struct RowResult<'r> {
    /// The row.
    pub row: &'r Row,
    /// The checks that failed, each with its error.
    pub failures: Vec<String>,
}

/// Renders the page.
#[must_use]
pub fn page(outcomes: &[RowResult<'_>]) -> String {
    let mut page = INTRODUCTION.to_owned();
    let checks: usize = outcomes.iter().map(|outcome| outcome.row.checks.len()).sum();
    let passed = outcomes.iter().filter(|outcome| outcome.failures.is_empty()).count();
    let partly = outcomes.iter().filter(|outcome| outcome.row.out_of_reach.is_some()).count();
    let _ = write!(
        page,
        "\n{passed} of {KNOWN_BYPASSES} rows pass, with {checks} checks. A part of {partly} rows is out of a \
         sidecar's reach: \
         see [below](#out-of-reach) and the [threat model](threat-model.md).\n\n\
         | # | bypass | behaviour | decided by | reason or status | checks | result |\n|--|--|--|--|--|--|--|\n"
    );
    for RowResult { row, failures } in outcomes {
        let result = match (failures.len(), &row.out_of_reach) {
            (0, None) => "passed".to_owned(),
            (0, Some(_)) => "passed; a part is out of reach".to_owned(),
            (failed, _) => format!("{failed} FAILED"),
        };
        let _ = writeln!(
            page,
            "| {} | {} | {} | {} | {} | {} | {result} |",
            row.number,
            cell(row.bypass),
            cell(row.behaviour),
            row.decides,
            if row.reasons().is_empty() { "-".to_owned() } else { row.reasons().join(", ") },
            row.checks.len(),
        );
    }
    page += "\n## Out of reach\n\n| # | part | reason | remedy |\n|--|--|--|--|\n";
    for row in outcomes.iter().map(|outcome| outcome.row) {
        if let Some(gap) = &row.out_of_reach {
            let _ = writeln!(
                page,
                "| {} | {} | {} | {} |",
                row.number,
                cell(gap.what),
                cell(gap.why),
                cell(gap.instead)
            );
        }
    }
    page += "\n## Checks\n";
    for row in outcomes.iter().map(|outcome| outcome.row) {
        let _ = writeln!(page, "\n**{}. {}**\n\n| sent | expected |\n|--|--|", row.number, row.bypass);
        for check in &row.checks {
            let _ = writeln!(page, "| {} | {} |", cell(&check.sends), cell(&check.expectation()));
        }
    }
    page
}

/// Escapes a cell of a table: a bar would begin the next cell.
fn cell(text: &str) -> String {
    text.replace('|', "\\|")
}
