//! What the proxies of all control planes have: each control plane knows its own, and says so in a ConfigMap.
//!
//! A control plane that dies leaves its ConfigMap behind. So each one renews a mark in its own, and looks at those of
//! others: one whose mark does not change for a while does not count, and later it is removed. No clock is compared
//! with another one.

mod report;
mod seen;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use egress_policy::Identity;
use futures::StreamExt;
use kube::api::{ApiResource, DeleteParams, DynamicObject, ListParams, Patch, PatchParams, PostParams};
use kube::runtime::watcher;
use kube::{Api, Client};
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::time::Instant;

pub(super) use self::report::{Report, Tally, tally};
use self::seen::Seen;
use super::connect::{is_unknown, reason};
use super::status::MANAGER;
use egress_compile::{CompileOptions, Compiled};
use egress_core::hash;
use egress_core::proxies::ProxyRegistry;

/// The label of the ConfigMaps; its value is the name of the mesh.
pub const LABEL: &str = "openservicemesh.io/egress-proxies";
/// What their names begin with.
const PREFIX: &str = "osm-egress-proxies-";
/// How often the mark is renewed.
const RENEWAL: Duration = Duration::from_secs(10);
/// After a change, how long to wait for more.
const REST: Duration = Duration::from_millis(300);
/// How often the marks of others are looked at.
const LOOK: Duration = Duration::from_secs(1);
/// After a failure, how long to wait; then twice as long each time, up to the last.
const PAUSES: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(5));

/// What all control planes say; nothing while that is not known.
pub(super) type Reports = Option<BTreeMap<String, Arc<Report>>>;

/// The ConfigMap of this control plane, and where the others' are.
#[derive(Clone)]
pub(super) struct Exchange {
    api: Api<DynamicObject>,
    /// The name of the ConfigMap.
    name: String,
    mesh: String,
    /// Tells this process from another one of the same name.
    instance: String,
}

impl Exchange {
    /// Of the control plane of this name.
    pub(super) fn new(client: &Client, options: &CompileOptions, replica: &str) -> Self {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        let parts = [replica.as_bytes(), &std::process::id().to_be_bytes(), &now.as_nanos().to_be_bytes()];
        Self {
            api: config_maps(client, options),
            name: format!("{PREFIX}{replica}"),
            mesh: options.mesh_name.clone(),
            instance: hash(parts),
        }
    }

    /// Says what the proxies of this control plane have, for as long as anything can change: here at once, and to
    /// others.
    pub(super) async fn publish(
        self,
        proxies: Arc<dyn ProxyRegistry>,
        mut compiled: watch::Receiver<Arc<Compiled>>,
        own: watch::Sender<Arc<Report>>,
    ) {
        let mut changes = proxies.changes();
        // What others were told, and when.
        let mut said: Option<(Arc<Report>, Instant)> = None;
        let mut marks = 0_u64;
        let mut pause = PAUSES.0;
        loop {
            changes.borrow_and_update();
            let now = Arc::new(Report::of(proxies.fleets(), &compiled.borrow_and_update().clone()));
            own.send_if_modified(|before| {
                let is_new = *before != now;
                before.clone_from(&now);
                is_new
            });
            let is_said = said.as_ref().is_some_and(|(report, at)| *report == now && at.elapsed() < RENEWAL);
            let mut wait = RENEWAL;
            if !is_said {
                marks += 1;
                match self.write(&now, marks, said.is_none()).await {
                    Ok(()) => {
                        said = Some((now, Instant::now()));
                        pause = PAUSES.0;
                    }
                    Err(error) => {
                        tracing::warn!(
                            reason = reason(&error),
                            "cannot tell other control planes about proxies"
                        );
                        wait = pause;
                        pause = (pause * 2).min(PAUSES.1);
                    }
                }
            } else if let Some((_, at)) = &said {
                wait = RENEWAL.saturating_sub(at.elapsed());
            }
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                result = changes.changed() => if result.is_err() { return } else { tokio::time::sleep(REST).await },
                result = compiled.changed() => if result.is_err() { return } else { tokio::time::sleep(REST).await },
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
                // One that went without a word.
                Err(kube::Error::Api(status)) if status.code == 409 => {}
                other => return other.map(|_| ()),
            }
        }
        let params = PatchParams::apply(MANAGER).force();
        self.api.patch(&self.name, &params, &Patch::Apply(object)).await.map(|_| ())
    }

    /// Listens to the others, for as long as anybody wants to know.
    pub(super) async fn listen(self, publish: watch::Sender<Reports>) {
        let config = watcher::Config::default().labels(&selector(&self.mesh));
        let mut stream = std::pin::pin!(watcher::watcher(self.api.clone(), config));
        let mut seen = Seen::new(&self.name, &self.instance);
        let mut look = tokio::time::interval(LOOK);
        look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut pause = PAUSES.0;
        while !publish.is_closed() {
            tokio::select! {
                next = stream.next() => match next {
                    Some(Ok(event)) => {
                        pause = PAUSES.0;
                        seen.take(event, Instant::now());
                    }
                    Some(Err(error)) => {
                        tracing::debug!(%error, "cannot listen to other control planes");
                        seen.lose();
                        publish.send_if_modified(|reports| reports.take().is_some());
                        tokio::time::sleep(pause).await;
                        pause = (pause * 2).min(PAUSES.1);
                    }
                    None => return,
                },
                _ = look.tick() => {}
            }
            let now = Instant::now();
            for name in seen.take_dead(now) {
                tracing::info!(name, "another control plane is gone; its proxies do not count any more");
                if let Err(error) = self.delete(&name).await {
                    tracing::warn!(name, reason = reason(&error), "cannot remove what it left behind");
                }
            }
            let reports = seen.alive(now);
            publish.send_if_modified(|before| {
                let is_new = *before != reports;
                if is_new {
                    *before = reports;
                }
                is_new
            });
        }
    }

    /// Says that this control plane has no proxies any more.
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

impl std::fmt::Debug for Exchange {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Exchange").field("name", &self.name).finish_non_exhaustive()
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

/// How many proxies of an identity have which version of its document, as all control planes said last. One that
/// died a moment ago is still among them.
///
/// # Errors
/// When that cannot be read.
pub async fn last_said(
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

/// A value of a ConfigMap.
fn value<'o>(object: &'o DynamicObject, key: &str) -> Option<&'o str> {
    object.data.get("data").and_then(|data| data.get(key)).and_then(Value::as_str)
}

#[cfg(test)]
mod tests;
