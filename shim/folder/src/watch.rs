//! The watcher: scans a folder after an event, and at an interval.

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

/// The interval of scans without events.
const SCAN_INTERVAL: Duration = Duration::from_secs(2);
/// The time without events after which a scan starts.
const QUIET_TIME: Duration = Duration::from_millis(10);
/// The longest delay of a scan after an event.
const MAX_DELAY: Duration = Duration::from_millis(50);

/// A reason to wake the thread.
#[derive(Debug)]
pub(super) enum Wake {
    /// Something happened in a watched folder.
    Event(notify::Result<Event>),
    /// The folder is no longer watched.
    Stop,
}

/// A scanner with the events that start it.
#[derive(Debug)]
pub(super) struct Watcher {
    scanner: Scanner,
    /// The time after which a file that is neither written nor closed counts as complete.
    write_timeout: Duration,
    /// `None`: the system gives no events, and only the interval counts.
    events: Option<RecommendedWatcher>,
    /// The watched folders, with what tells that one was replaced by another of the same path.
    watched: BTreeMap<PathBuf, (u64, u64)>,
    /// The files that were written to and not yet closed, and when last.
    writing: BTreeMap<PathBuf, Instant>,
    /// True if it was said that a folder cannot be watched.
    warned: bool,
}

impl Watcher {
    pub(super) fn new(root: PathBuf, write_timeout: Duration, wake: Sender<Wake>) -> Self {
        // The receiver is gone only when the thread has ended.
        let events = notify::recommended_watcher(move |event| drop(wake.send(Wake::Event(event))));
        let events = events
            .inspect_err(|error| tracing::warn!(%error, "no file events: looking every 2 s instead"))
            .ok();
        Self {
            scanner: Scanner::new(root),
            write_timeout,
            events,
            watched: BTreeMap::new(),
            writing: BTreeMap::new(),
            warned: false,
        }
    }

    pub(super) fn state(&self) -> SourceState {
        self.scanner.state()
    }

    /// Scans until told to stop, and publishes changes.
    pub(super) fn run(mut self, woken: &Receiver<Wake>, publish: &Publisher<SourceState>) {
        let mut next = Instant::now() + SCAN_INTERVAL;
        loop {
            match woken.recv_timeout(next.saturating_duration_since(Instant::now())) {
                Ok(Wake::Event(event)) => {
                    if !self.matters(event) {
                        continue;
                    }
                    if self.await_quiet(woken).is_break() {
                        return;
                    }
                }
                Err(RecvTimeoutError::Timeout) => {}
                Ok(Wake::Stop) | Err(RecvTimeoutError::Disconnected) => return,
            }
            let (changed, deferred) = self.scan();
            next =
                Instant::now() + if deferred { self.write_timeout.min(SCAN_INTERVAL) } else { SCAN_INTERVAL };
            if changed {
                publish.send_replace(self.state());
            }
        }
    }

    /// Waits until there were no events for a moment.
    fn await_quiet(&mut self, woken: &Receiver<Wake>) -> std::ops::ControlFlow<()> {
        let end = Instant::now() + MAX_DELAY;
        loop {
            let left = end.saturating_duration_since(Instant::now()).min(QUIET_TIME);
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

    /// Scans once. Returns whether the state changed and whether a file was left for later.
    pub(super) fn scan(&mut self) -> (bool, bool) {
        self.writing.retain(|_, last| last.elapsed() < self.write_timeout);
        let writing: Writing = self.writing.keys().cloned().collect();
        let (mut changed, mut deferred) = (false, false);
        // What happened in a folder before it was watched made no event: scan again, but not for ever.
        for _ in 0..4 {
            let result = self.scanner.scan(&writing);
            changed |= result.changed;
            deferred = result.deferred;
            if !self.watch(result.folders) {
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

    /// Returns whether an event is a reason to look; records which files are being written.
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

    /// Returns whether a path lies in a folder of manifests, or is such a folder. What else lies beside the
    /// folder is none of our business, unless it may be what a link leads to.
    fn is_near(&self, path: &Path) -> bool {
        let root = self.scanner.root();
        path == root
            || is_manifest(path)
            || root.parent().is_none_or(|parent| path.parent() != Some(parent) && path != parent)
    }
}
