//! A folder of manifests, watched.
//!
//! INVARIANT(last good): a file that cannot be read keeps what it said before, and so does a folder
//! that is not there. Only a file that is gone from a folder that is there takes its objects along.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use notify::{RecursiveMode, Watcher};
use tokio::sync::watch;

use crate::manifest;
use crate::problem::{Problem, Severity};
use crate::store::Store;

/// A larger file is a mistake: ten thousand objects have 5 MiB.
const LARGEST_FILE: u64 = 32 << 20;
/// How deep folders are looked into.
const DEEPEST: usize = 16;
/// A change is read when nothing has happened for so long …
const QUIET: Duration = Duration::from_millis(15);
/// … and at the latest so long after its first event.
const LATEST: Duration = Duration::from_millis(50);
/// How often to look where no event is to be expected.
const LOOK: Duration = Duration::from_secs(2);
/// How often to look whether a folder that is gone, or a file that is being written, is there.
const LOOK_SOON: Duration = Duration::from_millis(100);

/// What a folder holds.
#[derive(Debug, Clone, Default)]
pub struct State {
    /// The objects.
    pub store: Arc<Store>,
    /// Why the folder cannot be read now; the objects are the last ones.
    pub unavailable: Option<String>,
}

/// A folder and what was last seen in it.
#[derive(Debug)]
pub struct Folder {
    root: PathBuf,
    store: Store,
    seen: BTreeMap<PathBuf, Stamp>,
    emptied: BTreeSet<PathBuf>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stamp {
    modified: (i64, i64),
    length: u64,
    inode: u64,
}

impl Folder {
    /// A folder that nothing was seen of yet.
    #[must_use]
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into(), store: Store::default(), seen: BTreeMap::new(), emptied: BTreeSet::new() }
    }

    /// What is in it.
    #[must_use]
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// Reads what changed since the last time; says whether anything did.
    ///
    /// # Errors
    /// When the folder cannot be read; then nothing is forgotten.
    pub fn scan(&mut self) -> Result<bool, String> {
        let mut files = BTreeMap::new();
        list(&self.root, 0, &mut files)
            .map_err(|e| format!("cannot read folder {}: {e}", self.root.display()))?;
        let mut changed = false;
        let gone: Vec<_> = self.store.paths().filter(|path| !files.contains_key(*path)).cloned().collect();
        for path in gone {
            self.store.remove(&path);
            self.seen.remove(&path);
            changed = true;
        }
        for (path, stamp) in files {
            if self.seen.get(&path) == Some(&stamp) {
                continue;
            }
            // Whoever writes a file in place empties it first. What is still empty the next time is
            // meant to be.
            if stamp.length == 0 && self.seen.contains_key(&path) && self.emptied.insert(path.clone()) {
                continue;
            }
            self.emptied.remove(&path);
            self.store.set(path.clone(), read(&path, stamp));
            self.seen.insert(path, stamp);
            changed = true;
        }
        Ok(changed)
    }

    /// Forgets when a file was last seen, so that the next scan reads it.
    fn touch(&mut self, path: &Path) {
        if let Some(stamp) = self.seen.get_mut(path) {
            // A file of the same length, written in the same tick of the clock.
            stamp.modified = (0, 0);
        }
    }

    /// Watches the folder from a thread of its own, until nobody listens any more.
    ///
    /// # Errors
    /// When no thread can be started.
    pub fn watch(mut self) -> std::io::Result<watch::Receiver<State>> {
        let unavailable = self.scan().err();
        let state = State { store: Arc::new(self.store.clone()), unavailable };
        let (sender, receiver) = watch::channel(state);
        std::thread::Builder::new().name("folder".to_owned()).spawn(move || self.run(&sender))?;
        Ok(receiver)
    }

    fn run(mut self, sender: &watch::Sender<State>) {
        let (events, inbox) = channel();
        let mut watching: Option<(u64, notify::RecommendedWatcher)> = None;
        while !sender.is_closed() {
            let inode = fs::metadata(&self.root).ok().map(|metadata| metadata.ino());
            // A folder that was made anew is another one, and is watched anew.
            if watching.as_ref().map(|(inode, _)| *inode) != inode {
                watching = inode.and_then(|inode| {
                    let events = events.clone();
                    let mut watcher = notify::recommended_watcher(move |event| {
                        // The receiver lives as long as this thread.
                        let _ = events.send(event);
                    })
                    .ok()?;
                    watcher.watch(&self.root, RecursiveMode::Recursive).ok()?;
                    Some((inode, watcher))
                });
            }
            let (changed, unavailable) = match self.scan() {
                Ok(changed) => (changed, None),
                Err(error) => (false, Some(error)),
            };
            let was = sender.borrow().unavailable.clone();
            if changed || unavailable != was {
                if unavailable != was {
                    match &unavailable {
                        Some(error) => tracing::error!(error, "the last good state stays in force"),
                        None => tracing::info!(folder = %self.root.display(), "folder is back"),
                    }
                }
                sender.send_replace(State {
                    store: Arc::new(self.store.clone()),
                    unavailable: unavailable.clone(),
                });
            }
            let soon = unavailable.is_some() || !self.emptied.is_empty() || watching.is_none();
            self.wait(&inbox, if soon { LOOK_SOON } else { LOOK });
        }
    }

    /// Waits for something to happen, and then for it to be over.
    fn wait(&mut self, inbox: &Receiver<notify::Result<notify::Event>>, longest: Duration) {
        let mut timeout = longest;
        let mut end: Option<Instant> = None;
        loop {
            match inbox.recv_timeout(timeout) {
                Ok(Ok(event)) if event.kind.is_access() => {
                    // Somebody reads, perhaps we.
                    if let Some(end) = end {
                        timeout = QUIET.min(end.saturating_duration_since(Instant::now()));
                    }
                    continue;
                }
                Ok(Ok(event)) => event.paths.iter().for_each(|path| self.touch(path)),
                Ok(Err(_)) => {}
                Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => return,
            }
            let end = *end.get_or_insert_with(|| Instant::now() + LATEST);
            timeout = QUIET.min(end.saturating_duration_since(Instant::now()));
        }
    }
}

/// The manifests below a folder. Hidden files and folders are left out: editors keep their drafts
/// there, and Kubernetes what its links in a mounted ConfigMap lead to.
fn list(folder: &Path, depth: usize, files: &mut BTreeMap<PathBuf, Stamp>) -> std::io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        let hidden = path.file_name().is_none_or(|name| name.to_string_lossy().starts_with('.'));
        if hidden {
            continue;
        }
        // Gone since it was listed, or a link to nowhere.
        let Ok(metadata) = fs::metadata(&path) else { continue };
        if metadata.is_dir() && depth < DEEPEST {
            list(&path, depth + 1, files)?;
        } else if metadata.is_file()
            && path
                .extension()
                .is_some_and(|extension| ["yaml", "yml", "json"].iter().any(|e| extension == *e))
        {
            let modified = (metadata.mtime(), metadata.mtime_nsec());
            files.insert(path, Stamp { modified, length: metadata.len(), inode: metadata.ino() });
        }
    }
    Ok(())
}

fn read(path: &Path, stamp: Stamp) -> Result<Vec<Arc<manifest::Object>>, Vec<Problem>> {
    let problem = |message: String, advice: &str| {
        let mut problem = Problem::new(Severity::Error, message).advise(advice);
        problem.file = Some(path.to_owned());
        vec![problem]
    };
    if stamp.length > LARGEST_FILE {
        let message = format!("the file has {} MiB, more than {}", stamp.length >> 20, LARGEST_FILE >> 20);
        return Err(problem(message, "split it; what it said before stays in force"));
    }
    let bytes = fs::read(path)
        .map_err(|e| problem(format!("cannot read the file: {e}"), "let the control plane read it"))?;
    let text = String::from_utf8(bytes).map_err(|e| {
        problem(format!("not UTF-8 at byte {}", e.utf8_error().valid_up_to()), "save it as UTF-8")
    })?;
    manifest::read(path, &text)
}
