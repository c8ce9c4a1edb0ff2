//! The scanner: finds what changed below a folder since the last scan.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use sha2::{Digest, Sha256};

use super::walk::{Found, Stamp, Walk, display_name, walk};
use egress_compile::manifest::{Diagnostic, yaml, yaml_diagnostic};
use egress_compile::store::{Change, FileUpdate, Store};
use egress_core::source::{Availability, SourceState};

/// The clock of file systems ticks slowly: a file that was written this short a time ago can be
/// written again without looking different.
const CLOCK_TICK: Duration = Duration::from_millis(20);

/// The files that somebody is writing, by real path. Half a file can be a valid manifest that grants
/// more than the whole, so these are left alone.
pub(super) type Writing = BTreeSet<PathBuf>;

/// The state of a folder at the last scan.
#[derive(Debug)]
pub(super) struct Scanner {
    root: PathBuf,
    store: Store,
    availability: Availability,
    seen: BTreeMap<PathBuf, KnownFile>,
    blocked: BTreeSet<PathBuf>,
}

/// A file at the last scan.
#[derive(Debug, Default)]
struct KnownFile {
    /// `None`: it must be read again even if it looks the same.
    stamp: Option<Stamp>,
    digest: Option<[u8; 32]>,
}

/// The result of a scan.
#[derive(Debug, Default)]
pub(super) struct ScanResult {
    /// True if the state is different now.
    pub(super) changed: bool,
    /// True if a file was left alone because it is being written.
    pub(super) deferred: bool,
    /// The folders to watch.
    pub(super) folders: BTreeMap<PathBuf, (u64, u64)>,
}

impl Scanner {
    pub(super) fn new(root: PathBuf) -> Self {
        Self {
            root,
            store: Store::default(),
            availability: Availability::Available,
            seen: BTreeMap::new(),
            blocked: BTreeSet::new(),
        }
    }

    pub(super) fn root(&self) -> &Path {
        &self.root
    }

    pub(super) fn state(&self) -> SourceState {
        SourceState { store: Arc::new(self.store.clone()), availability: self.availability.clone() }
    }

    /// Looks at the folder and takes in what changed.
    pub(super) fn scan(&mut self, writing: &Writing) -> ScanResult {
        let Walk { files, folders, blocked } = match walk(&self.root) {
            Ok(walk) => walk,
            Err(error) => {
                let reason = format!("folder `{}` cannot be read: {error}", self.root.display());
                let changed = self.set_availability(Availability::Unavailable { reason });
                return ScanResult { changed, ..ScanResult::default() };
            }
        };
        let mut look = ScanResult {
            changed: self.set_availability(Availability::Available),
            folders,
            ..ScanResult::default()
        };
        look.changed |= self.remove_missing(&files, &blocked);
        for (path, reason) in &blocked {
            look.changed |= self.apply(path, Change::Unreadable(vec![broken(path, reason)]));
        }
        self.blocked = blocked.into_keys().collect();
        for (path, found) in files {
            if writing.contains(&found.real) {
                look.deferred = true;
            } else {
                look.changed |= self.take_in(path, &found);
            }
        }
        look
    }

    fn set_availability(&mut self, availability: Availability) -> bool {
        let changed = self.availability != availability;
        self.availability = availability;
        changed
    }

    /// Drops what is gone. What lies in a folder that cannot be read is not known to be gone.
    fn remove_missing(
        &mut self,
        files: &BTreeMap<PathBuf, Found>,
        blocked: &BTreeMap<PathBuf, String>,
    ) -> bool {
        let is_removed = |path: &Path| !path.ancestors().any(|folder| blocked.contains_key(folder));
        let gone: Vec<PathBuf> =
            self.seen.keys().filter(|path| !files.contains_key(*path) && is_removed(path)).cloned().collect();
        let mut changed = false;
        for path in gone {
            self.seen.remove(&path);
            changed |= self.apply(&path, Change::Removed);
        }
        let readable: Vec<PathBuf> =
            self.blocked.iter().filter(|path| !blocked.contains_key(*path)).cloned().collect();
        for path in readable {
            changed |= self.apply(&path, Change::Removed);
        }
        changed
    }

    fn take_in(&mut self, path: PathBuf, found: &Found) -> bool {
        let seen = self.seen.entry(path.clone()).or_default();
        match &found.stamp {
            Ok(stamp) if seen.stamp == Some(*stamp) => return false,
            Ok(_) => {}
            Err(reason) => {
                *seen = KnownFile::default();
                return self.apply(&path, Change::Unreadable(vec![broken(&path, reason)]));
            }
        }
        match read(&path) {
            Ok((bytes, settled)) => {
                let digest = Some(Sha256::digest(&bytes).into());
                let same = seen.digest == digest;
                *seen = KnownFile { stamp: settled, digest };
                if same {
                    return false;
                }
                let name = display_name(&path);
                self.store.apply(if bytes.len() > yaml::MAX_BYTES {
                    let problem = yaml_diagnostic(&name, yaml::file_too_large());
                    FileUpdate { file: name, change: Change::Unreadable(vec![problem]) }
                } else {
                    FileUpdate::read(name, &bytes)
                })
            }
            // Gone since it was listed; the next look says so.
            Err(error) if error.kind() == io::ErrorKind::NotFound => false,
            Err(error) => {
                *seen = KnownFile::default();
                let problem = broken(&path, &format!("the file cannot be read: {error}"));
                self.apply(&path, Change::Unreadable(vec![problem]))
            }
        }
    }

    fn apply(&mut self, path: &Path, change: Change) -> bool {
        self.store.apply(FileUpdate { file: display_name(path), change })
    }
}

fn broken(path: &Path, reason: &str) -> Diagnostic {
    Diagnostic::error(reason).advice("look at its owner, mode and link target").at(&display_name(path), None)
}

/// Reads a file, up to one byte more than is allowed. The stamp is `None` when the file may have
/// changed in the meantime, or could change without looking different.
fn read(path: &Path) -> io::Result<(Vec<u8>, Option<Stamp>)> {
    let mut file = File::open(path)?;
    let before = Stamp::of(&file.metadata()?);
    let mut bytes = Vec::new();
    file.by_ref().take(yaml::MAX_BYTES as u64 + 1).read_to_end(&mut bytes)?;
    let metadata = file.metadata()?;
    let after = Stamp::of(&metadata);
    // A time in the future counts as just now.
    let age = metadata.modified().ok().and_then(|at| SystemTime::now().duration_since(at).ok());
    let settled = before == after && age.is_some_and(|age| age >= CLOCK_TICK);
    Ok((bytes, settled.then_some(after)))
}
