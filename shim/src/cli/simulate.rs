//! `osm-egress simulate`.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::Args;
use egress_compile::manifest::{Diagnostic, Severity};
use egress_compile::store::{FileUpdate, Store};
use egress_compile::{CompileOptions, compile};
use egress_policy::Identity;

use super::flow_source::FlowSource;
use super::mesh_args::MeshArgs;
use super::output::{Output, print};
use super::timeout::parse_timeout;
use egress_core::source::Availability;
use egress_flows::simulate::Simulation;
use egress_flows::table::FlowQuery;
use egress_folder::Folder;
use egress_kubernetes::{connect, read_once};

#[derive(Debug, Args)]
pub(super) struct SimulateArgs {
    /// The changed manifests: a folder or a file. With `--config-dir` or `--cluster` they are applied to the objects
    /// there; without, they are all objects.
    #[arg(long, short, value_name = "NEW")]
    file: PathBuf,
    /// The folder of current manifests. Without it and `--cluster`, the recorded decisions are compared.
    #[arg(long, value_name = "DIR", conflicts_with_all = ["cluster", "kubeconfig"])]
    config_dir: Option<PathBuf>,
    /// Compare with the objects of the cluster that the command runs in, else that of kubectl.
    #[arg(long)]
    cluster: bool,
    /// Compare with the objects of the cluster of this kubeconfig.
    #[arg(long, value_name = "FILE")]
    kubeconfig: Option<PathBuf>,
    /// Only flows of this identity: namespace/service-account.
    #[arg(long, alias = "source", value_name = "NS/SA")]
    identity: Option<Identity>,
    #[command(flatten)]
    flows: FlowSource,
    /// Port of the outbound listener, as in `serve --listener-port`.
    #[arg(long, value_name = "PORT", default_value_t = 15001, value_parser = clap::value_parser!(u16).range(1..))]
    listener_port: u16,
    /// Maximum time to read the cluster.
    #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = parse_timeout)]
    timeout: Duration,
    /// Output format.
    #[arg(long, short, value_enum, default_value_t = Output::Text)]
    output: Output,
    #[command(flatten)]
    mesh: MeshArgs,
}

impl SimulateArgs {
    /// Runs the simulation. Exit code 1: traffic that is allowed now would be denied, or may be.
    pub(super) fn run(self) -> Result<ExitCode> {
        let options: CompileOptions = self.mesh.clone().into();
        let new = read(&self.file)?;
        let old = self.old(&options)?;
        let all = match &old {
            Some(old) => old.overlay(&new),
            None => new,
        };
        let before = old.map(|old| compile(&old, &options, None));
        let after = compile(&all, &options, None);
        for problem in all.diagnostics().chain(after.diagnostics().cloned()).filter(is_error) {
            eprintln!("{problem}");
        }
        let query = FlowQuery { identity: self.identity.clone(), ..FlowQuery::default() };
        let flows = self.flows.read(&query)?;
        let simulation = Simulation::run(&flows.flows, before.as_ref(), &after, self.listener_port)?;
        print(&match self.output {
            Output::Json => format!("{:#}\n", serde_json::json!(simulation)),
            Output::Text => simulation.to_string(),
        })?;
        Ok(if simulation.has_losses() { ExitCode::FAILURE } else { ExitCode::SUCCESS })
    }

    fn old(&self, options: &CompileOptions) -> Result<Option<Store>> {
        if let Some(folder) = &self.config_dir {
            return read(folder).map(Some);
        }
        if !self.cluster && self.kubeconfig.is_none() {
            return Ok(None);
        }
        let runtime = tokio::runtime::Runtime::new()?;
        let state = runtime.block_on(async {
            let connection = connect(self.kubeconfig.as_deref()).await?;
            let state = read_once(&connection.client, options, self.timeout).await;
            state.with_context(|| format!("asking {}", connection.server))
        })?;
        runtime.shutdown_background();
        Ok(Some(state.store.as_ref().clone()))
    }
}

fn is_error(problem: &Diagnostic) -> bool {
    problem.severity == Severity::Error
}

/// Reads a folder, or a file.
fn read(path: &Path) -> Result<Store> {
    if path.is_dir() {
        let state = Folder::load_once(path);
        return match &state.availability {
            Availability::Unavailable { reason } => bail!("{reason}"),
            Availability::Available => Ok(state.store.as_ref().clone()),
        };
    }
    let bytes = std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    let mut store = Store::default();
    store.apply(FileUpdate::read(path.display().to_string().into(), &bytes));
    Ok(store)
}
