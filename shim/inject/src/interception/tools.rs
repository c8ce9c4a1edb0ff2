//! iptables' own tools: iptables-save and iptables-restore.

use std::io::{ErrorKind, Write};
use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, anyhow, bail, ensure};

use super::iptables_save::SavedRules;
use super::{Family, Interception};

/// Implementation of iptables. The kernel keeps separate rules for each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Backend {
    /// The system's default, or another one if that does not work.
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

/// Result of an installation or removal for one address family.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FamilyChange {
    /// Address family.
    pub family: Family,
    /// Tool that was run.
    pub tool: String,
    /// True if the rules were changed.
    pub changed: bool,
}

/// Installs an interception in this network namespace, or removes it. Each family changes in one transaction, and
/// only if it differs. Other rules stay.
///
/// # Errors
/// Returns an error with a remedy if a tool is missing, lacks permission, or fails. Nothing has changed if the rules
/// of a family cannot be read.
pub fn apply_rules(
    wanted: Option<&Interception>,
    families: &[Family],
    backend: Backend,
) -> Result<Vec<FamilyChange>> {
    let (name, before) = read_saved_rules(families, backend)?;
    let mut changes = Vec::new();
    for (family, before) in families.iter().copied().zip(before) {
        let rules = wanted.map(|wanted| wanted.rules(family)).unwrap_or_default();
        let input = before.render_replacement(&rules);
        if let Some(input) = &input {
            let restore = program_name(family, name, "restore");
            run_tool(&restore, &["--noflush", "-w", "5"], input)
                .map_err(|error| add_remedy(error, family))?;
            ensure!(
                read_rules(family, name)?.has_expected_sizes(&rules),
                "{restore} succeeded, but the {family} rules are not the expected ones: check whether another program changes them"
            );
        }
        changes.push(FamilyChange {
            family,
            tool: program_name(family, name, "restore"),
            changed: input.is_some(),
        });
    }
    Ok(changes)
}

fn program_name(family: Family, name: &str, verb: &str) -> String {
    let ip = match family {
        Family::V4 => "ip",
        Family::V6 => "ip6",
    };
    format!("{ip}{name}-{verb}")
}

/// Reads the rules in force with the first tools that work.
fn read_saved_rules(families: &[Family], backend: Backend) -> Result<(&'static str, Vec<SavedRules>)> {
    let mut first = None;
    for &name in backend.names() {
        match families.iter().map(|&family| read_rules(family, name)).collect() {
            Ok(saved) => return Ok((name, saved)),
            Err(error) => first = first.or(Some(error)),
        }
    }
    Err(first.unwrap_or_else(|| anyhow!("iptables is missing: install the package `iptables`")))
}

fn read_rules(family: Family, name: &str) -> Result<SavedRules> {
    let text = run_tool(&program_name(family, name, "save"), &["-t", "nat"], "");
    text.map(|text| SavedRules::parse(&text)).map_err(|error| add_remedy(error, family))
}

/// Adds a remedy to a failure, if one is known.
fn add_remedy(error: anyhow::Error, family: Family) -> anyhow::Error {
    if !has_net_admin() {
        return error.context(
            "the capability NET_ADMIN is missing: run this as root in the network namespace, or add the capability to the container",
        );
    }
    if family == Family::V6 {
        return error.context(
            "IPv6 cannot be intercepted: if nothing can leave over IPv6, pass `--ip-families ipv4`",
        );
    }
    error
}

/// Returns true if this process may change the network, or if that is unknown.
fn has_net_admin() -> bool {
    const NET_ADMIN: u64 = 1 << 12;
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    effective
        .and_then(|bits| u64::from_str_radix(bits.trim(), 16).ok())
        .is_none_or(|bits| bits & NET_ADMIN != 0)
}

/// Runs a tool and returns its output.
fn run_tool(program: &str, args: &[&str], input: &str) -> Result<String> {
    let path = find_program(program)
        .with_context(|| format!("`{program}` is missing: install the package `iptables`"))?;
    let mut child = Command::new(path)
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot run {program}"))?;
    // The tool reads all input before it prints, and its exit code reports a failure to read.
    if let Some(mut stdin) = child.stdin.take()
        && let Err(error) = stdin.write_all(input.as_bytes())
        && error.kind() != ErrorKind::BrokenPipe
    {
        return Err(error).with_context(|| format!("cannot write to {program}"));
    }
    let output = child.wait_with_output().with_context(|| format!("cannot wait for {program}"))?;
    if !output.status.success() {
        let stderr = String::from_utf8_lossy(&output.stderr);
        bail!("{program}: {} ({})", stderr.trim().replace('\n', "; "), output.status);
    }
    String::from_utf8(output.stdout).with_context(|| format!("the output of {program} is not UTF-8"))
}

/// Finds a tool in PATH and in the folders of system programs, which an ordinary user's PATH lacks.
fn find_program(program: &str) -> Option<PathBuf> {
    let path = std::env::var("PATH").unwrap_or_default();
    let folders = path.split(':').filter(|folder| !folder.is_empty()).chain(["/usr/sbin", "/sbin"]);
    folders.map(|folder| PathBuf::from(folder).join(program)).find(|path| path.is_file())
}
