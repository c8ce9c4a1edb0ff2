//! Plugin configuration: the document. Fields that are absent have the control plane's defaults.

use std::fmt::Write;
use std::io;

use egress_policy::{Document, Plugin};
use serde::Serialize;
use serde_json::ser::{Formatter, Serializer};

/// Formats the configuration of a plugin in one line.
#[must_use]
pub fn plugin(plugin: Plugin, document: &Document) -> String {
    serde_json::json!({"plugin": plugin, "version": document.version, "policy": document}).to_string()
}

/// Formats the configuration for people: a line for each rule and service. Lines after the first are indented.
pub(super) fn readable(plugin: Plugin, document: &Document, column: usize) -> String {
    let Document { api_version, identity, version, mode, rules, in_mesh } = document;
    let mut text = format!(
        "{{\"plugin\": {}, \"version\": {}, \"policy\": {{\n  \"apiVersion\": {},\n  \"identity\": {},\n  \
         \"version\": {}, \"mode\": {},\n  \"rules\": {}",
        json(&plugin),
        json(version),
        json(api_version),
        json(identity),
        json(version),
        json(mode),
        list(rules),
    );
    if !in_mesh.is_empty() {
        // Writing to a string does not fail.
        let _ = write!(text, ",\n  \"inMesh\": {}", list(in_mesh));
    }
    text.push_str("}}");
    text.replace('\n', &format!("\n{}", " ".repeat(column)))
}

fn list<T: Serialize>(items: &[T]) -> String {
    let items: Vec<_> = items.iter().map(|item| format!("\n    {}", json(item))).collect();
    if items.is_empty() { "[]".to_owned() } else { format!("[{}\n  ]", items.join(",")) }
}

/// Formats a value in one line of visible ASCII. Documents consist of strings, numbers and lists, so writing
/// them cannot fail; a missing document would be refused by the filter.
fn json(value: &impl Serialize) -> String {
    let mut text = Vec::new();
    let _ = value.serialize(&mut Serializer::with_formatter(&mut text, Spaced));
    escaped(&String::from_utf8(text).unwrap_or_default())
}

/// A JSON formatter for one line with spaces.
struct Spaced;

impl Formatter for Spaced {
    fn begin_object_key<W: ?Sized + io::Write>(&mut self, writer: &mut W, first: bool) -> io::Result<()> {
        if first { Ok(()) } else { writer.write_all(b", ") }
    }

    fn begin_object_value<W: ?Sized + io::Write>(&mut self, writer: &mut W) -> io::Result<()> {
        writer.write_all(b": ")
    }

    fn begin_array_value<W: ?Sized + io::Write>(&mut self, writer: &mut W, first: bool) -> io::Result<()> {
        if first { Ok(()) } else { writer.write_all(b", ") }
    }
}

/// Escapes JSON to ASCII, because some other characters end lines in YAML or are invisible.
pub(super) fn escaped(json: &str) -> String {
    let mut text = String::with_capacity(json.len());
    for c in json.chars() {
        if (' '..='~').contains(&c) {
            text.push(c);
        } else {
            let mut units = [0; 2];
            for unit in c.encode_utf16(&mut units) {
                let _ = write!(text, "\\u{unit:04x}");
            }
        }
    }
    text
}

/// The name of a plugin in JSON.
pub(super) const fn name(plugin: Plugin) -> &'static str {
    match plugin {
        Plugin::Network => "network",
        Plugin::Http => "http",
    }
}
