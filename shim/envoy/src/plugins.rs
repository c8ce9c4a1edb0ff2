//! The configurations of the two plugins as resources.
//!
//! A configuration holds the policy and, where it is inline, the module. They are put together from parts, so that neither
//! of the two is copied, and all that is the same for every identity is encoded once.

use std::sync::Arc;

use egress_policy::{Document, Plugin, PluginConfig};
use egress_standalone::{Module, Settings, config, plugin};

use crate::encode::{EncodeError, Encoder, Template};
use crate::snapshot::{NONCE, Part, PolicyText, Resource, SharedBytes, type_url};

/// The places in a configuration, in the order of [`Plugins::resources`].
const PLACEHOLDERS: [&str; 4] = ["\"<version>\"", NONCE, "\"<policy>\"", MODULE];
/// In the place of the module. Protobuf writes bytes in base64 in JSON.
const MODULE: &str = "module";
const MODULE_BASE64: &str = "bW9kdWxl";

/// The plugins, without a policy.
#[derive(Debug)]
pub(crate) struct Plugins {
    module: Option<SharedBytes>,
    templates: [(Plugin, Template); 2],
}

impl Plugins {
    /// Encodes what does not depend on the policy.
    pub(crate) fn new(encoder: &Encoder, settings: &Settings) -> Result<Self, EncodeError> {
        let module = match &settings.module {
            Module::Inline(bytes) => Some(SharedBytes::new(bytes.clone())),
            Module::File(_) => None,
        };
        let template = |plugin| Ok::<_, EncodeError>((plugin, template(encoder, settings, plugin)?));
        Ok(Self { module, templates: [template(Plugin::Network)?, template(Plugin::Http)?] })
    }

    /// The configurations of the network and the HTTP plugin. They differ in their first field only, so
    /// that one VM per worker serves both and compiles the policy once.
    pub(crate) fn resources(&self, document: &Arc<Document>) -> impl Iterator<Item = Resource> {
        let policy = Arc::new(PolicyText::new(Arc::clone(document)));
        // A string is always JSON; an empty one would be a configuration that the filter refuses.
        let version = serde_json::to_string(&document.version).unwrap_or_default();
        let mut holes = vec![Part::Constant(version.into()), Part::Nonce, Part::Policy(policy)];
        holes.extend(self.module.clone().map(Part::Module));
        self.templates.iter().map(move |(plugin, template)| {
            let name = plugin::name(*plugin).to_owned();
            Resource::of_parts(name, type_url::EXTENSION.to_owned(), template.fill(&holes))
        })
    }
}

fn template(encoder: &Encoder, settings: &Settings, plugin: Plugin) -> Result<Template, EncodeError> {
    let text = serde_json::to_string(&PluginConfig {
        plugin,
        version: "<version>".to_owned(),
        listener_port: settings.listener_port,
        http_deny_status: settings.http_deny_status,
        first_bytes_timeout_ms: u32::try_from(settings.first_bytes_timeout.as_millis()).unwrap_or(u32::MAX),
        nonce: NONCE.to_owned(),
        policy: "<policy>",
    });
    let (code, placeholders) = match &settings.module {
        Module::Inline(_) => (config!({"inline_bytes": MODULE_BASE64}), &PLACEHOLDERS[..]),
        Module::File(path) => {
            (config!({"filename": path.to_string_lossy().into_owned()}), &PLACEHOLDERS[..3])
        }
    };
    let extension = plugin::extension(plugin, code, &text.unwrap_or_default());
    encoder.template(type_url::EXTENSION, &extension, placeholders)
}
