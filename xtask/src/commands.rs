//! Commands that run in the repository's root.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};

/// The repository's root.
pub(crate) fn root() -> Result<&'static Path> {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("xtask lies outside of a repository")
}

/// A cargo command, of the cargo that runs this program.
pub(crate) fn cargo(arguments: &[&str]) -> Result<Command> {
    let mut command = Command::new(env!("CARGO"));
    command.current_dir(root()?).args(arguments);
    Ok(command)
}

/// Runs a command whose output is shown, and fails as it fails.
pub(crate) fn run_command(name: &str, command: &mut Command) -> Result<()> {
    let status = command.status().with_context(|| format!("{name}: cannot run {command:?}"))?;
    if status.success() { Ok(()) } else { bail!("{name} failed: {command:?}") }
}
