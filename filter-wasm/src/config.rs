//! The configuration of a plugin.

use std::rc::Rc;

use egress_policy::{Plugin, PluginConfig, Policy};

use crate::policy_cache;

/// The settings of one plugin. Streams share it with the root that was configured.
#[derive(Debug, Clone)]
pub(crate) struct Config {
    pub(crate) plugin: Plugin,
    pub(crate) listener_port: u16,
    pub(crate) deny_status: u16,
    pub(crate) first_bytes_timeout_ms: u32,
    pub(crate) policy: Rc<Policy>,
    /// No earlier configuration had these bytes.
    pub(crate) has_nonce: bool,
}

impl Config {
    /// Reads a plugin configuration.
    ///
    /// The result depends on the bytes alone: a configuration that the main thread accepts must not fail on a worker,
    /// where Envoy would continue without the filter.
    pub(crate) fn read(bytes: &[u8]) -> Result<Self, String> {
        let text = std::str::from_utf8(bytes).map_err(|e| e.to_string())?;
        let config = PluginConfig::from_json(text).map_err(|e| e.to_string())?;
        if !(400..=599).contains(&config.http_deny_status) {
            return Err(format!("httpDenyStatus must be 400 to 599, not {}", config.http_deny_status));
        }
        Ok(Self {
            plugin: config.plugin,
            listener_port: config.listener_port,
            deny_status: config.http_deny_status,
            first_bytes_timeout_ms: config.first_bytes_timeout_ms,
            policy: policy_cache::compile(config.policy.get())?,
            has_nonce: !config.nonce.is_empty(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(plugin: &str, rules: &str, more: &str) -> String {
        format!(
            r#"{{"plugin":"{plugin}","version":"v"{more},"policy":{{"apiVersion":"egress-policy/v1",
            "identity":{{"namespace":"ns","serviceAccount":"sa"}},"version":"v","mode":"enforce","rules":{rules}}}}}"#
        )
    }

    #[test]
    fn both_plugins_share_one_policy() {
        let network = Config::read(config("network", "[]", "").as_bytes()).expect("valid");
        let http = Config::read(config("http", "[]", r#","httpDenyStatus":404"#).as_bytes()).expect("valid");
        assert!(Rc::ptr_eq(&network.policy, &http.policy));
        assert_eq!((http.plugin, http.deny_status, network.deny_status), (Plugin::Http, 404, 403));
        let rules = r#"[{"policy":"a/b","name":"n","port":1,"protocol":"tcp"}]"#;
        let other = Config::read(config("network", rules, "").as_bytes()).expect("valid");
        assert!(!Rc::ptr_eq(&network.policy, &other.policy), "same version, other content");
    }

    #[test]
    fn an_invalid_configuration_is_refused() {
        for (name, text) in [
            ("empty", String::new()),
            ("no JSON", "x".to_owned()),
            ("unknown field", config("network", "[]", r#","x":1"#)),
            ("unknown plugin", config("tcp", "[]", "")),
            ("status", config("http", "[]", r#","httpDenyStatus":200"#)),
            ("bad rule", config("network", r#"[{"policy":"a/b","name":"n","port":0,"protocol":"tcp"}]"#, "")),
        ] {
            assert!(Config::read(text.as_bytes()).is_err(), "{name}");
        }
        assert!(Config::read(b"\xff").is_err());
    }
}
