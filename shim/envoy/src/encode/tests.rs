use std::collections::BTreeSet;
use std::fs;
use std::sync::LazyLock;
use std::time::Duration;

use bytes::Bytes;
use egress_compile::blocked_ranges::BlockedRanges;
use egress_compile::{Limits, OwnCluster};
use egress_policy::{Document, Plugin};
use egress_standalone::versions::SUPPORTED;
use egress_standalone::{Configuration, Module, Settings, clusters, config, http, listeners, plugin};

use super::descriptors::{all, collect_names, prune};
use super::*;
use crate::bootstrap::{Bootstrap, Ready};
use crate::credentials::{Authority, ClientFiles, Credentials, EnvoyPath, Security};
use crate::snapshot::type_url::{CLUSTER, EXTENSION, LISTENER};

const BOOTSTRAP: &str = "envoy.config.bootstrap.v3.Bootstrap";
const SDS: &str = "envoy.service.discovery.v3.DiscoveryResponse";

static ALL: LazyLock<Vec<u8>> = LazyLock::new(all);

/// All combinations of settings.
fn settings() -> Vec<Settings> {
    let mut all = Vec::new();
    let flags = [false, true];
    let modules = [Module::Inline(Bytes::from_static(b"\0asm")), Module::File("/a.wasm".into())];
    let resolvers =
        [vec![], vec!["192.0.2.1:53".parse().expect("valid"), "[fd00::1]:53".parse().expect("valid")]];
    for module in modules {
        for dns_resolvers in &resolvers {
            for idle_timeout in [None, Some(Duration::from_millis(1500))] {
                for allow_custom_methods in flags {
                    for flow_log in flags {
                        for ipv6 in flags {
                            all.push(Settings {
                                module: module.clone(),
                                dns_resolvers: dns_resolvers.clone(),
                                idle_timeout,
                                allow_custom_methods,
                                flow_log,
                                ipv6,
                                ..Settings::standalone("", &BlockedRanges::default())
                            });
                        }
                    }
                }
            }
        }
    }
    all
}

fn own_clusters() -> Vec<OwnCluster> {
    let some = |number| Some(number);
    let limits = Limits {
        connect_timeout: Some(Duration::from_millis(1)),
        max_connections: some(1),
        max_requests: some(2),
        max_pending_requests: some(3),
        max_retries: some(0),
        max_requests_per_connection: some(5),
    };
    let mut all = Vec::new();
    for host in [None, Some("a.org"), Some("*.a.org")] {
        for limits in [Limits::default(), limits] {
            let host = host.map(|host| host.parse().expect("a host"));
            all.push(OwnCluster { name: "n".to_owned(), host, limits });
        }
    }
    all
}

/// All that is sent by xDS, in all combinations.
fn served() -> Vec<(&'static str, Config)> {
    let mut all = Vec::new();
    for settings in settings() {
        let filter = plugin::by_discovery;
        all.extend(
            listeners::outbound(&settings, &filter(Plugin::Network)).into_iter().map(|one| (LISTENER, one)),
        );
        all.push((LISTENER, http::listener(&settings, filter(Plugin::Http))));
        all.extend(clusters::constant(&settings).into_iter().map(|one| (CLUSTER, one)));
        all.push((CLUSTER, clusters::passthrough(&settings)));
        all.extend(own_clusters().iter().map(|own| (CLUSTER, clusters::own(own, &settings))));
    }
    for code in [config!({"inline_bytes": "AGFzbQ=="}), config!({"filename": "/a.wasm"})] {
        for which in [Plugin::Network, Plugin::Http] {
            all.push((EXTENSION, plugin::extension(which, code.clone(), "{}")));
        }
    }
    all
}

fn path(text: &str) -> EnvoyPath {
    text.parse().expect("a path")
}

/// All that is written as text, in all combinations.
fn printed() -> Vec<(&'static str, Config)> {
    // Any certificate will do.
    let certificate = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    let authority = Authority::from_pem(certificate).expect("a certificate");
    let files = ClientFiles::new(path("/c/crt"), path("/c/key"), path("/c/sds.yaml")).expect("one folder");
    let mut all = vec![(SDS, files.value())];
    let tls = |credentials| Security::Tls { authority: authority.clone(), credentials };
    let securities = [
        Security::Plaintext,
        tls(Credentials::NodeId),
        tls(Credentials::Token(path("/token"))),
        tls(Credentials::Certificate(files)),
    ];
    let ready = |ipv6| Some(Ready { port: 15904, ipv6 });
    for security in securities {
        for xds_host in ["10.0.0.1", "::1", "osm-egress.org"] {
            for version in SUPPORTED {
                for ready in [None, ready(false), ready(true)] {
                    for (delta, identity) in [(false, None), (true, Some("n/a".parse().expect("valid")))] {
                        let bootstrap = Bootstrap {
                            identity,
                            proxy: "p".to_owned(),
                            version,
                            security: security.clone(),
                            xds_host: xds_host.to_owned(),
                            xds_port: 15128,
                            admin_port: 15000,
                            delta,
                            ready,
                        };
                        all.push((BOOTSTRAP, bootstrap.value()));
                    }
                }
            }
        }
    }
    for mode in ["enforce", "audit", "passthrough"] {
        let document: Document = serde_json::from_value(serde_json::json!({
            "apiVersion": "egress-policy/v1", "version": "v", "mode": mode, "rules": [],
            "identity": {"namespace": "n", "serviceAccount": "a"},
        }))
        .expect("a document");
        for version in SUPPORTED {
            let configuration = Configuration {
                document: &document,
                clusters: &own_clusters(),
                module: "/a.wasm",
                version,
                blocked: &BlockedRanges::default(),
            };
            all.push((BOOTSTRAP, configuration.value()));
        }
    }
    all
}

#[test]
fn every_combination_of_settings_is_encoded() {
    let encoder = Encoder::new().expect("descriptors");
    for (type_url, config) in served() {
        let bytes = encoder.encode(type_url, &config).unwrap_or_else(|error| panic!("{error}"));
        // What is written is what the library reads, whatever the order.
        let message = encoder.message(type_url, &config).expect("a message");
        let read = DynamicMessage::decode(message.descriptor(), &*bytes).expect("decoded");
        let json = |message: &DynamicMessage| serde_json::to_value(message).expect("JSON");
        assert_eq!(json(&read), json(&message));
        assert_eq!(bytes.len(), message.encoded_len());
    }
}

#[test]
fn every_text_is_a_message_of_envoy() {
    let encoder = Encoder::with_descriptors(&ALL).expect("descriptors");
    for (type_url, config) in printed() {
        encoder.message(type_url, &config).unwrap_or_else(|error| panic!("{error}\n{config:#?}"));
    }
}

#[test]
fn a_field_that_a_message_lacks_is_refused() {
    let encoder = Encoder::new().expect("descriptors");
    let error = |config: Config| encoder.encode(CLUSTER, &config).expect_err("refused").to_string();
    for (config, part) in [
        (config!({"nmae": "a"}), "unrecognized field name 'nmae'"),
        (config!({"connect_timeout": "5"}), "duration"),
        (config!({"type": "ORIGINAL"}), "ORIGINAL"),
        (config!({"name": 5_u32}), "string"),
        (config!({"transport_socket": {"typed_config": {"@type": "a/b.C"}}}), "message 'b.C' not found"),
        (
            config!({"transport_socket": {"typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.transport_sockets.raw_buffer.v3.RawBuffer", "x": 1_u32,
            }}}),
            "unrecognized field name 'x'",
        ),
    ] {
        let error = error(config);
        assert!(error.starts_with("the configuration is no envoy.config.cluster.v3.Cluster: "), "{error}");
        assert!(error.contains(part), "{error}");
    }
}

#[test]
fn equal_configurations_give_equal_bytes() {
    let settings = settings().remove(0);
    let config = http::listener(&settings, plugin::by_discovery(Plugin::Http));
    let encode = || Encoder::new().expect("descriptors").encode(LISTENER, &config).expect("encoded");
    let first = encode();
    // The order of a hash map is another one in each.
    for _ in 0..20 {
        assert_eq!(encode(), first);
    }
}

#[test]
fn a_placeholder_is_there_once() {
    let encoder = Encoder::new().expect("descriptors");
    let config = config!({"name": "a<x>b<y>c", "alt_stat_name": "<y>"});
    let error = |placeholders: &[&'static str]| {
        encoder.template(CLUSTER, &config, placeholders).expect_err("refused").to_string()
    };
    assert!(error(&["<x>", "<y>"]).contains("has `<y>` 2 times"));
    assert!(error(&["<z>"]).contains("has `<z>` 0 times"));
    encoder.template(CLUSTER, &config, &["<x>"]).expect("a template");
}

/// `UPDATE_DESCRIPTORS=1` writes them.
#[test]
fn the_descriptors_are_those_of_the_messages_that_are_used() {
    let encoder = Encoder::with_descriptors(&ALL).expect("descriptors");
    let mut names = BTreeSet::new();
    for (type_url, config) in served() {
        let message = encoder.message(type_url, &config).unwrap_or_else(|error| panic!("{error}"));
        collect_names(&encoder, &message, &mut names);
    }
    let expected = prune(&ALL, &names);
    if std::env::var_os("UPDATE_DESCRIPTORS").is_some() {
        let file = concat!(env!("CARGO_MANIFEST_DIR"), "/src/encode/descriptors.binpb");
        return fs::write(file, &expected).expect("written");
    }
    assert!(
        expected == DESCRIPTORS,
        "shim/envoy/src/encode/descriptors.binpb is old: run this test with UPDATE_DESCRIPTORS=1"
    );
}
