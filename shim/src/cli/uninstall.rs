//! `osm-egress uninstall`.

use anyhow::Result;
use clap::Args;

use super::installation::Installation;
use super::timeout::Timeout;
use egress_install::remove;

#[derive(Debug, Args)]
pub(super) struct Uninstall {
    /// Delete the CRDs that `install` created, even if objects of them exist. These objects are lost.
    #[arg(long)]
    delete_crds: bool,
    #[command(flatten)]
    which: Installation,
    #[command(flatten)]
    timeout: Timeout,
}

impl Uninstall {
    pub(super) fn run(self) -> Result<()> {
        let options = remove::Options {
            names: self.which.names()?,
            kubeconfig: self.which.kubeconfig,
            delete_definitions: self.delete_crds,
            timeout: self.timeout.into(),
        };
        tokio::runtime::Runtime::new()?.block_on(remove::run(&options))
    }
}
