//! Runs `osm-egress` against a cluster, as its user does.

use anyhow::{Result, ensure};

use crate::kube::{ApiServer, User};
use crate::shim;

/// What a command said.
#[derive(Debug)]
pub struct Said {
    /// Whether it succeeded.
    pub ok: bool,
    /// Its output.
    pub out: String,
    /// What it warned of, or why it failed.
    pub err: String,
}

impl Said {
    /// This, if it succeeded.
    ///
    /// # Errors
    /// When it did not.
    pub fn done(self) -> Result<Self> {
        ensure!(self.ok, "it failed: {}\nafter: {}", self.err, self.out);
        Ok(self)
    }

    /// What went wrong.
    ///
    /// # Errors
    /// When nothing did.
    pub fn refused(self) -> Result<String> {
        ensure!(!self.ok, "it succeeded: {}", self.out);
        Ok(self.err)
    }
}

/// Runs `osm-egress` with these words as a user of the cluster.
///
/// # Errors
/// When it cannot be run.
pub fn osm_egress(api: &ApiServer<'_>, user: User, words: &[&str]) -> Result<Said> {
    let output = api.command(&shim::binary()?.to_string_lossy(), user).args(words).output()?;
    Ok(Said {
        ok: output.status.success(),
        out: String::from_utf8(output.stdout)?,
        err: String::from_utf8(output.stderr)?,
    })
}
