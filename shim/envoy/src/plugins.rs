//! The configurations of the two plugins.
//!
//! A configuration holds the policy and, where it is inline, the module: messages in messages, whose lengths count
//! what is in them. They are put together from parts, so that neither of the two is copied.

use bytes::Bytes;
use egress_policy::{Document, Plugin, PluginConfig};
use envoy_types::pb::envoy::config::core::v3::{
    AsyncDataSource, DataSource, TypedExtensionConfig, async_data_source, data_source,
};
use envoy_types::pb::envoy::extensions::filters::http::wasm::v3::Wasm as HttpWasm;
use envoy_types::pb::envoy::extensions::filters::network::wasm::v3::Wasm as NetworkWasm;
use envoy_types::pb::envoy::extensions::wasm::v3::{FailurePolicy, PluginConfig as WasmPlugin, VmConfig};
use envoy_types::pb::google::protobuf::{Any, StringValue};
use prost::Message;
use prost::Name;
use prost::encoding::{WireType, encode_key, encode_varint};
use std::sync::Arc;

use super::name;
use super::settings::{Module, Settings};
use crate::snapshot::{NONCE, Part, PolicyText, Resource, SharedBytes};

/// The configurations of the network and the HTTP plugin. They differ in their first field only, so
/// that one VM per worker serves both and compiles the policy once.
pub(super) fn both(
    document: &Arc<Document>,
    settings: &Settings,
    module: Option<&SharedBytes>,
) -> [Resource; 2] {
    let policy = Arc::new(PolicyText::new(Arc::clone(document)));
    let plugin = |name: &str, plugin, type_url| {
        let wasm = nested(1, wasm(name, plugin, &document.version, &policy, settings, module));
        let extension = TypedExtensionConfig { name: name.to_owned(), typed_config: None };
        let parts = [vec![constant(&extension)], nested(2, in_any(type_url, wasm))].concat();
        Resource::of_parts(name.to_owned(), TypedExtensionConfig::type_url(), parts)
    };
    [
        plugin(name::NETWORK_PLUGIN, Plugin::Network, NetworkWasm::type_url()),
        plugin(name::HTTP_PLUGIN, Plugin::Http, HttpWasm::type_url()),
    ]
}

/// A message, or some of its fields.
fn constant(message: &impl Message) -> Part {
    Part::Constant(message.encode_to_vec().into())
}

/// A field that holds bytes or a message: its number and length, and then the parts.
fn nested(field: u32, parts: Vec<Part>) -> Vec<Part> {
    let length: usize = parts.iter().map(Part::len).sum();
    let mut head = Vec::new();
    encode_key(field, WireType::LengthDelimited, &mut head);
    encode_varint(length as u64, &mut head);
    std::iter::once(Part::Constant(head.into())).chain(parts).collect()
}

/// An `Any` of this type.
fn in_any(type_url: String, parts: Vec<Part>) -> Vec<Part> {
    let any = Any { type_url, value: Vec::new() };
    [vec![constant(&any)], nested(2, parts)].concat()
}

/// Text with parts in the place of placeholders.
fn fill(text: &str, places: [(&str, Part); 2]) -> Vec<Part> {
    let mut parts = Vec::new();
    let mut rest = text;
    let constant = |text: &str| Part::Constant(Bytes::copy_from_slice(text.as_bytes()));
    for (placeholder, part) in places {
        // A configuration without it is one that the filter refuses.
        let (before, after) = rest.split_once(placeholder).unwrap_or((rest, ""));
        parts.extend([constant(before), part]);
        rest = after;
    }
    parts.push(constant(rest));
    parts
}

fn wasm(
    name: &str,
    plugin: Plugin,
    version: &str,
    policy: &Arc<PolicyText>,
    settings: &Settings,
    module: Option<&SharedBytes>,
) -> Vec<Part> {
    let config = PluginConfig {
        plugin,
        version: version.to_owned(),
        listener_port: settings.listener_port,
        http_deny_status: settings.http_deny_status,
        first_bytes_timeout_ms: u32::try_from(settings.first_bytes_timeout.as_millis()).unwrap_or(u32::MAX),
        nonce: NONCE.to_owned(),
        policy: (),
    };
    // The policy comes last.
    let json = serde_json::to_string(&config).unwrap_or_default();
    let json = fill(&json, [(NONCE, Part::Nonce), ("null", Part::Policy(Arc::clone(policy)))]);
    let configuration = in_any(StringValue::type_url(), nested(1, json));
    let code = match (&settings.module, module) {
        (Module::Inline(_), Some(module)) => nested(1, nested(2, vec![Part::Module(module.clone())])),
        (Module::Inline(bytes), None) => nested(1, nested(2, vec![Part::Constant(bytes.clone())])),
        (Module::File(path), _) => {
            let source = data_source::Specifier::Filename(path.to_string_lossy().into_owned());
            vec![constant(&AsyncDataSource {
                specifier: Some(async_data_source::Specifier::Local(DataSource {
                    specifier: Some(source),
                    ..Default::default()
                })),
            })]
        }
    };
    let vm = VmConfig {
        // Never empty: plugins without one share their data with strangers.
        vm_id: "egress".to_owned(),
        runtime: "envoy.wasm.runtime.v8".to_owned(),
        ..Default::default()
    };
    let plugin = WasmPlugin {
        name: name.to_owned(),
        root_id: name.to_owned(),
        failure_policy: FailurePolicy::FailReload.into(),
        ..Default::default()
    };
    let vm = [vec![constant(&vm)], nested(3, code)].concat();
    [vec![constant(&plugin)], nested(3, vm), nested(4, configuration)].concat()
}
