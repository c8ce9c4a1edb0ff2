//! `envoy/standalone.yaml` with another policy, for the harness.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use anyhow::{Context, Result, ensure};
use egress_policy::{Document, Mode};

use crate::mesh::{NAME_SERVER, root};
use crate::{envoy, shim};

/// The file, and the module that it names.
#[derive(Debug)]
pub struct Standalone {
    text: String,
    module: tempfile::NamedTempFile,
}

impl Standalone {
    /// What a user gets who starts Envoy at the repository's root, but for the name server, which is the world's, and
    /// an admin interface.
    ///
    /// # Errors
    /// When the file is not there, or no longer has what is replaced.
    pub fn new() -> Result<Self> {
        let module = tempfile::NamedTempFile::with_suffix(".wasm")?;
        fs::copy(shim::module()?, module.path())?;
        fs::set_permissions(module.path(), fs::Permissions::from_mode(0o644))?;
        let mut text = fs::read_to_string(root().join("envoy/standalone.yaml"))?;
        let mut replace = |from: &str, to: &str| -> Result<()> {
            ensure!(text.contains(from), "envoy/standalone.yaml has no `{from}`");
            text = text.replace(from, to);
            Ok(())
        };
        if envoy::version()?.starts_with("1.39.") {
            replace("    static_layer:\n", "    static_layer: {}\n")?;
            replace("      envoy.reloadable_features.enable_send_rst_on_user_space_socket: false\n", "")?;
        }
        replace("target/egress_filter.wasm", &module.path().to_string_lossy())?;
        let family = "dns_lookup_family: V4_PREFERRED";
        let kind = "type.googleapis.com/envoy.extensions.network.dns_resolver.cares.v3.CaresDnsResolverConfig";
        let resolver = format!(
            "{family}\n            typed_dns_resolver_config: {{name: envoy.network.dns_resolver.cares, typed_config: \
             {{\"@type\": {kind}, resolvers: [{{socket_address: {{address: {NAME_SERVER}, port_value: 53}}}}]}}}}"
        );
        replace(family, &resolver)?;
        text += "admin: {address: {socket_address: {address: 127.0.0.1, port_value: 15000}}}\n";
        Ok(Self { text, module })
    }

    /// As it is.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.text
    }

    /// With this policy instead of the example, and what the policy needs.
    ///
    /// # Errors
    /// When the file no longer has the example.
    pub fn with(&self, document: &Document) -> Result<String> {
        let mut text = self.text.clone();
        for plugin in ["network", "http"] {
            let start = format!("{{\"plugin\": \"{plugin}\"");
            let start = text.find(&start).with_context(|| format!("there is no configuration of `{plugin}`"))?;
            let end = text[start..].find("]}}").context("the configuration has no end")? + 3;
            let config = serde_json::json!({
                "plugin": plugin, "version": document.version, "policy": document,
            });
            text.replace_range(start..start + end, &config.to_string());
        }
        if document.mode == Mode::Passthrough {
            let clusters = "  clusters:\n";
            let passthrough = "  - {name: passthrough-outbound, type: ORIGINAL_DST, lb_policy: CLUSTER_PROVIDED}\n";
            ensure!(text.matches(clusters).count() == 1, "where are the clusters?");
            text = text.replace(clusters, &format!("{clusters}{passthrough}"));
        }
        ensure!(self.module.path().is_file(), "the module is gone");
        Ok(text)
    }
}
