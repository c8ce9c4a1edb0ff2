//! Builds without this machine's paths in them.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// Flags of the compiler that take this machine's paths out of what it writes; for `CARGO_ENCODED_RUSTFLAGS`.
pub(crate) fn remapped(root: &Path) -> Result<Vec<String>> {
    Ok(vec![
        format!("--remap-path-prefix={}=/egress", root.display()),
        format!("--remap-path-prefix={}=/cargo", cargo_home()?.display()),
    ])
}

fn cargo_home() -> Result<PathBuf> {
    if let Some(home) = std::env::var_os("CARGO_HOME") {
        return Ok(home.into());
    }
    let home = std::env::var_os("HOME").context("neither CARGO_HOME nor HOME is set")?;
    Ok(Path::new(&home).join(".cargo"))
}
