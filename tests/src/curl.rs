//! The real curl, run as a workload.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use crate::netns::Pod;
use crate::network::NAME_SERVER;

/// The result of a curl run.
#[derive(Debug)]
pub struct Curl {
    /// Its exit code.
    pub code: i32,
    /// Its output.
    pub text: String,
}

impl Curl {
    /// Runs curl once.
    ///
    /// # Errors
    /// Fails if it cannot be run.
    pub fn run(pod: &Pod, arguments: &[&str]) -> Result<Self> {
        let output = pod.command("curl", NAME_SERVER)?.args(["-s", "-m", "5"]).args(arguments).output()?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        Ok(Self { code: output.status.code().unwrap_or(-1), text })
    }

    /// Runs curl until its result is as expected, because a change takes a moment to reach Envoy.
    ///
    /// # Errors
    /// Fails if it is not in time; the error names the `step`.
    pub fn run_until(
        pod: &Pod,
        step: &str,
        arguments: &[&str],
        expected: &dyn Fn(&Self) -> bool,
    ) -> Result<()> {
        let start = Instant::now();
        loop {
            let curl = Self::run(pod, arguments)?;
            if expected(&curl) {
                return Ok(());
            }
            ensure!(
                start.elapsed() < Duration::from_secs(5),
                "{step}: exit code {}, {}",
                curl.code,
                curl.text
            );
        }
    }

    /// Returns true if curl was refused. Open Service Mesh's documents say exit code 7; where the listener
    /// exists, it closes the connection instead.
    #[must_use]
    pub fn is_refused(&self) -> bool {
        matches!(self.code, 7 | 35 | 52 | 56)
    }

    /// Returns true if the response has this status line and, in lower case, this header.
    #[must_use]
    pub fn answers(&self, status: &str, header: &str) -> bool {
        self.code == 0 && self.text.starts_with(status) && self.text.to_ascii_lowercase().contains(header)
    }
}
