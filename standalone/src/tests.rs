use egress_compile::blocked_ranges::BlockedRanges;
use egress_compile::manifest::yaml;
use egress_compile::store::{FileUpdate, Store};
use egress_compile::{CompileOptions, compile};
use egress_policy::{Document, Identity, PluginConfig};
use serde_json::{Value, json};

use super::*;

fn document(mode: &str) -> Document {
    let json = json!({
        "apiVersion": "egress-policy/v1", "version": "v7", "mode": mode, "rules": [],
        "identity": {"namespace": "shop", "serviceAccount": "backend"},
    });
    serde_json::from_value(json).expect("a document")
}

fn configuration(document: &Document) -> Configuration<'_> {
    static NONE: BlockedRanges = BlockedRanges { never_resolve_to: Vec::new(), nat64_prefixes: Vec::new() };
    Configuration { document, clusters: &[], module: MODULE, version: CURRENT, blocked: &NONE }
}

/// Reads the policies of a configuration's plugins.
fn plugins(text: &str) -> [Value; 2] {
    ["\"network\"", "\"http\""].map(|name| {
        let start = text.find(&format!("{{\"plugin\": {name}")).expect("a plugin");
        let end = text[start..].find("}}\n").expect("its end") + 2;
        let read: PluginConfig<Document> = serde_json::from_str(&text[start..start + end]).expect("JSON");
        json!(read.policy)
    })
}

/// The beginning of `envoy/standalone.yaml`.
const ABOUT: &str = "\
# Stock Envoy with the filter and a fixed policy: no control plane.
#
# The module is read from target/egress_filter.wasm, from the folder in which Envoy is started:
#
#   cargo xtask build && envoy -c envoy/standalone.yaml
#
# `osm-egress compile DIR --identity NAMESPACE/SERVICE-ACCOUNT --output envoy` prints it with a policy of yours.
#
# It listens for IPv4 only: where IPv6 gets out at all, add the same listener on `::`, or nothing stops it.
# Traffic must be redirected to port 15001 (`osm-egress iptables`); a connection made to the port itself is
# refused, because it has no destination.
#
# A test of the crate `egress-standalone` keeps this file equal to what `compile` prints; UPDATE_EXAMPLE=1 writes it.
";

/// `UPDATE_EXAMPLE=1` writes it.
#[test]
fn the_example_is_the_output_for_its_policy() {
    let document = json!({
        "apiVersion": "egress-policy/v1",
        "identity": {"namespace": "default", "serviceAccount": "default"},
        "version": "standalone", "mode": "enforce",
        "rules": [
            {"policy": "default/httpbin", "name": "spec.ports[0]", "port": 80, "protocol": "http", "hosts": ["httpbin.org"]},
            {
                "policy": "default/httpbin", "name": "spec.ports[1]", "port": 443, "protocol": "https",
                "hosts": ["httpbin.org", "*.example.com"], "encryptedHello": "allow-outer",
            },
            {
                "policy": "default/database", "name": "spec.ports[0]", "port": 5432, "protocol": "tcp",
                "addresses": ["10.0.0.0/8"],
            },
        ],
    });
    let document: Document = serde_json::from_value(document).expect("a document");
    let configuration = Configuration { blocked: &BlockedRanges::default(), ..configuration(&document) };
    let expected = ABOUT.to_owned() + &crate::yaml::text(&configuration.value());
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../envoy/standalone.yaml");
    if std::env::var_os("UPDATE_EXAMPLE").is_some() {
        std::fs::write(path, &expected).expect("written");
    }
    let text = std::fs::read_to_string(path).expect("the example");
    assert!(text == expected, "envoy/standalone.yaml is old: run this test with UPDATE_EXAMPLE=1");
}

#[test]
fn a_configuration_contains_the_policy_twice() {
    let document = document("enforce");
    let text = Configuration { module: "/lib/f.wasm", ..configuration(&document) }.to_string();
    assert_eq!(plugins(&text), [json!(document), json!(document)]);
    assert!(text.contains("filename: /lib/f.wasm") && !text.contains("httpbin"));
    assert!(!text.contains("name: passthrough-outbound"), "{text}");
    let open = self::document("passthrough");
    let text =
        Configuration { version: "1.39".parse().expect("a version"), ..configuration(&open) }.to_string();
    assert!(text.contains("- name: passthrough-outbound\n    type: ORIGINAL_DST"), "{text}");
    assert!(text.contains("total_stream_count: 4294967295\nstatic_resources:"), "{text}");
}

/// Whatever a document or a path has in it: it is one string of YAML, and nothing beside it.
#[test]
fn inserted_text_stays_one_string() {
    const ODD: &str = "a\u{85}\u{2028}\u{feff}\u{1f600}\u{7f}\r\n]}}\" # {\"plugin\": \"http\" target/egress_filter.wasm \
        envoy.reloadable_features.enable_send_rst_on_user_space_socket";
    let mut document = document("enforce");
    document.version = ODD.to_owned();
    for version in [OLDEST, CURRENT] {
        let mut header = document.clone();
        header.version = "v".to_owned();
        // As long as the other path is with its quotes.
        let module = "/abcdefg/abc.wasm";
        let plain = Configuration { version, module, ..configuration(&header) }.to_string();
        let text =
            Configuration { version, module: "/a b/{#}\n.wasm", ..configuration(&document) }.to_string();
        assert_eq!(text.lines().count(), plain.lines().count(), "{text}");
        assert!(text.contains(r#"filename: "/a b/{#}\u000a.wasm""#) || text.contains(r#""/a b/{#}\n.wasm""#));
        assert!(text.chars().all(|c| c == '\n' || (' '..='~').contains(&c)));
        let documents = yaml::parse(&text).expect("YAML");
        let value = &documents[0].value;
        let filters = &value["static_resources"]["listeners"][0]["default_filter_chain"]["filters"];
        let read = filters[0]["typed_config"]["config"]["configuration"]["value"].as_str().expect("text");
        let read: PluginConfig<Document> = serde_json::from_str(read).expect("JSON");
        assert_eq!((read.version.as_str(), read.policy), (ODD, document.clone()));
    }
}

#[test]
fn connection_settings_and_blocked_ranges_are_rendered() {
    let settings = "apiVersion: policy.openservicemesh.io/v1alpha1\nkind: UpstreamTrafficSetting\n\
        metadata: {name: s, namespace: shop}\nspec: {host: s, connectionSettings: {tcp: {maxConnections: 7, \
        connectTimeout: 1500ms}, http: {maxRequestsPerConnection: 3}}}\n";
    let egress = |name: &str, spec: &str| {
        format!(
            "---\napiVersion: policy.openservicemesh.io/v1alpha1\nkind: Egress\nmetadata: {{name: {name}, namespace: shop}}\n\
             spec: {{sources: [{{kind: ServiceAccount, name: app, namespace: shop}}], {spec}, matches: [{{apiGroup: \
             policy.openservicemesh.io/v1alpha1, kind: UpstreamTrafficSetting, name: s}}]}}\n"
        )
    };
    let manifests = [
        settings.to_owned(),
        egress("names", "hosts: [a.org, '*.b.org'], ports: [{number: 443, protocol: https}]"),
        egress("address", "ipAddresses: [198.51.100.0/24], ports: [{number: 22, protocol: tcp}]"),
    ];
    let mut store = Store::default();
    store.apply(FileUpdate::read("a.yaml".into(), manifests.concat().as_bytes()));
    let compiled = compile(&store, &CompileOptions::default(), None);
    let identity = Identity::new("shop", "app").expect("valid");
    let document = compiled.document(&identity);
    let blocked = BlockedRanges {
        never_resolve_to: vec!["10.96.0.0/12".parse().expect("a block")],
        nat64_prefixes: vec!["2001:db8:64::/96".parse().expect("a prefix")],
    };
    let text = Configuration {
        clusters: compiled.clusters(&identity),
        blocked: &blocked,
        ..configuration(&document)
    }
    .to_string();
    assert_eq!(plugins(&text), [json!(document), json!(document)]);
    let value = yaml::parse(&text).expect("YAML").remove(0).value;
    let named = |name: &str| {
        let clusters = value["static_resources"]["clusters"].as_array().expect("a list");
        clusters.iter().find(|cluster| cluster["name"] == name).unwrap_or_else(|| panic!("{name}: {text}"))
    };
    for (name, cache) in [("a.org:443", "egress-dns"), ("*.b.org:443", "egress-dns-wildcard")] {
        let dns = &named(name)["cluster_type"]["typed_config"]["dns_cache_config"];
        assert_eq!(dns["name"], cache);
        let ranges = dns["resolved_address_filter"]["ranges"].as_array().expect("blocks");
        let translated = json!({"address_prefix": "2001:db8:64::a9fe:0", "prefix_len": 112});
        assert!(ranges.contains(&translated), "{ranges:?}");
        let is_there = |address: &str| ranges.iter().any(|range| range["address_prefix"] == address);
        // As part of 10.0.0.0/8, or itself.
        assert!(is_there(if cache == "egress-dns" { "10.96.0.0" } else { "10.0.0.0" }), "{ranges:?}");
        let resolver = &dns["typed_dns_resolver_config"]["typed_config"]["dns_resolver_options"];
        assert_eq!(resolver, &json!({"no_default_search_domain": true}));
    }
    let own = named("22");
    assert_eq!((&own["type"], &own["connect_timeout"]), (&json!("ORIGINAL_DST"), &json!("1.5s")));
    assert_eq!(own["circuit_breakers"]["thresholds"][0]["max_connections"], 7);
    // Each rule names a cluster that is there.
    for rule in &document.rules {
        assert!(rule.cluster.iter().all(|name| named(name)["connect_timeout"] == "1.5s"), "{rule:?}");
    }
}
