//! Calls of the CNI plugin, as container runtimes make them.

use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use crate::netns::Netns;

/// The answer of the plugin.
#[derive(Debug)]
pub struct Answer {
    /// True if the plugin exited with 0.
    pub succeeded: bool,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

impl Answer {
    /// The error code of the specification; `None` if the plugin succeeded.
    ///
    /// # Errors
    /// Fails if exit code and output contradict each other, or the error lacks what the specification wants.
    pub fn code(&self) -> Result<Option<u64>> {
        if self.succeeded {
            return Ok(None);
        }
        let error: Value = serde_json::from_str(&self.stdout).with_context(|| format!("{self:?}"))?;
        ensure!(error["cniVersion"].is_string() && error["msg"].is_string(), "{error}");
        error["code"].as_u64().map(Some).with_context(|| format!("{error}"))
    }

    /// Ensures that the plugin failed with this code and says this.
    ///
    /// # Errors
    /// Fails if it did not.
    pub fn expect(&self, code: u64, text: &str) -> Result<()> {
        ensure!(
            self.code()? == Some(code) && self.stdout.contains(text),
            "expected {code} {text:?}: {self:?}"
        );
        Ok(())
    }

    /// Ensures that the plugin succeeded.
    ///
    /// # Errors
    /// Fails if it did not.
    pub fn succeeded(&self) -> Result<&str> {
        ensure!(self.succeeded, "{self:?}");
        Ok(&self.stdout)
    }
}

/// A call of the plugin.
#[derive(Debug)]
pub struct Call<'c> {
    /// The namespace of the node.
    pub node: &'c Netns,
    /// The file of the plugin.
    pub plugin: &'c Path,
    /// `CNI_COMMAND` and the other variables.
    pub variables: Vec<(&'c str, String)>,
}

impl<'c> Call<'c> {
    /// A call with the variables of an attachment.
    #[must_use]
    pub fn new(node: &'c Netns, plugin: &'c Path, command: &str, netns: &str, pod: &str) -> Self {
        let (namespace, name) = pod.split_once('/').unwrap_or_default();
        let arguments = format!("IgnoreUnknown=1;K8S_POD_NAMESPACE={namespace};K8S_POD_NAME={name}");
        let variables = vec![
            ("CNI_COMMAND", command.to_owned()),
            ("CNI_CONTAINERID", "0123abcd".to_owned()),
            ("CNI_NETNS", netns.to_owned()),
            ("CNI_IFNAME", "eth0".to_owned()),
            ("CNI_PATH", "/opt/cni/bin".to_owned()),
            ("CNI_ARGS", if pod.is_empty() { String::new() } else { arguments }),
        ];
        Self { node, plugin, variables }
    }

    /// The call with another value of a variable; an empty one removes it.
    #[must_use]
    pub fn with(mut self, name: &'c str, value: &str) -> Self {
        self.variables.retain(|(other, _)| *other != name);
        if !value.is_empty() {
            self.variables.push((name, value.to_owned()));
        }
        self
    }

    /// Runs the plugin with this text on standard input.
    ///
    /// # Errors
    /// Fails if it cannot be run.
    pub fn run(&self, input: &str) -> Result<Answer> {
        // Its name has to be the plugin's, and `Netns::command` runs it through `nsenter`.
        let mut command: Command = self.node.command(&self.plugin.to_string_lossy());
        let mut child = command
            .env_remove("CNI_COMMAND")
            .envs(self.variables.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()?;
        // A plugin that refuses its environment reads nothing.
        let _ = child.stdin.take().context("no standard input")?.write_all(input.as_bytes());
        let output = child.wait_with_output()?;
        Ok(Answer {
            succeeded: output.status.success(),
            stdout: String::from_utf8(output.stdout)?,
            stderr: String::from_utf8(output.stderr)?,
        })
    }
}

/// A previous result, as a plugin for interfaces gives it.
#[must_use]
pub fn previous_result() -> Value {
    json!({
        "cniVersion": "1.0.0",
        "interfaces": [{"name": "eth0", "sandbox": "/run/netns/blue", "mac": "99:88:77:66:55:44"}],
        "ips": [{"interface": 0, "address": "10.1.0.5/16", "gateway": "10.1.0.1"}],
        "routes": [{"dst": "0.0.0.0/0"}],
        "dns": {},
    })
}
