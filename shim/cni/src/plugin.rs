//! The plugin: one command of the CNI specification for each call.

use std::io::{Read, Write};
use std::path::Path;
use std::process::ExitCode;

use egress_core::sanitize;
use serde_json::json;

use crate::config::NetworkConfig;
use crate::environment::{Attachment, Command, invalid};
use crate::error::{CniError, Code, NEWEST_VERSION, SUPPORTED_VERSIONS};
use crate::netns;
use crate::nft::{RulesError, find_difference, install_rules};
use crate::pod::{Expected, check_access, read_expected};

/// Largest configuration. Those of nodes have a few KB, and the result of other plugins with them.
const MAX_BYTES: u64 = 1 << 20;

/// File name of the installed plugin, and its type in a network configuration.
pub const PLUGIN_NAME: &str = "osm-egress-cni";

/// Runs the command of this call: parameters come by environment variables and standard input.
pub fn run() -> ExitCode {
    let mut version = NEWEST_VERSION;
    let result = execute(&mut version);
    let (text, code) = match result {
        Ok(text) => (text, ExitCode::SUCCESS),
        Err(error) => (format!("{:#}\n", error.to_json(version)), ExitCode::FAILURE),
    };
    let written = std::io::stdout().write_all(text.as_bytes());
    if written.is_err() { ExitCode::FAILURE } else { code }
}

/// Writes a line to the runtime's log.
fn log(line: impl std::fmt::Display) {
    let _ = writeln!(std::io::stderr(), "{PLUGIN_NAME}: {}", sanitize::lines(&line.to_string()));
}

fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

/// Executes the command. Sets the version in which the runtime expects an error.
fn execute(version: &mut &'static str) -> Result<String, CniError> {
    let command = match variable("CNI_COMMAND").filter(|command| !command.is_empty()) {
        Some(command) => Command::parse(&command)?,
        None => {
            return Err(invalid(
                "CNI_COMMAND is missing: container runtimes call this plugin, and `osm-egress cni install` installs it"
                    .to_owned(),
            ));
        }
    };
    let text = read_input()?;
    if command == Command::Version && text.trim().is_empty() {
        return Ok(supported_versions(NEWEST_VERSION));
    }
    let config = NetworkConfig::parse(&text)?;
    if command == Command::Version {
        return Ok(supported_versions(config.cni_version.as_deref().unwrap_or(NEWEST_VERSION)));
    }
    *version = config.version().unwrap_or(NEWEST_VERSION);
    config.validate(command.name(), command.since())?;
    match command {
        Command::Add => add(&config),
        Command::Check => check(&config),
        Command::Delete => delete(),
        Command::GarbageCollect => collect_garbage(&config),
        Command::Status => check_access(config.kubeconfig()?).map(|()| String::new()),
        Command::Version => Ok(String::new()),
    }
}

fn read_input() -> Result<String, CniError> {
    let failed =
        |details: String| CniError::new(Code::InputOutput, "cannot read the network configuration", details);
    let mut text = String::new();
    let length = std::io::stdin()
        .take(MAX_BYTES + 1)
        .read_to_string(&mut text)
        .map_err(|error| failed(format!("standard input: {error}")))?;
    if u64::try_from(length).is_ok_and(|length| length <= MAX_BYTES) {
        Ok(text)
    } else {
        Err(failed(format!("standard input has more than {MAX_BYTES} bytes")))
    }
}

fn supported_versions(version: &str) -> String {
    format!("{}\n", json!({"cniVersion": version, "supportedVersions": SUPPORTED_VERSIONS}))
}

/// Reads what the pod of an attachment expects.
fn expected(config: &NetworkConfig, attachment: &Attachment) -> Result<Expected, CniError> {
    let Some(pod) = &attachment.pod else {
        log("CNI_ARGS names no pod of Kubernetes: nothing to do");
        return Ok(None);
    };
    if config.exclude_namespaces.contains(&pod.namespace) {
        return Ok(None);
    }
    read_expected(config.kubeconfig()?, pod)
}

fn rules_error(error: &RulesError) -> CniError {
    CniError::new(Code::Rules, "cannot set up interception", error.to_string())
}

fn require_netns(attachment: &Attachment) -> Result<(&Path, std::fs::File), CniError> {
    let path = attachment.netns.as_deref().ok_or_else(|| invalid("CNI_NETNS is missing".to_owned()))?;
    let file = netns::open(path)?.ok_or_else(|| netns::vanished(path))?;
    Ok((path, file))
}

fn add(config: &NetworkConfig) -> Result<String, CniError> {
    let attachment = Attachment::read(Command::Add, variable)?;
    let result = config.previous_result()?;
    let (_, namespace) = require_netns(&attachment)?;
    if let Some((interception, families)) = expected(config, &attachment)? {
        netns::run(&namespace, || install_rules(&interception, families))?
            .map_err(|error| rules_error(&error))?;
    }
    Ok(format!("{}\n", result.get()))
}

fn check(config: &NetworkConfig) -> Result<String, CniError> {
    let attachment = Attachment::read(Command::Check, variable)?;
    config.previous_result()?;
    let (path, namespace) = require_netns(&attachment)?;
    if let Some((interception, families)) = expected(config, &attachment)? {
        let found = netns::run(&namespace, || find_difference(&interception, families))?;
        if let Some(difference) = found.map_err(|error| rules_error(&error))? {
            let details =
                format!("{difference} in {}: delete the pod, so that it starts anew", path.display());
            return Err(CniError::new(Code::Difference, "interception is not as it was set up", details));
        }
    }
    Ok(String::new())
}

/// Leaves the rules. They vanish with their namespace, and until then a process that outlived its container must not leave
/// it unseen: DEL comes before the one of the plugin that takes the interface away.
fn delete() -> Result<String, CniError> {
    let attachment = Attachment::read(Command::Delete, variable)?;
    if let Some(path) = &attachment.netns
        && !path.exists()
    {
        log(format_args!("the network namespace {} is gone, and its rules with it", path.display()));
    }
    Ok(String::new())
}

/// Reports only: rules are in the namespaces of pods, and nothing else is left behind.
fn collect_garbage(config: &NetworkConfig) -> Result<String, CniError> {
    let valid = config.valid_attachments.as_ref().map_or(0, Vec::len);
    log(format_args!(
        "{valid} attachments are valid; there is nothing to remove, since rules vanish with their namespace"
    ));
    Ok(String::new())
}
