//! `envoy/standalone.yaml` and the output of `osm-egress compile`, adapted to a test network.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use anyhow::{Result, ensure};

use crate::control_plane;
use crate::envoy;
use crate::network::NAME_SERVER;
use crate::repository_root;

/// A module that Envoy may read.
#[derive(Debug)]
pub struct Standalone {
    module: tempfile::NamedTempFile,
}

impl Standalone {
    /// Puts the module where Envoy may read it.
    ///
    /// # Errors
    /// Fails if there is none.
    pub fn new() -> Result<Self> {
        let module = tempfile::NamedTempFile::with_suffix(".wasm")?;
        fs::copy(control_plane::module()?, module.path())?;
        fs::set_permissions(module.path(), fs::Permissions::from_mode(0o644))?;
        Ok(Self { module })
    }

    /// The text of `envoy/standalone.yaml`, with its own policy.
    ///
    /// # Errors
    /// Fails if the file is missing or lacks a text that is replaced.
    pub fn example(&self) -> Result<String> {
        let mut text = fs::read_to_string(repository_root().join("envoy/standalone.yaml"))?;
        if envoy::version()?.starts_with("1.39.") {
            replace(
                &mut text,
                "      envoy.reloadable_features.enable_send_rst_on_user_space_socket: false\n",
                "",
            )?;
        }
        replace(&mut text, "target/egress_filter.wasm", &self.module.path().to_string_lossy())?;
        in_the_world(text)
    }

    /// The configuration of `curl/curl` from a folder of manifests, including those with mistakes.
    ///
    /// # Errors
    /// Fails if they cannot be read.
    pub fn compiled(&self, manifests: &Path) -> Result<String> {
        in_the_world(self.printed(manifests)?)
    }

    /// The output of `osm-egress compile` without changes.
    ///
    /// # Errors
    /// Fails if they cannot be read.
    pub fn printed(&self, manifests: &Path) -> Result<String> {
        let output = Command::new(control_plane::binary()?)
            .arg("compile")
            .arg(manifests)
            .args(["--identity", "curl/curl", "--output", "envoy", "--keep-going"])
            .args(["--envoy-version", &envoy::version()?])
            .arg("--wasm")
            .arg(self.module.path())
            .output()?;
        ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        Ok(String::from_utf8(output.stdout)?)
    }
}

/// Adds an admin interface. The name servers are those of `/etc/resolv.conf`.
#[must_use]
pub fn with_admin(text: &str) -> String {
    format!("{text}admin: {{address: {{socket_address: {{address: 127.0.0.1, port_value: 15000}}}}}}\n")
}

/// Adds the network's name server and an admin interface.
fn in_the_world(mut text: String) -> Result<String> {
    let options = "dns_resolver_options: {no_default_search_domain: true}\n";
    let server = format!("{{socket_address: {{address: \"{NAME_SERVER}\", port_value: 53}}}}");
    // In a filter and in a cluster, whose lines are indented differently.
    for indent in [14, 16] {
        let indent = format!("\n{}", " ".repeat(indent));
        let resolvers =
            format!("{indent}{options}").trim_end().to_owned() + &format!("{indent}resolvers: [{server}]\n");
        replace(&mut text, &format!("{indent}{options}"), &resolvers)?;
    }
    Ok(with_admin(&text))
}

fn replace(text: &mut String, from: &str, to: &str) -> Result<()> {
    ensure!(text.contains(from), "envoy/standalone.yaml has no `{from}`");
    *text = text.replace(from, to);
    Ok(())
}
