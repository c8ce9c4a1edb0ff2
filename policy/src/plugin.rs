//! The configuration of a plugin of the filter: its role, its settings, and the policy.

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::strict::{self, Object};

/// One of the module's two plugins.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Plugin {
    /// The network filter on the outbound listener.
    Network,
    /// The HTTP filter on the internal listener.
    Http,
}

/// The configuration of a plugin, as JSON.
///
/// The policy's type is open, so that a reader can leave it as text ([`RawValue`]) until it is needed: both plugins of
/// a worker carry the same one, and it is compiled once.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PluginConfig<P> {
    /// The plugin that this configuration is for.
    #[serde(deserialize_with = "strict::word")]
    pub plugin: Plugin,
    /// The policy's version, which both plugins of a worker have in common.
    pub version: String,
    /// The port of the outbound listener: a connection to it was not intercepted. 1 to 65535.
    #[serde(default = "default_listener_port")]
    pub listener_port: u16,
    /// The HTTP status of a refused request.
    #[serde(default = "default_deny_status")]
    pub http_deny_status: u16,
    /// The time that the first bytes of a connection may take where they decide, in milliseconds.
    #[serde(default = "default_first_bytes_timeout")]
    pub first_bytes_timeout_ms: u32,
    /// Text that no earlier configuration had. The filter does not interpret it. Envoy reuses a plugin whose
    /// configuration it has seen, without configuring it again, so equal bytes must not come back.
    #[serde(default)]
    pub nonce: String,
    /// The [`crate::Document`].
    pub policy: P,
}

impl<'t> PluginConfig<&'t RawValue> {
    /// Reads a configuration from a complete JSON text, and leaves its policy as text.
    ///
    /// # Errors
    /// When the text is not JSON, lacks a field or has one that is not known.
    ///
    /// ```
    /// # fn main() -> Result<(), serde_json::Error> {
    /// let config = egress_policy::PluginConfig::from_json(r#"{"plugin": "http", "version": "7", "policy": {}}"#)?;
    /// assert_eq!((config.plugin, config.http_deny_status), (egress_policy::Plugin::Http, 403));
    /// assert_eq!(config.policy.get(), "{}");
    /// # Ok(())
    /// # }
    /// ```
    pub fn from_json(text: &'t str) -> Result<Self, serde_json::Error> {
        serde_json::from_str(text).map(|Object(config)| config)
    }
}

fn default_listener_port() -> u16 {
    15001
}

fn default_deny_status() -> u16 {
    403
}

fn default_first_bytes_timeout() -> u32 {
    5000
}
