//! The budget of large messages that are on their way: a fleet that connects at once is served one part after the other.
//!
//! The bytes of the module are shared by all streams, but what is written to a connection is copied: into records of TLS,
//! and into the buffer of its socket. With two thousand proxies at once these copies took more memory than everything
//! else. Places are given in the order in which they were asked for.

use std::time::Duration;

use tokio::sync::{Semaphore, SemaphorePermit};

/// The bytes of large messages that may be on their way: the module for two plugins is some 0.8 MB, so eighty proxies are
/// served at once, which keeps two cores and a network busy.
const BUDGET: u32 = 64 << 20;
/// The length of messages that do not count: a stream's buffers hold as much anyway.
const MIN_COUNTED_LENGTH: usize = 64 << 10;
/// The time that a message may take of the budget. An honest proxy reads it in some ten milliseconds; one that does not
/// read must not keep others waiting, and its own buffers are bounded.
pub(super) const MAX_PUSH_TIME: Duration = Duration::from_millis(250);

/// The budget of a server.
#[derive(Debug)]
pub(super) struct PushBudget(Semaphore);

impl Default for PushBudget {
    fn default() -> Self {
        Self(Semaphore::new(BUDGET as usize))
    }
}

impl PushBudget {
    /// Waits until a message of this length may be sent; `None` for one that does not count.
    pub(super) async fn acquire(&self, length: usize) -> Option<SemaphorePermit<'_>> {
        if length < MIN_COUNTED_LENGTH {
            return None;
        }
        // The largest message takes all. An error means that the semaphore was closed, which nobody does.
        let permits = u32::try_from(length).unwrap_or(BUDGET).min(BUDGET);
        self.0.acquire_many(permits).await.ok()
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    #[test]
    fn large_messages_wait_in_their_order() {
        let budget = PushBudget::default();
        let mut sent: Vec<_> = (0..1000).map_while(|_| budget.acquire(1 << 20).now_or_never()).collect();
        assert_eq!(sent.len(), 64);
        assert!(
            budget.acquire(1000).now_or_never().is_some_and(|none| none.is_none()),
            "small ones do not wait"
        );
        let mut first = Box::pin(budget.acquire(200 << 20));
        let mut second = Box::pin(budget.acquire(1 << 20));
        assert!((&mut first).now_or_never().is_none() && (&mut second).now_or_never().is_none());
        sent.pop();
        assert!((&mut second).now_or_never().is_none(), "the one before it is larger, and waits longer");
        sent.clear();
        let all = (&mut first).now_or_never().flatten();
        assert!(all.is_some() && (&mut second).now_or_never().is_none());
        drop(all);
        assert!(second.now_or_never().is_some());
    }
}
