//! `osm-egress test`: what is expected of policies, beside them in a file.

use std::path::Path;

use anyhow::{Context, Result};
pub use egress_compile::explain::test_case::{TestCase, TestOutcome, TestResults};

/// Reads a file.
///
/// # Errors
/// When it cannot be read, or something in it makes no sense; with the place.
pub fn read(path: &Path) -> Result<Vec<TestCase>> {
    let file = path.display().to_string();
    let bytes = std::fs::read(path).with_context(|| format!("cannot read {file}"))?;
    Ok(TestCase::parse(&file, &bytes)?)
}
