//! The proxies of all control planes: each one reports its own in a ConfigMap, and reads those of its peers.
//!
//! A control plane that dies leaves its ConfigMap behind. So each one renews a mark in its own and watches the marks of its
//! peers. A report whose mark does not change for a while does not count, and is removed later. No clock is compared with
//! another.

mod peers;
mod report;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use egress_policy::Identity;
use futures::StreamExt;
use kube::api::{ApiResource, DeleteParams, DynamicObject, ListParams, Patch, PatchParams, PostParams};
use kube::runtime::watcher;
use kube::{Api, Client};
use serde_json::json;
use tokio::sync::watch;
use tokio::time::Instant;

use self::peers::PeerTracker;
use self::report::value;
pub(super) use self::report::{Report, Reports, Tally, tally};
use super::client::{MANAGER, is_unknown, reason};
use egress_compile::{CompileOptions, Compiled};
use egress_core::hash;
use egress_core::proxies::ProxyRegistry;

/// The label of the ConfigMaps; its value is the name of the mesh.
pub const LABEL: &str = "openservicemesh.io/egress-proxies";
/// The prefix of their names.
const NAME_PREFIX: &str = "osm-egress-proxies-";
/// The interval at which the mark is renewed.
const RENEWAL_INTERVAL: Duration = Duration::from_secs(10);
/// The time after a change in which more are awaited.
const QUIET_TIME: Duration = Duration::from_millis(300);
/// The interval at which the marks of peers are checked.
const CHECK_INTERVAL: Duration = Duration::from_secs(1);
/// The first and the longest delay after a failure. It doubles each time.
const RETRY_DELAYS: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(5));

/// The exchange of reports with other control planes.
#[derive(Clone)]
pub(super) struct ReportSync {
    api: Api<DynamicObject>,
    /// The name of the ConfigMap.
    name: String,
    mesh: String,
    /// The instance, which differs between processes of the same name.
    instance: String,
}

impl ReportSync {
    /// The exchange of the control plane with this name.
    pub(super) fn new(client: &Client, options: &CompileOptions, replica: &str) -> Self {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        let parts = [replica.as_bytes(), &std::process::id().to_be_bytes(), &now.as_nanos().to_be_bytes()];
        Self {
            api: config_maps(client, options),
            name: format!("{NAME_PREFIX}{replica}"),
            mesh: options.mesh_name.clone(),
            instance: hash(parts),
        }
    }

    /// Publishes the report of this control plane, here at once and to its peers, until nothing can change any more.
    pub(super) async fn publish(
        self,
        proxies: Arc<dyn ProxyRegistry>,
        mut compiled: watch::Receiver<Arc<Compiled>>,
        own: watch::Sender<Arc<Report>>,
    ) {
        let mut changes = proxies.changes();
        // The report that was written last, and when.
        let mut written: Option<(Arc<Report>, Instant)> = None;
        let mut marks = 0_u64;
        let mut pause = RETRY_DELAYS.0;
        loop {
            changes.borrow_and_update();
            let now = Arc::new(Report::of(proxies.fleets(), &compiled.borrow_and_update().clone()));
            own.send_if_modified(|before| {
                let is_new = *before != now;
                before.clone_from(&now);
                is_new
            });
            let is_written = written
                .as_ref()
                .is_some_and(|(report, at)| *report == now && at.elapsed() < RENEWAL_INTERVAL);
            let mut wait = RENEWAL_INTERVAL;
            if !is_written {
                marks += 1;
                match self.write(&now, marks, written.is_none()).await {
                    Ok(()) => {
                        written = Some((now, Instant::now()));
                        pause = RETRY_DELAYS.0;
                    }
                    Err(error) => {
                        tracing::warn!(
                            reason = reason(&error),
                            "cannot tell other control planes about proxies"
                        );
                        wait = pause;
                        pause = (pause * 2).min(RETRY_DELAYS.1);
                    }
                }
            } else if let Some((_, at)) = &written {
                wait = RENEWAL_INTERVAL.saturating_sub(at.elapsed());
            }
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                result = changes.changed() => if result.is_err() { return } else { tokio::time::sleep(QUIET_TIME).await },
                result = compiled.changed() => if result.is_err() { return } else { tokio::time::sleep(QUIET_TIME).await },
            }
        }
    }

    async fn write(&self, report: &Report, mark: u64, is_first: bool) -> kube::Result<()> {
        let object = json!({
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": { "name": self.name, "labels": { LABEL: self.mesh } },
            "data": {
                "instance": self.instance,
                "renewed": mark.to_string(),
                "proxies": report.to_json(),
            },
        });
        if is_first {
            let params = PostParams { field_manager: Some(MANAGER.to_owned()), ..PostParams::default() };
            let created = serde_json::from_value(object.clone()).map_err(kube::Error::SerdeError)?;
            match self.api.create(&params, &created).await {
                // A control plane of this name that died left it.
                Err(kube::Error::Api(status)) if status.code == 409 => {}
                other => return other.map(|_| ()),
            }
        }
        let params = PatchParams::apply(MANAGER).force();
        self.api.patch(&self.name, &params, &Patch::Apply(object)).await.map(|_| ())
    }

    /// Watches the reports of peers until nobody reads them any more.
    pub(super) async fn watch_peers(self, publish: watch::Sender<Reports>) {
        let config = watcher::Config::default().labels(&selector(&self.mesh));
        let mut stream = std::pin::pin!(watcher::watcher(self.api.clone(), config));
        let mut peers = PeerTracker::new(&self.name, &self.instance);
        let mut check = tokio::time::interval(CHECK_INTERVAL);
        check.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut pause = RETRY_DELAYS.0;
        while !publish.is_closed() {
            tokio::select! {
                next = stream.next() => match next {
                    Some(Ok(event)) => {
                        pause = RETRY_DELAYS.0;
                        peers.apply_event(event, Instant::now());
                    }
                    Some(Err(error)) => {
                        tracing::debug!(%error, "cannot listen to other control planes");
                        peers.lose();
                        publish.send_if_modified(|reports| reports.take().is_some());
                        tokio::time::sleep(pause).await;
                        pause = (pause * 2).min(RETRY_DELAYS.1);
                    }
                    None => return,
                },
                _ = check.tick() => {}
            }
            let now = Instant::now();
            for name in peers.take_expired(now) {
                tracing::info!(name, "another control plane is gone; its proxies do not count any more");
                if let Err(error) = self.delete(&name).await {
                    tracing::warn!(name, reason = reason(&error), "cannot remove what it left behind");
                }
            }
            let reports = peers.live_reports(now);
            publish.send_if_modified(|before| {
                let is_new = *before != reports;
                if is_new {
                    *before = reports;
                }
                is_new
            });
        }
    }

    /// Removes the report of this control plane, which has no proxies any more.
    pub(super) async fn leave(&self) {
        if let Err(error) = self.delete(&self.name).await {
            tracing::warn!(reason = reason(&error), "cannot tell other control planes that this one stops");
        }
    }

    async fn delete(&self, name: &str) -> kube::Result<()> {
        match self.api.delete(name, &DeleteParams::default()).await {
            Err(error) if !is_unknown(&error) => Err(error),
            Ok(_) | Err(_) => Ok(()),
        }
    }
}

impl std::fmt::Debug for ReportSync {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ReportSync").field("name", &self.name).finish_non_exhaustive()
    }
}

fn config_maps(client: &Client, options: &CompileOptions) -> Api<DynamicObject> {
    let resource = ApiResource {
        group: String::new(),
        version: "v1".to_owned(),
        api_version: "v1".to_owned(),
        kind: "ConfigMap".to_owned(),
        plural: "configmaps".to_owned(),
    };
    Api::namespaced_with(client.clone(), &options.mesh_config_namespace, &resource)
}

fn selector(mesh: &str) -> String {
    format!("{LABEL}={mesh}")
}

/// The number of proxies of an identity with each version of its document, by the latest reports of all control planes. One
/// that died a moment ago still counts.
///
/// # Errors
/// When that cannot be read.
pub async fn reported_versions(
    client: &Client,
    options: &CompileOptions,
    identity: &Identity,
) -> Result<BTreeMap<String, u64>, String> {
    let params = ListParams::default().labels(&selector(&options.mesh_name));
    let list = config_maps(client, options).list(&params).await.map_err(|error| reason(&error))?;
    let mut all = BTreeMap::new();
    for report in list.items.iter().filter_map(|object| Report::read(value(object, "proxies")?)) {
        for (version, count) in report.of_identity(identity) {
            *all.entry(version.clone()).or_default() += count;
        }
    }
    Ok(all)
}

#[cfg(test)]
mod tests;
