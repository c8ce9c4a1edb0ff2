//! What the control plane gives a plugin of the filter: its part, its settings, and the policy.

use serde::{Deserialize, Serialize};

use crate::json::{Error, Field, Raw, Read, Reader, unknown_field};

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
    /// How long the first bytes of a connection may take where they decide, in milliseconds.
    #[serde(default = "default_first_bytes_timeout")]
    pub first_bytes_timeout_ms: u32,
    /// Text that no earlier configuration had. The filter does not read it; Envoy must not take this
    /// configuration for one that it had, because it does not tell a plugin of a configuration that comes back.
    #[serde(default)]
    pub nonce: String,
    /// The [`crate::Document`].
    pub policy: P,
}

impl<'t> Read<'t> for PluginConfig<Raw<'t>> {
    fn read(reader: &mut Reader<'t>) -> Result<Self, Error> {
        let mut plugin = Field::new("plugin");
        let mut version = Field::new("version");
        let mut listener_port = Field::new("listenerPort");
        let mut http_deny_status = Field::new("httpDenyStatus");
        let mut first_bytes_timeout_ms = Field::new("firstBytesTimeoutMs");
        let mut nonce = Field::new("nonce");
        let mut policy = Field::new("policy");
        reader.object(&mut |reader, name| match name {
            "plugin" => plugin.set(match &*reader.owned()? {
                "network" => Ok(Plugin::Network),
                "http" => Ok(Plugin::Http),
                other => Err(Error::unknown(other)),
            }),
            "version" => version.set(reader.owned()),
            "listenerPort" => listener_port.set(reader.unsigned()),
            "httpDenyStatus" => http_deny_status.set(reader.unsigned()),
            "firstBytesTimeoutMs" => first_bytes_timeout_ms.set(reader.unsigned()),
            "nonce" => nonce.set(reader.owned()),
            "policy" => policy.set(Raw::read(reader)),
            _ => unknown_field(name),
        })?;
        Ok(Self {
            plugin: plugin.required()?,
            version: version.required()?,
            listener_port: listener_port.or(default_listener_port()),
            http_deny_status: http_deny_status.or(default_deny_status()),
            first_bytes_timeout_ms: first_bytes_timeout_ms.or(default_first_bytes_timeout()),
            nonce: nonce.or(String::new()),
            policy: policy.required()?,
        })
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
