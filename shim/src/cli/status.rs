//! `osm-egress status`.

use std::net::{Ipv4Addr, SocketAddr};
use std::process::ExitCode;

use anyhow::Result;
use clap::Args;
use egress_status::{AdminClient, describe};

use super::output::{Output, print};

#[derive(Debug, Args)]
pub(super) struct StatusArgs {
    /// Admin address of the control plane.
    #[arg(long, value_name = "ADDRESS", default_value_t = SocketAddr::from((Ipv4Addr::LOCALHOST, 15129)))]
    admin: SocketAddr,
    /// Report only whether the control plane is ready, in the exit code too. For health checks.
    #[arg(long, conflicts_with = "output")]
    ready: bool,
    /// Output format.
    #[arg(long, value_enum, default_value_t = Output::Text)]
    output: Output,
}

impl StatusArgs {
    pub(super) fn run(self) -> Result<ExitCode> {
        let client = AdminClient::new(self.admin);
        let runtime = tokio::runtime::Runtime::new()?;
        if self.ready {
            return print(&runtime.block_on(client.ready())?);
        }
        let text = match self.output {
            Output::Json => runtime.block_on(client.get("/status"))?,
            Output::Text => describe(&runtime.block_on(client.status())?),
        };
        print(&text)
    }
}
