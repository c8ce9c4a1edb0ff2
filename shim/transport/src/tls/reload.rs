//! When to read files again.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::sync::watch;

use super::Counts;
use super::files::{Files, Loaded, Look, LookDigest};

/// How often to look. A volume of a Secret follows its Secret within a minute or so.
const INTERVAL: Duration = Duration::from_secs(1);

/// Publishes what follows from the files whenever they change, for as long as anybody listens.
///
/// Certificate and key are two files, and some write them one after the other: a change counts when two looks
/// in a row have seen the same.
pub(super) async fn follow(
    files: Files,
    mut settled: LookDigest,
    publish: watch::Sender<Arc<Loaded>>,
    counts: Arc<Counts>,
) {
    let mut before = settled.clone();
    loop {
        tokio::select! {
            () = tokio::time::sleep(INTERVAL) => {}
            () = publish.closed() => return,
        }
        let this = files.clone();
        let Ok(look) = tokio::task::spawn_blocking(move || Look::take(&this)).await else { continue };
        let digest = look.digest();
        let twice = std::mem::replace(&mut before, digest.clone()) == digest;
        if !twice || digest == settled {
            continue;
        }
        settled = digest;
        match look.load(&files) {
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
