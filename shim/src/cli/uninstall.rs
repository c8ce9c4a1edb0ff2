//! `osm-egress uninstall`.

use std::path::PathBuf;

use anyhow::Result;
use clap::Args;

use super::wait::Timeout;
use crate::install::names::Names;
use crate::install::remove;

#[derive(Debug, Args)]
pub(super) struct Uninstall {
    /// Delete the definitions that `install` made even if there are objects of them, which are lost.
    #[arg(long)]
    delete_crds: bool,
    /// Name of the mesh.
    #[arg(long, value_name = "NAME", default_value = "osm")]
    mesh_name: String,
    /// Namespace of the control plane.
    #[arg(long, value_name = "NAMESPACE", default_value = "osm-system")]
    osm_namespace: String,
    /// The cluster. Default: the one that this runs in, else kubectl's.
    #[arg(long, value_name = "FILE")]
    kubeconfig: Option<PathBuf>,
    #[command(flatten)]
    timeout: Timeout,
}

impl Uninstall {
    pub(super) fn run(self) -> Result<()> {
        let options = remove::Options {
            kubeconfig: self.kubeconfig,
            names: Names::of((Some(&self.mesh_name), Some(&self.osm_namespace)), ("", ""))?,
            delete_definitions: self.delete_crds,
            timeout: self.timeout.into(),
        };
        tokio::runtime::Runtime::new()?.block_on(remove::run(&options))
    }
}
