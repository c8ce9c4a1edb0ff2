//! The watcher of one kind: finds the served version, lists, watches, and starts again after a failure.

use std::time::Duration;

use futures::StreamExt;
use kube::api::{ApiResource, DynamicObject};
use kube::runtime::watcher::{self, Error};
use kube::{Api, Client};
use tokio::sync::mpsc::Sender;
use tokio::time::Instant;

use super::client::{is_unknown, reason};
use super::cluster_cache::Event;
use super::kinds::{WatchedKind, discover};
use super::{object, probe};
use egress_compile::CompileOptions;
use egress_compile::manifest::Kind;

/// The length of one watch. It is opened again after that, so a dead connection is noticed.
const WATCH_SECONDS: u32 = 60;
/// The first and the longest delay after a failure. It doubles each time.
const RETRY_DELAYS: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));
/// The time that a watch must last after a failure to count as recovered.
const STABLE_TIME: Duration = Duration::from_secs(1);
/// The time that a known kind must be absent before its objects are removed. A starting API server does not serve all kinds
/// at once. A definition that is deleted while we watch deletes its objects one by one.
const ABSENCE_GRACE: Duration = Duration::from_secs(10);

/// The receiver of events is gone.
struct ReceiverGone;

/// The state of watching one kind.
struct KindWatcher {
    client: Client,
    watched: WatchedKind,
    options: CompileOptions,
    events: Sender<Event>,
    pause: Duration,
    failing: bool,
    /// True if the API server served the kind, and since when it does not.
    had: bool,
    missing: Option<Instant>,
}

/// Watches a kind until the receiver of its events is gone.
pub(super) async fn watch_kind(
    client: Client,
    watched: WatchedKind,
    options: CompileOptions,
    events: Sender<Event>,
) {
    let pause = RETRY_DELAYS.0;
    let mut kind_watcher =
        KindWatcher { client, watched, options, events, pause, failing: false, had: false, missing: None };
    while kind_watcher.discover_and_watch().await.is_ok() {}
}

impl KindWatcher {
    async fn discover_and_watch(&mut self) -> Result<(), ReceiverGone> {
        match discover(&self.client, self.watched.kind).await {
            Ok(Some(resource)) => {
                self.missing = None;
                self.watch(&resource).await
            }
            Ok(None) => self.report_unknown_kind().await,
            Err(error) => self.fail(reason(&error)).await,
        }
    }

    /// Reports that the API server does not serve the kind: required kinds are a failure, optional ones have no objects.
    async fn report_unknown_kind(&mut self) -> Result<(), ReceiverGone> {
        let kind = self.watched.kind;
        if !self.watched.optional {
            let advice = "install the definitions with `osm-egress crds | kubectl apply -f -`";
            return self.fail(format!("the API server does not know {kind}: {advice}")).await;
        }
        if let Err(error) = probe::check_ready(&self.client).await {
            return self.fail(reason(&error)).await;
        }
        let since = *self.missing.get_or_insert_with(Instant::now);
        if self.had && since.elapsed() < ABSENCE_GRACE {
            return self.fail(format!("the API server does not know {kind} any more")).await;
        }
        self.had = false;
        self.send(Event::Absent(kind)).await?;
        self.failing = false;
        self.wait().await;
        Ok(())
    }

    /// Lists and watches until the API server does not serve the kind any more.
    async fn watch(&mut self, resource: &ApiResource) -> Result<(), ReceiverGone> {
        let kind = self.watched.kind;
        let mut config = watcher::Config::default().timeout(WATCH_SECONDS);
        let api: Api<DynamicObject> = if kind == Kind::MeshConfig {
            // There is one that counts, and nothing else need be readable.
            let CompileOptions { mesh_config_namespace, mesh_config_name, .. } = &self.options;
            config = config.fields(&format!("metadata.name={mesh_config_name}"));
            Api::namespaced_with(self.client.clone(), mesh_config_namespace, resource)
        } else {
            Api::all_with(self.client.clone(), resource)
        };
        let mut stream = std::pin::pin!(watcher::watcher(api, config));
        loop {
            let next = if self.failing {
                match tokio::time::timeout(STABLE_TIME, stream.next()).await {
                    Ok(next) => next,
                    Err(_) => {
                        self.recover().await?;
                        continue;
                    }
                }
            } else {
                stream.next().await
            };
            match next {
                Some(Ok(event)) => {
                    self.had = true;
                    let event = match event {
                        watcher::Event::Init => Event::Begin(kind),
                        watcher::Event::InitApply(object) => {
                            Event::Listed(kind, object::read(kind, resource, object))
                        }
                        watcher::Event::InitDone => Event::End(kind),
                        watcher::Event::Apply(object) => {
                            Event::Applied(kind, object::read(kind, resource, object))
                        }
                        watcher::Event::Delete(object) => Event::Deleted(kind, object::key(&object)),
                    };
                    // The start of a list is no success yet.
                    if !matches!(event, Event::Begin(_)) {
                        self.recover().await?;
                    }
                    self.send(event).await?;
                }
                Some(Err(Error::InitialListFailed(error) | Error::WatchStartFailed(error)))
                    if is_unknown(&error) =>
                {
                    self.wait().await;
                    return Ok(());
                }
                // The watcher lists again: it missed something, which is not the server's fault.
                Some(Err(Error::WatchError(status))) if status.code == 410 => {}
                Some(Err(error)) => self.fail(describe(&error)).await?,
                None => return Ok(()),
            }
        }
    }

    async fn send(&self, event: Event) -> Result<(), ReceiverGone> {
        self.events.send(event).await.map_err(|_| ReceiverGone)
    }

    async fn fail(&mut self, reason: String) -> Result<(), ReceiverGone> {
        self.failing = true;
        self.send(Event::WatchFailed(self.watched.kind, reason)).await?;
        self.wait().await;
        Ok(())
    }

    async fn recover(&mut self) -> Result<(), ReceiverGone> {
        self.pause = RETRY_DELAYS.0;
        if std::mem::take(&mut self.failing) {
            self.send(Event::WatchRecovered(self.watched.kind)).await?;
        }
        Ok(())
    }

    /// Waits before the next attempt, longer each time.
    async fn wait(&mut self) {
        tokio::time::sleep(self.pause).await;
        self.pause = (self.pause * 2).min(RETRY_DELAYS.1);
    }
}

fn describe(error: &Error) -> String {
    match error {
        Error::InitialListFailed(error) | Error::WatchStartFailed(error) | Error::WatchFailed(error) => {
            reason(error)
        }
        Error::WatchError(status) => format!("the API server says {}: {}", status.code, status.message),
        Error::NoResourceVersion => "the API server gives no resource version".to_owned(),
    }
}
