//! `osm-egress serve`: source → compiled documents → snapshots → streams.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use egress_policy::{Document, Identity};
use tokio::net::TcpListener;
use tokio::sync::watch;

use egress_admin::console::ConsoleConfig;
use egress_admin::console::playground::Playground;
use egress_admin::console::token::Token;
use egress_admin::console::{WriteConfig, WriteTarget};
use egress_admin::guard::HostName;
use egress_admin::pools::Pools;
use egress_admin::server as admin;
use egress_admin::status::AdminState;
use egress_compile::manifest::Severity;
use egress_compile::{CompileOptions, Compiled, OwnCluster, compile};
use egress_core::hash;
use egress_core::proxies::ProxyRegistry;
use egress_core::source::{Availability, SourceState};
use egress_envoy::snapshot::Snapshot;
use egress_envoy::{Generator, Settings};
use egress_flows::memory::Memory;
use egress_flows::store::{Keeper, Store};
use egress_folder::Folder;
use egress_inject as inject;
use egress_kubernetes::audit::{Audit, Snapshot as Audited, Witness};
use egress_kubernetes::webhook::{self, ClientNames, ReviewCounters, Webhooks};
use egress_kubernetes::{AuditEvents, Cluster, ClusterWriter, Connection, PolicyStatuses, Reviewer, connect};
use egress_transport::connections::{accept_tls, raise_file_limit, serve_http};
use egress_transport::tls::{ServerTls, TlsFiles};
use egress_xds::fallback::Variants;
use egress_xds::identify::{Accepted, Certificates, Identification, Tokens, TrustDomain};
use egress_xds::proxies::Proxies;
use egress_xds::server::{Server, Snapshots};

/// What `serve` is told.
#[derive(Debug)]
pub struct Config {
    /// Where objects come from.
    pub origin: Origin,
    /// The mesh's names.
    pub options: CompileOptions,
    /// The name of this control plane, among others of the same mesh.
    pub replica: String,
    /// Where an API server connects to ask about objects.
    pub webhook: Option<SocketAddr>,
    /// Who may ask there, of those whose certificate was verified.
    pub webhook_clients: ClientNames,
    /// How pods that it asks about get their sidecars; without it they cannot.
    pub sidecars: Option<inject::Settings>,
    /// What every proxy gets.
    pub envoy: Settings,
    /// How many flows are remembered of each identity, where proxies tell of them.
    pub flows_per_identity: NonZeroUsize,
    /// The file in which they survive a restart.
    pub flow_db: Option<PathBuf>,
    /// The certificate of the control plane, and whose client certificates count.
    pub tls: Option<TlsFiles>,
    /// How proxies are identified.
    pub identity: By,
    /// Where proxies connect.
    pub xds: SocketAddr,
    /// Where people and Prometheus connect.
    pub admin: SocketAddr,
    /// Names by which they may ask, besides addresses and `localhost`.
    pub admin_hosts: Vec<HostName>,
    /// What the console must be shown to write, if it may.
    pub console_token: Option<Token>,
    /// The playground that the console links to.
    pub playground: Option<Playground>,
}

/// How proxies are identified.
#[derive(Debug)]
pub enum By {
    /// By what they say of themselves.
    NodeId,
    /// By their credentials. Client certificates count where there is an authority for them.
    Credentials {
        /// The domain of identities in client certificates.
        trust_domain: TrustDomain,
        /// The audience of tokens, if these count.
        token_audience: Option<String>,
        /// How often the credentials of an open stream are looked at again.
        review_interval: Duration,
    },
}

/// Where objects come from.
#[derive(Debug)]
pub enum Origin {
    /// A folder of manifests.
    Folder(PathBuf),
    /// The API server of a cluster: of the kubeconfig that is named, else of the environment.
    Cluster(Option<PathBuf>),
}

/// What is read until the process ends.
#[derive(Debug)]
enum Reading {
    Folder(Folder, PathBuf),
    Cluster(Box<Cluster>, Connection),
}

impl Reading {
    async fn begin(origin: &Origin, options: &CompileOptions) -> Result<(Self, String)> {
        Ok(match origin {
            Origin::Folder(folder) => {
                let reading = Folder::watch(folder).context("cannot start a thread")?;
                (Self::Folder(reading, folder.clone()), folder.display().to_string())
            }
            Origin::Cluster(kubeconfig) => {
                let connection = connect(kubeconfig.as_deref()).await?;
                let server = connection.server.clone();
                (Self::Cluster(Box::new(Cluster::watch(&connection.client, options)), connection), server)
            }
        })
    }

    fn states(&self) -> watch::Receiver<SourceState> {
        match self {
            Self::Folder(folder, _) => folder.states(),
            Self::Cluster(cluster, _) => cluster.states(),
        }
    }

    /// How proxies are identified, by the API server of the objects if by one.
    fn identification(&self, by: By, tls: Option<&ServerTls>) -> Result<Identification> {
        let By::Credentials { trust_domain, token_audience, review_interval } = by else {
            return Ok(Identification::NodeId);
        };
        let tokens = match (token_audience, self) {
            (Some(audience), Self::Cluster(_, connection)) => {
                let reviewer = Reviewer::new(connection.client.clone());
                Some(Tokens::new(Arc::new(reviewer), audience))
            }
            (Some(_), Self::Folder(..)) => {
                bail!("a folder of manifests has no API server that reviews tokens")
            }
            (None, _) => None,
        };
        let tls = tls.filter(|tls| tls.requests_client_certificates()).cloned();
        let certificates = tls.map(|tls| Certificates { tls, trust_domain });
        let accepted = Accepted { certificates, tokens, review_interval };
        Ok(Identification::Credentials(Box::new(accepted)))
    }

    /// What is said of policies.
    fn policy_statuses(&self) -> PolicyStatuses {
        match self {
            Self::Folder(..) => PolicyStatuses::default(),
            Self::Cluster(cluster, _) => cluster.policy_statuses(),
        }
    }

    /// Where events of the audit record go.
    fn audit_events(&mut self) -> Option<AuditEvents> {
        match self {
            Self::Folder(..) => None,
            Self::Cluster(cluster, connection) => Some(cluster.audit_events(&connection.client)),
        }
    }

    /// Where the console writes.
    fn target(&self, options: &CompileOptions) -> WriteTarget {
        match self {
            Self::Folder(_, root) => WriteTarget::Folder(root.clone()),
            Self::Cluster(_, connection) => {
                WriteTarget::Cluster(ClusterWriter::new(connection.client.clone(), options.clone()))
            }
        }
    }

    /// Says what became of the objects where others look for it.
    fn write_statuses(
        &mut self,
        options: &CompileOptions,
        replica: &str,
        compiled: &watch::Receiver<Arc<Compiled>>,
        proxies: Arc<dyn ProxyRegistry>,
    ) {
        if let Self::Cluster(cluster, connection) = self {
            cluster.write_statuses(&connection.client, options, replica, compiled, proxies);
        }
    }
}

/// When stopping, how long telling other control planes may take.
const LEAVE: Duration = Duration::from_secs(1);

/// When stopping, how long writing the last flows may take.
const LAST_WRITE: Duration = Duration::from_secs(5);

/// Serves until the process is told to stop.
///
/// # Errors
/// When an address is taken, or the transport fails.
pub async fn run(config: Config) -> Result<()> {
    raise_file_limit();
    let pools = Pools::default();
    let flows = config.envoy.flow_log.then(|| Arc::new(Memory::new(config.flows_per_identity)));
    let keeper = match config.flow_db.as_deref().zip(flows.as_ref()) {
        Some((file, memory)) => Some(restore(file, memory)?),
        None => None,
    };
    let xds = listen("xDS", config.xds).await?;
    let admin_listener = listen("admin", config.admin).await?;
    let tls = config.tls.map(ServerTls::load_and_watch).transpose()?;
    let webhook = match (config.webhook, &tls) {
        (Some(address), Some(tls)) => {
            let (listener, pool) = (listen("webhook", address).await?, Arc::clone(&pools.webhook));
            Some(accept_tls(listener, tls.clone(), ServerTls::https, pool, webhook::IDLE_TIMEOUT))
        }
        (Some(_), None) => bail!("an API server connects by TLS only: pass `--tls-cert` and `--tls-key`"),
        (None, _) => None,
    };
    let (mut reading, from) = Reading::begin(&config.origin, &config.options).await?;
    let identification = Arc::new(reading.identification(config.identity, tls.as_ref())?);
    let mut source = reading.states();
    let (sender, compiled) = watch::channel(Arc::new(Compiled::default()));
    let proxies = Arc::new(Proxies::default());
    let serving = Arc::new(AtomicBool::new(false));
    let shared = AdminState {
        source: source.clone(),
        compiled: compiled.clone(),
        proxies: Arc::clone(&proxies),
        serving: Arc::clone(&serving),
        tls: tls.clone(),
        identification: Arc::clone(&identification),
        reviews: ReviewCounters::default(),
        flows: flows.clone(),
        policies: reading.policy_statuses(),
        pools: pools.clone(),
    };
    let target = || reading.target(&config.options);
    let console = ConsoleConfig {
        options: config.options.clone(),
        from_cluster: matches!(config.origin, Origin::Cluster(_)),
        listener_port: config.envoy.listener_port,
        blocked: config.envoy.blocked.clone(),
        names: config.admin_hosts,
        writes: config.console_token.map(|token| WriteConfig { token, target: target() }),
        playground: config.playground,
    };
    let witness = Arc::new(Witness::default());
    let webhooks = Webhooks {
        witness: Arc::clone(&witness),
        options: config.options.clone(),
        sidecars: config.sidecars,
        source: source.clone(),
        compiled: compiled.clone(),
        reviews: shared.reviews.clone(),
        clients: config.webhook_clients,
    };
    let (stop, stopped) = watch::channel(false);
    let wait = |mut stopped: watch::Receiver<bool>| async move {
        // An error means that the sender is gone, which says the same.
        let _ = stopped.wait_for(|stopped| *stopped).await;
    };
    let admin = tokio::spawn(admin::serve(shared, console, admin_listener, wait(stopped.clone())));
    let served = tokio::select! {
        result = signalled() => {
            result?;
            None
        }
        first = first(&mut source, &config.origin) => {
            let first_compiled = compile(&first.store, &config.options, None);
            report(&source.borrow(), &first_compiled);
            let first_compiled = Arc::new(first_compiled);
            let (audited, states) = watch::channel((Arc::clone(&first.store), Arc::clone(&first_compiled)));
            tokio::spawn(Audit { witness, events: reading.audit_events() }.run(states));
            sender.send_replace(first_compiled);
            reading.write_statuses(&config.options, &config.replica, &compiled, Arc::<Proxies>::clone(&proxies));
            let snapshots = Arc::new(Published::new(Generator::new(config.envoy), compiled));
            tokio::spawn(recompile(source, config.options, sender, Arc::clone(&snapshots), audited));
            tracing::info!(from, xds = %config.xds, admin = %config.admin, "serving");
            let server = Server::new(snapshots, identification, proxies);
            let xds = tokio::spawn(server.serve(xds, tls, flows, pools.xds, wait(stopped.clone())));
            let webhook = webhook.map(|connections| {
                let routes = webhooks.routes();
                tokio::spawn(serve_http(connections, move |_| routes.clone(), webhook::HTTP_LIMITS, wait(stopped)))
            });
            serving.store(true, Ordering::Release);
            signalled().await?;
            Some((xds, webhook))
        }
    };
    tracing::info!("stopping: proxies keep what they have");
    stop.send_replace(true);
    // Streams do not end by themselves; they are cut when the process ends.
    let grace = Duration::from_millis(200);
    let _ = tokio::time::timeout(grace, admin).await;
    if let Some((xds, webhook)) = served {
        let _ = tokio::time::timeout(grace, xds).await;
        if let Some(webhook) = webhook {
            // It bounds this itself.
            let _ = webhook.await;
        }
    }
    if let Some(keeper) = keeper {
        // After those that tell of flows were cut off.
        let in_time = tokio::task::block_in_place(|| keeper.stop(LAST_WRITE));
        if !in_time {
            tracing::error!("the last flows were not written in time");
        }
    }
    match reading {
        Reading::Folder(folder, _) => folder.stop(),
        // While the API server is away others notice by themselves.
        Reading::Cluster(cluster, _) => drop(tokio::time::timeout(LEAVE, cluster.stop()).await),
    }
    Ok(())
}

/// Remembers what the file holds, and writes down there what follows.
fn restore(file: &Path, memory: &Arc<Memory>) -> Result<Keeper> {
    let store = Store::restored(file, memory)?;
    tracing::info!(file = %file.display(), flows = memory.len(), "flows are remembered from before");
    Keeper::start(store, Arc::clone(memory)).context("cannot start a thread")
}

/// The state to begin with. A folder that cannot be read has no objects; a cluster that was not read yet
/// says nothing at all, and proxies that kept what they have must not be told that it is nothing.
async fn first(source: &mut watch::Receiver<SourceState>, origin: &Origin) -> SourceState {
    if let Origin::Cluster(_) = origin {
        loop {
            let availability = source.borrow_and_update().availability.clone();
            let Availability::Unavailable { reason } = availability else { break };
            tracing::info!(reason, "waiting for the cluster: proxies keep what they have");
            if source.changed().await.is_err() {
                // Then nothing comes any more, and there is nothing to serve.
                std::future::pending::<()>().await;
            }
        }
    }
    source.borrow_and_update().clone()
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
    audited: watch::Sender<Audited>,
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
        let (topics, newest) = (Arc::clone(&snapshots), Arc::clone(&compiled));
        let changed = tokio::task::spawn_blocking(move || topics.update(&newest)).await.unwrap_or_default();
        tracing::info!(changed, took = ?start.elapsed(), "compiled");
        audited.send_replace((state.store, compiled));
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
    /// What proxies have that refuse the snapshot of their identity.
    variants: Mutex<HashMap<String, Weak<Snapshot>>>,
}

impl Published {
    fn new(generator: Generator, compiled: watch::Receiver<Arc<Compiled>>) -> Self {
        Self { generator, compiled, topics: Mutex::default(), variants: Mutex::default() }
    }

    /// Gives new snapshots to those whose document or clusters changed, and says to how many identities.
    fn update(&self, compiled: &Compiled) -> usize {
        let outdated = |topic: &watch::Sender<Arc<Snapshot>>, identity: &Identity| {
            !is_current(&topic.borrow(), compiled, identity)
        };
        let changed: Vec<Identity> = {
            let mut topics = self.topics();
            topics.retain(|_, topic| !topic.is_closed());
            topics.iter().filter(|(id, topic)| outdated(topic, id)).map(|(id, _)| id.clone()).collect()
        };
        for identity in &changed {
            // Not under the lock: those that connect would wait.
            let snapshot = self.snapshot(compiled, identity);
            if let Some(topic) = self.topics().get(identity) {
                topic.send_replace(snapshot);
            }
        }
        changed.len()
    }

    fn snapshot(&self, compiled: &Compiled, identity: &Identity) -> Arc<Snapshot> {
        Arc::new(self.generator.snapshot(&compiled.document(identity), compiled.clusters(identity)))
    }

    /// Nothing is left half done under this lock.
    fn topics(&self) -> MutexGuard<'_, HashMap<Identity, watch::Sender<Arc<Snapshot>>>> {
        self.topics.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether a snapshot is what objects say of an identity. Settings of clusters are no part of the document.
fn is_current(snapshot: &Snapshot, compiled: &Compiled, identity: &Identity) -> bool {
    snapshot.document_version() == compiled.document(identity).version
        && snapshot.clusters() == compiled.clusters(identity)
}

impl Variants for Published {
    fn variant(&self, document: &Document, clusters: &[OwnCluster]) -> Arc<Snapshot> {
        let names = clusters.iter().map(|cluster| cluster.name.as_bytes());
        let key = hash(std::iter::once(document.version.as_bytes()).chain(names));
        let key = format!("{} {key}", document.identity);
        let lock = || self.variants.lock().unwrap_or_else(PoisonError::into_inner);
        let known = |variants: &HashMap<String, Weak<Snapshot>>| {
            variants.get(&key).and_then(Weak::upgrade).filter(|known| known.clusters() == clusters)
        };
        if let Some(known) = known(&lock()) {
            return known;
        }
        // Not under the lock: all streams would wait for one that makes a long one.
        let snapshot = Arc::new(self.generator.snapshot(&Arc::new(document.clone()), clusters));
        let mut variants = lock();
        if let Some(known) = known(&variants) {
            return known;
        }
        variants.retain(|_, variant| variant.strong_count() > 0);
        variants.insert(key, Arc::downgrade(&snapshot));
        snapshot
    }

    fn sort_newest_first(&self, policies: &mut [String]) {
        self.compiled.borrow().sort_newest_first(policies);
    }
}

impl Snapshots for Published {
    fn most_proxies(&self) -> Option<usize> {
        self.compiled.borrow().most_proxies()
    }

    fn subscribe(&self, identity: &Identity) -> watch::Receiver<Arc<Snapshot>> {
        let mut made: Option<Arc<Snapshot>> = None;
        loop {
            let compiled = Arc::clone(&self.compiled.borrow());
            {
                let mut topics = self.topics();
                // What comes after this is found by the next update, which takes the lock later.
                let is_newest = Arc::ptr_eq(&compiled, &self.compiled.borrow());
                let known = topics.get(identity);
                if let Some(topic) = known.filter(|topic| is_current(&topic.borrow(), &compiled, identity)) {
                    return topic.subscribe();
                }
                let made = made.take().filter(|made| is_newest && is_current(made, &compiled, identity));
                if let Some(made) = made {
                    let topic =
                        topics.entry(identity.clone()).or_insert_with(|| watch::channel(Arc::clone(&made)).0);
                    if !Arc::ptr_eq(&topic.borrow(), &made) {
                        topic.send_replace(made);
                    }
                    return topic.subscribe();
                }
            }
            // Not under the lock: all that connect would wait for one that has a long document.
            made = Some(self.snapshot(&compiled, identity));
        }
    }
}
