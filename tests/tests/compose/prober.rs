//! A prober in a workload that tries allowed and forbidden traffic all the time.

use std::fmt;
use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use egress_tests::compose::Compose;
use egress_tests::wait::wait_for;

/// The longest time of an attempt.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(3);

/// The results of a prober.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Counts {
    /// Allowed attempts that were served.
    pub(crate) served: u64,
    /// Allowed attempts that failed.
    pub(crate) failed: u64,
    /// Forbidden attempts that were stopped.
    pub(crate) stopped: u64,
    /// Forbidden attempts that passed.
    pub(crate) passed: u64,
    /// The time of the last recovery of allowed traffic.
    pub(crate) back: Option<Instant>,
    was_served: bool,
}

impl Counts {
    fn add(&mut self, letter: &str) {
        match letter {
            "a" => {
                self.served += 1;
                if !self.was_served {
                    self.back = Some(Instant::now());
                }
                self.was_served = true;
            }
            "b" => {
                self.failed += 1;
                self.was_served = false;
            }
            "c" => self.stopped += 1,
            _ => self.passed += 1,
        }
    }

    /// The difference to an earlier count.
    pub(crate) const fn since(self, before: Self) -> Self {
        Self {
            served: self.served - before.served,
            failed: self.failed - before.failed,
            stopped: self.stopped - before.stopped,
            passed: self.passed - before.passed,
            ..self
        }
    }
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { served, failed, stopped, passed, .. } = self;
        write!(f, "{served} served, {failed} not, {stopped} stopped, {passed} passed")
    }
}

/// The attempts of a workload: shell commands that exit with 0 if they got something from outside.
#[derive(Debug)]
pub(crate) struct Attempts {
    pub(crate) allowed: &'static [&'static str],
    pub(crate) forbidden: &'static [&'static str],
}

/// A prober in the container of a service. It runs until it is dropped, and looks again if the container is
/// missing.
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

    /// Waits until allowed traffic was served several times in a row.
    pub(crate) fn wait_for_service(&self) -> Result<()> {
        let mut before = self.counts();
        wait_for("allowed traffic", Duration::from_secs(60), || {
            let now = self.counts().since(before);
            if now.failed > 0 {
                before = self.counts();
            }
            now.failed == 0 && now.served >= 4
        })
        .map(|_| ())
        .with_context(|| format!("{}: {:?}", self.service, self.counts()))
    }

    /// Requires that forbidden traffic was tried and never passed.
    pub(crate) fn expect_nothing_passed(&self) -> Result<()> {
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

/// The shell script of the attempts, which prints a letter for each. It ends with its reader.
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
    let (sender, letters) = std::sync::mpsc::channel();
    let output = child.stdout.take();
    let reader = std::thread::spawn(move || {
        for line in output.map(BufReader::new).into_iter().flat_map(BufRead::lines).map_while(Result::ok) {
            if sender.send(line).is_err() {
                break;
            }
        }
    });
    // An `exec` may outlive its container, and is silent then.
    while let Ok(letter) = letters.recv_timeout(ATTEMPT_TIMEOUT) {
        counts.lock().unwrap_or_else(PoisonError::into_inner).add(&letter);
        if ended.load(Ordering::Acquire) {
            break;
        }
    }
    counts.lock().unwrap_or_else(PoisonError::into_inner).was_served = false;
    // The script ends at its next write to the closed pipe.
    let _ = child.kill();
    let _ = child.wait();
    drop(letters);
    let _ = reader.join();
}
