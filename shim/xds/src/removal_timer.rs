//! The time at which a proxy's clusters that are gone are removed.

use std::time::Duration;

use tokio::time::Instant;

/// The time that workers have for a policy. Envoy's main thread acknowledges a policy when it has passed it on; a
/// worker uses the policy before, and its clusters, until it has loaded the new one: for the longest policies, some
/// hundred milliseconds.
const WORKER_DELAY: Duration = Duration::from_millis(500);
/// The longest wait for the response to a policy. It comes in milliseconds.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(1);
/// The longest time that clusters stay while changes follow each other. Each change may leave a thousand.
const MAX_DELAY: Duration = Duration::from_secs(5);

/// The removal of a stream's clusters.
#[derive(Debug, Default)]
pub(crate) struct RemovalTimer {
    /// The time since which clusters wait.
    since: Option<Instant>,
    deadline: Option<Instant>,
    is_answered: bool,
}

impl RemovalTimer {
    /// Follows a step of the stream: whether clusters wait, whether it was a change, and whether the proxy has
    /// answered the policy.
    pub(crate) fn update(&mut self, waits: bool, is_change: bool, is_answered: bool, now: Instant) {
        if !waits {
            *self = Self::default();
            return;
        }
        let since = *self.since.get_or_insert(now);
        if self.deadline.is_none() || is_change || is_answered != self.is_answered {
            let delay = if is_answered { WORKER_DELAY } else { RESPONSE_TIMEOUT };
            self.deadline = Some((now + delay).min(since + MAX_DELAY));
        }
        self.is_answered = is_answered;
    }

    /// The time at which they are removed; `None` if none wait.
    pub(crate) const fn deadline(&self) -> Option<Instant> {
        self.deadline
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clusters_wait_for_workers_and_not_for_ever() {
        let start = Instant::now();
        let at = |milliseconds| start + Duration::from_millis(milliseconds);
        let mut timer = RemovalTimer::default();
        timer.update(false, true, false, at(0));
        assert_eq!(timer.deadline(), None);
        // Without a response.
        timer.update(true, true, false, at(0));
        timer.update(true, false, false, at(300));
        assert_eq!(timer.deadline(), Some(at(1_000)));
        // The response, and what else the proxy says.
        timer.update(true, false, true, at(400));
        timer.update(true, false, true, at(600));
        assert_eq!(timer.deadline(), Some(at(900)));
        // Another change begins again.
        timer.update(true, true, false, at(800));
        assert_eq!(timer.deadline(), Some(at(1_800)));
        // Changes without end.
        timer.update(true, true, false, at(4_900));
        assert_eq!(timer.deadline(), Some(at(5_000)));
        timer.update(false, false, true, at(5_000));
        assert_eq!(timer.deadline(), None);
    }
}
