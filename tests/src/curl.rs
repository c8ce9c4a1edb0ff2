//! The real curl, as a workload runs it.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use crate::mesh::NAME_SERVER;
use crate::netns::Pod;

/// What `curl` said.
#[derive(Debug)]
pub struct Curl {
    /// Its exit code.
    pub code: i32,
    /// Its output.
    pub text: String,
}

impl Curl {
    /// Runs it once.
    ///
    /// # Errors
    /// When it cannot be run.
    pub fn run(pod: &Pod, arguments: &[&str]) -> Result<Self> {
        let output = pod.command("curl", NAME_SERVER)?.args(["-s", "-m", "5"]).args(arguments).output()?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        Ok(Self { code: output.status.code().unwrap_or(-1), text })
    }

    /// Runs it until it is as expected: what was changed needs a moment to get to Envoy.
    ///
    /// # Errors
    /// When it is not in time; `step` says what was tried.
    pub fn until(pod: &Pod, step: &str, arguments: &[&str], expected: &dyn Fn(&Self) -> bool) -> Result<()> {
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

    /// Refused: Open Service Mesh's documents say 7; where the listener exists, it closes instead.
    #[must_use]
    pub fn is_refused(&self) -> bool {
        matches!(self.code, 7 | 35 | 52 | 56)
    }

    /// Answered with this first line and, in lower case, this header.
    #[must_use]
    pub fn answers(&self, status: &str, header: &str) -> bool {
        self.code == 0 && self.text.starts_with(status) && self.text.to_ascii_lowercase().contains(header)
    }
}
