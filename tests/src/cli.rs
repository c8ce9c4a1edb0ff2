//! Runs `osm-egress` as its user does.

use anyhow::{Result, ensure};

use crate::control_plane;
use crate::kube::{ApiServer, User};

/// The result of a command.
#[derive(Debug)]
pub struct CommandOutput {
    /// True if the command succeeded.
    pub success: bool,
    /// The standard output.
    pub stdout: String,
    /// The standard error: warnings and errors.
    pub stderr: String,
}

impl CommandOutput {
    /// Returns the result, or an error if the command failed.
    ///
    /// # Errors
    /// Fails if it did not.
    pub fn expect_success(self) -> Result<Self> {
        ensure!(self.success, "it failed: {}\nafter: {}", self.stderr, self.stdout);
        Ok(self)
    }

    /// Returns the error text of a command that must fail.
    ///
    /// # Errors
    /// Fails if nothing did.
    pub fn expect_failure(self) -> Result<String> {
        ensure!(!self.success, "it succeeded: {}", self.stdout);
        Ok(self.stderr)
    }
}

/// Runs `osm-egress` with these arguments as a user of the cluster.
///
/// # Errors
/// Fails if it cannot be run.
pub fn osm_egress(api: &ApiServer<'_>, user: User, words: &[&str]) -> Result<CommandOutput> {
    let output = api.command(&control_plane::binary()?.to_string_lossy(), user).args(words).output()?;
    Ok(CommandOutput {
        success: output.status.success(),
        stdout: String::from_utf8(output.stdout)?,
        stderr: String::from_utf8(output.stderr)?,
    })
}
