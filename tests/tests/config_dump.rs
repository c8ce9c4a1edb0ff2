//! The control plane's resources and the output of `compile --output envoy` configure Envoy alike, field by field.
//!
//! One is made of protobuf messages, the other of text. Envoy's `/config_dump` shows both in one form.

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};
use egress_tests::envoy::Envoy;
use egress_tests::manifests::{
    ENFORCED_AND_AUDITED, by_upstream_settings, egress, mesh_config, upstream_settings,
};
use egress_tests::netns::ensure_capable;
use egress_tests::network::TestNetwork;
use egress_tests::sidecar;
use egress_tests::standalone::Standalone;
use serde_json::Value;

/// Listeners, clusters and plugins by name. A plugin is a part of its listener where Envoy has no control plane.
#[derive(Debug, Default)]
struct Configuration {
    listeners: BTreeMap<String, Value>,
    clusters: BTreeMap<String, Value>,
    plugins: BTreeMap<String, Value>,
}

impl Configuration {
    fn read(envoy: &Envoy<'_>) -> Result<Self> {
        let dump: Value = serde_json::from_str(&envoy.admin("/config_dump")?)?;
        let mut all = Self::default();
        for section in dump["configs"].as_array().context("no configs")? {
            let items = |field: &str| section[field].as_array().into_iter().flatten();
            let mut insert = |into: fn(&mut Self) -> &mut BTreeMap<String, Value>, value: &Value| {
                let name = value["name"].as_str().context("a resource without a name")?;
                into(&mut all).insert(name.to_owned(), value.clone());
                Ok::<(), anyhow::Error>(())
            };
            for item in items("static_listeners") {
                insert(|all| &mut all.listeners, &item["listener"])?;
            }
            for item in items("dynamic_listeners") {
                insert(|all| &mut all.listeners, &item["active_state"]["listener"])?;
            }
            for item in items("static_clusters").chain(items("dynamic_active_clusters")) {
                insert(|all| &mut all.clusters, &item["cluster"])?;
            }
            for item in items("ecds_filters") {
                insert(|all| &mut all.plugins, &item["ecds_filter"])?;
            }
        }
        Ok(all)
    }

    /// Puts each plugin in its place, and takes away what only one of the two can have.
    fn normalize(mut self) -> Result<Self> {
        // The text listens for IPv4 alone, as its header says.
        self.listeners.remove("outbound-listener-ipv6");
        // They lead to the control plane, and to Envoy's own metrics.
        self.clusters.remove("osm-egress");
        self.clusters.remove("egress-admin");
        self.listeners.remove("egress-metrics");
        for listener in self.listeners.values_mut() {
            resolve(listener, &self.plugins)?;
        }
        Ok(self)
    }
}

/// Replaces each reference to a plugin's configuration, and normalizes the configurations.
fn resolve(value: &mut Value, plugins: &BTreeMap<String, Value>) -> Result<()> {
    match value {
        Value::Object(fields) => {
            if fields.contains_key("config_discovery") {
                let name = fields["name"].as_str().context("a plugin without a name")?;
                let plugin = plugins.get(name).with_context(|| format!("no plugin {name}"))?;
                fields.remove("config_discovery");
                fields.insert("typed_config".to_owned(), plugin["typed_config"].clone());
            }
            if let Some(vm) = fields.get_mut("vm_config").and_then(Value::as_object_mut) {
                // Inline or by its path.
                ensure!(vm.remove("code").is_some(), "a plugin without a module");
                let text = fields["configuration"]["value"].as_str().context("no configuration")?;
                let mut plugin: Value = serde_json::from_str(text)?;
                let plugin_fields = plugin.as_object_mut().context("no object")?;
                plugin_fields.remove("nonce");
                // Settings that the text leaves to their defaults.
                for (field, default) in
                    [("listenerPort", 15001), ("httpDenyStatus", 403), ("firstBytesTimeoutMs", 5000)]
                {
                    let value = plugin_fields.remove(field);
                    ensure!(value.is_none_or(|value| value == default), "{field} has no default");
                }
                fields.insert("configuration".to_owned(), plugin);
            }
            fields.values_mut().try_for_each(|value| resolve(value, plugins))
        }
        Value::Array(items) => items.iter_mut().try_for_each(|value| resolve(value, plugins)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => Ok(()),
    }
}

/// Adds the fields of a value by their paths.
fn flatten(path: &str, value: &Value, fields: &mut BTreeMap<String, Value>) {
    match value {
        Value::Object(members) if !members.is_empty() => {
            members.iter().for_each(|(name, value)| flatten(&format!("{path}.{name}"), value, fields));
        }
        Value::Array(items) if !items.is_empty() => {
            items.iter().enumerate().for_each(|(number, value)| {
                flatten(&format!("{path}[{number}]"), value, fields);
            });
        }
        Value::Null
        | Value::Bool(_)
        | Value::Number(_)
        | Value::String(_)
        | Value::Array(_)
        | Value::Object(_) => drop(fields.insert(path.to_owned(), value.clone())),
    }
}

/// Lists the fields in which two sets of resources differ.
fn differences(served: &BTreeMap<String, Value>, printed: &BTreeMap<String, Value>) -> Vec<String> {
    let flat = |resources: &BTreeMap<String, Value>| {
        let mut fields = BTreeMap::new();
        resources.iter().for_each(|(name, value)| flatten(name, value, &mut fields));
        fields
    };
    let (served, printed) = (flat(served), flat(printed));
    let mut paths: Vec<_> = served.keys().chain(printed.keys()).collect();
    paths.sort_unstable();
    paths.dedup();
    let different = paths.into_iter().filter(|path| served.get(*path) != printed.get(*path));
    different
        .map(|path| {
            let show =
                |fields: &BTreeMap<String, Value>| fields.get(path).map_or("-".to_owned(), Value::to_string);
            format!("{path}: served {}, printed {}", show(&served), show(&printed))
        })
        .collect()
}

#[test]
fn printed_and_served_configurations_are_equal() -> Result<()> {
    ensure_capable()?;
    let own_clusters = upstream_settings("s", "{tcp: {maxConnections: 10, connectTimeout: 3s}}")
        + &egress(
            "own",
            &format!(
                "hosts: [httpbin.org, '*.example.com']\nports: [{{number: 443, protocol: https}}]\n{}",
                by_upstream_settings("s")
            ),
        );
    let global = mesh_config("enableEgress: true");
    for (case, manifests, clusters) in [
        ("enforced", ENFORCED_AND_AUDITED, &[][..]),
        ("own clusters", &own_clusters, &["*.example.com:443", "httpbin.org:443"]),
        ("global egress", &global, &["passthrough-outbound"]),
    ] {
        let network = TestNetwork::new()?;
        network.write("mesh.yaml", manifests)?;
        let served = {
            let _control_plane = network.control_plane(&[])?;
            let pod = network.pod()?;
            let envoy = Envoy::start(&pod, &sidecar::bootstrap("curl/curl", false)?, 1)?;
            Configuration::read(&envoy)?.normalize()?
        };
        let printed = {
            let standalone = Standalone::new()?;
            let pod = network.pod()?;
            let envoy = Envoy::start(&pod, &standalone.compiled(network.manifests.path())?, 1)?;
            Configuration::read(&envoy)?.normalize()?
        };
        ensure!(
            served.listeners.len() == 2 && served.clusters.len() == 4 + clusters.len(),
            "{case}: {served:#?}"
        );
        let lacking = clusters.iter().find(|name| !served.clusters.contains_key(**name));
        ensure!(lacking.is_none(), "{case}: no cluster {lacking:?}");
        ensure!(served.plugins.len() == 2, "{case}: no plugins by ECDS");
        let mut found = differences(&served.listeners, &printed.listeners);
        found.extend(differences(&served.clusters, &printed.clusters));
        ensure!(found.is_empty(), "{case}:\n{}", found.join("\n"));
    }
    Ok(())
}
