//! Reloading of certificate files.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::sync::watch;

use super::TlsCounters;
use super::files::{FileSnapshot, SnapshotDigest, TlsConfigs, TlsFiles};

/// Interval between two reads. The kubelet updates a Secret volume within about a minute.
const RELOAD_INTERVAL: Duration = Duration::from_secs(1);

/// Reloads the files whenever they change, until all receivers are dropped.
///
/// Certificate and key are two files that may be written one after the other: a change counts once two consecutive
/// reads agree.
pub(super) async fn watch_files(
    files: TlsFiles,
    mut current: SnapshotDigest,
    publish: watch::Sender<Arc<TlsConfigs>>,
    counters: Arc<TlsCounters>,
) {
    let mut previous = current.clone();
    loop {
        tokio::select! {
            () = tokio::time::sleep(RELOAD_INTERVAL) => {}
            () = publish.closed() => return,
        }
        let these = files.clone();
        let Ok(snapshot) = tokio::task::spawn_blocking(move || FileSnapshot::read(&these)).await else {
            continue;
        };
        let digest = snapshot.digest();
        let is_stable = std::mem::replace(&mut previous, digest.clone()) == digest;
        if !is_stable || digest == current {
            continue;
        }
        current = digest;
        match snapshot.build(&files) {
            Ok(loaded) => {
                tracing::info!(certificate = %files.certificate.display(), "new certificates are in force");
                publish.send_replace(Arc::new(loaded));
                counters.reloads.fetch_add(1, Ordering::Relaxed);
            }
            Err(error) => {
                tracing::error!(%error, "the last good certificates stay in force");
                counters.failures.fetch_add(1, Ordering::Relaxed);
            }
        }
    }
}
