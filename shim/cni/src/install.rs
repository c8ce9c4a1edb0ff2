//! Installation on a node: the binary, the kubeconfig, and the plugin in the node's network configuration.
//!
//! A pod of the DaemonSet `osm-egress-cni` runs this. It looks at the node after each change of a watched folder and at an
//! interval, and repairs what differs: agents of network plugins write their configuration anew at will.

mod configuration;
mod files;
mod kubeconfig;
mod node;
mod removal;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use notify::{RecommendedWatcher, RecursiveMode, Watcher};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tokio::time::MissedTickBehavior;

use self::node::{Change, Node};
pub use self::removal::Removal;
use crate::pod::check_access;

/// The interval without events after which the node is looked at: the token in the kubeconfig is renewed every hour, and
/// some file systems give no events.
const INTERVAL: Duration = Duration::from_secs(10);

/// Options of the installation.
#[derive(Clone, Debug)]
pub struct Options {
    /// Folder of the node's plugins, as this process sees it.
    pub bin_dir: PathBuf,
    /// Folder of the node's network configuration, as this process sees it.
    pub net_dir: PathBuf,
    /// The same folder, as the node sees it.
    pub node_net_dir: PathBuf,
    /// Folder with the token and the authority of this pod's service account.
    pub service_account_dir: PathBuf,
    /// URL of the API server, as the node reaches it.
    pub server: String,
    /// Namespaces for whose pods the plugin does not ask the API server.
    pub exclude_namespaces: Vec<String>,
    /// Treatment of the node when this process ends.
    pub removal: Removal,
    /// Namespace and name of the DaemonSet.
    pub daemon_set: Option<(String, String)>,
}

/// Installs the plugin and keeps it installed until SIGTERM.
///
/// # Errors
/// Fails when the binary of this process cannot be read. Problems of the node are logged, and tried again.
pub async fn run(options: Options) -> Result<()> {
    let mut node = Node::new(&options)?;
    let mut terminate = signal(SignalKind::terminate()).context("cannot handle SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot handle SIGINT")?;
    let (sender, mut events) = mpsc::channel(1);
    let mut watcher = watch(&options, sender);
    let mut interval = tokio::time::interval(INTERVAL);
    interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut last_problem = None;
    loop {
        tokio::select! {
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
            // Folders that did not exist can be watched once they do.
            _ = interval.tick() => watcher.retry(),
            _ = events.recv() => {}
        }
        let problem = repair(&mut node).err().map(|error| format!("{error:#}"));
        if problem != last_problem {
            match &problem {
                Some(problem) => tracing::warn!(%problem, "the plugin is not installed on this node"),
                None => tracing::info!("the plugin is installed on this node"),
            }
            last_problem = problem;
        }
    }
    if options.removal.is_wanted(options.daemon_set.as_ref()).await {
        for change in node.plan_removal()? {
            apply(&change)?;
        }
        tracing::info!("the plugin is taken off this node");
    } else {
        tracing::info!("the plugin stays on this node");
    }
    Ok(())
}

fn repair(node: &mut Node) -> Result<()> {
    let plan = node.plan()?;
    for change in plan.changes {
        apply(&change)?;
        node.record(&change);
    }
    plan.problem.map_or(Ok(()), |problem| Err(anyhow!(problem)))
}

fn apply(change: &Change) -> Result<()> {
    change.apply()?;
    tracing::info!("{change}");
    Ok(())
}

/// Checks that nothing remains to be installed, and that the plugin can read pods. For the readiness of the DaemonSet.
///
/// # Errors
/// Fails with the first difference, or the reason why pods cannot be read.
pub fn check(options: &Options) -> Result<()> {
    let mut node = Node::new(options)?;
    let plan = node.plan()?;
    if let Some(problem) = plan.problem {
        bail!(problem);
    }
    if let Some(change) = plan.changes.first() {
        bail!("not done yet: {change}");
    }
    check_access(&node.kubeconfig()).context("the plugin cannot read pods")
}

/// A watcher of the node's folders.
struct FolderWatcher {
    watcher: Option<RecommendedWatcher>,
    /// Folders that are not watched yet.
    missing: Vec<PathBuf>,
}

fn watch(options: &Options, sender: mpsc::Sender<()>) -> FolderWatcher {
    // One event that waits stands for all: a look at the node sees everything.
    let handler = move |_| {
        let _ = sender.try_send(());
    };
    let watcher = notify::recommended_watcher(handler)
        .inspect_err(|error| tracing::warn!(%error, "no file events: looking every 10 s instead"));
    let missing = vec![options.net_dir.clone(), options.bin_dir.clone(), options.service_account_dir.clone()];
    let mut watcher = FolderWatcher { watcher: watcher.ok(), missing };
    watcher.retry();
    watcher
}

impl FolderWatcher {
    fn retry(&mut self) {
        let Some(watcher) = &mut self.watcher else { return };
        self.missing.retain(|folder| watcher.watch(folder, RecursiveMode::NonRecursive).is_err());
    }
}
