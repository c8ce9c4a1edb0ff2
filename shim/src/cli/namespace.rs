//! `osm-egress namespace`.

use std::path::{Path, PathBuf};

use anyhow::Result;
use clap::{Args, Subcommand};

use super::output::Output;
use egress_install::namespaces::{self, MeshRef};

#[derive(Debug, Args)]
pub(super) struct Namespace {
    #[command(subcommand)]
    command: Command,
    /// Kubeconfig of the cluster. Default: the cluster that the command runs in, else that of kubectl.
    #[arg(long, value_name = "FILE", global = true)]
    kubeconfig: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Add namespaces to the mesh: policies in them count, and pods that start in them get sidecars.
    Add {
        #[command(flatten)]
        which: Which,
        /// Do not inject sidecars into new pods.
        #[arg(long)]
        disable_sidecar_injection: bool,
    },
    /// Take namespaces out of the mesh.
    Remove {
        #[command(flatten)]
        which: Which,
    },
    /// List the namespaces of a mesh, or of all.
    List {
        /// List only the namespaces of this mesh.
        #[arg(long, value_name = "NAME")]
        mesh_name: Option<String>,
        /// Output format.
        #[arg(short = 'o', long, value_enum, default_value_t = Output::Text)]
        output: Output,
    },
}

#[derive(Debug, Args)]
struct Which {
    /// Names of the namespaces.
    #[arg(required = true)]
    namespaces: Vec<String>,
    /// Name of the mesh.
    #[arg(long, value_name = "NAME", default_value = "osm")]
    mesh_name: String,
    /// Namespace of the control plane, which cannot belong to the mesh.
    #[arg(long, value_name = "NAMESPACE", default_value = "osm-system")]
    osm_namespace: String,
}

impl Which {
    fn mesh<'w>(&'w self, kubeconfig: Option<&'w Path>) -> MeshRef<'w> {
        MeshRef { kubeconfig, name: &self.mesh_name, namespace: &self.osm_namespace }
    }
}

impl Namespace {
    pub(super) fn run(self) -> Result<()> {
        let kubeconfig = self.kubeconfig.as_deref();
        tokio::runtime::Runtime::new()?.block_on(async {
            match &self.command {
                Command::Add { which, disable_sidecar_injection } => {
                    namespaces::add(&which.mesh(kubeconfig), &which.namespaces, !disable_sidecar_injection)
                        .await
                }
                Command::Remove { which } => {
                    namespaces::remove(&which.mesh(kubeconfig), &which.namespaces).await
                }
                Command::List { mesh_name, output } => {
                    namespaces::list(kubeconfig, mesh_name.as_deref(), *output == Output::Json).await
                }
            }
        })
    }
}
