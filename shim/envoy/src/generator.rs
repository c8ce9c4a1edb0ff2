//! The generator of snapshots: the resources that the proxies of one identity get.
//!
//! Listeners never change. A policy changes the configuration of the two plugins, and whether the cluster
//! `passthrough-outbound` exists.

use std::sync::Arc;

use egress_compile::{Limits, OwnCluster};
use egress_policy::{Document, HostMatch, Mode};
use prost::{Message, Name};

use crate::messages::any;
use crate::settings::{Module, Settings};
use crate::snapshot::{Resource, SharedBytes, Snapshot, type_url};
use crate::{clusters, dns, http, listeners, name, plugins};

/// The generator of snapshots.
#[derive(Debug)]
pub struct Generator {
    settings: Settings,
    module: Option<SharedBytes>,
    constant: Vec<(&'static str, Arc<Resource>)>,
    passthrough: Arc<Resource>,
}

impl Generator {
    /// Prepares what never changes.
    #[must_use]
    pub fn new(settings: Settings) -> Self {
        let limits = Limits::default();
        let listeners = listeners::outbound(&settings).into_iter().chain([http::listener(&settings)]);
        let listeners =
            listeners.map(|listener| (type_url::LISTENER, resource(listener.name.clone(), &listener)));
        let resolving = |names| clusters::resolving(dns::cluster(names), &settings, names, &limits);
        let clusters = [
            clusters::original_dst(name::ORIGINAL_DST, &settings, &limits),
            resolving(HostMatch::Exact),
            resolving(HostMatch::Wildcard),
            clusters::http(&settings),
        ]
        .map(|cluster| (type_url::CLUSTER, resource(cluster.name.clone(), &cluster)));
        let passthrough = clusters::original_dst(name::PASSTHROUGH, &settings, &limits);
        Self {
            constant: listeners.chain(clusters).collect(),
            passthrough: resource(passthrough.name.clone(), &passthrough),
            module: match &settings.module {
                Module::Inline(bytes) => Some(SharedBytes::new(bytes.clone())),
                Module::File(_) => None,
            },
            settings,
        }
    }

    /// The snapshot for the proxies of the document's identity; `own` are the clusters that the document names.
    #[must_use]
    pub fn snapshot(&self, document: &Arc<Document>, own: &[OwnCluster]) -> Snapshot {
        let plugins = plugins::both(document, &self.settings, self.module.as_ref())
            .map(|plugin| (type_url::EXTENSION, Arc::new(plugin)));
        let passthrough = match document.mode {
            Mode::Passthrough => Some((type_url::CLUSTER, Arc::clone(&self.passthrough))),
            Mode::Enforce | Mode::Audit => None,
        };
        let resources = own.iter().map(|own| {
            let cluster = clusters::own(own, &self.settings);
            (type_url::CLUSTER, resource(cluster.name.clone(), &cluster))
        });
        Snapshot::new(
            Arc::clone(document),
            own.to_vec(),
            self.constant.iter().cloned().chain(passthrough).chain(resources).chain(plugins),
        )
    }
}

fn resource<M: Message + Name>(name: String, message: &M) -> Arc<Resource> {
    Arc::new(Resource::new(name, any(message)))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use bytes::Bytes;
    use egress_compile::blocked_ranges::BlockedRanges;
    use egress_policy::{ApiVersion, Identity};
    use envoy_types::pb::google::protobuf::Any;

    use super::*;
    use crate::settings::IpFamilies;

    fn document(mode: Mode, version: &str) -> Arc<Document> {
        Arc::new(Document {
            api_version: ApiVersion::V1,
            identity: Identity::new("ns", "sa").expect("valid"),
            version: version.to_owned(),
            mode,
            rules: vec![],
            in_mesh: [].into(),
        })
    }

    fn own() -> Vec<OwnCluster> {
        let limits = Limits { max_connections: Some(1), ..Limits::default() };
        let cluster = |name: &str, host: Option<&str>| OwnCluster {
            name: name.to_owned(),
            host: host.map(|host| host.parse().expect("a host")),
            limits,
        };
        vec![cluster("a.org:80", Some("a.org")), cluster("*.a.org:80", Some("*.a.org")), cluster("80", None)]
    }

    fn generator() -> Generator {
        Generator::new(settings())
    }

    fn settings() -> Settings {
        Settings {
            module: Module::Inline(Bytes::from_static(b"\0asm")),
            listener_port: 15001,
            http_deny_status: 403,
            dns_resolvers: vec!["192.0.2.1:53".parse().expect("valid")],
            blocked: BlockedRanges::default(),
            first_bytes_timeout: Duration::from_secs(5),
            idle_timeout: None,
            upstream_idle_timeout: Duration::from_secs(60),
            allow_custom_methods: false,
            flow_log: false,
            ip_families: IpFamilies::Dual,
        }
    }

    fn versions(snapshot: &Snapshot) -> Vec<(String, String)> {
        let all = type_url::ALL.into_iter().flat_map(|url| snapshot.of_type(url));
        all.map(|resource| (resource.name().to_owned(), resource.version().to_owned())).collect()
    }

    #[test]
    fn equal_input_gives_equal_versions() {
        let (one, other) = (generator(), generator());
        for mode in [Mode::Enforce, Mode::Audit, Mode::Passthrough] {
            let (one, other) =
                (one.snapshot(&document(mode, "1"), &own()), other.snapshot(&document(mode, "1"), &own()));
            for url in type_url::ALL {
                assert!(one.of_type(url).count() > 0);
            }
            assert_eq!(versions(&one), versions(&other));
        }
    }

    /// It is in all listeners or in none, whatever the policy.
    #[test]
    fn the_flow_log_is_part_of_the_listeners() {
        let told = |flow_log: bool, mode: Mode| -> Vec<bool> {
            let generator = Generator::new(Settings { flow_log, ..settings() });
            let snapshot = generator.snapshot(&document(mode, "1"), &[]);
            let listeners = snapshot.of_type(type_url::LISTENER);
            let text = |body: &Any| String::from_utf8_lossy(&body.value).into_owned();
            listeners.map(|listener| text(&listener.body()).contains("GrpcAccessLogConfig")).collect()
        };
        for mode in [Mode::Enforce, Mode::Audit, Mode::Passthrough] {
            assert_eq!(told(false, mode), [false; 3]);
            assert_eq!(told(true, mode), [true; 3]);
        }
    }

    /// Returns whether by the control plane of before or by another: Envoy would use a plugin that it has again.
    #[test]
    fn no_configuration_of_a_plugin_is_sent_twice() {
        let file = Settings { module: Module::File("/egress_filter.wasm".into()), ..settings() };
        for settings in [settings(), file] {
            let generator = Generator::new(settings);
            let snapshot = generator.snapshot(&document(Mode::Enforce, "1"), &[]);
            for plugin in snapshot.of_type(type_url::EXTENSION) {
                assert_ne!(plugin.body(), plugin.body(), "{}", plugin.name());
            }
            for url in [type_url::LISTENER, type_url::CLUSTER] {
                for constant in snapshot.of_type(url) {
                    assert_eq!(constant.body(), constant.body(), "{}", constant.name());
                }
            }
        }
    }

    #[test]
    fn a_policy_change_is_a_change_of_the_plugins_alone() {
        let generator = generator();
        let before = versions(&generator.snapshot(&document(Mode::Enforce, "1"), &[]));
        let after = versions(&generator.snapshot(&document(Mode::Enforce, "2"), &[]));
        let changed: Vec<_> =
            before.iter().zip(&after).filter(|(a, b)| a != b).map(|(a, _)| a.0.as_str()).collect();
        assert_eq!(changed, [name::HTTP_PLUGIN, name::NETWORK_PLUGIN]);
    }

    #[test]
    fn global_egress_is_one_cluster() {
        let generator = generator();
        let names = |mode| {
            let snapshot = generator.snapshot(&document(mode, "1"), &[]);
            snapshot.of_type(type_url::CLUSTER).map(|cluster| cluster.name().to_owned()).collect::<Vec<_>>()
        };
        assert_eq!(names(Mode::Enforce), [name::DNS, name::DNS_WILDCARD, name::HTTP, name::ORIGINAL_DST]);
        assert_eq!(names(Mode::Audit), names(Mode::Enforce));
        assert_eq!(
            names(Mode::Passthrough),
            [name::DNS, name::DNS_WILDCARD, name::HTTP, name::ORIGINAL_DST, name::PASSTHROUGH]
        );
    }

    /// The filter and Envoy read what is written.
    #[test]
    fn the_filter_reads_what_is_written() {
        use egress_policy::{Plugin, PluginConfig};
        use envoy_types::pb::envoy::config::core::v3::{
            TypedExtensionConfig, async_data_source::Specifier, data_source,
        };
        use envoy_types::pb::envoy::extensions::filters::http::wasm::v3::Wasm as HttpWasm;
        use envoy_types::pb::envoy::extensions::filters::network::wasm::v3::Wasm as NetworkWasm;
        use envoy_types::pb::envoy::extensions::wasm::v3::{FailurePolicy, plugin_config::Vm};
        use envoy_types::pb::google::protobuf::StringValue;
        use serde_json::value::RawValue;
        let inline = data_source::Specifier::InlineBytes(b"\0asm".to_vec());
        let file = data_source::Specifier::Filename("/a.wasm".to_owned());
        let by_file = Settings { module: Module::File("/a.wasm".into()), ..settings() };
        for (settings, source) in [(settings(), inline), (by_file, file)] {
            let generator = Generator::new(settings);
            let snapshot = generator.snapshot(&document(Mode::Audit, "7"), &[]);
            for (name, plugin) in [(name::NETWORK_PLUGIN, Plugin::Network), (name::HTTP_PLUGIN, Plugin::Http)]
            {
                let resource = snapshot.get(type_url::EXTENSION, name).expect("a plugin");
                let body = resource.body();
                assert_eq!((body.type_url.as_str(), body.value.len()), (type_url::EXTENSION, resource.len()));
                let extension = TypedExtensionConfig::decode(&*body.value).expect("an extension");
                assert_eq!(extension.name, name);
                let config = extension.typed_config.expect("a configuration");
                let filter = match plugin {
                    Plugin::Network => NetworkWasm::type_url(),
                    Plugin::Http => HttpWasm::type_url(),
                };
                assert_eq!(config.type_url, filter);
                let config = match plugin {
                    Plugin::Network => NetworkWasm::decode(&*config.value).expect("a filter").config,
                    Plugin::Http => HttpWasm::decode(&*config.value).expect("a filter").config,
                }
                .expect("a plugin");
                assert_eq!((config.name.as_str(), config.root_id.as_str()), (name, name));
                assert_eq!(config.failure_policy, i32::from(FailurePolicy::FailReload));
                let Some(Vm::VmConfig(vm)) = config.vm else { panic!("no VM") };
                assert_eq!((vm.vm_id.as_str(), vm.runtime.as_str()), ("egress", "envoy.wasm.runtime.v8"));
                let Some(Specifier::Local(code)) = vm.code.and_then(|code| code.specifier) else {
                    panic!("no code")
                };
                assert_eq!(code.specifier.as_ref(), Some(&source));
                let json = config.configuration.expect("JSON");
                assert_eq!(json.type_url, StringValue::type_url());
                let text = StringValue::decode(&*json.value).expect("text").value;
                let read: PluginConfig<&RawValue> = serde_json::from_str(&text).expect("readable");
                assert_eq!((read.plugin, read.version.as_str(), read.listener_port), (plugin, "7", 15001));
                assert!(
                    read.nonce != crate::snapshot::NONCE && read.nonce.len() == crate::snapshot::NONCE.len()
                );
                let policy: Document = Document::from_json(read.policy.get()).expect("a document");
                assert_eq!(policy, *document(Mode::Audit, "7"));
            }
        }
    }
}
