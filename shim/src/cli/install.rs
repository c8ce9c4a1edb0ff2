//! `osm-egress install` and `osm-egress upgrade`.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Result;
use clap::{Args, ValueEnum};

use super::timeout::Timeout;
use egress_install::apply;

#[derive(Debug, Args)]
pub(super) struct Install {
    /// A value, as helm takes it: `key=value`, several by commas, lists as `{a,b}`. May be given several times.
    #[arg(long = "set", value_name = "KEY=VALUE")]
    settings: Vec<String>,
    /// A file of values. May be given several times; later ones count, and `--set` after all.
    #[arg(short = 'f', long = "values", value_name = "FILE")]
    files: Vec<PathBuf>,
    /// Forget the values of earlier times. Else they stay, and new ones are laid over them.
    #[arg(long)]
    reset_values: bool,
    /// Change nothing, and say what would be done. `client` does not even look at the cluster.
    #[arg(long, value_name = "HOW", num_args = 0..=1, require_equals = true, default_missing_value = "cluster")]
    dry_run: Option<DryRun>,
    /// With `--dry-run`: print the objects.
    #[arg(short = 'o', long, value_enum, requires = "dry_run")]
    output: Option<Manifests>,
    /// Go on where grants stop that count now. Without it they are listed, and nothing is changed.
    #[arg(long)]
    stop_grants: bool,
    /// Wait until the control plane runs, before the API server is told to ask it.
    #[arg(long)]
    wait: bool,
    /// Name of the mesh. Default: osm.
    #[arg(long, value_name = "NAME")]
    mesh_name: Option<String>,
    /// Namespace of the control plane. Default: osm-system.
    #[arg(long, value_name = "NAMESPACE")]
    osm_namespace: Option<String>,
    /// The cluster. Default: the one that this runs in, else kubectl's.
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
