//! The report for people.

use std::fmt::{self, Write};

use super::evidence::Place;
use super::proxies::Proxies;
use super::{GoesTo, How, PlacedRuling, Report};
use egress_policy::explain::{Stage, Verdict};

/// How many rules are shown, unless all are.
const SHOWN: usize = 6;

/// A report, in so much detail.
#[derive(Debug, Clone, Copy)]
pub struct Text<'r> {
    report: &'r Report,
    all: bool,
}

impl Report {
    /// The report for people; `all` rules, or the near ones.
    #[must_use]
    pub fn text(&self, all: bool) -> Text<'_> {
        Text { report: self, all }
    }
}

impl fmt::Display for Text<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Manifests and command lines may hold what a terminal would obey.
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
        write!(out, "{} -> {}", self.identity, one_line(&self.connection))?;
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
            writeln!(out, "  {what:9} {}{}", one_line(&object), place(self.place.as_ref()))?;
        }
        let decided = match self.stage {
            Stage::Connection => "port and address",
            Stage::FirstBytes => "the first bytes",
            Stage::Request => "the request",
        };
        writeln!(out, "  looked at {decided}")?;
        writeln!(out, "  mode      {}, document {}", self.mode.as_str(), one_line(&self.document))?;
        if let Some(to) = &self.goes_to {
            goes_to(out, to)?;
        }
        for at in &self.allowed_at {
            let blocks = at.addresses.join(", ");
            writeln!(
                out,
                "  but allowed at {blocks}, by Egress {} {}",
                one_line(&at.policy),
                one_line(&at.rule)
            )?;
        }
        self.rules(out, all)?;
        let missing = self.verdict == Verdict::Deny || self.would_refuse.is_some();
        for condition in self.not_accepted.iter().filter(|_| missing) {
            let what = match condition.rules {
                0 => "nothing".to_owned(),
                1 => "1 rule only".to_owned(),
                more => format!("{more} rules only"),
            };
            writeln!(out, "\n{} has mistakes and grants {what}", one_line(&condition.object.to_string()))?;
            for problem in &condition.problems {
                writeln!(out, "  {}", problem.to_string().replace('\n', "\n  "))?;
            }
        }
        if missing && !self.unreadable.is_empty() {
            writeln!(out, "\nnot readable: what stands there may be missing")?;
            for problem in &self.unreadable {
                writeln!(out, "  {}", problem.to_string().replace('\n', "\n  "))?;
            }
        }
        if let Some(proxies) = &self.proxies {
            who_has_it(out, proxies)?;
        }
        for (index, hint) in self.hints.iter().enumerate() {
            let space = if index == 0 { "\n" } else { "" };
            writeln!(out, "{space}hint: {}", one_line(hint))?;
        }
        for (index, note) in self.notes.iter().enumerate() {
            let space = if index == 0 { "\n" } else { "" };
            writeln!(out, "{space}note: {}", one_line(note))?;
        }
        Ok(())
    }

    fn rules(&self, out: &mut String, all: bool) -> fmt::Result {
        let decided = |rule: &PlacedRuling| {
            rule.ruling.allows()
                && self.policy.as_ref() == Some(&rule.ruling.policy)
                && self.rule.as_ref() == Some(&rule.ruling.rule)
        };
        let others: Vec<&PlacedRuling> = self.rules.iter().filter(|rule| !decided(rule)).collect();
        if others.is_empty() {
            return Ok(());
        }
        let title = if others.len() < self.rules.len() { "other rules" } else { "rules" };
        let near = others.iter().take_while(|rule| !rule.ruling.is_unrelated()).count();
        // Who is refused sees at least one, and that it is no help.
        let least = usize::from(self.verdict == Verdict::Deny);
        let shown = if all { others.len() } else { near.clamp(least, SHOWN).min(others.len()) };
        if shown == 0 {
            let (is, them) = if others.len() == 1 { ("is", "it") } else { ("are", "them") };
            return writeln!(
                out,
                "\n{title}: {} that {is} about something else (--all shows {them})",
                others.len()
            );
        }
        writeln!(out, "\n{title}, the nearest first")?;
        for PlacedRuling { ruling, place: at } in others.iter().take(shown) {
            let name = format!("{} {}", ruling.policy, ruling.rule);
            let (protocol, port) = (ruling.protocol.as_str(), ruling.port);
            writeln!(out, "  {} ({protocol} {port}){}", one_line(&name), place(at.as_ref()))?;
            if ruling.allows() {
                writeln!(out, "    - allows it too")?;
            }
            for lack in &ruling.mismatches {
                writeln!(out, "    - {lack}")?;
            }
        }
        match others.len() - shown {
            0 => Ok(()),
            1 => writeln!(out, "  and another one (--all shows it)"),
            more => writeln!(out, "  and {more} others (--all shows them)"),
        }
    }
}

fn place(place: Option<&Place>) -> String {
    match place {
        None => String::new(),
        Some(Place { file, line: None }) => format!("  {}", one_line(file)),
        Some(Place { file, line: Some(line) }) => format!("  {}:{line}", one_line(file)),
    }
}

fn goes_to(out: &mut String, GoesTo { how, host, port, cluster }: &GoesTo) -> fmt::Result {
    let host = host.as_deref().unwrap_or_default();
    match how {
        How::Dialled => {
            writeln!(out, "  goes to   the address that was dialled (cluster {})", one_line(cluster))
        }
        How::Resolved => {
            writeln!(
                out,
                "  goes to   {host}:{port}, as the sidecar resolves it (cluster {})",
                one_line(cluster)
            )
        }
        How::Passthrough => {
            writeln!(out, "  goes to   the address that was dialled, by global egress (cluster {cluster})")
        }
    }
}

fn who_has_it(out: &mut String, proxies: &Proxies) -> fmt::Result {
    writeln!(out, "\nproxies")?;
    if let Some(reason) = &proxies.source_unavailable {
        writeln!(out, "  the control plane cannot read its objects: {}", one_line(reason))?;
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
        let node = one_line(&proxy.node);
        match (&proxy.document, proxy.acknowledged) {
            (_, true) => writeln!(out, "  {node}: acknowledged this document")?,
            (Some(other), false) => writeln!(out, "  {node}: NOT YET, it has document {}", one_line(other))?,
            (None, false) => writeln!(out, "  {node}: NOT YET, it has none")?,
        }
        for error in &proxy.rejected {
            writeln!(out, "    refused {}", one_line(error))?;
        }
    }
    Ok(())
}

/// What others wrote stays in its line.
fn one_line(text: &str) -> String {
    let mut line = String::with_capacity(text.len());
    for c in text.chars().take(400) {
        if c == '\n' { line.push_str("\\n") } else { line.push(c) }
    }
    line
}
