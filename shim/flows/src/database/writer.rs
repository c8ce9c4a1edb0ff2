//! The thread that writes flows down.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};

use super::Store;
use crate::memory::Memory;

/// How often flows are written: what a killed process loses is what came since.
const PAUSE: Duration = Duration::from_secs(1);
/// How much longer than writing the pause after it is: a tenth of a core is enough for this.
const SHARE: u32 = 9;
/// The longest pause.
const LONGEST: Duration = Duration::from_secs(10);
/// The pause after a failure.
const AFTER_FAILURE: Duration = Duration::from_secs(5);

/// A thread that writes flows until it is stopped.
#[derive(Debug)]
pub struct Keeper {
    stop: Sender<()>,
    /// Ends with the thread.
    ended: Receiver<()>,
}

impl Keeper {
    /// Starts it.
    ///
    /// # Errors
    /// When there can be no thread.
    pub fn start(mut store: Store, memory: Arc<Memory>) -> io::Result<Self> {
        let (stop, stopped) = channel();
        let (ends, ended) = channel();
        std::thread::Builder::new().name("flow-db".to_owned()).spawn(move || {
            let mut pause = PAUSE;
            let mut is_failing = false;
            loop {
                let stopping = stopped.recv_timeout(pause) != Err(RecvTimeoutError::Timeout);
                let start = Instant::now();
                match store.save(&memory) {
                    Ok(()) => {
                        if is_failing {
                            tracing::info!("flows are written down again");
                        }
                        is_failing = false;
                        pause = (start.elapsed() * SHARE).clamp(PAUSE, LONGEST);
                    }
                    Err(error) => {
                        memory.counts.db_errors.fetch_add(1, Ordering::Relaxed);
                        // Once: what is in the way stays there for long.
                        if !is_failing || stopping {
                            tracing::warn!(
                                error = format!("{error:#}"),
                                "flows are in memory only, until this is mended"
                            );
                        }
                        is_failing = true;
                        pause = AFTER_FAILURE;
                    }
                }
                if stopping {
                    break;
                }
            }
            // In this order: closing brings everything into the file.
            drop(store);
            drop(ends);
        })?;
        Ok(Self { stop, ended })
    }

    /// Writes once more, and ends; says whether that was possible within this time.
    #[must_use]
    pub fn stop(self, within: Duration) -> bool {
        drop(self.stop);
        self.ended.recv_timeout(within) == Err(RecvTimeoutError::Disconnected)
    }
}
