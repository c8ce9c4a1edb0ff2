//! A Docker daemon: the one that runs, or one that runs as long as the task.

use std::fs::File;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use crate::commands::root;
use crate::tools;

/// The advice when there is no Docker.
const ADVICE: &str = "start Docker, or leave what needs it out by name: `cargo xtask test --without docker`";
/// The time in which a daemon must start or stop.
const PATIENCE: Duration = Duration::from_secs(60);

/// A daemon that answers. One that this program started stops when this is dropped.
#[derive(Debug)]
pub(crate) struct Docker {
    started: Option<Child>,
}

impl Docker {
    /// Finds the daemon that runs, else starts one.
    pub(crate) fn find() -> Result<Self> {
        if tools::find_tool("docker").is_some() && answers() {
            return Ok(Self { started: None });
        }
        Self::start().context(ADVICE)
    }

    fn start() -> Result<Self> {
        ensure!(tools::is_root(), "no Docker daemon answers, and only root can start one");
        tools::install_packages(&[("dockerd", "docker.io"), ("docker", "docker.io")])?;
        if answers() {
            // The package started it.
            return Ok(Self { started: None });
        }
        println!("  starting a Docker daemon for this task");
        let folder = root()?.join("target");
        std::fs::create_dir_all(&folder)?;
        let path = folder.join("dockerd.log");
        let log = File::create(&path)?;
        // In a network namespace of its own: its bridges and rules are gone with it, and this machine's stay as
        // they are. It dies with us.
        let child = Command::new("setpriv")
            .args(["--pdeathsig", "TERM", "unshare", "--net", "--", "sh", "-c"])
            .arg("ip link set lo up && exec dockerd")
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .context("cannot run dockerd")?;
        let mut docker = Self { started: Some(child) };
        let start = Instant::now();
        while !answers() {
            if docker.ended() || start.elapsed() > PATIENCE {
                let log = std::fs::read_to_string(&path).unwrap_or_default();
                let lines: Vec<_> = log.lines().collect();
                bail!("dockerd does not start:\n{}", lines[lines.len().saturating_sub(10)..].join("\n"));
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        Ok(docker)
    }

    fn ended(&mut self) -> bool {
        self.started.as_mut().is_none_or(|child| !matches!(child.try_wait(), Ok(None)))
    }
}

impl Drop for Docker {
    fn drop(&mut self) {
        let Some(child) = &self.started else { return };
        let _ = Command::new("kill").args(["-TERM", &child.id().to_string()]).status();
        let start = Instant::now();
        while !self.ended() && start.elapsed() < PATIENCE {
            std::thread::sleep(Duration::from_millis(100));
        }
        if let Some(child) = &mut self.started {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn answers() -> bool {
    let version = Command::new("docker")
        .args(["version", "--format", "{{.Server.Version}}"])
        .stdin(Stdio::null())
        .output();
    version.is_ok_and(|output| output.status.success())
}

/// Docker Compose: `docker compose`, else `docker-compose`, which is installed where that is possible.
pub(crate) fn find_compose() -> Result<()> {
    let second = Command::new("docker").args(["compose", "version"]).stdin(Stdio::null()).output();
    if second.is_ok_and(|output| output.status.success()) {
        return Ok(());
    }
    tools::install_packages(&[("docker-compose", "docker-compose")]).context(ADVICE)
}
