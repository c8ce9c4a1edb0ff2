//! A Kubernetes cluster: every object that matters, watched at its API server.
//!
//! One task follows each kind and sends what happens to one that gathers it: so the state is a plain value
//! that changes in one place (`cluster_cache.rs`), and a list and a change are the same thing to it.
//!
//! Nothing is published before every kind was read once: half a cluster could grant more, or less, than the
//! whole. While the API server is away the last state stays and the source says that it is unavailable.

use std::sync::Arc;
use std::time::Duration;

use egress_compile::{CompileOptions, Compiled};
use egress_core::proxies::ProxyRegistry;
use egress_core::source::SourceState;
use kube::Client;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::audit_events::AuditEvents;
use crate::cluster_cache::{ClusterCache, Event};
use crate::kind_watcher::watch_kind;
use crate::kinds::WATCHED;
use crate::object::Statuses;
use crate::probe::probe_api_server;
use crate::replicas::{Report, ReportSync};
use crate::status::{self, PolicyStatuses};

/// After something happened, how long to wait for more.
const QUIET: Duration = Duration::from_millis(3);
/// After something happened, how long to wait at most.
const COALESCE: Duration = Duration::from_millis(15);
/// The time that a service waits for a pod that a slice names. Pods come a moment earlier, unless their watch is slow;
/// meanwhile nodes may lead the address of the service to whatever the slice has.
const WAIT_FOR_PODS: Duration = Duration::from_secs(1);
/// The most events that may wait; a sender of more waits itself.
const WAITING: usize = 1024;

/// A cluster that is being watched, until this is dropped.
#[derive(Debug)]
pub struct Cluster {
    states: watch::Receiver<SourceState>,
    observed: watch::Receiver<Statuses>,
    report_sync: Option<ReportSync>,
    tasks: JoinSet<()>,
}

impl Cluster {
    /// Watches a cluster, from within a runtime.
    #[must_use]
    pub fn watch(client: &Client, options: &CompileOptions) -> Self {
        let mut cache = ClusterCache::new(options, WATCHED.iter().map(|watched| watched.kind));
        let (publish, states) = watch::channel(cache.publish());
        let (publish_statuses, observed) = watch::channel(Statuses::default());
        let (sender, events) = mpsc::channel(WAITING);
        let mut tasks = JoinSet::new();
        for watched in WATCHED {
            tasks.spawn(watch_kind(client.clone(), *watched, options.clone(), sender.clone()));
        }
        tasks.spawn(probe_api_server(client.clone(), sender));
        tasks.spawn(run(cache, events, publish, publish_statuses));
        Self { states, observed, report_sync: None, tasks }
    }

    /// Says in the status of each policy what became of it, and which proxies have it: those of this control plane,
    /// which has this name, and of all others.
    pub fn write_statuses(
        &mut self,
        client: &Client,
        options: &CompileOptions,
        replica: &str,
        compiled: &watch::Receiver<Arc<Compiled>>,
        proxies: Arc<dyn ProxyRegistry>,
    ) {
        let report_sync = ReportSync::new(client, options, replica);
        let (publish_own, own) = watch::channel(Arc::new(Report::default()));
        let (publish_others, others) = watch::channel(None);
        let inputs = status::Inputs {
            states: self.states.clone(),
            compiled: compiled.clone(),
            observed: self.observed.clone(),
            own,
            others,
        };
        self.tasks.spawn(report_sync.clone().publish(proxies, compiled.clone(), publish_own));
        self.tasks.spawn(report_sync.clone().watch_peers(publish_others));
        self.tasks.spawn(status::write(client.clone(), inputs));
        self.report_sync = Some(report_sync);
    }

    /// Begins to make events of the audit record.
    pub fn audit_events(&mut self, client: &Client) -> AuditEvents {
        AuditEvents::new(client, &mut self.tasks)
    }

    /// Stops watching and writing, and reports to other control planes that this one has no proxies any more.
    pub async fn stop(mut self) {
        self.tasks.shutdown().await;
        if let Some(report_sync) = &self.report_sync {
            report_sync.leave().await;
        }
    }

    /// The statuses of policies.
    #[must_use]
    pub fn policy_statuses(&self) -> PolicyStatuses {
        PolicyStatuses::of_cluster(self.observed.clone())
    }

    /// The objects of the cluster, now and later.
    #[must_use]
    pub fn states(&self) -> watch::Receiver<SourceState> {
        self.states.clone()
    }
}

/// ClusterCaches what happens, and publishes what changed.
async fn run(
    mut cache: ClusterCache,
    mut events: mpsc::Receiver<Event>,
    publish: watch::Sender<SourceState>,
    statuses: watch::Sender<Statuses>,
) {
    let mut patience: Option<Instant> = None;
    loop {
        let next = match patience {
            Some(until) => tokio::time::timeout_at(until, events.recv()).await.ok(),
            None => Some(events.recv().await),
        };
        match next {
            Some(Some(event)) => cache.apply_event(event),
            Some(None) => break,
            None => {}
        }
        if patience.is_some_and(|until| until <= Instant::now()) {
            cache.give_up();
            patience = None;
        }
        let end = Instant::now() + COALESCE;
        // A list, or what one command applies, arrives as many events.
        while let Ok(Some(event)) =
            tokio::time::timeout_at(end.min(Instant::now() + QUIET), events.recv()).await
        {
            cache.apply_event(event);
            if Instant::now() >= end {
                break;
            }
        }
        if cache.has_changed() {
            publish.send_replace(cache.publish());
        }
        if let Some(observed) = cache.take_observed() {
            statuses.send_replace(Arc::new(observed));
        }
        patience =
            if cache.is_waiting() { patience.or_else(|| Some(Instant::now() + WAIT_FOR_PODS)) } else { None };
    }
}

#[cfg(test)]
pub(crate) mod tests;
