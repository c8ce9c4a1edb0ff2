//! `osm-egress serve`: wires the ports of the control plane to its pipeline (`pipeline.rs`).

use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use egress_admin::console::playground::Playground;
use egress_admin::console::token::Token;
use egress_admin::console::{ConsoleConfig, WriteConfig};
use egress_admin::guard::HostName;
use egress_admin::pools::Pools;
use egress_admin::server as admin;
use egress_admin::status::AdminState;
use egress_compile::{CompileOptions, Compiled};
use egress_envoy::{Generator, Settings};
use egress_flows::database::{FlowDatabase, FlowWriter};
use egress_flows::table::FlowTable;
use egress_inject as inject;
use egress_kubernetes::audit::RequestLog;
use egress_kubernetes::webhook::{self, ClientNames, ReviewCounters, Webhooks};
use egress_transport::connections::{accept_tls, raise_file_limit, serve_http};
use egress_transport::tls::{ServerTls, TlsFiles};
use egress_xds::proxies::Proxies;
use tokio::net::{TcpListener, TcpSocket};
use tokio::sync::watch;

use crate::pipeline::{Pipeline, Streams, serve_streams};
use crate::source::{ProxyAuth, RunningSource, SourceConfig};

/// The configuration of `serve`.
#[derive(Debug)]
pub struct Config {
    /// The source of objects.
    pub source: SourceConfig,
    /// The mesh's names.
    pub options: CompileOptions,
    /// The name of this control plane, among others of the same mesh.
    pub replica: String,
    /// The address of the webhooks.
    pub webhook: Option<SocketAddr>,
    /// The names in the certificates of clients that may connect.
    pub webhook_clients: ClientNames,
    /// The settings of injected sidecars; without them there is no injection.
    pub sidecars: Option<inject::Settings>,
    /// The settings of every proxy.
    pub envoy: Settings,
    /// The size of the flow table for each identity, where proxies report their decisions.
    pub flows_per_identity: NonZeroUsize,
    /// The flow database, in which flows survive a restart.
    pub flow_db: Option<PathBuf>,
    /// The files of the control plane's certificate, and of the authority of client certificates.
    pub tls: Option<TlsFiles>,
    /// The way in which proxies are identified.
    pub auth: ProxyAuth,
    /// The address of xDS.
    pub xds: SocketAddr,
    /// The address of the admin port.
    pub admin: SocketAddr,
    /// The host names of the admin port, besides addresses and `localhost`.
    pub admin_hosts: Vec<HostName>,
    /// The token that the console must have to write; without one it is read-only.
    pub console_token: Option<Token>,
    /// The playground that the console links to.
    pub playground: Option<Playground>,
}

/// The time to write the last flows when stopping.
const LAST_WRITE_TIMEOUT: Duration = Duration::from_secs(5);

/// Serves until the process gets a signal to stop.
///
/// # Errors
/// When an address is taken, or the transport fails.
pub async fn run(config: Config) -> Result<()> {
    raise_file_limit();
    let pools = Pools::default();
    let flows = config.envoy.flow_log.then(|| Arc::new(FlowTable::new(config.flows_per_identity)));
    let writer = match config.flow_db.as_deref().zip(flows.as_ref()) {
        Some((file, table)) => Some(restore(file, table)?),
        None => None,
    };
    let xds = listen_with_buffer("xDS", config.xds, XDS_SEND_BUFFER)?;
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
    let (mut source, from) = RunningSource::start(&config.source, &config.options).await?;
    let identification = Arc::new(source.identification(config.auth, tls.as_ref())?);
    let (documents, compiled) = watch::channel(Arc::new(Compiled::default()));
    let proxies = Arc::new(Proxies::default());
    let serving = Arc::new(AtomicBool::new(false));
    let shared = AdminState {
        source: source.states(),
        compiled: compiled.clone(),
        proxies: Arc::clone(&proxies),
        serving: Arc::clone(&serving),
        tls: tls.clone(),
        identification: Arc::clone(&identification),
        reviews: ReviewCounters::default(),
        flows: flows.clone(),
        policies: source.policy_statuses(),
        pools: pools.clone(),
    };
    let target = || source.target(&config.options);
    let console = ConsoleConfig {
        options: config.options.clone(),
        from_cluster: matches!(config.source, SourceConfig::Cluster(_)),
        listener_port: config.envoy.listener_port,
        blocked: config.envoy.blocked.clone(),
        names: config.admin_hosts,
        writes: config.console_token.map(|token| WriteConfig { token, target: target() }),
        playground: config.playground,
    };
    let request_log = Arc::new(RequestLog::default());
    let webhooks = Webhooks {
        request_log: Arc::clone(&request_log),
        options: config.options.clone(),
        sidecars: config.sidecars,
        source: source.states(),
        compiled,
        reviews: shared.reviews.clone(),
        clients: config.webhook_clients,
    };
    let generator = Generator::new(config.envoy)?;
    let (stop, stopped) = watch::channel(false);
    let wait = |mut stopped: watch::Receiver<bool>| async move {
        // An error means that the sender is gone, which says the same.
        let _ = stopped.wait_for(|stopped| *stopped).await;
    };
    let admin = tokio::spawn(admin::serve(shared, console, admin_listener, wait(stopped.clone())));
    let pipeline = Pipeline {
        options: config.options,
        replica: config.replica,
        documents,
        generator,
        proxies: Arc::clone(&proxies),
        request_log,
    };
    let served = tokio::select! {
        result = wait_for_signal() => {
            result?;
            None
        }
        cache = pipeline.start(&mut source) => {
            tracing::info!(from, xds = %config.xds, admin = %config.admin, "serving");
            let streams = Streams { listener: xds, tls, pool: pools.xds, identification, proxies, flows };
            let xds = serve_streams(cache, streams, wait(stopped.clone()));
            let webhook = webhook.map(|connections| {
                let routes = webhooks.routes();
                tokio::spawn(serve_http(connections, move |_| routes.clone(), webhook::HTTP_LIMITS, wait(stopped)))
            });
            serving.store(true, Ordering::Release);
            wait_for_signal().await?;
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
    if let Some(writer) = writer {
        // After those that tell of flows were cut off.
        let in_time = tokio::task::block_in_place(|| writer.stop(LAST_WRITE_TIMEOUT));
        if !in_time {
            tracing::error!("the last flows were not written in time");
        }
    }
    source.stop().await;
    Ok(())
}

/// Restores flows from the flow database, and writes those that follow to it.
fn restore(file: &Path, table: &Arc<FlowTable>) -> Result<FlowWriter> {
    let database = FlowDatabase::open_and_restore(file, table)?;
    tracing::info!(file = %file.display(), flows = table.len(), "flows were restored from the database");
    FlowWriter::start(database, Arc::clone(table)).context("cannot start a thread")
}

/// Listens on an address.
async fn listen(what: &str, address: SocketAddr) -> Result<TcpListener> {
    TcpListener::bind(address).await.with_context(|| cannot_listen(what, address))
}

/// The send buffer of a proxy's connection. The kernel lets it grow to 4 MB by itself, which counts as memory of the
/// container, for each proxy that reads slowly. It doubles this size. 128 kB for each round trip are enough for a policy.
const XDS_SEND_BUFFER: u32 = 64 << 10;
/// The connections that may wait to be accepted, when a fleet connects at once. The kernel bounds it by `somaxconn`.
const XDS_BACKLOG: u32 = 4096;

/// Listens on an address, with a bounded send buffer for each connection.
fn listen_with_buffer(what: &str, address: SocketAddr, send_buffer: u32) -> Result<TcpListener> {
    let listen = || {
        let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
        socket.set_reuseaddr(true)?;
        // Accepted connections inherit it.
        socket.set_send_buffer_size(send_buffer)?;
        socket.bind(address)?;
        socket.listen(XDS_BACKLOG)
    };
    listen().with_context(|| cannot_listen(what, address))
}

fn cannot_listen(what: &str, address: SocketAddr) -> String {
    format!(
        "cannot listen for {what} on {address}: choose another address with `--{}-listen`",
        what.to_lowercase()
    )
}

/// Waits until the process gets a signal to stop.
async fn wait_for_signal() -> Result<()> {
    let mut terminate = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
    tokio::select! {
        result = tokio::signal::ctrl_c() => result.context("cannot wait for signals"),
        _ = terminate.recv() => Ok(()),
    }
}
