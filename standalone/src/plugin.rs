//! The two plugins: the filters that run the module, and their configuration.

use std::fmt::Write;
use std::io;

use egress_policy::{Document, Plugin};
use serde::Serialize;
use serde_json::ser::{Formatter, Serializer};

use crate::value::Value;
use crate::{config, name};

/// The name of a plugin, which is that of its filter, its resource and its root.
#[must_use]
pub const fn name(plugin: Plugin) -> &'static str {
    match plugin {
        Plugin::Network => name::NETWORK_PLUGIN,
        Plugin::Http => name::HTTP_PLUGIN,
    }
}

/// The type of a plugin's filter.
const fn type_url(plugin: Plugin) -> &'static str {
    match plugin {
        Plugin::Network => "type.googleapis.com/envoy.extensions.filters.network.wasm.v3.Wasm",
        Plugin::Http => "type.googleapis.com/envoy.extensions.filters.http.wasm.v3.Wasm",
    }
}

/// A filter whose configuration comes by ECDS over the aggregated stream, with no default: until it is there, Envoy
/// closes connections.
#[must_use]
pub fn by_discovery(plugin: Plugin) -> Value {
    config!({
        "name": name(plugin),
        "config_discovery": {
            "config_source": {"ads": {}, "resource_api_version": "V3"},
            "type_urls": [type_url(plugin)],
        },
    })
}

/// A filter with its configuration, which is the resource of ECDS as well. `code` is a source of data: where the module
/// is. `configuration` is the text that the module reads.
#[must_use]
pub fn extension(plugin: Plugin, code: Value, configuration: &str) -> Value {
    config!({
        "name": name(plugin),
        "typed_config": {
            "@type": type_url(plugin),
            "config": {
                "name": name(plugin),
                "root_id": name(plugin),
                "failure_policy": "FAIL_RELOAD",
                "vm_config": {
                    // Never empty: plugins without one share their data with strangers.
                    "vm_id": "egress",
                    "runtime": "envoy.wasm.runtime.v8",
                    "code": {"local": code},
                },
                "configuration": {
                    "@type": "type.googleapis.com/google.protobuf.StringValue",
                    "value": configuration,
                },
            },
        },
    })
}

/// Formats the configuration of a plugin in one line. Fields that are absent have the control plane's defaults.
#[must_use]
pub fn plugin(plugin: Plugin, document: &Document) -> String {
    serde_json::json!({"plugin": plugin, "version": document.version, "policy": document}).to_string()
}

/// Formats the configuration for people: a line for each rule and service.
pub(super) fn readable(plugin: Plugin, document: &Document) -> String {
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
    text.push_str("}}\n");
    text
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
