//! A complete configuration of an Envoy without control plane, as text.

use std::fmt;

use egress_compile::OwnCluster;
use egress_compile::blocked_ranges::BlockedRanges;
use egress_policy::{Document, Mode, Plugin};

use crate::settings::Settings;
use crate::value::{List, Value};
use crate::{EnvoyVersion, clusters, config, http, listeners, plugin, process, yaml};

/// The default path of the module: where `cargo xtask build` puts it.
pub const MODULE: &str = "target/egress_filter.wasm";

/// A complete configuration.
#[derive(Clone, Copy, Debug)]
pub struct Configuration<'a> {
    /// The policy.
    pub document: &'a Document,
    /// The clusters with connection settings that it names.
    pub clusters: &'a [OwnCluster],
    /// The path of the module.
    pub module: &'a str,
    /// The version of Envoy.
    pub version: EnvoyVersion,
    /// The addresses that a name may not resolve to.
    pub blocked: &'a BlockedRanges,
}

impl fmt::Display for Configuration<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.header(f)?;
        f.write_str(&yaml::text(&self.value()))
    }
}

impl Configuration<'_> {
    /// Writes the comment at the top: the origin of the file, and how to use it.
    fn header(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { document, clusters, module, version, blocked } = self;
        let Document { identity, version: policy, mode, in_mesh, .. } = document;
        let (mode, policy) = (mode.as_str(), plugin::escaped(policy));
        write!(
            f,
            "# Envoy {version} with the policy of {identity}, and no control plane.\n\
             # Made by `osm-egress compile --output envoy`.\n#\n\
             # The mode is `{mode}`. The policy, of version {policy}, stands in both plugins:\n\
             # after a change of manifests, make this file again.\n\
             # The module is read from {}.\n\
             # Connections must be redirected to port 15001 (`osm-egress iptables`): what is not, meets\n\
             # no policy.\n\
             # It listens for IPv4 only: where IPv6 gets out at all, add the same listener on `::`, or\n\
             # nothing stops it.\n",
            text(module)
        )?;
        if blocked.never_resolve_to.is_empty() {
            f.write_str(
                "# Names may lead to the addresses of your pods and services: `--never-resolve-to` says where\n\
                 # they must not lead.\n",
            )?;
        }
        if !clusters.is_empty() {
            f.write_str("# The last clusters are those of policies with connection settings.\n")?;
        }
        if !in_mesh.is_empty() {
            f.write_str("# Services of the mesh have the addresses that they had when this was made.\n")?;
        }
        Ok(())
    }

    /// The configuration.
    #[must_use]
    pub fn value(&self) -> Value {
        let settings = Settings::standalone(self.module, self.blocked);
        let filter = |which| {
            let code = config!({"filename": self.module});
            plugin::extension(which, code, &plugin::readable(which, self.document))
        };
        let mut listeners = List::default();
        let outbound = listeners::outbound(&settings, &filter(Plugin::Network));
        outbound.into_iter().for_each(|listener| listeners.push("", listener));
        listeners.push("", http::listener(&settings, filter(Plugin::Http)));
        let mut clusters = List::default();
        clusters::constant(&settings).into_iter().for_each(|cluster| clusters.push("", cluster));
        if self.document.mode == Mode::Passthrough {
            clusters.push(
                "Global egress: connections that the filter does not steer go here, and no other configuration has this \
                 cluster.",
                clusters::passthrough(&settings),
            );
        }
        for own in self.clusters {
            clusters.push("A policy with connection settings.", clusters::own(own, &settings));
        }
        config!({
            "node": {"id": "standalone", "cluster": "standalone"},
            ..process::stats(),
            ..process::extensions(),
            ..process::runtime(self.version),
            "static_resources": {"listeners": Value::List(listeners), "clusters": Value::List(clusters)},
        })
    }
}

/// Formats a value that stands in a comment.
fn text(value: &str) -> String {
    yaml::text(&Value::from(value)).trim().to_owned()
}
