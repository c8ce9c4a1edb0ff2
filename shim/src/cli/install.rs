//! `osm-egress install` and `osm-egress upgrade`.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Result;
use clap::{Args, ValueEnum};

use super::timeout::Timeout;
use egress_install::apply;

#[derive(Debug, Args)]
pub(super) struct Install {
    /// Value, in the syntax of helm: `key=value`, several separated by commas, lists as `{a,b}`. May be repeated.
    #[arg(long = "set", value_name = "KEY=VALUE")]
    settings: Vec<String>,
    /// File of values. May be repeated: later files override earlier ones, and `--set` overrides all.
    #[arg(short = 'f', long = "values", value_name = "FILE")]
    files: Vec<PathBuf>,
    /// Discard the values of earlier installs and upgrades. Otherwise they are kept, and new values override them.
    #[arg(long)]
    reset_values: bool,
    /// Change nothing, and print what would change. `client` does not contact the cluster.
    #[arg(long, value_name = "HOW", num_args = 0..=1, require_equals = true, default_missing_value = "cluster")]
    dry_run: Option<DryRun>,
    /// Print the objects, with `--dry-run`.
    #[arg(short = 'o', long, value_enum, requires = "dry_run")]
    output: Option<Manifests>,
    /// Proceed even if this ends grants that are in force. Without it, they are listed, and nothing changes.
    #[arg(long)]
    stop_grants: bool,
    /// Wait until the control plane is available, before its webhooks are registered with the API server.
    #[arg(long)]
    wait: bool,
    /// Name of the mesh. Default: osm.
    #[arg(long, value_name = "NAME")]
    mesh_name: Option<String>,
    /// Namespace of the control plane. Default: osm-system.
    #[arg(long, value_name = "NAMESPACE")]
    osm_namespace: Option<String>,
    /// Kubeconfig of the cluster. Default: the cluster that the command runs in, else that of kubectl.
    #[arg(long, value_name = "FILE")]
    kubeconfig: Option<PathBuf>,
    #[command(flatten)]
    timeout: Timeout,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum DryRun {
    Cluster,
    Client,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Manifests {
    Yaml,
}

impl Install {
    pub(super) fn run(self, is_upgrade: bool) -> Result<()> {
        let timeout: Duration = self.timeout.into();
        let options = apply::Options {
            kubeconfig: self.kubeconfig,
            mesh: self.mesh_name,
            namespace: self.osm_namespace,
            files: self.files,
            settings: self.settings,
            reset_values: self.reset_values,
            is_upgrade,
            dry_run: self.dry_run.map(|how| match how {
                DryRun::Cluster => apply::DryRun::Cluster,
                DryRun::Client => apply::DryRun::Client,
            }),
            print_yaml: matches!(self.output, Some(Manifests::Yaml)),
            stop_grants: self.stop_grants,
            wait: self.wait,
            timeout,
        };
        tokio::runtime::Runtime::new()?.block_on(apply::run(&options))
    }
}
