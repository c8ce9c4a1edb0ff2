//! `osm-egress verify`.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::Args;

use super::{Output, print};
use crate::install::names::Names;
use crate::install::verify;

#[derive(Debug, Args)]
pub(super) struct Verify {
    /// A control plane's admin address, to ask which proxies it serves.
    #[arg(long, value_name = "ADDRESS")]
    admin: Option<SocketAddr>,
    /// How to print it.
    #[arg(short = 'o', long, value_enum, default_value_t = Output::Text)]
    output: Output,
    /// Name of the mesh.
    #[arg(long, value_name = "NAME", default_value = "osm")]
    mesh_name: String,
    /// Namespace of the control plane.
    #[arg(long, value_name = "NAMESPACE", default_value = "osm-system")]
    osm_namespace: String,
    /// The cluster. Default: the one that this runs in, else kubectl's.
    #[arg(long, value_name = "FILE")]
    kubeconfig: Option<PathBuf>,
}

impl Verify {
    pub(super) fn run(self) -> Result<ExitCode> {
        let options = verify::Options {
            kubeconfig: self.kubeconfig,
            names: Names::of((Some(&self.mesh_name), Some(&self.osm_namespace)), ("", ""))?,
            admin: self.admin,
        };
        let report = tokio::runtime::Runtime::new()?.block_on(verify::run(&options));
        print(&match self.output {
            Output::Json => format!("{}\n", serde_json::to_string_pretty(&report)?),
            Output::Text => report.to_string(),
        })?;
        Ok(if report.is_good() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }
}
