//! Runs a real Prometheus.

use std::fs::{self, File};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use crate::client::{self, Outcome};
use crate::netns::Netns;
use crate::wait::wait_for;

const ADDRESS: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 9090);

/// A running Prometheus. It stops when this is dropped.
#[derive(Debug)]
pub struct Prometheus<'n> {
    child: Child,
    netns: &'n Netns,
    folder: tempfile::TempDir,
}

/// The path of a program: `prometheus` or `promtool`.
///
/// # Errors
/// Fails if `PROMETHEUS_PATH`, which `cargo xtask` sets, is not the folder that has them.
pub fn program(name: &str) -> Result<PathBuf> {
    let folder = std::env::var_os("PROMETHEUS_PATH")
        .context("PROMETHEUS_PATH is not set: run this by `cargo xtask test`")?;
    let path = PathBuf::from(folder).join(name);
    ensure!(path.is_file(), "PROMETHEUS_PATH: there is no {}", path.display());
    Ok(path)
}

/// Runs `promtool` and returns its output.
///
/// # Errors
/// Fails if it is not content.
pub fn promtool(arguments: &[&str], folder: &Path) -> Result<String> {
    let output = Command::new(program("promtool")?).args(arguments).current_dir(folder).output()?;
    let message = [output.stdout, output.stderr].concat();
    let message = String::from_utf8_lossy(&message).into_owned();
    ensure!(output.status.success(), "promtool {arguments:?}:\n{message}");
    Ok(message)
}

impl<'n> Prometheus<'n> {
    /// Starts Prometheus in a namespace, with these alerts beside its configuration, and waits until it is
    /// ready.
    ///
    /// # Errors
    /// Fails if it does not get ready; with its log.
    pub fn start(netns: &'n Netns, config: &Value, alerts: &Path) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let path = folder.path().join("prometheus.yaml");
        // JSON is YAML.
        fs::write(&path, config.to_string())?;
        fs::copy(alerts, folder.path().join("alerts.yaml"))?;
        let log = File::create(folder.path().join("log"))?;
        let child = netns
            .command(&program("prometheus")?.to_string_lossy())
            .arg(format!("--config.file={}", path.display()))
            .arg(format!("--storage.tsdb.path={}", folder.path().join("data").display()))
            .arg(format!("--web.listen-address={ADDRESS}"))
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .context("cannot start Prometheus")?;
        let mut prometheus = Self { child, netns, folder };
        let ready = wait_for("Prometheus to be ready", Duration::from_secs(20), || {
            prometheus.get("/-/ready").is_ok() || prometheus.child.try_wait().ok().flatten().is_some()
        });
        if ready.is_err() || prometheus.child.try_wait()?.is_some() {
            bail!("Prometheus does not get ready:\n{}", prometheus.log());
        }
        Ok(prometheus)
    }

    /// Evaluates an expression.
    ///
    /// # Errors
    /// Fails if it is not valid.
    pub fn query(&self, expression: &str) -> Result<Vec<Value>> {
        let escaped: String = expression.bytes().map(|byte| format!("%{byte:02X}")).collect();
        let data = self.api(&format!("query?query={escaped}")).with_context(|| expression.to_owned())?;
        Ok(data["result"].as_array().cloned().unwrap_or_default())
    }

    /// The result of an API path: `targets`, `rules`.
    ///
    /// # Errors
    /// Fails if it refuses to.
    pub fn api(&self, path: &str) -> Result<Value> {
        let answer: Value = serde_json::from_str(&self.get(&format!("/api/v1/{path}"))?)?;
        ensure!(answer["status"] == "success", "{answer}");
        Ok(answer["data"].clone())
    }

    fn get(&self, path: &str) -> Result<String> {
        // By HTTP/1.0 the answer is not in chunks.
        let request = format!("GET {path} HTTP/1.0\r\nhost: prometheus\r\n\r\n");
        match self.netns.run(|| client::http(ADDRESS, request.as_bytes()))? {
            Outcome::Http(answer) if answer.status == 200 => Ok(String::from_utf8(answer.body)?),
            Outcome::Http(answer) => bail!("{} {}", answer.status, String::from_utf8_lossy(&answer.body)),
            other => bail!("{other:?}"),
        }
    }

    /// The output so far.
    #[must_use]
    pub fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }
}

impl Drop for Prometheus<'_> {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
