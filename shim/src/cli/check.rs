//! `osm-egress check`.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::Args;

use super::mesh_args::MeshArgs;
use super::output::{Output, print};
use crate::check;

#[derive(Debug, Args)]
pub(super) struct Check {
    /// Folder of manifests.
    dir: PathBuf,
    /// Treat warnings as errors.
    #[arg(long)]
    strict: bool,
    /// Output format.
    #[arg(long, value_enum, default_value_t = Output::Text)]
    output: Output,
    #[command(flatten)]
    mesh: MeshArgs,
}

impl Check {
    pub(super) fn run(self) -> Result<ExitCode> {
        let report = check::check(&self.dir, &self.mesh.into());
        print(&match self.output {
            Output::Json => format!("{:#}\n", report.to_json()),
            Output::Text => report.to_string(),
        })?;
        Ok(ExitCode::from(report.exit_code(self.strict)))
    }
}
