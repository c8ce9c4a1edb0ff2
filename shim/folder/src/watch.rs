//! When to look.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender};
use std::time::{Duration, Instant};

use notify::event::{AccessKind, AccessMode, EventKind, ModifyKind};
use notify::{Event, RecommendedWatcher, RecursiveMode, Watcher as _};
use tokio::sync::watch::Sender as Publisher;

use super::scan::{Scanner, Writing};
use super::walk::is_manifest;
use egress_core::source::SourceState;

/// Without events, how often to look.
const INTERVAL: Duration = Duration::from_secs(2);
/// After an event, how long to wait for the next one.
const QUIET: Duration = Duration::from_millis(10);
/// After an event, how long to wait at most.
const COALESCE: Duration = Duration::from_millis(50);

/// What wakes the thread.
#[derive(Debug)]
pub(super) enum Wake {
    /// Something happened in a watched folder.
    Event(notify::Result<Event>),
    /// Enough.
    Stop,
}

/// A scanner, and what tells it when to look.
#[derive(Debug)]
pub(super) struct Watcher {
    scanner: Scanner,
    /// How long a file counts as being written when its writer neither writes nor closes it.
    patience: Duration,
    /// `None`: the system gives no events, and only the interval counts.
    events: Option<RecommendedWatcher>,
    /// The watched folders, with what tells that one was replaced by another of the same path.
    watched: BTreeMap<PathBuf, (u64, u64)>,
    /// The files that were written to and not yet closed, and when last.
    writing: BTreeMap<PathBuf, Instant>,
    /// Whether it was said that a folder cannot be watched.
    warned: bool,
}

impl Watcher {
    pub(super) fn new(root: PathBuf, patience: Duration, wake: Sender<Wake>) -> Self {
        // The receiver is gone only when the thread has ended.
        let events = notify::recommended_watcher(move |event| drop(wake.send(Wake::Event(event))));
        let events = events
            .inspect_err(|error| tracing::warn!(%error, "no file events: looking every 2 s instead"))
            .ok();
        Self {
            scanner: Scanner::new(root),
            patience,
            events,
            watched: BTreeMap::new(),
            writing: BTreeMap::new(),
            warned: false,
        }
    }

    pub(super) fn state(&self) -> SourceState {
        self.scanner.state()
    }

    /// Looks until told to stop, and publishes what changed.
    pub(super) fn run(mut self, woken: &Receiver<Wake>, publish: &Publisher<SourceState>) {
        let mut next = Instant::now() + INTERVAL;
        loop {
            match woken.recv_timeout(next.saturating_duration_since(Instant::now())) {
                Ok(Wake::Event(event)) => {
                    if !self.matters(event) {
                        continue;
                    }
                    if self.settle(woken).is_break() {
                        return;
                    }
                }
                Err(RecvTimeoutError::Timeout) => {}
                Ok(Wake::Stop) | Err(RecvTimeoutError::Disconnected) => return,
            }
            let (changed, deferred) = self.look();
            next = Instant::now() + if deferred { self.patience.min(INTERVAL) } else { INTERVAL };
            if changed {
                publish.send_replace(self.state());
            }
        }
    }

    /// Waits until nothing has happened for a moment.
    fn settle(&mut self, woken: &Receiver<Wake>) -> std::ops::ControlFlow<()> {
        let end = Instant::now() + COALESCE;
        loop {
            let left = end.saturating_duration_since(Instant::now()).min(QUIET);
            match woken.recv_timeout(left) {
                Ok(Wake::Event(event)) => {
                    self.matters(event);
                }
                Err(RecvTimeoutError::Timeout) => return std::ops::ControlFlow::Continue(()),
                Ok(Wake::Stop) | Err(RecvTimeoutError::Disconnected) => {
                    return std::ops::ControlFlow::Break(());
                }
            }
        }
    }

    /// Looks once. Says whether the state changed and whether a file was left for later.
    pub(super) fn look(&mut self) -> (bool, bool) {
        self.writing.retain(|_, last| last.elapsed() < self.patience);
        let writing: Writing = self.writing.keys().cloned().collect();
        let (mut changed, mut deferred) = (false, false);
        // What happened in a folder before it was watched made no event: look again, but not for ever.
        for _ in 0..4 {
            let look = self.scanner.scan(&writing);
            changed |= look.changed;
            deferred = look.deferred;
            if !self.watch(look.folders) {
                break;
            }
        }
        (changed, deferred)
    }

    /// Watches these folders and no others. Says whether one is new.
    fn watch(&mut self, mut folders: BTreeMap<PathBuf, (u64, u64)>) -> bool {
        let Some(events) = &mut self.events else {
            return false;
        };
        // The folder itself may vanish and come back, or be a link that is swapped.
        if let Some(parent) = self.scanner.root().parent()
            && parent.is_dir()
        {
            folders.entry(parent.to_owned()).or_default();
        }
        self.watched.retain(|folder, id| {
            let keep = folders.get(folder) == Some(id);
            if !keep {
                // With the folder gone, so is the watch.
                let _ = events.unwatch(folder);
            }
            keep
        });
        let mut any = false;
        for (folder, id) in folders {
            if self.watched.contains_key(&folder) {
                continue;
            }
            match events.watch(&folder, RecursiveMode::NonRecursive) {
                Ok(()) => {
                    any = true;
                    self.watched.insert(folder, id);
                }
                Err(error) => {
                    // Each look tries again; once is enough to say.
                    if !std::mem::replace(&mut self.warned, true) {
                        tracing::warn!(%error, folder = %folder.display(), "no file events here: looking every 2 s instead");
                    }
                }
            }
        }
        any
    }

    /// Whether an event is a reason to look; remembers who writes what.
    fn matters(&mut self, event: notify::Result<Event>) -> bool {
        let Event { kind, paths, attrs: _ } = match event {
            Ok(event) => event,
            // Too many at once, for example.
            Err(_) => return true,
        };
        let mut matters = paths.is_empty();
        for path in paths {
            let is_written = matches!(kind, EventKind::Modify(ModifyKind::Data(_)));
            match kind {
                // Our own reading.
                EventKind::Access(access) if access != AccessKind::Close(AccessMode::Write) => continue,
                EventKind::Modify(ModifyKind::Data(_)) if is_manifest(&path) => {
                    self.writing.insert(path.clone(), Instant::now());
                }
                EventKind::Modify(ModifyKind::Data(_)) => {}
                EventKind::Access(_) => {
                    self.writing.remove(&path);
                }
                EventKind::Create(_)
                | EventKind::Remove(_)
                | EventKind::Modify(_)
                | EventKind::Any
                | EventKind::Other => {
                    self.writing.remove(&path);
                    // A folder that went took its watch along, and another may come in its place.
                    if let Some(events) = &mut self.events
                        && self.watched.remove(&path).is_some()
                    {
                        let _ = events.unwatch(&path);
                    }
                }
            }
            let is_content = is_written || matches!(kind, EventKind::Access(_));
            matters |= self.is_near(&path) && (!is_content || is_manifest(&path));
        }
        matters
    }

    /// Whether a path lies in a folder of manifests, or is such a folder. What else lies beside the
    /// folder is none of our business, unless it may be what a link leads to.
    fn is_near(&self, path: &Path) -> bool {
        let root = self.scanner.root();
        path == root
            || is_manifest(path)
            || root.parent().is_none_or(|parent| path.parent() != Some(parent) && path != parent)
    }
}
