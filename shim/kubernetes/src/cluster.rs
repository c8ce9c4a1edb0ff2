//! A Kubernetes cluster: every object that matters, watched at its API server.
//!
//! One task follows each kind and sends what happens to one that gathers it: so the state is a plain value
//! that changes in one place (`gather.rs`), and a list and a change are the same thing to it.
//!
//! Nothing is published before every kind was read once: half a cluster could grant more, or less, than the
//! whole. While the API server is away the last state stays and the source says that it is unavailable.

pub mod audit;
mod audit_events;
mod connect;
mod follow;
mod gather;
mod kinds;
mod object;
mod once;
mod probe;
mod replicas;
mod review;
mod services;
mod status;
pub mod webhook;
mod write;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use kube::Client;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;

pub use self::audit_events::{AuditEvent, AuditEvents};
pub use self::connect::{ConnectError, Connection, connect, is_unknown, reason};
use self::gather::{Event, Gather};
use self::kinds::WATCHED;
pub use self::object::is_ours;
pub(crate) use self::object::{Item, Key, Observed, read};
pub use self::once::{Pod, pod, read_once};
pub use self::replicas::LABEL as REPORTS_LABEL;
pub use self::replicas::last_said;
use self::replicas::{Exchange, Report};
pub use self::review::Reviewer;
pub use self::status::PolicyStatuses;
pub use self::write::{ClusterWriter, Refused};
use egress_compile::{CompileOptions, Compiled};
use egress_core::proxies::ProxyRegistry;
use egress_core::source::SourceState;

/// After something happened, how long to wait for more.
const QUIET: Duration = Duration::from_millis(3);
/// After something happened, how long to wait at most.
const COALESCE: Duration = Duration::from_millis(15);
/// How long a service waits for a pod that a slice names. Pods come a moment earlier, unless their watch is slow;
/// meanwhile nodes may lead the address of the service to whatever the slice has.
const WAIT_FOR_PODS: Duration = Duration::from_secs(1);
/// How many events may wait; who sends more waits himself.
const WAITING: usize = 1024;

/// The statuses of policies, by their names.
type Statuses = Arc<BTreeMap<Key, Arc<Observed>>>;

/// A cluster that is being watched, until this is dropped.
#[derive(Debug)]
pub struct Cluster {
    states: watch::Receiver<SourceState>,
    observed: watch::Receiver<Statuses>,
    exchange: Option<Exchange>,
    tasks: JoinSet<()>,
}

impl Cluster {
    /// Watches a cluster, from within a runtime.
    #[must_use]
    pub fn watch(client: &Client, options: &CompileOptions) -> Self {
        let mut gather = Gather::new(options, WATCHED.iter().map(|watched| watched.kind));
        let (publish, states) = watch::channel(gather.state());
        let (publish_statuses, observed) = watch::channel(Statuses::default());
        let (sender, events) = mpsc::channel(WAITING);
        let mut tasks = JoinSet::new();
        for watched in WATCHED {
            tasks.spawn(follow::follow(client.clone(), *watched, options.clone(), sender.clone()));
        }
        tasks.spawn(probe::probe(client.clone(), sender));
        tasks.spawn(run(gather, events, publish, publish_statuses));
        Self { states, observed, exchange: None, tasks }
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
        let exchange = Exchange::new(client, options, replica);
        let (publish_own, own) = watch::channel(Arc::new(Report::default()));
        let (publish_others, others) = watch::channel(None);
        let inputs = status::Inputs {
            states: self.states.clone(),
            compiled: compiled.clone(),
            observed: self.observed.clone(),
            own,
            others,
        };
        self.tasks.spawn(exchange.clone().publish(proxies, compiled.clone(), publish_own));
        self.tasks.spawn(exchange.clone().listen(publish_others));
        self.tasks.spawn(status::write(client.clone(), inputs));
        self.exchange = Some(exchange);
    }

    /// Begins to make events of the audit record.
    pub fn audit_events(&mut self, client: &Client) -> AuditEvents {
        AuditEvents::new(client, &mut self.tasks)
    }

    /// Stops watching and writing, and tells other control planes that this one has no proxies any more.
    pub async fn stop(mut self) {
        self.tasks.shutdown().await;
        if let Some(exchange) = &self.exchange {
            exchange.leave().await;
        }
    }

    /// What is said of policies.
    #[must_use]
    pub fn policy_statuses(&self) -> PolicyStatuses {
        PolicyStatuses::of_cluster(self.observed.clone())
    }

    /// What the cluster says, now and later.
    #[must_use]
    pub fn states(&self) -> watch::Receiver<SourceState> {
        self.states.clone()
    }
}

/// Gathers what happens, and publishes what changed.
async fn run(
    mut gather: Gather,
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
            Some(Some(event)) => gather.take(event),
            Some(None) => break,
            None => {}
        }
        if patience.is_some_and(|until| until <= Instant::now()) {
            gather.give_up();
            patience = None;
        }
        let end = Instant::now() + COALESCE;
        // A list, or what one command applies, arrives as many events.
        while let Ok(Some(event)) =
            tokio::time::timeout_at(end.min(Instant::now() + QUIET), events.recv()).await
        {
            gather.take(event);
            if Instant::now() >= end {
                break;
            }
        }
        if gather.is_different() {
            publish.send_replace(gather.state());
        }
        if let Some(observed) = gather.observed() {
            statuses.send_replace(Arc::new(observed));
        }
        patience = if gather.is_waiting() {
            patience.or_else(|| Some(Instant::now() + WAIT_FOR_PODS))
        } else {
            None
        };
    }
}

#[cfg(test)]
mod tests;
