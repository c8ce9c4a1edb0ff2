//! The thread that saves the flow table to the flow database.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};

use super::FlowDatabase;
use crate::table::FlowTable;

/// The shortest time between two writes. A killed process loses the flows of this time.
const MIN_SAVE_INTERVAL: Duration = Duration::from_secs(1);
/// The time between two writes, as a multiple of the time that a write took: saving takes at most a tenth of a core.
const SAVE_INTERVAL_FACTOR: u32 = 9;
/// The longest time between two writes.
const MAX_SAVE_INTERVAL: Duration = Duration::from_secs(10);
/// The time to the next attempt after a failed write.
const RETRY_DELAY: Duration = Duration::from_secs(5);

/// A thread that saves flows until it is stopped.
#[derive(Debug)]
pub struct FlowWriter {
    stop: Sender<()>,
    /// Disconnected when the thread has ended.
    ended: Receiver<()>,
}

impl FlowWriter {
    /// Starts the thread.
    ///
    /// # Errors
    /// Fails when the operating system refuses the thread.
    pub fn start(mut database: FlowDatabase, table: Arc<FlowTable>) -> io::Result<Self> {
        let (stop, stopped) = channel();
        let (ends, ended) = channel();
        std::thread::Builder::new().name("flow-db".to_owned()).spawn(move || {
            let mut interval = MIN_SAVE_INTERVAL;
            let mut is_failing = false;
            loop {
                let stopping = stopped.recv_timeout(interval) != Err(RecvTimeoutError::Timeout);
                let start = Instant::now();
                match database.save(&table) {
                    Ok(()) => {
                        if is_failing {
                            tracing::info!("flows are saved again");
                        }
                        is_failing = false;
                        interval = (start.elapsed() * SAVE_INTERVAL_FACTOR)
                            .clamp(MIN_SAVE_INTERVAL, MAX_SAVE_INTERVAL);
                    }
                    Err(error) => {
                        table.counters.db_errors.fetch_add(1, Ordering::Relaxed);
                        // Logged once: such a problem lasts.
                        if !is_failing || stopping {
                            tracing::warn!(
                                error = format!("{error:#}"),
                                "flows are in memory only until this is fixed"
                            );
                        }
                        is_failing = true;
                        interval = RETRY_DELAY;
                    }
                }
                if stopping {
                    break;
                }
            }
            // In this order: closing the database moves the journal into the file.
            drop(database);
            drop(ends);
        })?;
        Ok(Self { stop, ended })
    }

    /// Saves once more, and ends the thread. Returns false if that takes longer than the timeout.
    #[must_use]
    pub fn stop(self, timeout: Duration) -> bool {
        drop(self.stop);
        self.ended.recv_timeout(timeout) == Err(RecvTimeoutError::Disconnected)
    }
}
