//! The pipeline of the control plane: source → compile → snapshot cache → streams.
//!
//! [`Pipeline::start`] waits for the first complete state of the source, compiles it to one document per identity, and keeps
//! documents and snapshots up to date with each state that follows. [`serve_streams`] sends each proxy the snapshot of its
//! identity, and each change of it. A stage depends only on the one before it, by a channel that holds the newest value.

use std::sync::Arc;
use std::time::Instant;

use egress_compile::manifest::Severity;
use egress_compile::{CompileOptions, Compiled, compile};
use egress_core::source::{Availability, SourceState};
use egress_envoy::Generator;
use egress_flows::table::FlowTable;
use egress_kubernetes::audit::{Audit, AuditedState, RequestLog};
use egress_transport::connections::Pool;
use egress_transport::tls::ServerTls;
use egress_xds::identify::Identification;
use egress_xds::proxies::Proxies;
use egress_xds::server::Server;
use egress_xds::snapshot_cache::SnapshotCache;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::source::RunningSource;

/// The stages from the source to the snapshot cache, before they start.
#[derive(Debug)]
pub(crate) struct Pipeline {
    /// The mesh's names.
    pub(crate) options: CompileOptions,
    /// The name of this control plane.
    pub(crate) replica: String,
    /// The compiled documents, for all who read them.
    pub(crate) documents: watch::Sender<Arc<Compiled>>,
    /// The generator of snapshots.
    pub(crate) generator: Generator,
    /// The proxies, whose acknowledgements make the status of policies.
    pub(crate) proxies: Arc<Proxies>,
    /// The requests that the webhook admitted, for the audit record.
    pub(crate) request_log: Arc<RequestLog>,
}

impl Pipeline {
    /// Waits for the first complete state, and starts the stages.
    pub(crate) async fn start(self, source: &mut RunningSource) -> Arc<SnapshotCache> {
        let Self { options, replica, documents, generator, proxies, request_log } = self;
        let mut states = source.states();
        let first = first_state(&mut states, source.waits_for_first_state()).await;

        let compiled = compile(&first.store, &options, None);
        log_problems(&first, &compiled);
        let compiled = Arc::new(compiled);
        documents.send_replace(Arc::clone(&compiled));

        // Both are moved: a copy here would keep the first objects in memory.
        let (audited, audited_states) = watch::channel((first.store, compiled));
        tokio::spawn(Audit { request_log, events: source.audit_events() }.run(audited_states));
        source.write_statuses(&options, &replica, &documents.subscribe(), proxies);

        let cache = Arc::new(SnapshotCache::new(generator, documents.subscribe()));
        tokio::spawn(recompile(states, options, documents, Arc::clone(&cache), audited));
        cache
    }
}

/// The port of xDS, and what its streams share.
pub(crate) struct Streams {
    /// The port.
    pub(crate) listener: TcpListener,
    /// Its certificates.
    pub(crate) tls: Option<ServerTls>,
    /// Its connections.
    pub(crate) pool: Arc<Pool>,
    /// The identification of proxies.
    pub(crate) identification: Arc<Identification>,
    /// The connected proxies.
    pub(crate) proxies: Arc<Proxies>,
    /// The flow table, where proxies send their access logs.
    pub(crate) flows: Option<Arc<FlowTable>>,
}

/// Serves the snapshots of the cache until `stop` resolves.
pub(crate) fn serve_streams(
    cache: Arc<SnapshotCache>,
    streams: Streams,
    stop: impl Future<Output = ()> + Send + 'static,
) -> JoinHandle<()> {
    let Streams { listener, tls, pool, identification, proxies, flows } = streams;
    let server = Server::new(cache, identification, proxies).serve(listener, tls, flows, pool, stop);
    tokio::spawn(async move {
        if let Err(error) = server.await {
            tracing::error!(%error, "the xDS port failed");
        }
    })
}

/// Waits for the state to begin with. A folder that cannot be read has no objects. A cluster that was not read yet has an
/// unknown state: proxies keep their policy until it is known.
async fn first_state(states: &mut watch::Receiver<SourceState>, waits: bool) -> SourceState {
    if waits {
        loop {
            let availability = states.borrow_and_update().availability.clone();
            let Availability::Unavailable { reason } = availability else { break };
            tracing::info!(reason, "waiting for the cluster: proxies keep what they have");
            if states.changed().await.is_err() {
                // Then nothing comes any more, and there is nothing to serve.
                std::future::pending::<()>().await;
            }
        }
    }
    states.borrow_and_update().clone()
}

/// Compiles whenever the objects change.
async fn recompile(
    mut states: watch::Receiver<SourceState>,
    options: CompileOptions,
    documents: watch::Sender<Arc<Compiled>>,
    cache: Arc<SnapshotCache>,
    audited: watch::Sender<AuditedState>,
) {
    while states.changed().await.is_ok() {
        let state = states.borrow_and_update().clone();
        let before = Arc::clone(&documents.borrow());
        let start = Instant::now();
        let (store, options) = (Arc::clone(&state.store), options.clone());
        let compiled = tokio::task::spawn_blocking(move || compile(&store, &options, Some(&before))).await;
        let Ok(compiled) = compiled else {
            tracing::error!("compiling failed; the last good state stays in force");
            continue;
        };
        log_problems(&state, &compiled);
        let compiled = Arc::new(compiled);
        documents.send_replace(Arc::clone(&compiled));
        let (snapshots, newest) = (Arc::clone(&cache), Arc::clone(&compiled));
        let changed =
            tokio::task::spawn_blocking(move || snapshots.update(&newest)).await.unwrap_or_default();
        tracing::info!(changed, took = ?start.elapsed(), "compiled");
        audited.send_replace((state.store, compiled));
    }
}

/// Logs what is wrong with the source and its objects.
fn log_problems(state: &SourceState, compiled: &Compiled) {
    if let Availability::Unavailable { reason } = &state.availability {
        tracing::error!(reason, "the last good state stays in force");
    }
    for problem in state.store.diagnostics().chain(compiled.diagnostics().cloned()) {
        match problem.severity {
            Severity::Error => tracing::error!("{problem}"),
            Severity::Warning => tracing::warn!("{problem}"),
            Severity::Info => tracing::info!("{problem}"),
        }
    }
}
