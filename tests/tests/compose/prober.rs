//! Somebody in a workload who tries all the time what is allowed and what is not.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use egress_tests::compose::Compose;
use egress_tests::wait::wait_for;

/// What a prober found so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    /// Attempts at what is allowed that were served.
    pub(crate) served: u64,
    /// Such that were not.
    pub(crate) failed: u64,
    /// Attempts at what is forbidden that got nowhere.
    pub(crate) stopped: u64,
    /// Such that got somewhere.
    pub(crate) passed: u64,
}

impl Counts {
    /// What came since.
    pub(crate) const fn since(self, before: Self) -> Self {
        Self {
            served: self.served - before.served,
            failed: self.failed - before.failed,
            stopped: self.stopped - before.stopped,
            passed: self.passed - before.passed,
        }
    }
}

/// What a workload tries: shell commands that exit with 0 when they got something from outside.
#[derive(Debug)]
pub(crate) struct Attempts {
    pub(crate) allowed: &'static [&'static str],
    pub(crate) forbidden: &'static [&'static str],
}

/// Tries in the container of a service until it is dropped; where the container is not there, it looks again.
#[derive(Debug)]
pub(crate) struct Prober {
    counts: Arc<Mutex<Counts>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
    service: &'static str,
}

impl Prober {
    pub(crate) fn start(compose: &Compose, service: &'static str, attempts: &Attempts) -> Result<Self> {
        let container = compose.container(service)?;
        let script = script(attempts);
        let counts = Arc::new(Mutex::new(Counts::default()));
        let stop = Arc::new(AtomicBool::new(false));
        let (shared, ended) = (Arc::clone(&counts), Arc::clone(&stop));
        let thread = std::thread::spawn(move || {
            while !ended.load(Ordering::Acquire) {
                probe(&container, &script, &shared, &ended);
                // The container is not there, or not yet.
                std::thread::sleep(Duration::from_millis(20));
            }
        });
        Ok(Self { counts, stop, thread: Some(thread), service })
    }

    pub(crate) fn counts(&self) -> Counts {
        *self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until what is allowed was served some times in a row.
    pub(crate) fn served(&self) -> Result<Duration> {
        let mut before = self.counts();
        wait_for("allowed traffic", Duration::from_secs(60), || {
            let now = self.counts().since(before);
            if now.failed > 0 {
                before = self.counts();
            }
            now.failed == 0 && now.served >= 5
        })
        .with_context(|| format!("{}: {:?}", self.service, self.counts()))
    }

    /// That nothing forbidden passed, and that it was tried.
    pub(crate) fn stopped_everything(&self) -> Result<()> {
        let counts = self.counts();
        ensure!(counts.passed == 0, "{}: something forbidden passed: {counts:?}", self.service);
        ensure!(counts.stopped > 0, "{}: nothing forbidden was tried: {counts:?}", self.service);
        Ok(())
    }
}

impl Drop for Prober {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// A letter per attempt. It ends with its reader.
fn script(attempts: &Attempts) -> String {
    let mut script = "set -o pipefail; while :; do\n".to_owned();
    for (commands, yes, no) in [(attempts.allowed, 'a', 'b'), (attempts.forbidden, 'X', 'c')] {
        for command in commands {
            script += &format!("if {command}; then echo {yes}; else echo {no}; fi || exit\n");
        }
    }
    script + "done"
}

fn probe(container: &str, script: &str, counts: &Mutex<Counts>, ended: &AtomicBool) {
    let child = Command::new("docker")
        .args(["exec", container, "bash", "-c", script])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn();
    let Ok(mut child) = child else { return };
    for line in child.stdout.take().map(BufReader::new).into_iter().flat_map(BufRead::lines) {
        let mut counts = counts.lock().unwrap_or_else(PoisonError::into_inner);
        match line.as_deref() {
            Ok("a") => counts.served += 1,
            Ok("b") => counts.failed += 1,
            Ok("c") => counts.stopped += 1,
            Ok(_) => counts.passed += 1,
            Err(_) => break,
        }
        if ended.load(Ordering::Acquire) {
            break;
        }
    }
    // The script ends when it writes to nobody.
    let _ = child.kill();
    let _ = child.wait();
}
