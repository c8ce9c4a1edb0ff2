//! The files of a node: as they are, and as they should be.

use std::fmt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::configuration::Configuration;
use super::{Options, files, kubeconfig};
use crate::plugin::PLUGIN_NAME;

/// Mode of the plugin's binary.
const BINARY_MODE: u32 = 0o755;
/// Mode of the kubeconfig, which has a token in it.
const SECRET_MODE: u32 = 0o600;
/// Mode of network configurations, as other agents write them.
const CONFIGURATION_MODE: u32 = 0o644;

/// A change of the node's files.
#[derive(Clone, PartialEq, Eq)]
pub(super) enum Change {
    /// Replaces a file.
    Write { path: PathBuf, content: Vec<u8>, mode: u32 },
    /// Removes a file.
    Remove(PathBuf),
}

impl Change {
    pub(super) fn apply(&self) -> Result<()> {
        match self {
            Self::Write { path, content, mode } => files::replace(path, content, *mode),
            Self::Remove(path) => files::remove(path),
        }
    }
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Write { path, .. } => write!(f, "write {}", path.display()),
            Self::Remove(path) => write!(f, "remove {}", path.display()),
        }
    }
}

impl fmt::Debug for Change {
    // The content has a token in it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Changes that remain to be made.
#[derive(Debug)]
pub(super) struct Plan {
    pub(super) changes: Vec<Change>,
    /// Reason why the plugin cannot be in the node's network configuration.
    pub(super) problem: Option<String>,
}

/// The identity of a file's content, without reading it.
type Fingerprint = (u64, u64, u64, i64, i64);

/// A node.
#[derive(Debug)]
pub(super) struct Node {
    options: Options,
    binary: Vec<u8>,
    /// Fingerprint of the installed binary when it was equal.
    equal_binary: Option<Fingerprint>,
}

/// A file with a network configuration.
struct Found {
    path: PathBuf,
    is_list: bool,
    configuration: Configuration,
}

impl Node {
    pub(super) fn new(options: &Options) -> Result<Self> {
        let path = std::env::current_exe().context("cannot find this program's file")?;
        let binary = std::fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
        Ok(Self { options: options.clone(), binary, equal_binary: None })
    }

    /// The kubeconfig, as this process sees it.
    pub(super) fn kubeconfig(&self) -> PathBuf {
        self.options.net_dir.join(kubeconfig::FILE_NAME)
    }

    fn installed_binary(&self) -> PathBuf {
        self.options.bin_dir.join(PLUGIN_NAME)
    }

    /// The plugin's entry in a network configuration.
    fn entry(&self) -> Value {
        json!({
            "type": PLUGIN_NAME,
            "kubeconfig": self.options.node_net_dir.join(kubeconfig::FILE_NAME),
            "excludeNamespaces": self.options.exclude_namespaces,
        })
    }

    /// Plans what differs, in an order in which nothing names a file that is not there yet.
    pub(super) fn plan(&mut self) -> Result<Plan> {
        let mut changes = Vec::new();
        self.plan_binary(&mut changes)?;
        let content = kubeconfig::render(&self.options.server, &self.options.service_account_dir)?;
        plan_write(&mut changes, self.kubeconfig(), content.into_bytes(), SECRET_MODE)?;
        // The rest is done all the same: a runtime may still call the plugin, and its token must not expire.
        let problem = self.plan_configuration(&mut changes)?.err();
        Ok(Plan { changes, problem })
    }

    fn plan_binary(&mut self, changes: &mut Vec<Change>) -> Result<()> {
        let path = self.installed_binary();
        let fingerprint = fingerprint(&path);
        if fingerprint.is_some() && fingerprint == self.equal_binary {
            return Ok(());
        }
        let is_equal = files::read(&path)?
            .is_some_and(|found| Sha256::digest(&found) == Sha256::digest(&self.binary))
            && std::fs::metadata(&path).is_ok_and(|file| file.mode() & 0o777 == BINARY_MODE);
        if is_equal {
            self.equal_binary = fingerprint;
        } else {
            changes.push(Change::Write { path, content: self.binary.clone(), mode: BINARY_MODE });
        }
        Ok(())
    }

    /// Remembers a change that was made.
    pub(super) fn record(&mut self, change: &Change) {
        if let Change::Write { path, .. } = change
            && *path == self.installed_binary()
        {
            self.equal_binary = fingerprint(path);
        }
    }

    /// Plans the entry of the plugin. Returns the reason why there can be none.
    fn plan_configuration(&self, changes: &mut Vec<Change>) -> Result<Result<(), String>> {
        let found = self.configurations()?;
        let Some(first) = found.first() else {
            return Ok(Err(format!(
                "there is no network configuration in {} yet: the cluster's network plugin writes it",
                self.options.net_dir.display()
            )));
        };
        if let Err(problem) = first.configuration.check_version() {
            return Ok(Err(format!("{}: {problem}: ask its author for a newer one", first.path.display())));
        }
        let content = first.configuration.with_plugin(&self.entry()).render();
        if first.is_list {
            if first.configuration != first.configuration.with_plugin(&self.entry()) {
                let path = first.path.clone();
                changes.push(Change::Write { path, content: content.into_bytes(), mode: CONFIGURATION_MODE });
            }
            return Ok(Ok(()));
        }
        // A single plugin cannot be chained: a list of the same name takes its place.
        let path = first.path.with_extension("conflist");
        if let Some(other) = found.iter().find(|found| found.path == path)
            && !other.configuration.has_plugin()
        {
            return Ok(Err(format!(
                "{} must become {}, which another program wrote: remove one of them",
                first.path.display(),
                path.display()
            )));
        }
        plan_write(changes, path, content.into_bytes(), CONFIGURATION_MODE)?;
        changes.push(Change::Remove(first.path.clone()));
        Ok(Ok(()))
    }

    /// Plans the removal: first no configuration names the plugin any more.
    pub(super) fn plan_removal(&self) -> Result<Vec<Change>> {
        let mut changes = Vec::new();
        for found in self.configurations()?.into_iter().filter(|found| found.configuration.has_plugin()) {
            let content = found.configuration.without_plugin().render().into_bytes();
            changes.push(Change::Write { path: found.path, content, mode: CONFIGURATION_MODE });
        }
        changes.extend([Change::Remove(self.kubeconfig()), Change::Remove(self.installed_binary())]);
        Ok(changes)
    }

    /// The configurations in the order in which container runtimes look for the first one.
    fn configurations(&self) -> Result<Vec<Found>> {
        let folder = &self.options.net_dir;
        let entries = match std::fs::read_dir(folder) {
            Ok(entries) => entries,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(error).with_context(|| format!("cannot read {}", folder.display())),
        };
        let mut paths: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
        paths.sort();
        let mut found = Vec::new();
        for path in paths {
            let ending = path.extension().unwrap_or_default().to_string_lossy().into_owned();
            if !["conf", "conflist", "json"].contains(&ending.as_str()) || !path.is_file() {
                continue;
            }
            let is_list = ending == "conflist";
            let Some(text) = files::read(&path)? else { continue };
            match Configuration::parse(&text, is_list) {
                Some(configuration) => found.push(Found { path, is_list, configuration }),
                // Being written, or for something else: a container runtime passes over it too.
                None => tracing::debug!(path = %path.display(), "no network configuration for pods"),
            }
        }
        Ok(found)
    }
}

fn plan_write(changes: &mut Vec<Change>, path: PathBuf, content: Vec<u8>, mode: u32) -> Result<()> {
    if files::read(&path)?.as_ref() != Some(&content) {
        changes.push(Change::Write { path, content, mode });
    }
    Ok(())
}

fn fingerprint(path: &Path) -> Option<Fingerprint> {
    let file = std::fs::metadata(path).ok()?;
    Some((file.dev(), file.ino(), file.size(), file.ctime(), file.ctime_nsec()))
}

#[cfg(test)]
mod tests;
