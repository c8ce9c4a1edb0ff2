//! Flags that choose the policy to evaluate.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::Args;
use egress_policy::Identity;

use super::blocked_ranges::BlockedRangesArgs;
use super::mesh_args::MeshArgs;
use super::timeout::parse_timeout;
use crate::explain::evidence::{self, PolicySource};
use egress_compile::CompileOptions;
use egress_kubernetes::{Connection, connect, read_once};

#[derive(Debug, Args)]
pub(super) struct EvidenceArgs {
    /// Folder of manifests. Without it and `--document`, objects are read from a cluster.
    #[arg(long, value_name = "DIR", conflicts_with_all = ["kubeconfig", "document"])]
    config_dir: Option<PathBuf>,
    /// Kubeconfig of the cluster to read from. Default: the cluster that the command runs in, else that of kubectl.
    #[arg(long, value_name = "FILE", conflicts_with = "document")]
    kubeconfig: Option<PathBuf>,
    /// Policy document to evaluate, as the filter receives it.
    #[arg(long, value_name = "FILE")]
    document: Option<PathBuf>,
    #[command(flatten)]
    pub(super) blocked: BlockedRangesArgs,
    /// Port of the outbound listener, as in `serve --listener-port`.
    #[arg(long, value_name = "PORT", default_value_t = 15001, value_parser = clap::value_parser!(u16).range(1..))]
    pub(super) listener_port: u16,
    /// Maximum time to read the cluster.
    #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = parse_timeout)]
    timeout: Duration,
    #[command(flatten)]
    mesh: MeshArgs,
}

/// The origin of the evidence.
pub(super) enum Origin {
    /// Something that is read already.
    Read(PolicySource),
    /// A cluster.
    Cluster(Connection),
}

impl EvidenceArgs {
    /// Reads a folder or a document, or makes a client of a cluster.
    pub(super) async fn origin(&self) -> Result<Origin> {
        Ok(match (&self.document, &self.config_dir) {
            (Some(file), _) => Origin::Read(evidence::file(file)?),
            (None, Some(folder)) => Origin::Read(evidence::folder(folder, &self.options())?),
            (None, None) => Origin::Cluster(connect(self.kubeconfig.as_deref()).await?),
        })
    }

    /// Reads what was not read yet.
    pub(super) async fn read(&self, origin: Origin) -> Result<PolicySource> {
        match origin {
            Origin::Read(evidence) => Ok(evidence),
            Origin::Cluster(connection) => {
                let options = self.options();
                let state = read_once(&connection.client, &options, self.timeout).await;
                let state = state.with_context(|| format!("asking {}", connection.server))?;
                Ok(evidence::cluster(&state, &options))
            }
        }
    }

    /// Returns whether objects are read, of which `--identity` has to choose.
    pub(super) fn needs_identity(&self) -> bool {
        self.document.is_none()
    }

    pub(super) fn options(&self) -> CompileOptions {
        self.mesh.clone().into()
    }
}

/// The identity that was named, or the only one.
pub(super) fn identity(named: Option<&Identity>, evidence: &PolicySource) -> Result<Identity> {
    let identity = named.or(evidence.only_identity()).cloned();
    identity.context("pass `--identity NAMESPACE/SERVICE-ACCOUNT`")
}
