//! The flags that say which control plane of which cluster.

use std::path::PathBuf;

use anyhow::Result;
use clap::Args;

use egress_install::names::Names;

#[derive(Debug, Args)]
pub(super) struct Installation {
    /// Name of the mesh.
    #[arg(long, value_name = "NAME", default_value = "osm")]
    mesh_name: String,
    /// Namespace of the control plane.
    #[arg(long, value_name = "NAMESPACE", default_value = "osm-system")]
    osm_namespace: String,
    /// Kubeconfig of the cluster. Default: the cluster that the command runs in, else that of kubectl.
    #[arg(long, value_name = "FILE")]
    pub(super) kubeconfig: Option<PathBuf>,
}

impl Installation {
    pub(super) fn names(&self) -> Result<Names> {
        Names::resolve((Some(&self.mesh_name), Some(&self.osm_namespace)), ("", ""))
    }
}
