//! Follows one kind for ever: finds the version that is served, lists, watches, and begins again.

use std::time::Duration;

use futures::StreamExt;
use kube::api::{ApiResource, DynamicObject};
use kube::runtime::watcher::{self, Error};
use kube::{Api, Client};
use tokio::sync::mpsc::Sender;
use tokio::time::Instant;

use super::connect::{is_unknown, reason};
use super::gather::Event;
use super::kinds::{Watched, discover};
use super::{object, probe};
use egress_compile::CompileOptions;
use egress_compile::manifest::Kind;

/// How long one watch lasts. One on which nothing arrives that long is opened again, so a connection that
/// died without a word is noticed.
const WATCH_SECONDS: u32 = 60;
/// After a failure, how long to wait; then twice as long each time, up to the last.
const PAUSES: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));
/// After a failure, how long an attempt must go on for it to count as a success.
const STEADY: Duration = Duration::from_secs(1);
/// How long a kind that was there must be unknown for its objects to be gone. One that is removed takes its
/// objects along, one by one; this is for what happens while nobody looks, and an API server that starts
/// does not know all its kinds at once.
const GRACE: Duration = Duration::from_secs(10);

/// Nobody listens any more.
struct Ended;

/// One kind, and who is told about it.
struct Follower {
    client: Client,
    watched: Watched,
    options: CompileOptions,
    events: Sender<Event>,
    pause: Duration,
    failing: bool,
    /// Whether the API server had the kind, and since when it has not.
    had: bool,
    missing: Option<Instant>,
}

/// Follows a kind, for as long as anybody listens.
pub(super) async fn follow(client: Client, watched: Watched, options: CompileOptions, events: Sender<Event>) {
    let pause = PAUSES.0;
    let mut follower =
        Follower { client, watched, options, events, pause, failing: false, had: false, missing: None };
    while follower.once().await.is_ok() {}
}

impl Follower {
    async fn once(&mut self) -> Result<(), Ended> {
        match discover(&self.client, self.watched.kind).await {
            Ok(Some(resource)) => {
                self.missing = None;
                self.watch(&resource).await
            }
            Ok(None) => self.unknown().await,
            Err(error) => self.fail(reason(&error)).await,
        }
    }

    /// The API server does not know the kind.
    async fn unknown(&mut self) -> Result<(), Ended> {
        let kind = self.watched.kind;
        if !self.watched.optional {
            let advice = "install the definitions with `osm-egress crds | kubectl apply -f -`";
            return self.fail(format!("the API server does not know {kind}: {advice}")).await;
        }
        if let Err(error) = probe::is_complete(&self.client).await {
            return self.fail(reason(&error)).await;
        }
        let since = *self.missing.get_or_insert_with(Instant::now);
        if self.had && since.elapsed() < GRACE {
            return self.fail(format!("the API server does not know {kind} any more")).await;
        }
        self.had = false;
        self.tell(Event::Absent(kind)).await?;
        self.failing = false;
        self.wait().await;
        Ok(())
    }

    /// Lists and watches, until the API server does not know the kind any more.
    async fn watch(&mut self, resource: &ApiResource) -> Result<(), Ended> {
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
                match tokio::time::timeout(STEADY, stream.next()).await {
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
                    // That a list begins says nothing yet.
                    if !matches!(event, Event::Begin(_)) {
                        self.recover().await?;
                    }
                    self.tell(event).await?;
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

    async fn tell(&self, event: Event) -> Result<(), Ended> {
        self.events.send(event).await.map_err(|_| Ended)
    }

    async fn fail(&mut self, reason: String) -> Result<(), Ended> {
        self.failing = true;
        self.tell(Event::Followed(self.watched.kind, Some(reason))).await?;
        self.wait().await;
        Ok(())
    }

    async fn recover(&mut self) -> Result<(), Ended> {
        self.pause = PAUSES.0;
        if std::mem::take(&mut self.failing) {
            self.tell(Event::Followed(self.watched.kind, None)).await?;
        }
        Ok(())
    }

    /// Waits longer each time.
    async fn wait(&mut self) {
        tokio::time::sleep(self.pause).await;
        self.pause = (self.pause * 2).min(PAUSES.1);
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
