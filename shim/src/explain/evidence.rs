//! The objects, or the document, that `explain` evaluates: from a folder, a cluster or a file.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result, bail, ensure};
use egress_compile::CompileOptions;
pub use egress_compile::explain::policy_source::{Objects, PolicySource, SourceLocation};
use egress_policy::Document;

use egress_core::source::{Availability, SourceState};
use egress_folder::Folder;

/// Reads a folder of manifests.
///
/// # Errors
/// When it cannot be read.
pub fn folder(dir: &Path, options: &CompileOptions) -> Result<PolicySource> {
    let state = Folder::load_once(dir);
    if let Availability::Unavailable { reason } = &state.availability {
        bail!("{reason}: name a folder that exists and that you may read");
    }
    ensure!(
        state.store.files().next().is_some(),
        "there is no manifest in `{}`: manifests are files that end in `.yaml`, `.yml` or `.json`",
        dir.display()
    );
    Ok(PolicySource::compile(state.store, options, None))
}

/// Reads the objects of a cluster.
#[must_use]
pub fn cluster(state: &SourceState, options: &CompileOptions) -> PolicySource {
    PolicySource::compile(Arc::clone(&state.store), options, Some(options.mesh_name.clone()))
}

/// Reads a policy document, as the filter reads it.
///
/// # Errors
/// When it cannot be read, or is none.
pub fn file(path: &Path) -> Result<PolicySource> {
    let text = std::fs::read_to_string(path)
        .with_context(|| format!("cannot read the document {}", path.display()))?;
    let document: Document = Document::from_json(&text)
        .map_err(|error| anyhow::anyhow!("{}: {error}", path.display()))
        .context("this is no policy document (`osm-egress schema` has its form)")?;
    Ok(PolicySource::Document(Arc::new(document)))
}
