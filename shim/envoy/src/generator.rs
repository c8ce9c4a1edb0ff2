//! The generator of snapshots: the resources that the proxies of one identity get.
//!
//! Listeners never change. A policy changes the configuration of the two plugins, and whether the cluster
//! `passthrough-outbound` exists.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use egress_compile::OwnCluster;
use egress_policy::{Document, Mode, Plugin};
use egress_standalone::plugin::by_discovery;
use egress_standalone::{Settings, Value, clusters, http, listeners};
use envoy_types::pb::google::protobuf::Any;

use crate::encode::{EncodeError, Encoder};
use crate::plugins::Plugins;
use crate::snapshot::{Resource, Snapshot, type_url};

/// The generator of snapshots.
#[derive(Debug)]
pub struct Generator {
    settings: Settings,
    encoder: Encoder,
    constant: Vec<(&'static str, Arc<Resource>)>,
    passthrough: Arc<Resource>,
    plugins: Plugins,
    own: Mutex<OwnClusters>,
}

/// The clusters of rules with connection settings that are in use: identities share them.
#[derive(Debug, Default)]
struct OwnClusters {
    known: BTreeMap<OwnCluster, Weak<Resource>>,
    /// The number at which those that are no longer in use are forgotten.
    full: usize,
}

impl OwnClusters {
    fn insert(&mut self, cluster: &OwnCluster, resource: &Arc<Resource>) {
        if self.known.len() >= self.full {
            self.known.retain(|_, resource| resource.strong_count() > 0);
            self.full = self.known.len().saturating_mul(2).max(64);
        }
        self.known.insert(cluster.clone(), Arc::downgrade(resource));
    }
}

impl Generator {
    /// Prepares what never changes.
    ///
    /// # Errors
    /// Fails if it cannot be encoded.
    pub fn new(settings: Settings) -> Result<Self, EncodeError> {
        let encoder = Encoder::new()?;
        let plugins = Plugins::new(&encoder, &settings)?;
        let listeners = listeners::outbound(&settings, &by_discovery(Plugin::Network)).into_iter();
        let listeners = listeners.chain([http::listener(&settings, by_discovery(Plugin::Http))]);
        let listeners = listeners.map(|listener| (type_url::LISTENER, listener));
        let clusters = clusters::constant(&settings).into_iter().map(|cluster| (type_url::CLUSTER, cluster));
        let constant = listeners
            .chain(clusters)
            .map(|(type_url, config)| Ok((type_url, resource(&encoder, type_url, &config)?)))
            .collect::<Result<_, EncodeError>>()?;
        let passthrough = resource(&encoder, type_url::CLUSTER, &clusters::passthrough(&settings))?;
        Ok(Self { constant, passthrough, plugins, own: Mutex::default(), encoder, settings })
    }

    /// The snapshot for the proxies of the document's identity; `own` are the clusters that the document names.
    #[must_use]
    pub fn snapshot(&self, document: &Arc<Document>, own: &[OwnCluster]) -> Snapshot {
        let plugins = self.plugins.resources(document).map(|plugin| (type_url::EXTENSION, Arc::new(plugin)));
        let passthrough = match document.mode {
            Mode::Passthrough => Some((type_url::CLUSTER, Arc::clone(&self.passthrough))),
            Mode::Enforce | Mode::Audit => None,
        };
        let clusters = own.iter().filter_map(|own| Some((type_url::CLUSTER, self.own(own)?)));
        Snapshot::new(
            Arc::clone(document),
            own.to_vec(),
            self.constant.iter().cloned().chain(passthrough).chain(clusters).chain(plugins),
        )
    }

    /// A cluster that cannot be encoded is left out: the rules that name it then allow nothing. To keep all that was there
    /// before would delay revocations.
    fn own(&self, own: &OwnCluster) -> Option<Arc<Resource>> {
        let lock = || self.own.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = lock().known.get(own).and_then(Weak::upgrade) {
            return Some(known);
        }
        // Not under the lock: two that do this at a time get equal bytes.
        match resource(&self.encoder, type_url::CLUSTER, &clusters::own(own, &self.settings)) {
            Ok(resource) => {
                lock().insert(own, &resource);
                Some(resource)
            }
            Err(error) => {
                tracing::error!(cluster = own.name, %error, "the cluster is left out");
                None
            }
        }
    }
}

fn resource(encoder: &Encoder, type_url: &'static str, config: &Value) -> Result<Arc<Resource>, EncodeError> {
    let name = config.text("name").unwrap_or_default().to_owned();
    let value = encoder.encode(type_url, config)?;
    Ok(Arc::new(Resource::new(name, Any { type_url: type_url.to_owned(), value })))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use bytes::Bytes;
    use egress_compile::Limits;
    use egress_compile::blocked_ranges::BlockedRanges;
    use egress_policy::{ApiVersion, Identity};
    use envoy_types::pb::google::protobuf::Any;

    use super::*;
    use egress_standalone::Module;
    use prost::{Message, Name};

    use crate::name;

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
        Generator::new(settings()).expect("encoded")
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
            ipv6: true,
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
            let generator = Generator::new(Settings { flow_log, ..settings() }).expect("encoded");
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
            let generator = Generator::new(settings).expect("encoded");
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
            let generator = Generator::new(settings).expect("encoded");
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
