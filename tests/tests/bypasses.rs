//! The known bypasses of an egress filter, each with the real bytes through a real Envoy.

use std::path::PathBuf;

use anyhow::{Result, ensure};
use egress_policy::ReasonCode;
use egress_tests::bypass::check::Expect;
use egress_tests::bypass::observed_mesh::ControlPlaneFlags;
use egress_tests::bypass::report::{self, RowResult};
use egress_tests::bypass::{self, KNOWN_BYPASSES, Row, observed_mesh};
use egress_tests::netns::ensure_capable;
use egress_tests::repository_root;

/// Every row is there, and every row has a result.
#[test]
fn the_table_is_complete() {
    let table = bypass::table();
    let numbers: Vec<usize> = table.iter().map(|row| row.number).collect();
    assert_eq!(numbers, (1..=KNOWN_BYPASSES).collect::<Vec<_>>());
    let codes: Vec<_> = ReasonCode::ALL.iter().map(|reason| reason.as_str()).collect();
    for row in &table {
        assert!(!row.checks.is_empty(), "row {} is not tried", row.number);
        for expect in row.checks.iter().flat_map(|check| &check.expect) {
            if let Expect::Closed(reason) | Expect::Refused(reason) = expect {
                assert!(codes.contains(reason), "row {}: `{reason}` is no reason code", row.number);
            }
        }
    }
}

/// The threat model lists every part that a sidecar cannot decide, with its remedy.
#[test]
fn the_threat_model_lists_what_is_out_of_reach() -> Result<()> {
    let text = std::fs::read_to_string(repository_root().join("docs/threat-model.md"))?;
    for row in bypass::table().iter().filter(|row| row.out_of_reach.is_some()) {
        let link = format!("[{}](bypasses.md#out-of-reach)", row.number);
        ensure!(text.contains(&link), "docs/threat-model.md does not speak of row {}", row.number);
    }
    Ok(())
}

/// Runs all rows, and reports all failures at the end.
#[test]
fn every_row_behaves_as_documented() -> Result<()> {
    ensure_capable()?;
    let table = bypass::table();
    let mut outcomes: Vec<RowResult<'_>> =
        table.iter().map(|row| RowResult { row, failures: vec![] }).collect();
    let mut trespasses = Vec::new();
    for setup in [ControlPlaneFlags::Default, ControlPlaneFlags::ShortTimeout] {
        observed_mesh::with_observed_mesh(setup, |observed| {
            for outcome in &mut outcomes {
                for check in outcome.row.checks.iter().filter(|check| check.setup == setup) {
                    if let Err(why) = check.run(observed) {
                        outcome.failures.push(format!(
                            "  {}: expected {}: {why}",
                            check.sends,
                            check.expectation()
                        ));
                    }
                }
            }
            trespasses.extend(observed.trespasses());
            Ok(())
        })?;
    }
    let page = report::page(&outcomes);
    let path = page_path();
    if std::env::var_os("UPDATE").is_some() {
        std::fs::write(&path, &page)?;
    }
    let failed: Vec<_> = outcomes.iter().filter(|outcome| !outcome.failures.is_empty()).collect();
    let all: Vec<String> = failed.iter().map(|outcome| describe(outcome.row, &outcome.failures)).collect();
    ensure!(
        failed.is_empty() && trespasses.is_empty(),
        "{} of {KNOWN_BYPASSES} rows failed\n{}\nwhere nothing may arrive, there arrived {trespasses:?}",
        failed.len(),
        all.join("\n")
    );
    let found = std::fs::read_to_string(&path).unwrap_or_default();
    ensure!(found == page, "docs/bypasses.md is not current: run `UPDATE=1 cargo xtask test`");
    Ok(())
}

fn page_path() -> PathBuf {
    repository_root().join("docs/bypasses.md")
}

fn describe(row: &Row, failures: &[String]) -> String {
    format!("row {}: {}\n{}", row.number, row.bypass, failures.join("\n"))
}
