//! `osm-egress serve`: source → compiled documents → snapshots → streams.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use egress_policy::Identity;
use tokio::net::TcpListener;
use tokio::sync::watch;

use crate::admin;
use crate::envoy::{Generator, Settings};
use crate::snapshot::Snapshot;
use crate::source::folder::Folder;
use crate::source::{Availability, SourceState};
use crate::status::Shared;
use crate::xds::identify::NodeIdentity;
use crate::xds::proxies::Proxies;
use crate::xds::server::{Server, Snapshots};
use egress_compile::manifest::Severity;
use egress_compile::{CompileOptions, Compiled, compile};

/// What `serve` is told.
#[derive(Debug)]
pub struct Config {
    /// The folder of manifests.
    pub folder: std::path::PathBuf,
    /// The mesh's names.
    pub options: CompileOptions,
    /// What every proxy gets.
    pub envoy: Settings,
    /// Where proxies connect.
    pub xds: SocketAddr,
    /// Where people and Prometheus connect.
    pub admin: SocketAddr,
}

/// Serves until the process is told to stop.
///
/// # Errors
/// When an address is taken, or the transport fails.
pub async fn run(config: Config) -> Result<()> {
    let xds = listen("xDS", config.xds).await?;
    let admin_listener = listen("admin", config.admin).await?;
    let folder = config.folder.display().to_string();
    let folder_source = Folder::watch(&config.folder).context("cannot start a thread")?;
    let source = folder_source.states();
    let first = compile(&source.borrow().store, &config.options, None);
    report(&source.borrow(), &first);
    let (sender, compiled) = watch::channel(Arc::new(first));
    let snapshots = Arc::new(Published::new(Generator::new(config.envoy), compiled.clone()));
    let proxies = Arc::new(Proxies::default());
    let shared = Shared { source: source.clone(), compiled, proxies: Arc::clone(&proxies) };
    tokio::spawn(recompile(source, config.options, sender, Arc::clone(&snapshots)));
    tracing::info!(folder, xds = %config.xds, admin = %config.admin, "serving");
    let server = Server::new(snapshots, Arc::new(NodeIdentity), proxies);
    let (stop, stopped) = watch::channel(false);
    let wait = |mut stopped: watch::Receiver<bool>| async move {
        // An error means that the sender is gone, which says the same.
        let _ = stopped.wait_for(|stopped| *stopped).await;
    };
    let xds = tokio::spawn(server.serve(xds, wait(stopped.clone())));
    let admin = tokio::spawn(admin::serve(shared, admin_listener, wait(stopped)));
    signalled().await?;
    tracing::info!("stopping: proxies keep what they have");
    stop.send_replace(true);
    // Streams do not end by themselves; they are cut when the process ends.
    let grace = Duration::from_millis(200);
    let _ = tokio::time::timeout(grace, admin).await;
    let _ = tokio::time::timeout(grace, xds).await;
    folder_source.stop();
    Ok(())
}

async fn listen(what: &str, address: SocketAddr) -> Result<TcpListener> {
    TcpListener::bind(address).await.with_context(|| {
        format!(
            "cannot listen for {what} on {address}: choose another address with `--{}-listen`",
            what.to_lowercase()
        )
    })
}

async fn signalled() -> Result<()> {
    let mut terminate = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
    tokio::select! {
        result = tokio::signal::ctrl_c() => result.context("cannot wait for signals"),
        _ = terminate.recv() => Ok(()),
    }
}

/// Compiles whenever the objects change.
async fn recompile(
    mut source: watch::Receiver<SourceState>,
    options: CompileOptions,
    sender: watch::Sender<Arc<Compiled>>,
    snapshots: Arc<Published>,
) {
    while source.changed().await.is_ok() {
        let state = source.borrow_and_update().clone();
        let store = Arc::clone(&state.store);
        let before = Arc::clone(&sender.borrow());
        let start = Instant::now();
        let options = options.clone();
        let compiled = tokio::task::spawn_blocking(move || compile(&store, &options, Some(&before))).await;
        let Ok(compiled) = compiled else {
            tracing::error!("compiling failed; the last good state stays in force");
            continue;
        };
        report(&state, &compiled);
        let compiled = Arc::new(compiled);
        sender.send_replace(Arc::clone(&compiled));
        let changed = snapshots.update(&compiled);
        tracing::info!(changed, took = ?start.elapsed(), "compiled");
    }
}

fn report(state: &SourceState, compiled: &Compiled) {
    if let Availability::Unavailable { reason } = &state.availability {
        tracing::error!(reason, "the last good state stays in force");
    }
    for problem in state.store.problems().chain(compiled.problems().cloned()) {
        match problem.severity {
            Severity::Error => tracing::error!("{problem}"),
            Severity::Warning => tracing::warn!("{problem}"),
            Severity::Info => tracing::info!("{problem}"),
        }
    }
}

/// The snapshots that somebody listens to. Others are not even made.
#[derive(Debug)]
struct Published {
    generator: Generator,
    compiled: watch::Receiver<Arc<Compiled>>,
    topics: Mutex<HashMap<Identity, watch::Sender<Arc<Snapshot>>>>,
}

impl Published {
    fn new(generator: Generator, compiled: watch::Receiver<Arc<Compiled>>) -> Self {
        Self { generator, compiled, topics: Mutex::default() }
    }

    /// Gives new snapshots to those whose document changed, and says to how many identities.
    fn update(&self, compiled: &Compiled) -> usize {
        let mut topics = self.topics.lock().unwrap_or_else(PoisonError::into_inner);
        topics.retain(|_, topic| !topic.is_closed());
        let mut changed = 0;
        for (identity, topic) in topics.iter() {
            let document = compiled.document(identity);
            if topic.borrow().document_version() != document.version {
                let snapshot = self.generator.snapshot(&document, compiled.clusters(identity));
                topic.send_replace(Arc::new(snapshot));
                changed += 1;
            }
        }
        changed
    }
}

impl Snapshots for Published {
    fn subscribe(&self, identity: &Identity) -> watch::Receiver<Arc<Snapshot>> {
        let mut topics = self.topics.lock().unwrap_or_else(PoisonError::into_inner);
        // Under the lock, so that an update between the two is not lost.
        let compiled = Arc::clone(&self.compiled.borrow());
        let document = compiled.document(identity);
        let snapshot = || Arc::new(self.generator.snapshot(&document, compiled.clusters(identity)));
        let topic = topics.entry(identity.clone()).or_insert_with(|| watch::channel(snapshot()).0);
        if topic.borrow().document_version() != document.version {
            topic.send_replace(snapshot());
        }
        topic.subscribe()
    }
}
