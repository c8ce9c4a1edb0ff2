//! A folder of manifests: every `*.yaml`, `*.yml` and `*.json` below it, hidden files aside.
//!
//! An event only starts a scan. Changes are found by comparing path, inode, length and times, so editors' habits, atomic
//! renames and the swapped symlinks of ConfigMap volumes are one case. Without events (a network file system), a scan every
//! two seconds finds them.
//!
//! While the folder is gone, the last state stays in force and the source is unavailable.

mod scan;
mod walk;
mod watch;

use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::sync::watch::Receiver;

use self::scan::Scanner;
use self::watch::{Wake, Watcher};
use egress_core::source::SourceState;

/// The time after which a file that is neither written nor closed counts as complete.
const WRITE_TIMEOUT: Duration = Duration::from_secs(1);

/// A folder that is being watched, until this is dropped or stopped.
#[derive(Debug)]
pub struct Folder {
    states: Receiver<SourceState>,
    wake: mpsc::Sender<Wake>,
    thread: Option<JoinHandle<()>>,
}

impl Folder {
    /// Reads a folder once.
    #[must_use]
    pub fn load_once(dir: &Path) -> SourceState {
        let mut scanner = Scanner::new(dir.to_owned());
        scanner.scan(&scan::Writing::default());
        scanner.state()
    }

    /// Reads a folder, and then watches it on a thread of its own.
    ///
    /// # Errors
    /// When the system gives no thread.
    pub fn watch(dir: &Path) -> std::io::Result<Self> {
        Self::start(dir, WRITE_TIMEOUT)
    }

    fn start(dir: &Path, write_timeout: Duration) -> std::io::Result<Self> {
        let dir: PathBuf = std::path::absolute(dir).unwrap_or_else(|_| dir.to_owned());
        let (wake, woken) = mpsc::channel();
        let mut watcher = Watcher::new(dir, write_timeout, wake.clone());
        watcher.scan();
        let (publish, states) = tokio::sync::watch::channel(watcher.state());
        let thread = std::thread::Builder::new()
            .name("folder".to_owned())
            .spawn(move || watcher.run(&woken, &publish))?;
        Ok(Self { states, wake, thread: Some(thread) })
    }

    /// The objects of the folder, now and later.
    #[must_use]
    pub fn states(&self) -> Receiver<SourceState> {
        self.states.clone()
    }

    /// Stops watching, and waits until nothing is read any more.
    pub fn stop(mut self) {
        self.shut_down();
    }

    fn shut_down(&mut self) {
        // It may have ended already; then there is nobody to tell.
        let _ = self.wake.send(Wake::Stop);
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the folder's thread had panicked");
        }
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        self.shut_down();
    }
}

#[cfg(test)]
mod tests;
