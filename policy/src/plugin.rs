//! What the control plane gives a plugin of the filter: its part, its settings, and the policy.

use serde::{Deserialize, Serialize};

/// Which of the module's two plugins a configuration is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Plugin {
    /// The network filter on the outbound listener.
    Network,
    /// The HTTP filter on the internal listener.
    Http,
}

/// A plugin's configuration, as JSON.
///
/// The policy's type is open, so that a reader can leave it as text ([`crate::json::Raw`]) until it is
/// needed: both plugins of a worker carry the same one, and it is compiled once.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PluginConfig<P> {
    /// Whose configuration this is.
    pub plugin: Plugin,
    /// The policy's version, which both plugins of a worker have in common.
    pub version: String,
    /// The port of the outbound listener: a connection to it was not intercepted. 1 to 65535.
    #[serde(default = "default_listener_port")]
    pub listener_port: u16,
    /// The HTTP status of a refused request.
    #[serde(default = "default_deny_status")]
    pub http_deny_status: u16,
    /// The [`crate::Document`].
    pub policy: P,
}

fn default_listener_port() -> u16 {
    15001
}

fn default_deny_status() -> u16 {
    403
}
