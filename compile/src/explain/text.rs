//! The report as text for a terminal.

use std::fmt::{self, Write};

use super::policy_source::SourceLocation;
use super::proxies::Proxies;
use super::{AddressSource, Report, Route, RuleReport};
use egress_policy::explain::{Stage, Verdict};

/// The most rules shown, unless all are requested.
const MAX_SHOWN_RULES: usize = 6;

/// A report as text, with all rules or with the near ones.
#[derive(Debug, Clone, Copy)]
pub struct TextReport<'r> {
    report: &'r Report,
    all: bool,
}

impl Report {
    /// Formats the report as text, with all rules or with the near ones.
    #[must_use]
    pub fn text(&self, all: bool) -> TextReport<'_> {
        TextReport { report: self, all }
    }
}

impl fmt::Display for TextReport<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Manifests and command lines may contain control characters, which a terminal would obey.
        let mut text = String::new();
        self.report.write(&mut text, self.all)?;
        for c in text.chars() {
            if c.is_control() && c != '\n' { write!(f, "{}", c.escape_default())? } else { f.write_char(c)? }
        }
        Ok(())
    }
}

impl Report {
    fn write(&self, out: &mut String, all: bool) -> fmt::Result {
        write!(out, "{} -> {}", self.identity, escape_line(&self.connection))?;
        match self.address {
            Some(address) => writeln!(out, ", dialled at {address}")?,
            None => writeln!(out)?,
        }
        let verdict = match self.verdict {
            Verdict::Allow => "ALLOWED",
            Verdict::Deny => "DENIED",
        };
        match self.reason {
            Some(reason) => writeln!(out, "\n{verdict} {reason}: {}", self.meaning)?,
            None => writeln!(out, "\n{verdict}: {}", self.meaning)?,
        }
        if let Some(would) = self.would_refuse {
            writeln!(out, "  would be  {would}: {}", would.meaning().trim())?;
        }
        if let (Some(policy), Some(rule)) = (&self.policy, &self.rule) {
            let what =
                if self.verdict == Verdict::Allow && self.would_refuse.is_none() { "by" } else { "nearest" };
            let object = if rule == "Service" {
                format!("Service {policy}")
            } else {
                format!("Egress {policy} {rule}")
            };
            writeln!(out, "  {what:9} {}{}", escape_line(&object), format_location(self.location.as_ref()))?;
        }
        let decided = match self.stage {
            Stage::Connection => "port and address",
            Stage::FirstBytes => "the first bytes",
            Stage::Request => "the request",
        };
        writeln!(out, "  decided   by {decided}")?;
        writeln!(out, "  mode      {}, document {}", self.mode.as_str(), escape_line(&self.document))?;
        if let Some(to) = &self.route {
            write_route(out, to)?;
        }
        for at in &self.allowed_at {
            let blocks = at.addresses.join(", ");
            writeln!(
                out,
                "  but allowed at {blocks}, by Egress {} {}",
                escape_line(&at.policy),
                escape_line(&at.rule)
            )?;
        }
        self.write_rules(out, all)?;
        let missing = self.verdict == Verdict::Deny || self.would_refuse.is_some();
        for status in self.not_accepted.iter().filter(|_| missing) {
            let what = match status.rules {
                0 => "nothing".to_owned(),
                1 => "1 rule only".to_owned(),
                more => format!("{more} rules only"),
            };
            writeln!(out, "\n{} has errors and grants {what}", escape_line(&status.object.to_string()))?;
            for diagnostic in &status.diagnostics {
                writeln!(out, "  {}", diagnostic.to_string().replace('\n', "\n  "))?;
            }
        }
        if missing && !self.unreadable.is_empty() {
            writeln!(out, "\nunreadable files, whose policies may be missing")?;
            for diagnostic in &self.unreadable {
                writeln!(out, "  {}", diagnostic.to_string().replace('\n', "\n  "))?;
            }
        }
        if let Some(proxies) = &self.proxies {
            write_proxies(out, proxies)?;
        }
        for (index, hint) in self.hints.iter().enumerate() {
            let space = if index == 0 { "\n" } else { "" };
            writeln!(out, "{space}hint: {}", escape_line(hint))?;
        }
        for (index, note) in self.notes.iter().enumerate() {
            let space = if index == 0 { "\n" } else { "" };
            writeln!(out, "{space}note: {}", escape_line(note))?;
        }
        Ok(())
    }

    fn write_rules(&self, out: &mut String, all: bool) -> fmt::Result {
        let decided = |rule: &RuleReport| {
            rule.evaluation.allows()
                && self.policy.as_ref() == Some(&rule.evaluation.policy)
                && self.rule.as_ref() == Some(&rule.evaluation.rule)
        };
        let others: Vec<&RuleReport> = self.rules.iter().filter(|rule| !decided(rule)).collect();
        if others.is_empty() {
            return Ok(());
        }
        let title = if others.len() < self.rules.len() { "other rules" } else { "rules" };
        let near = others.iter().take_while(|rule| !rule.evaluation.is_unrelated()).count();
        // A refusal shows at least one rule, even if it is unrelated.
        let least = usize::from(self.verdict == Verdict::Deny);
        let shown = if all { others.len() } else { near.clamp(least, MAX_SHOWN_RULES).min(others.len()) };
        if shown == 0 {
            let them = if others.len() == 1 { "it" } else { "them" };
            return writeln!(out, "\n{title}: {} unrelated (--all shows {them})", others.len());
        }
        writeln!(out, "\n{title}, nearest first")?;
        for RuleReport { evaluation, location: at } in others.iter().take(shown) {
            let name = format!("{} {}", evaluation.policy, evaluation.rule);
            let (protocol, port) = (evaluation.protocol.as_str(), evaluation.port);
            writeln!(out, "  {} ({protocol} {port}){}", escape_line(&name), format_location(at.as_ref()))?;
            if evaluation.allows() {
                writeln!(out, "    - allows it too")?;
            }
            for lack in &evaluation.mismatches {
                writeln!(out, "    - {lack}")?;
            }
        }
        match others.len().saturating_sub(shown) {
            0 => Ok(()),
            1 => writeln!(out, "  and 1 more (--all shows it)"),
            more => writeln!(out, "  and {more} more (--all shows them)"),
        }
    }
}

fn format_location(location: Option<&SourceLocation>) -> String {
    match location {
        None => String::new(),
        Some(SourceLocation { file, line: None }) => format!("  {}", escape_line(file)),
        Some(SourceLocation { file, line: Some(line) }) => format!("  {}:{line}", escape_line(file)),
    }
}

fn write_route(out: &mut String, Route { address_source, host, port, cluster }: &Route) -> fmt::Result {
    let host = host.as_deref().unwrap_or_default();
    match address_source {
        AddressSource::Dialled => {
            writeln!(out, "  route     the dialled address (cluster {})", escape_line(cluster))
        }
        AddressSource::Resolved => {
            writeln!(
                out,
                "  route     {host}:{port}, resolved by the sidecar (cluster {})",
                escape_line(cluster)
            )
        }
        AddressSource::Passthrough => {
            writeln!(out, "  route     the dialled address, by global egress (cluster {cluster})")
        }
    }
}

fn write_proxies(out: &mut String, proxies: &Proxies) -> fmt::Result {
    writeln!(out, "\nproxies")?;
    if let Some(reason) = &proxies.source_unavailable {
        writeln!(out, "  the control plane cannot read its objects: {}", escape_line(reason))?;
    }
    if let Some(other) = &proxies.other_document {
        writeln!(
            out,
            "  the control plane has document {other}: it reads other objects, or has not read these yet"
        )?;
    }
    if proxies.proxies.is_empty() {
        writeln!(out, "  none is connected to this control plane")?;
    }
    for proxy in &proxies.proxies {
        let node = escape_line(&proxy.node);
        match (&proxy.document, proxy.acknowledged) {
            (_, true) => writeln!(out, "  {node}: acknowledged this document")?,
            (Some(other), false) => {
                writeln!(out, "  {node}: NOT YET, it has document {}", escape_line(other))?
            }
            (None, false) => writeln!(out, "  {node}: NOT YET, it has none")?,
        }
        for error in &proxy.rejected {
            writeln!(out, "    refused {}", escape_line(error))?;
        }
    }
    Ok(())
}

/// Escapes line ends and limits the length, so that input stays on its line.
fn escape_line(text: &str) -> String {
    let mut line = String::with_capacity(text.len());
    for c in text.chars().take(400) {
        if c == '\n' { line.push_str("\\n") } else { line.push(c) }
    }
    line
}
