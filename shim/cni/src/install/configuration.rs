//! Network configurations of a node, with and without the plugin.

use serde_json::{Map, Value, json};

use crate::error::SUPPORTED_VERSIONS;
use crate::plugin::PLUGIN_NAME;

/// A network configuration.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Configuration(Map<String, Value>);

impl Configuration {
    /// Parses a configuration: a list of plugins, or a single one, which becomes a list. `None` if no container runtime
    /// would use it for pods.
    pub(super) fn parse(text: &[u8], is_list: bool) -> Option<Self> {
        let Ok(Value::Object(mut root)) = serde_json::from_slice(text) else { return None };
        if !is_list {
            root.get("type")?.as_str().filter(|kind| !kind.is_empty())?;
            let name = root.get("name").cloned().unwrap_or_default();
            let version = root.remove("cniVersion").unwrap_or_default();
            root = Map::from_iter([
                ("cniVersion".to_owned(), version),
                ("name".to_owned(), name),
                ("plugins".to_owned(), json!([root])),
            ]);
        }
        let plugins = root.get("plugins")?.as_array()?;
        let is_for_pods = plugins.iter().any(|plugin| !["loopback", PLUGIN_NAME].contains(&kind(plugin)));
        (is_for_pods && root.get("name").is_some_and(Value::is_string)).then_some(Self(root))
    }

    /// Checks that the plugin speaks every version that a runtime may choose.
    pub(super) fn check_version(&self) -> Result<(), String> {
        let listed = self.0.get("cniVersions").and_then(Value::as_array).into_iter().flatten();
        let own = self.0.get("cniVersion").unwrap_or(&Value::Null);
        for version in listed.chain([own]) {
            let version = version.as_str().unwrap_or_default();
            if !SUPPORTED_VERSIONS.contains(&version) {
                let versions = SUPPORTED_VERSIONS.join(", ");
                return Err(format!(
                    "its `cniVersion` is `{version}`, and the plugin needs one of {versions}"
                ));
            }
        }
        Ok(())
    }

    fn plugins(&self) -> &[Value] {
        self.0.get("plugins").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default()
    }

    /// Returns true if the plugin is in the list.
    pub(super) fn has_plugin(&self) -> bool {
        self.plugins().iter().any(|plugin| kind(plugin) == PLUGIN_NAME)
    }

    /// The configuration without the plugin.
    pub(super) fn without_plugin(&self) -> Self {
        let others = self.plugins().iter().filter(|plugin| kind(plugin) != PLUGIN_NAME).cloned().collect();
        let mut root = self.0.clone();
        root.insert("plugins".to_owned(), Value::Array(others));
        Self(root)
    }

    /// The configuration with the plugin at its end, after those that make interfaces.
    pub(super) fn with_plugin(&self, plugin: &Value) -> Self {
        if self.plugins().iter().filter(|other| kind(other) == PLUGIN_NAME).eq([plugin]) {
            return self.clone();
        }
        let Self(mut root) = self.without_plugin();
        if let Some(plugins) = root.get_mut("plugins").and_then(Value::as_array_mut) {
            plugins.push(plugin.clone());
        }
        Self(root)
    }

    /// The text of a file.
    pub(super) fn render(&self) -> String {
        format!("{:#}\n", Value::Object(self.0.clone()))
    }
}

fn kind(plugin: &Value) -> &str {
    plugin["type"].as_str().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(value: &Value, is_list: bool) -> Option<Configuration> {
        Configuration::parse(value.to_string().as_bytes(), is_list)
    }

    #[test]
    fn the_plugin_comes_last_once_and_goes_without_trace() {
        let bridge = json!({"type": "bridge", "ipam": {"type": "host-local"}});
        let portmap = json!({"type": "portmap", "capabilities": {"portMappings": true}});
        let list = |plugins: Value| json!({"cniVersion": "1.0.0", "name": "n", "disableCheck": true, "plugins": plugins});
        let plugin = json!({"type": PLUGIN_NAME, "kubeconfig": "/k"});
        let original = parse(&list(json!([bridge, portmap])), true).expect("a configuration");
        let with = original.with_plugin(&plugin);
        assert_eq!(with.render(), format!("{:#}\n", list(json!([bridge, portmap, plugin]))));
        assert_eq!(with.with_plugin(&plugin), with);
        assert_eq!(with.without_plugin(), original);
        // An older entry is replaced, and so are two.
        let old = json!({"type": PLUGIN_NAME});
        for plugins in [json!([old, bridge, portmap]), json!([bridge, plugin, portmap, plugin])] {
            let found = parse(&list(plugins), true).expect("a configuration").with_plugin(&plugin);
            assert_eq!(found, with);
        }
        // Another program's plugin may come after it.
        let later = list(json!([bridge, plugin, portmap]));
        let found = parse(&later, true).expect("a configuration");
        assert_eq!(found.with_plugin(&plugin), found);
    }

    #[test]
    fn a_single_plugin_becomes_a_list() {
        let single = json!({"cniVersion": "0.3.1", "name": "n", "type": "bridge", "bridge": "b0"});
        let found = parse(&single, false).expect("a configuration");
        let expected = json!({"cniVersion": "0.3.1", "name": "n", "plugins": [{"name": "n", "type": "bridge", "bridge": "b0"}]});
        assert_eq!(found.render(), format!("{expected:#}\n"));
    }

    #[test]
    fn what_no_runtime_would_use_is_no_configuration() {
        for (text, is_list) in [
            ("", true),
            ("{", true),
            ("[]", true),
            ("{}", true),
            (r#"{"name":"n","plugins":[]}"#, true),
            (r#"{"name":"n","plugins":{}}"#, true),
            (r#"{"plugins":[{"type":"bridge"}]}"#, true),
            (r#"{"name":"lo","plugins":[{"type":"loopback"}]}"#, true),
            (r#"{"name":"n","plugins":[{"type":"osm-egress-cni"}]}"#, true),
            (r#"{"name":"lo","type":"loopback"}"#, false),
            (r#"{"name":"n"}"#, false),
            (r#"{"name":"n","type":""}"#, false),
        ] {
            assert_eq!(Configuration::parse(text.as_bytes(), is_list), None, "{text}");
        }
    }

    #[test]
    fn versions_that_the_plugin_does_not_speak_are_refused() {
        for (version, more, good) in [
            (json!("0.3.1"), json!(null), true),
            (json!("1.1.0"), json!(["0.4.0", "1.0.0"]), true),
            (json!("0.2.0"), json!(null), false),
            (json!(null), json!(null), false),
            (json!("1.0.0"), json!(["1.0.0", "2.0.0"]), false),
        ] {
            let value = json!({"cniVersion": version, "cniVersions": more, "name": "n", "plugins": [{"type": "bridge"}]});
            let found = parse(&value, true).expect("a configuration").check_version();
            assert_eq!(found.is_ok(), good, "{value}: {found:?}");
        }
    }
}
