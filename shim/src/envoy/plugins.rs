use egress_policy::{Document, Plugin, PluginConfig};
use envoy_types::pb::envoy::config::core::v3::{
    AsyncDataSource, DataSource, TypedExtensionConfig, async_data_source, data_source,
};
use envoy_types::pb::envoy::extensions::filters::http::wasm::v3::Wasm as HttpWasm;
use envoy_types::pb::envoy::extensions::filters::network::wasm::v3::Wasm as NetworkWasm;
use envoy_types::pb::envoy::extensions::wasm::v3::{
    FailurePolicy, PluginConfig as WasmPlugin, VmConfig, plugin_config::Vm,
};
use envoy_types::pb::google::protobuf::{Any, StringValue};
use serde_json::value::RawValue;

use super::{Module, Settings, any, name};
use crate::snapshot::NONCE;

/// The configurations of the network and the HTTP plugin. They differ in their first field only, so
/// that one VM per worker serves both and compiles the policy once.
pub(super) fn both(document: &Document, settings: &Settings) -> [TypedExtensionConfig; 2] {
    let policy = serde_json::value::to_raw_value(document)
        // A document is made of strings, numbers and lists: it cannot fail to be written, and if it
        // did, a policy that the filter cannot read refuses everything.
        .unwrap_or_else(|_| RawValue::NULL.to_owned());
    let plugin = |name, plugin| wasm(name, plugin, &document.version, &policy, settings);
    let network = NetworkWasm { config: Some(plugin(name::NETWORK_PLUGIN, Plugin::Network)) };
    let http = HttpWasm { config: Some(plugin(name::HTTP_PLUGIN, Plugin::Http)) };
    [extension(name::NETWORK_PLUGIN, any(&network)), extension(name::HTTP_PLUGIN, any(&http))]
}

fn extension(name: &str, config: Any) -> TypedExtensionConfig {
    TypedExtensionConfig { name: name.to_owned(), typed_config: Some(config) }
}

fn wasm(name: &str, plugin: Plugin, version: &str, policy: &RawValue, settings: &Settings) -> WasmPlugin {
    let config = PluginConfig {
        plugin,
        version: version.to_owned(),
        listener_port: settings.listener_port,
        http_deny_status: settings.http_deny_status,
        first_bytes_timeout_ms: u32::try_from(settings.first_bytes_timeout.as_millis()).unwrap_or(u32::MAX),
        nonce: NONCE.to_owned(),
        policy,
    };
    let json = StringValue { value: serde_json::to_string(&config).unwrap_or_default() };
    let source = match &settings.module {
        Module::Inline(bytes) => data_source::Specifier::InlineBytes(bytes.to_vec()),
        Module::File(path) => data_source::Specifier::Filename(path.to_string_lossy().into_owned()),
    };
    let code = AsyncDataSource {
        specifier: Some(async_data_source::Specifier::Local(DataSource {
            specifier: Some(source),
            ..Default::default()
        })),
    };
    WasmPlugin {
        name: name.to_owned(),
        root_id: name.to_owned(),
        configuration: Some(any(&json)),
        failure_policy: FailurePolicy::FailReload.into(),
        vm: Some(Vm::VmConfig(VmConfig {
            // Never empty: plugins without one share their data with strangers.
            vm_id: "egress".to_owned(),
            runtime: "envoy.wasm.runtime.v8".to_owned(),
            code: Some(code),
            ..Default::default()
        })),
        ..Default::default()
    }
}
