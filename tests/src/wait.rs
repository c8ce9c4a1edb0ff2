use std::time::{Duration, Instant};

use anyhow::{Result, bail};

/// Waits until a condition holds, and returns how long it took.
///
/// # Errors
/// Fails if it does not hold in time; the error names the condition.
pub fn wait_for(condition: &str, timeout: Duration, mut holds: impl FnMut() -> bool) -> Result<Duration> {
    let start = Instant::now();
    loop {
        if holds() {
            return Ok(start.elapsed());
        }
        if start.elapsed() > timeout {
            bail!("waited {timeout:?} in vain for {condition}");
        }
        // The interval between two checks of the condition.
        std::thread::sleep(Duration::from_millis(5));
    }
}
