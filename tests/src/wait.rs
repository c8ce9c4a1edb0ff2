use std::time::{Duration, Instant};

use anyhow::{Result, bail};

/// Waits until a condition holds, and returns how long it took.
///
/// # Errors
/// Fails if it does not hold in time; the error names the condition.
pub fn wait_for(what: &str, longest: Duration, mut is_so: impl FnMut() -> bool) -> Result<Duration> {
    let start = Instant::now();
    loop {
        if is_so() {
            return Ok(start.elapsed());
        }
        if start.elapsed() > longest {
            bail!("waited {longest:?} in vain for {what}");
        }
        // The interval between two checks of the condition.
        std::thread::sleep(Duration::from_millis(5));
    }
}
