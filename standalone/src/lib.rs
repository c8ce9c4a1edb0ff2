//! Envoy configuration without a control plane: `envoy/standalone.yaml` with another policy, as text; and the
//! requirements of Envoy's versions.
//!
//! It knows the engine, the compiler's output and Envoy's names. There is no I/O and no protobuf, so the
//! command line and a browser share it.

mod clusters;
mod plugin;
pub mod refusals;
mod version;
pub mod versions;

use std::borrow::Cow;
use std::fmt;

use egress_compile::OwnCluster;
use egress_compile::blocked_ranges::BlockedRanges;
use egress_policy::{Document, HostMatch, Mode, Plugin};
use ipnet::IpNet;

pub use self::plugin::plugin;
pub use self::version::{CURRENT, EnvoyVersion, EnvoyVersionError, OLDEST};

const TEXT: &str = include_str!("../../envoy/standalone.yaml");
/// The first line of the configuration, after the comment about the file.
const START: &str = "node: {";
/// The path of the module in the file.
pub const MODULE: &str = "target/egress_filter.wasm";
/// The list of blocked ranges in each DNS cache.
const RANGES: &str = "              ranges:\n";
/// The beginning of an item of that list.
const RANGE: &str = "              - ";

/// A complete configuration. Its text ends with the list of clusters.
#[derive(Clone, Copy, Debug)]
pub struct Configuration<'a> {
    /// The policy.
    pub document: &'a Document,
    /// The clusters with connection settings that it names.
    pub clusters: &'a [OwnCluster],
    /// The path of the module.
    pub module: &'a str,
    /// The version of Envoy.
    pub version: EnvoyVersion,
    /// The addresses that a name may not resolve to.
    pub blocked: &'a BlockedRanges,
}

impl fmt::Display for Configuration<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.header(f)?;
        let text = self.around();
        // Inserted text is never searched.
        let mut rest = text.as_str();
        for which in [Plugin::Network, Plugin::Http] {
            let (start, end) = place(rest, which);
            let column = start - rest[..start].rfind('\n').map_or(0, |end| end + 1);
            f.write_str(&rest[..start])?;
            f.write_str(&plugin::readable(which, self.document, column))?;
            rest = &rest[end..];
        }
        f.write_str(rest)?;
        self.clusters.iter().try_for_each(|own| f.write_str(&clusters::own(own)))
    }
}

impl Configuration<'_> {
    /// Writes the comment at the top: the origin of the file, and how to use it.
    fn header(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { document, clusters, module: _, version, blocked } = self;
        let Document { identity, version: policy, mode, in_mesh, .. } = document;
        let (mode, policy) = (mode.as_str(), plugin::escaped(policy));
        write!(
            f,
            "# Envoy {version} with the policy of {identity}, and no control plane.\n\
             # Made by `osm-egress compile --output envoy`.\n#\n\
             # The mode is `{mode}`. The policy, of version {policy}, stands in both plugins:\n\
             # after a change of manifests, make this file again.\n\
             # The module is read from {}.\n\
             # Connections must be redirected to port 15001 (`osm-egress iptables`): what is not, meets\n\
             # no policy.\n\
             # It listens for IPv4 only: where IPv6 gets out at all, add the same listener on `::`, or\n\
             # nothing stops it.\n",
            self.module()
        )?;
        if blocked.never_resolve_to.is_empty() {
            f.write_str(
                "# Names may lead to the addresses of your pods and services: `--never-resolve-to` says where\n\
                 # they must not lead.\n",
            )?;
        }
        if !clusters.is_empty() {
            f.write_str("# The last clusters are those of policies with connection settings.\n")?;
        }
        if !in_mesh.is_empty() {
            f.write_str("# Services of the mesh have the addresses that they had when this was made.\n")?;
        }
        Ok(())
    }

    /// Builds the text around the policy.
    fn around(&self) -> String {
        let mut text = TEXT[TEXT.find(START).unwrap_or_default()..].replace(MODULE, &self.module());
        text = without_strange_guards(&text, self.version);
        text = with_ranges(&text, self.blocked);
        if self.document.mode == Mode::Passthrough {
            // Unrouted connections go there, and no other configuration has this cluster.
            text += &clusters::passthrough();
        }
        text
    }

    /// The path of the module in YAML, quoted unless it is a plain path.
    fn module(&self) -> Cow<'_, str> {
        let is_plain = |c: char| c.is_ascii_alphanumeric() || "/._-".contains(c);
        if self.module.starts_with(|c: char| c != '-' && is_plain(c)) && self.module.chars().all(is_plain) {
            Cow::Borrowed(self.module)
        } else {
            Cow::Owned(quoted(self.module))
        }
    }
}

/// Removes runtime guards that a version does not know, with their comments.
fn without_strange_guards(text: &str, version: EnvoyVersion) -> String {
    let is_strange =
        |line: &str| versions::GUARDS.iter().any(|guard| version < guard.since && line.contains(guard.name));
    let mut lines: Vec<&str> = Vec::new();
    for line in text.lines() {
        if is_strange(line) {
            while lines.pop_if(|line| line.trim_start().starts_with('#')).is_some() {}
        } else {
            lines.push(line);
        }
    }
    lines.iter().flat_map(|line| [line, "\n"]).collect()
}

/// Replaces the example's blocked ranges. The first cache is the one for names below a wildcard.
fn with_ranges(text: &str, blocked: &BlockedRanges) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    for names in [HostMatch::Wildcard, HostMatch::Exact] {
        let start = rest.find(RANGES).map_or(rest.len(), |at| at + RANGES.len());
        out += &rest[..start];
        out += &ranges(blocked, names);
        let old = rest[start..].split_inclusive('\n').take_while(|line| line.starts_with(RANGE));
        rest = &rest[start + old.map(str::len).sum::<usize>()..];
    }
    out + rest
}

/// Formats the ranges as items of the list.
fn ranges(blocked: &BlockedRanges, names: HostMatch) -> String {
    let item = |range: &IpNet| {
        let (address, length) = (range.network(), range.prefix_len());
        format!("{RANGE}{{address_prefix: \"{address}\", prefix_len: {length}}}\n")
    };
    blocked.ranges(names).iter().map(item).collect()
}

/// Replaces the example's mappers by one for each of Envoy's own responses.
#[cfg(test)]
fn with_refusals(text: &str) -> String {
    const START: &str = "            mappers:\n";
    let start = text.find(START).map_or(text.len(), |at| at + START.len());
    let (before, rest) = text.split_at(start);
    let is_mapper = |line: &&str| line.starts_with("            - ") || line.starts_with("             ");
    let old: usize = rest.split_inclusive('\n').take_while(is_mapper).map(str::len).sum();
    let mappers: String = refusals::REFUSALS.iter().map(ToString::to_string).collect();
    [before, &mappers, &rest[old..]].concat()
}

/// Finds the example's configuration of a plugin.
fn place(text: &str, which: Plugin) -> (usize, usize) {
    let start = text.find(&format!("{{\"plugin\": \"{}\"", plugin::name(which))).unwrap_or_default();
    let end = text[start..].find("]}}").map_or(start, |length| start + length + 3);
    (start, end)
}

/// Quotes a string for JSON and YAML. Characters that are invisible or might end a line are escaped.
fn quoted(text: &str) -> String {
    plugin::escaped(&serde_json::Value::from(text).to_string())
}

#[cfg(test)]
mod tests;
