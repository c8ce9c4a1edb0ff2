//! iptables' own tools.

use std::io::{ErrorKind, Write};
use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, anyhow, bail, ensure};

use super::iptables_save::Saved;
use super::{Family, Interception};

/// Which iptables: the kernel keeps the rules of each for itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Backend {
    /// The system's choice, and another one where that does not work.
    Auto,
    /// nf_tables.
    Nft,
    /// x_tables.
    Legacy,
}

impl Backend {
    const fn names(self) -> &'static [&'static str] {
        match self {
            Self::Auto => &["tables", "tables-nft", "tables-legacy"],
            Self::Nft => &["tables-nft"],
            Self::Legacy => &["tables-legacy"],
        }
    }
}

/// What became of a family.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// The family.
    pub family: Family,
    /// The tool that said so.
    pub tool: String,
    /// Whether anything changed.
    pub changed: bool,
}

/// Puts an interception in force in this network namespace, or takes away what there is of it. Each
/// family changes at once or not at all, and nothing changes where it is so already. The rules of
/// others stay.
///
/// # Errors
/// When a tool is missing, may not, or fails, with what to do. Nothing has changed when a family's
/// rules cannot be read.
pub fn apply(wanted: Option<&Interception>, families: &[Family], backend: Backend) -> Result<Vec<Change>> {
    let (name, before) = read_by_any(families, backend)?;
    let mut changes = Vec::new();
    for (family, before) in families.iter().copied().zip(before) {
        let rules = wanted.map(|wanted| wanted.rules(family)).unwrap_or_default();
        let input = before.replace(&rules);
        if let Some(input) = &input {
            let restore = program(family, name, "restore");
            run(&restore, &["--noflush", "-w", "5"], input).map_err(|error| explain(error, family))?;
            ensure!(
                read(family, name)?.resembles(&rules),
                "{restore} did not fail, but the rules for {family} are not as they should be"
            );
        }
        changes.push(Change { family, tool: program(family, name, "restore"), changed: input.is_some() });
    }
    Ok(changes)
}

fn program(family: Family, name: &str, verb: &str) -> String {
    let ip = match family {
        Family::V4 => "ip",
        Family::V6 => "ip6",
    };
    format!("{ip}{name}-{verb}")
}

/// What is in force, by the first tools that can tell.
fn read_by_any(families: &[Family], backend: Backend) -> Result<(&'static str, Vec<Saved>)> {
    let mut first = None;
    for &name in backend.names() {
        match families.iter().map(|&family| read(family, name)).collect() {
            Ok(saved) => return Ok((name, saved)),
            Err(error) => first = first.or(Some(error)),
        }
    }
    Err(first.unwrap_or_else(|| anyhow!("there is no iptables")))
}

fn read(family: Family, name: &str) -> Result<Saved> {
    let text = run(&program(family, name, "save"), &["-t", "nat"], "");
    text.map(|text| Saved::read(&text)).map_err(|error| explain(error, family))
}

/// Says what to do about a failure, as far as one can know.
fn explain(error: anyhow::Error, family: Family) -> anyhow::Error {
    if !has_net_admin() {
        return error.context(
            "this needs the capability NET_ADMIN: run it as root in the network namespace, or give it to the container",
        );
    }
    if family == Family::V6 {
        return error.context(
            "IPv6 cannot be intercepted; where nothing can leave by IPv6, say so by `--ip-families ipv4`",
        );
    }
    error
}

/// Whether this process may change a network. Where that is unknown, its tools will tell.
fn has_net_admin() -> bool {
    const NET_ADMIN: u64 = 1 << 12;
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    effective
        .and_then(|bits| u64::from_str_radix(bits.trim(), 16).ok())
        .is_none_or(|bits| bits & NET_ADMIN != 0)
}

/// Runs a tool and gives what it printed.
fn run(program: &str, args: &[&str], input: &str) -> Result<String> {
    let path =
        find(program).with_context(|| format!("`{program}` is missing: install the package `iptables`"))?;
    let mut child = Command::new(path)
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot run {program}"))?;
    // It reads to the end before it prints, and a failure to read is told by its exit code.
    if let Some(mut stdin) = child.stdin.take()
        && let Err(error) = stdin.write_all(input.as_bytes())
        && error.kind() != ErrorKind::BrokenPipe
    {
        return Err(error).with_context(|| format!("cannot write to {program}"));
    }
    let output = child.wait_with_output().with_context(|| format!("cannot wait for {program}"))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        bail!("{program}: {} ({})", said.trim().replace('\n', "; "), output.status);
    }
    String::from_utf8(output.stdout).with_context(|| format!("{program} printed what is no text"))
}

/// Also where the PATH of an ordinary user does not lead.
fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var("PATH").unwrap_or_default();
    let folders = path.split(':').filter(|folder| !folder.is_empty()).chain(["/usr/sbin", "/sbin"]);
    folders.map(|folder| PathBuf::from(folder).join(program)).find(|path| path.is_file())
}
