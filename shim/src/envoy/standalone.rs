//! `envoy/standalone.yaml` with another policy: a whole configuration for an Envoy without control plane.

use std::path::Path;

use egress_policy::{Document, Mode, Plugin};

use super::bootstrap::{CURRENT, EnvoyVersion};
use super::versions;

const TEXT: &str = include_str!("../../../envoy/standalone.yaml");
/// The module that the file names.
const MODULE: &str = "target/egress_filter.wasm";
const CLUSTERS: &str = "  clusters:\n";

/// What one of the plugins reads: the document, and what is not said is as the control plane has it by default.
#[must_use]
pub fn plugin(plugin: Plugin, document: &Document) -> String {
    serde_json::json!({"plugin": plugin, "version": document.version, "policy": document}).to_string()
}

/// The whole configuration. `module` is where Envoy finds the module.
#[must_use]
pub fn configuration(document: &Document, module: &Path, version: EnvoyVersion) -> String {
    let mut text = TEXT.replace(MODULE, &module.to_string_lossy());
    for which in [Plugin::Network, Plugin::Http] {
        let (start, end) = place(&text, which);
        text.replace_range(start..end, &plugin(which, document));
    }
    if document.mode == Mode::Passthrough {
        // Where nobody steers, and nothing else has this cluster.
        let passthrough =
            "  - {name: passthrough-outbound, type: ORIGINAL_DST, lb_policy: CLUSTER_PROVIDED}\n";
        text = text.replacen(CLUSTERS, &format!("{CLUSTERS}{passthrough}"), 1);
    }
    let known: Vec<_> = versions::guards(version).map(|guard| guard.name).collect();
    let strange =
        |line: &str| versions::guards(CURRENT).any(|g| line.contains(g.name) && !known.contains(&g.name));
    text = text.lines().filter(|line| !strange(line)).map(|line| format!("{line}\n")).collect();
    if known.is_empty() {
        text = text.replace("    static_layer:\n", "    static_layer: {}\n");
    }
    text
}

/// Where the example's configuration of a plugin is.
fn place(text: &str, which: Plugin) -> (usize, usize) {
    let name = match which {
        Plugin::Network => "network",
        Plugin::Http => "http",
    };
    let start = text.find(&format!("{{\"plugin\": \"{name}\"")).unwrap_or_default();
    let end = text[start..].find("]}}").map_or(start, |length| start + length + 3);
    (start, end)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn document(mode: &str) -> Document {
        let json = serde_json::json!({
            "apiVersion": "egress-policy/v1", "version": "v7", "mode": mode, "rules": [],
            "identity": {"namespace": "shop", "serviceAccount": "backend"},
        });
        serde_json::from_value(json).expect("a document")
    }

    #[test]
    fn the_file_has_what_is_replaced() {
        for (which, name) in [(Plugin::Network, "network"), (Plugin::Http, "http")] {
            let (start, end) = place(TEXT, which);
            let example: serde_json::Value = serde_json::from_str(&TEXT[start..end]).expect("JSON");
            assert_eq!(example["plugin"], name);
            assert_eq!(example["policy"]["mode"], "enforce");
        }
        assert_eq!(TEXT.matches(CLUSTERS).count(), 1);
        assert!(TEXT.contains(MODULE) && TEXT.contains("    static_layer:\n"));
    }

    #[test]
    fn a_configuration_of_ones_own() {
        let text = configuration(&document("enforce"), Path::new("/lib/f.wasm"), CURRENT);
        assert_eq!(text.matches(r#""version":"v7""#).count(), 4, "both plugins, and their documents");
        assert!(text.contains("filename: /lib/f.wasm") && !text.contains("httpbin"));
        assert!(!text.contains("name: passthrough-outbound, type"));
        let open =
            configuration(&document("passthrough"), Path::new("f.wasm"), "1.39".parse().expect("a version"));
        assert!(open.contains("name: passthrough-outbound, type: ORIGINAL_DST"));
        assert!(open.contains("static_layer: {}") && !open.contains("user_space_socket"));
    }
}
