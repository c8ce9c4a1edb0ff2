//! Envoy's side: the resources that one identity's proxies get, and the bootstrap that asks for them.
//!
//! Listeners never change. What changes with policy is the configuration of the two plugins and
//! whether the cluster `passthrough-outbound` exists.

pub(crate) mod access_log;
pub mod bootstrap;
mod clusters;
pub mod credentials;
mod http;
mod listeners;
mod names;
mod plugins;
pub mod reported;
mod traffic;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use egress_compile::blocked_ranges::BlockedRanges;
use egress_compile::{Limits, OwnCluster};
use egress_policy::{Document, HostMatch, Mode};
use envoy_types::pb::envoy::config::core::v3::{
    Address, ExtensionConfigSource, SocketAddress, address, socket_address::PortSpecifier,
};
use envoy_types::pb::google::protobuf::Any;
use prost::{Message, Name};

use crate::snapshot::{Resource, Shared, Snapshot, type_url};

/// The names that other parts of the system know. The listeners and the chain are Open Service Mesh's.
pub mod name {
    /// The cluster of the control plane, in the bootstrap.
    pub const CONTROL_PLANE: &str = "osm-egress";
    /// The listener that outbound connections are redirected to.
    pub const LISTENER: &str = "outbound-listener";
    /// The same for IPv6.
    pub const LISTENER_IPV6: &str = "outbound-listener-ipv6";
    /// Their filter chain.
    pub const FILTER_CHAIN: &str = "outbound-egress-filter-chain";
    /// Clusters.
    pub use egress_compile::cluster::{DNS, DNS_WILDCARD, ORIGINAL_DST, PASSTHROUGH};
    /// The cluster and internal listener where HTTP requests are decided.
    pub const HTTP: &str = "egress-http";
    /// The network plugin.
    pub const NETWORK_PLUGIN: &str = "egress-policy";
    /// The HTTP plugin.
    pub const HTTP_PLUGIN: &str = "egress-http-policy";
    /// The header by which the HTTP plugin names the cluster of a request.
    pub const CLUSTER_HEADER: &str = "x-egress-cluster";
    /// The header that tells the workload why it was refused.
    pub const DENIED_HEADER: &str = "x-egress-denied";
}

/// How the module gets to Envoy.
#[derive(Clone, Debug)]
pub enum Module {
    /// Inside the plugin's configuration: one channel, nothing else to secure.
    Inline(Bytes),
    /// As a file that Envoy's machine has.
    File(PathBuf),
}

/// Which connections are intercepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum IpFamilies {
    /// IPv4 and IPv6.
    Dual,
    /// IPv4 only, where machines have no IPv6.
    Ipv4,
}

/// What is the same for every identity.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The module.
    pub module: Module,
    /// The port of the outbound listener.
    pub listener_port: u16,
    /// The HTTP status of a refused request.
    pub http_deny_status: u16,
    /// The name servers that Envoy asks; none: those of its own `/etc/resolv.conf`.
    pub dns_resolvers: Vec<SocketAddr>,
    /// Where names must not lead.
    pub blocked: BlockedRanges,
    /// How long the first bytes of a connection may take where they decide.
    pub first_bytes_timeout: Duration,
    /// How long a connection may be silent; none: as long as its ends want.
    pub idle_timeout: Option<Duration>,
    /// How long a connection to an HTTP origin is kept without a request.
    pub upstream_idle_timeout: Duration,
    /// Whether requests may have methods that Envoy does not know.
    pub allow_custom_methods: bool,
    /// Which connections are intercepted.
    pub ip_families: IpFamilies,
    /// Whether proxies tell the control plane of each connection and request.
    pub flow_log: bool,
}

/// Makes snapshots.
#[derive(Debug)]
pub struct Generator {
    settings: Settings,
    module: Option<Shared>,
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
        let dns = |names| clusters::dns(names::cluster(names), &settings, names, &limits);
        let clusters = [
            clusters::original_dst(name::ORIGINAL_DST, &settings, &limits),
            dns(HostMatch::Exact),
            dns(HostMatch::Wildcard),
            clusters::http(&settings),
        ]
        .map(|cluster| (type_url::CLUSTER, resource(cluster.name.clone(), &cluster)));
        let passthrough = clusters::original_dst(name::PASSTHROUGH, &settings, &limits);
        Self {
            constant: listeners.chain(clusters).collect(),
            passthrough: resource(passthrough.name.clone(), &passthrough),
            module: match &settings.module {
                Module::Inline(bytes) => Some(Shared::new(bytes.clone())),
                Module::File(_) => None,
            },
            settings,
        }
    }

    /// What the proxies of the document's identity get; `own` are the clusters that it names.
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

fn any<M: Message + Name>(message: &M) -> Any {
    Any { type_url: M::type_url(), value: message.encode_to_vec() }
}

fn address(address: SocketAddr) -> Address {
    Address {
        address: Some(address::Address::SocketAddress(SocketAddress {
            address: address.ip().to_string(),
            port_specifier: Some(PortSpecifier::PortValue(u32::from(address.port()))),
            ..Default::default()
        })),
    }
}

/// A plugin's configuration by ECDS over the aggregated stream, with no default: until it is there,
/// Envoy closes connections.
fn by_discovery(type_url: String) -> ExtensionConfigSource {
    use envoy_types::pb::envoy::config::core::v3::{
        AggregatedConfigSource, ApiVersion, ConfigSource, config_source::ConfigSourceSpecifier,
    };
    ExtensionConfigSource {
        config_source: Some(ConfigSource {
            resource_api_version: ApiVersion::V3.into(),
            config_source_specifier: Some(ConfigSourceSpecifier::Ads(AggregatedConfigSource {})),
            ..Default::default()
        }),
        type_urls: vec![type_url],
        ..Default::default()
    }
}

#[cfg(test)]
mod tests {
    use egress_policy::{ApiVersion, Identity};

    use super::*;

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

    /// Whether by the control plane of before or by another: Envoy would use a plugin that it has again.
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

    /// What is written is what the filter reads, and Envoy.
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
