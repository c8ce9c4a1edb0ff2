//! `osm-egress verify`.

use std::net::SocketAddr;
use std::process::ExitCode;

use anyhow::Result;
use clap::Args;

use super::installation::Installation;
use super::output::{Output, print};
use egress_install::verify;

#[derive(Debug, Args)]
pub(super) struct Verify {
    /// Admin address of a control plane, to ask which proxies it serves.
    #[arg(long, value_name = "ADDRESS")]
    admin: Option<SocketAddr>,
    /// Output format.
    #[arg(short = 'o', long, value_enum, default_value_t = Output::Text)]
    output: Output,
    #[command(flatten)]
    which: Installation,
}

impl Verify {
    pub(super) fn run(self) -> Result<ExitCode> {
        let options = verify::Options {
            names: self.which.names()?,
            kubeconfig: self.which.kubeconfig,
            admin: self.admin,
        };
        let report = tokio::runtime::Runtime::new()?.block_on(verify::run(&options));
        print(&match self.output {
            Output::Json => format!("{}\n", serde_json::to_string_pretty(&report)?),
            Output::Text => report.to_string(),
        })?;
        Ok(if report.is_passed() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }
}
