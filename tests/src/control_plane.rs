//! Runs the real control plane.

use std::ffi::OsString;
use std::fs::File;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use crate::client::{self, Outcome};
use crate::netns::Netns;
use crate::wait::wait_for;

/// A running control plane. It stops when this is dropped.
#[derive(Debug)]
pub struct ControlPlane<'n> {
    child: Child,
    netns: &'n Netns,
    admin: SocketAddr,
    log: tempfile::NamedTempFile,
}

/// The path of the control plane under test: `OSM_EGRESS_BIN`, which `cargo xtask` sets.
///
/// # Errors
/// Fails if it is not set, or there is nothing.
pub fn binary() -> Result<PathBuf> {
    from_environment("OSM_EGRESS_BIN")
}

/// The path of the module under test: `EGRESS_WASM`, which `cargo xtask` sets.
///
/// # Errors
/// Fails if it is not set, or there is nothing.
pub fn module() -> Result<PathBuf> {
    from_environment("EGRESS_WASM")
}

fn from_environment(name: &str) -> Result<PathBuf> {
    let path =
        std::env::var_os(name).with_context(|| format!("{name} is not set: run this by `cargo xtask`"))?;
    let path = PathBuf::from(path);
    ensure!(path.is_file(), "{name}: there is nothing at {}", path.display());
    Ok(path)
}

impl<'n> ControlPlane<'n> {
    /// Starts `osm-egress serve` on a folder and waits until it is ready.
    ///
    /// # Errors
    /// Fails if it does not get ready; with its log.
    pub fn start(netns: &'n Netns, ip: std::net::IpAddr, folder: &Path, flags: &[&str]) -> Result<Self> {
        let source = ["--config-dir".as_ref(), folder.as_os_str()];
        Self::launch(netns, ip, &source, flags)?.ready()
    }

    /// Starts `osm-egress serve` with these flags for its source, without waiting until it is ready.
    ///
    /// # Errors
    /// Fails if it cannot be run.
    pub fn launch(
        netns: &'n Netns,
        ip: std::net::IpAddr,
        source: &[&std::ffi::OsStr],
        flags: &[&str],
    ) -> Result<Self> {
        let mut arguments: Vec<OsString> = source.iter().map(|&word| word.to_owned()).collect();
        // Proxies are identified by node id, unless the flags name other credentials.
        if !flags.iter().any(|flag| ["--client-ca", "--service-account-tokens"].contains(flag)) {
            arguments.push("--insecure-node-identity".into());
        }
        if !flags.contains(&"--wasm") {
            arguments.extend(["--wasm".into(), module()?.into()]);
        }
        for (flag, port) in [("--xds-listen", 15128), ("--admin-listen", 15129)] {
            arguments.extend([flag.into(), SocketAddr::new(ip, port).to_string().into()]);
        }
        arguments.extend(flags.iter().map(Into::into));
        Self::run(netns, ip, &arguments)
    }

    /// Starts `osm-egress serve` with exactly these arguments; its admin address is the usual one.
    ///
    /// # Errors
    /// Fails if it cannot be run.
    pub fn run(netns: &'n Netns, ip: std::net::IpAddr, arguments: &[OsString]) -> Result<Self> {
        Self::run_binary(&binary()?, netns, ip, arguments)
    }

    /// Starts `serve` of another build with exactly these arguments; its admin address is the usual one.
    ///
    /// # Errors
    /// Fails if it cannot be run.
    pub fn run_binary(
        binary: &Path,
        netns: &'n Netns,
        ip: std::net::IpAddr,
        arguments: &[OsString],
    ) -> Result<Self> {
        let log = tempfile::NamedTempFile::new()?;
        let output: File = log.reopen()?;
        let child = netns
            .command(&binary.to_string_lossy())
            .arg("serve")
            .args(arguments)
            // Images are linked to musl, which gives large blocks back; glibc learns to keep them.
            .env("MALLOC_MMAP_THRESHOLD_", "131072")
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output)
            .spawn()
            .context("cannot start osm-egress")?;
        Ok(Self { child, netns, admin: SocketAddr::new(ip, 15129), log })
    }

    /// Waits until the control plane is ready.
    ///
    /// # Errors
    /// Fails if it does not get ready; with its log.
    pub fn ready(self) -> Result<Self> {
        let mut control_plane = self;
        // A debug build on a busy machine takes half a minute for the largest objects that budgets permit.
        let ready = wait_for("the control plane to be ready", Duration::from_secs(120), || {
            control_plane.get("/readyz").is_ok() || control_plane.child.try_wait().ok().flatten().is_some()
        });
        if ready.is_err() || control_plane.child.try_wait()?.is_some() {
            bail!("the control plane does not get ready:\n{}", control_plane.log());
        }
        Ok(control_plane)
    }

    /// Stops the control plane with SIGTERM and waits for it.
    ///
    /// # Errors
    /// Fails if it does not, or fails; with its log.
    pub fn stop(mut self) -> Result<()> {
        let pid = nix::unistd::Pid::from_raw(i32::try_from(self.child.id())?);
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM)?;
        wait_for("the control plane to stop", Duration::from_secs(10), || {
            self.child.try_wait().ok().flatten().is_some()
        })?;
        let status = self.child.wait()?;
        ensure!(status.success(), "the control plane stops with {status}:\n{}", self.log());
        Ok(())
    }

    /// Sends a GET to the admin port.
    ///
    /// # Errors
    /// Fails if it does not answer with 200.
    pub fn get(&self, path: &str) -> Result<String> {
        let request =
            client::request("GET", path, &[("host", &self.admin.to_string()), ("connection", "close")]);
        match self.netns.run(|| client::http(self.admin, &request))? {
            Outcome::Http(answer) if answer.status == 200 => Ok(String::from_utf8(answer.body)?),
            Outcome::Http(answer) => {
                bail!("{path}: {} {}", answer.status, String::from_utf8_lossy(&answer.body))
            }
            other => bail!("{path}: {other:?}"),
        }
    }

    /// The whole `/status`.
    ///
    /// # Errors
    /// Fails if it does not answer.
    pub fn status(&self) -> Result<serde_json::Value> {
        Ok(serde_json::from_str(&self.get("/status")?)?)
    }

    /// A counter or gauge.
    ///
    /// # Errors
    /// Fails if there is none of this name.
    pub fn metric(&self, name: &str) -> Result<u64> {
        let text = self.get("/metrics")?;
        let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        Ok(value.with_context(|| format!("there is no metric {name}"))?.trim().parse()?)
    }

    /// The number of streams that were refused or cut for this reason.
    ///
    /// # Errors
    /// Fails if it does not answer.
    pub fn refusal_count(&self, reason: &str) -> Result<u64> {
        self.metric(&format!("osm_egress_xds_refused_total{{reason=\"{reason}\"}}"))
    }

    /// The log so far.
    #[must_use]
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.log.path()).unwrap_or_default()
    }

    /// The peak resident memory, in kB.
    ///
    /// # Errors
    /// Fails if it is gone.
    pub fn peak_memory(&self) -> Result<u64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id()))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).context("no VmHWM")?;
        Ok(line.trim().trim_end_matches(" kB").parse()?)
    }

    /// The resident memory, in kB.
    ///
    /// # Errors
    /// Fails if it is gone.
    pub fn memory(&self) -> Result<u64> {
        crate::envoy::memory_of(self.child.id())
    }
}

impl Drop for ControlPlane<'_> {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
