//! Timeouts of commands.

use std::time::Duration;

use clap::Args;
use egress_compile::duration;

#[derive(Debug, Clone, Copy, Args)]
pub(super) struct Timeout {
    /// Maximum time for each wait, as in `5m` or `30s`.
    #[arg(long, value_name = "DURATION", default_value = "5m", value_parser = parse)]
    timeout: Duration,
}

impl From<Timeout> for Duration {
    fn from(timeout: Timeout) -> Self {
        timeout.timeout
    }
}

fn parse(text: &str) -> Result<Duration, String> {
    let time = duration::parse(text).ok_or("write it as `5m` or `30s`")?;
    if time.is_zero() { Err("it must be more than nothing".to_owned()) } else { Ok(time) }
}

/// Reads a timeout of up to an hour.
pub(super) fn parse_timeout(text: &str) -> Result<Duration, String> {
    let time = duration::parse(text).ok_or("write it as `5s` or `300ms`")?;
    let (least, most) = (Duration::from_millis(10), Duration::from_secs(3600));
    if (least..=most).contains(&time) { Ok(time) } else { Err("it must be 10ms to 1h".to_owned()) }
}
