use std::time::{Duration, Instant};

use anyhow::{Result, bail};

/// Waits until something is so.
///
/// # Errors
/// When it is not so in time; the error says what was waited for.
pub fn wait_for(what: &str, longest: Duration, mut is_so: impl FnMut() -> bool) -> Result<Duration> {
    let start = Instant::now();
    loop {
        if is_so() {
            return Ok(start.elapsed());
        }
        if start.elapsed() > longest {
            bail!("waited {longest:?} in vain for {what}");
        }
        // Between two looks, not instead of looking.
        std::thread::sleep(Duration::from_millis(5));
    }
}
