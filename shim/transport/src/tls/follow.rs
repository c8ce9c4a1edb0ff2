//! The reload of certificates.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::sync::watch;

use super::counts::Counts;
use super::files::{ContentsDigest, FileContents, Files, Loaded};

/// The interval at which files are read. A volume of a Secret follows its Secret within a minute or so.
const POLL_INTERVAL: Duration = Duration::from_secs(1);

/// Publishes the configuration of the files whenever they change, until nobody uses it any more.
///
/// Certificate and key are two files, and some write them one after the other: a change counts when two reads in a row give
/// the same.
pub(super) async fn reload_on_change(
    files: Files,
    mut settled: ContentsDigest,
    publish: watch::Sender<Arc<Loaded>>,
    counts: Arc<Counts>,
) {
    let mut before = settled.clone();
    loop {
        tokio::select! {
            () = tokio::time::sleep(POLL_INTERVAL) => {}
            () = publish.closed() => return,
        }
        let this = files.clone();
        let Ok(contents) = tokio::task::spawn_blocking(move || FileContents::read(&this)).await else {
            continue;
        };
        let digest = contents.digest();
        let twice = std::mem::replace(&mut before, digest.clone()) == digest;
        if !twice || digest == settled {
            continue;
        }
        settled = digest;
        match contents.load(&files) {
            Ok(loaded) => {
                tracing::info!(certificate = %files.certificate.display(), "new certificates are in force");
                publish.send_replace(Arc::new(loaded));
                counts.reloads.fetch_add(1, Ordering::Relaxed);
            }
            Err(error) => {
                tracing::error!(%error, "the last good certificates stay in force");
                counts.failures.fetch_add(1, Ordering::Relaxed);
            }
        }
    }
}
