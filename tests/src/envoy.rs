//! Runs a stock Envoy as the sidecar of a pod.

use std::fs::{self, File};
use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::Signal;

use crate::client::{self, Outcome};
use crate::netns::{Pod, Resolver};
use crate::wait::wait_for;

/// A running Envoy. It stops when this is dropped.
#[derive(Debug)]
pub struct Envoy<'p> {
    child: Child,
    pod: &'p Pod,
    folder: tempfile::TempDir,
}

/// The path of the Envoy under test: `ENVOY_PATH`, which `cargo xtask` sets.
///
/// # Errors
/// Fails if it is not set, or there is nothing.
pub fn binary() -> Result<PathBuf> {
    let path = std::env::var_os("ENVOY_PATH")
        .context("ENVOY_PATH is not set: run this by `cargo xtask`, or set it to an Envoy")?;
    let path = PathBuf::from(path);
    ensure!(path.is_file(), "ENVOY_PATH: there is no Envoy at {}", path.display());
    Ok(path)
}

/// The version of the Envoy under test, such as `1.40.0`.
///
/// # Errors
/// Fails if it does not run, or prints something else.
pub fn version() -> Result<String> {
    let output = Command::new(binary()?).arg("--version").output()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let version = text
        .split("version: ")
        .nth(1)
        .and_then(|text| text.split('/').nth(1))
        .context("Envoy prints no version")?;
    Ok(version.split('-').next().unwrap_or(version).to_owned())
}

fn configure(command: &mut Command, folder: &Path, config: &str, workers: u32) -> Result<()> {
    let path = folder.join("envoy.yaml");
    fs::write(&path, config)?;
    command.arg("-c").arg(path);
    command.args(["--disable-hot-restart", "--log-level", "info", "--component-log-level", "wasm:info"]);
    command.args(["--concurrency", &workers.to_string()]);
    Ok(())
}

impl<'p> Envoy<'p> {
    /// Starts Envoy and waits until it is ready.
    ///
    /// # Errors
    /// Fails if it does not get ready; with the end of its log.
    pub fn start(pod: &'p Pod, config: &str, workers: u32) -> Result<Self> {
        Self::launch(pod, config, workers)?.ready()
    }

    /// Starts Envoy with this name server in its `/etc/resolv.conf`.
    ///
    /// # Errors
    /// Fails if it does not get ready; with the end of its log.
    pub fn start_with_name_server(pod: &'p Pod, config: &str, name_server: IpAddr) -> Result<Self> {
        let command = |binary: &str| pod.sidecar_command_with_name_server(binary, name_server);
        Self::run(pod, command, |command, folder| configure(command, folder, config, 1))?.ready()
    }

    /// Starts Envoy with these resolver files.
    ///
    /// # Errors
    /// Fails if it does not get ready; with the end of its log.
    pub fn start_with_resolver(pod: &'p Pod, config: &str, files: &Resolver) -> Result<Self> {
        let command = |binary: &str| pod.sidecar_command_with_resolver(binary, files);
        Self::run(pod, command, |command, folder| configure(command, folder, config, 1))?.ready()
    }

    /// Starts Envoy without waiting until it is ready.
    ///
    /// # Errors
    /// Fails if it cannot be run.
    pub fn launch(pod: &'p Pod, config: &str, workers: u32) -> Result<Self> {
        let command = |binary: &str| Ok(pod.sidecar_command(binary));
        Self::run(pod, command, |command, folder| configure(command, folder, config, workers))
    }

    /// Starts Envoy as the workload's user, so that its own connections are redirected to it. It may open a
    /// thousand files.
    ///
    /// # Errors
    /// Fails if it does not get ready; with the end of its log.
    pub fn start_as_workload(pod: &'p Pod, config: &str, workers: u32) -> Result<Self> {
        let command = |binary: &str| {
            let mut command = pod.sidecar.command("prlimit");
            command.args(["--nofile=1000:1000", "--", binary]);
            Ok(command)
        };
        Self::run(pod, command, |command, folder| configure(command, folder, config, workers))?.ready()
    }

    /// Starts the sidecar of an injected pod with these arguments and its token in this folder, without
    /// waiting until it is ready.
    ///
    /// # Errors
    /// Fails if it cannot be run.
    pub fn launch_injected(pod: &'p Pod, arguments: &[String], token: &Path) -> Result<Self> {
        let command = |binary: &str| Ok(pod.sidecar_command_with_token(binary, token));
        Self::run(pod, command, |command, _| {
            command.args(arguments);
            Ok(())
        })
    }

    fn ready(self) -> Result<Self> {
        let mut envoy = self;
        let ready = wait_for("Envoy to be ready", Duration::from_secs(20), || {
            matches!(envoy.admin("/ready"), Ok(text) if text.contains("LIVE")) || envoy.exited().is_some()
        });
        if ready.is_err() || envoy.exited().is_some() {
            bail!("Envoy does not get ready:\n{}", envoy.log_tail(30));
        }
        Ok(envoy)
    }

    fn run(
        pod: &'p Pod,
        command: impl FnOnce(&str) -> Result<Command>,
        set_up: impl FnOnce(&mut Command, &Path) -> Result<()>,
    ) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        // Envoy has another uid.
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755))?;
        let log = File::create(folder.path().join("envoy.log"))?;
        let binary = reachable(&binary()?, folder.path())?;
        let mut command = command(&binary.to_string_lossy())?;
        set_up(&mut command, folder.path())?;
        let child = command
            .args(["--drain-time-s", "1", "--file-flush-interval-msec", "20"])
            .stdout(log.try_clone()?)
            .stderr(log)
            .stdin(Stdio::null())
            .spawn()
            .context("cannot start Envoy")?;
        Ok(Self { child, pod, folder })
    }

    /// Stops the process (SIGSTOP) until [`Envoy::resume`].
    ///
    /// # Errors
    /// Fails if it is gone.
    pub fn pause(&self) -> Result<()> {
        self.signal(Signal::SIGSTOP)
    }

    /// Resumes a stopped process.
    ///
    /// # Errors
    /// Fails if it is gone.
    pub fn resume(&self) -> Result<()> {
        self.signal(Signal::SIGCONT)
    }

    fn signal(&self, signal: Signal) -> Result<()> {
        let pid = nix::unistd::Pid::from_raw(i32::try_from(self.child.id())?);
        Ok(nix::sys::signal::kill(pid, signal)?)
    }

    /// Sends a GET to the admin interface.
    ///
    /// # Errors
    /// Fails if it does not answer with 200.
    pub fn admin(&self, path: &str) -> Result<String> {
        self.admin_request("GET", path)
    }

    /// Sends a POST to the admin interface.
    ///
    /// # Errors
    /// Fails if it does not answer with 200.
    pub fn post(&self, path: &str) -> Result<String> {
        self.admin_request("POST", path)
    }

    fn admin_request(&self, method: &str, path: &str) -> Result<String> {
        let admin = SocketAddr::from(([127, 0, 0, 1], 15000));
        let request = client::request(method, path, &[("host", "admin"), ("connection", "close")]);
        match self.pod.sidecar.run(|| client::http(admin, &request))? {
            Outcome::Http(answer) if answer.status == 200 => Ok(unchunk(&answer)),
            Outcome::Http(answer) => bail!("{path}: status {}", answer.status),
            other => bail!("{path}: {other:?}"),
        }
    }

    /// A counter or gauge; 0 if there is none.
    ///
    /// # Errors
    /// Fails if Envoy does not answer.
    pub fn stat(&self, name: &str) -> Result<u64> {
        let text = self.admin("/stats?format=text")?;
        let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
        Ok(value.and_then(|value| value.parse().ok()).unwrap_or(0))
    }

    /// The processor time so far, in nanoseconds.
    ///
    /// # Errors
    /// Fails if it is gone.
    pub fn cpu(&self) -> Result<u64> {
        let mut total = 0;
        for task in fs::read_dir(format!("/proc/{}/task", self.child.id()))? {
            let text = fs::read_to_string(task?.path().join("schedstat")).unwrap_or_default();
            total += text.split(' ').next().and_then(|ns| ns.parse::<u64>().ok()).unwrap_or(0);
        }
        Ok(total)
    }

    /// The resident memory, in kB.
    ///
    /// # Errors
    /// Fails if it is gone.
    pub fn memory(&self) -> Result<u64> {
        memory_of(self.child.id())
    }

    /// The output so far, as text.
    #[must_use]
    pub fn log(&self) -> String {
        // A workload's bytes need not be UTF-8.
        String::from_utf8_lossy(&self.log_bytes()).into_owned()
    }

    /// The output so far, as bytes.
    #[must_use]
    pub fn log_bytes(&self) -> Vec<u8> {
        fs::read(self.folder.path().join("envoy.log")).unwrap_or_default()
    }

    /// The access log: a JSON object for each connection and request that has ended.
    #[must_use]
    pub fn access_log(&self) -> Vec<serde_json::Value> {
        let log = self.log();
        let lines = log.lines().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
        // Envoy prints other JSON too.
        lines.filter(|line| line["kind"].is_string()).collect()
    }

    /// The last lines of the output.
    #[must_use]
    pub fn log_tail(&self, lines: usize) -> String {
        let log = self.log();
        let all: Vec<_> = log.lines().collect();
        all[all.len().saturating_sub(lines)..].join("\n")
    }

    /// The exit status, if Envoy has exited.
    pub fn exited(&mut self) -> Option<std::process::ExitStatus> {
        self.child.try_wait().ok().flatten()
    }
}

impl Drop for Envoy<'_> {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The resident memory of a process, in kB.
///
/// # Errors
/// Fails if it is gone.
pub fn memory_of(pid: u32) -> Result<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
    Ok(line.trim().trim_end_matches(" kB").parse()?)
}

/// A path to the binary that Envoy's uid can reach: a copy, if a parent folder is closed to it.
fn reachable(binary: &Path, folder: &Path) -> Result<PathBuf> {
    let open = binary.ancestors().all(|part| {
        part.as_os_str().is_empty() || fs::metadata(part).is_ok_and(|m| m.permissions().mode() & 0o001 != 0)
    });
    if open {
        return Ok(binary.to_owned());
    }
    let copy = folder.join("envoy");
    fs::copy(binary, &copy)?;
    fs::set_permissions(&copy, fs::Permissions::from_mode(0o755))?;
    Ok(copy)
}

/// Decodes a chunked body.
fn unchunk(answer: &client::HttpResponse) -> String {
    let body = String::from_utf8_lossy(&answer.body).into_owned();
    if answer.header("transfer-encoding").is_none() {
        return body;
    }
    let mut bytes = answer.body.as_slice();
    let mut text = Vec::new();
    while let Some(end) = bytes.windows(2).position(|window| window == b"\r\n") {
        let size = usize::from_str_radix(String::from_utf8_lossy(&bytes[..end]).trim(), 16).unwrap_or(0);
        let start = end + 2;
        if size == 0 || bytes.len() < start + size {
            break;
        }
        text.extend_from_slice(&bytes[start..start + size]);
        bytes = bytes.get(start + size + 2..).unwrap_or_default();
    }
    String::from_utf8_lossy(&text).into_owned()
}
