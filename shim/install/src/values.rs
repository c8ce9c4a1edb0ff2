//! The values of `install`: the `osm.*` values of Open Service Mesh's chart that concern egress, under their names, and the
//! values of this project under `osm.egress`. A test compares the table in `docs/install.md` with these types.

mod set;
mod unsupported;
mod user;
mod validate;

use std::collections::BTreeMap;
use std::num::{NonZeroU16, NonZeroU32};
use std::time::Duration;

use anyhow::{Result, anyhow};
use egress_compile::duration;
use egress_policy::EncryptedHello;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

pub use self::user::UserValues;
use super::image;

/// All values.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub struct Values {
    /// The root key, as in Open Service Mesh's chart.
    pub osm: Osm,
}

/// The values with names of Open Service Mesh's chart.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub struct Osm {
    /// Allows all destinations outside the mesh.
    pub enable_egress: bool,
    /// Allows all destinations in the mesh.
    pub enable_permissive_traffic_policy: bool,
    /// Address blocks whose connections are not intercepted.
    #[serde(rename = "outboundIPRangeExclusionList")]
    pub outbound_ip_range_exclusion_list: Vec<String>,
    /// The only address blocks whose connections are intercepted.
    #[serde(rename = "outboundIPRangeInclusionList")]
    pub outbound_ip_range_inclusion_list: Vec<String>,
    /// Destination ports whose connections are not intercepted.
    pub outbound_port_exclusion_list: Vec<NonZeroU16>,
    /// Workload ports whose connections are not intercepted.
    pub inbound_port_exclusion_list: Vec<NonZeroU16>,
    /// Network interfaces whose connections are not intercepted.
    pub network_interface_exclusion_list: Vec<String>,
    /// The image of Envoy.
    pub sidecar_image: String,
    /// Runs init containers privileged.
    pub enable_privileged_init_container: bool,
    /// The log level of Envoy.
    pub envoy_log_level: EnvoyLogLevel,
    /// The address at which sidecars reach their workload.
    pub local_proxy_mode: LocalProxyMode,
    /// The most connected proxies; 0 for no limit.
    pub max_data_plane_connections: u32,
    /// The name of the mesh; empty for that of the flag.
    pub mesh_name: String,
    /// The namespace of the control plane; empty for that of the flag.
    pub osm_namespace: String,
    /// The Secrets for pulling the control plane's image, as `{name: …}`.
    pub image_pull_secrets: Vec<BTreeMap<String, String>>,
    /// Tolerations of the control plane's pods.
    pub control_plane_tolerations: Vec<Map<String, Value>>,
    /// The values of this project.
    pub egress: Egress,
}

/// The values that Open Service Mesh's chart does not have.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub struct Egress {
    /// The image of the control plane.
    pub image: String,
    /// The pull policy of that image.
    pub image_pull_policy: PullPolicy,
    /// The image of the init container, which contains iptables.
    pub init_image: String,
    /// Makes sidecars native ones, which start before init containers and end after the workload.
    pub native_sidecar: NativeSidecar,
    /// Installs the CNI plugin, which intercepts pods without a container with NET_ADMIN.
    pub cni: bool,
    /// The folder of the nodes' CNI plugins.
    pub cni_bin_dir: String,
    /// The folder of the nodes' network configuration.
    pub cni_conf_dir: String,
    /// Namespaces without injection, whose pods start even while the plugin cannot ask the API server.
    pub cni_exclude_namespaces: Vec<String>,
    /// The delivery of the module to sidecars: `inline`, or `file:PATH`.
    pub module_delivery: String,
    /// The pods of the mesh that the API server itself refuses, if it has admission policies.
    pub admission_policy: AdmissionPolicy,
    /// The number of control plane pods.
    pub replicas: NonZeroU16,
    /// The resources of each.
    pub resources: Map<String, Value>,
    /// The labels of the nodes that they run on.
    pub node_selector: BTreeMap<String, String>,
    /// The HTTP status of a denied request.
    pub http_deny_status: u16,
    /// The longest silence of a connection, as in `2h`; empty for no limit.
    pub idle_timeout: String,
    /// The longest time that a sidecar keeps a connection to an HTTP origin without a request.
    pub upstream_idle_timeout: String,
    /// Accepts HTTP methods that Envoy does not support.
    pub allow_custom_methods: bool,
    /// Blocked ranges, to which no name may resolve.
    pub never_resolve_to: Vec<String>,
    /// The prefixes of NAT64 translators.
    pub nat64_prefixes: Vec<String>,
    /// The treatment of pods that set the addresses of names.
    pub pod_dns: PodDns,
    /// The name servers of sidecars, as `ADDRESS:PORT`; empty for those of the pod.
    pub dns_resolvers: Vec<String>,
    /// The IP families that are redirected to sidecars.
    pub ip_families: IpFamilies,
    /// The changes to their interception that annotations of pods may make.
    pub pod_annotations: PodAnnotations,
    /// Makes sidecars report each connection and request.
    pub flow_log: bool,
    /// The most flows of one identity that a control plane stores.
    pub flows_per_identity: NonZeroU32,
    /// The namespaces whose Egress objects apply to service accounts of every namespace, `*` for all; empty for that of the
    /// mesh.
    pub policy_namespaces: Vec<String>,
    /// The treatment of encrypted ClientHellos unless an annotation of the policy sets it.
    pub encrypted_hello: EncryptedHello,
    /// Makes a NetworkPolicy for the control plane.
    pub network_policy: bool,
    /// Ports of the API server that the NetworkPolicy allows, besides those that the cluster publishes.
    pub api_server_ports: Vec<NonZeroU16>,
    /// Address blocks from which the API server connects to the webhooks, for the NetworkPolicy; empty for any.
    #[serde(rename = "apiServerCIDRs")]
    pub api_server_cidrs: Vec<String>,
    /// The time that the API server waits for a webhook.
    pub webhook_timeout_seconds: u8,
    /// The Secret with the authority of the client certificate that the API server presents to webhooks, as `ca.crt`; empty
    /// if it needs none.
    pub webhook_client_ca_secret: String,
    /// The accepted names of that client certificate; empty for any.
    pub webhook_client_names: Vec<String>,
    /// The Secret with the token for writes by the console, as `token`; empty for a read-only console.
    pub console_token_secret: String,
}

/// The log levels of Envoy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[expect(missing_docs, reason = "the names are Envoy's or Kubernetes'")]
pub enum EnvoyLogLevel {
    Trace,
    Debug,
    Info,
    Warning,
    Warn,
    Error,
    Critical,
    Off,
}

/// The address at which sidecars reach their workload.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the names are Envoy's or Kubernetes'")]
pub enum LocalProxyMode {
    Localhost,
    PodIP,
}

/// The pull policy of an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the names are Envoy's or Kubernetes'")]
pub enum PullPolicy {
    Always,
    IfNotPresent,
    Never,
}

/// The choice between native sidecars and ordinary containers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NativeSidecar {
    /// Native if every node runs Kubernetes 1.29 or newer when this is installed or upgraded.
    Auto,
    /// Native.
    Enabled,
    /// Ordinary containers.
    Disabled,
}

/// The treatment of pods that set the addresses of names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[expect(missing_docs, reason = "the names are Envoy's or Kubernetes'")]
pub enum PodDns {
    Allow,
    Warn,
    Refuse,
}

/// The IP families that are redirected to sidecars.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[expect(missing_docs, reason = "the names are Envoy's or Kubernetes'")]
pub enum IpFamilies {
    Dual,
    Ipv4,
}

/// The pods that admission policies refuse.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AdmissionPolicy {
    /// None: there are no admission policies.
    Off,
    /// None: there are warnings.
    Warn,
    /// Those that ask for what goes round a sidecar.
    Explicit,
    /// Those that do not rule it out, too.
    Strict,
}

/// The changes to their interception that annotations of pods may make.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[expect(missing_docs, reason = "the names are Envoy's or Kubernetes'")]
pub enum PodAnnotations {
    None,
    Tighten,
    All,
}

impl Default for Osm {
    fn default() -> Self {
        Self {
            // The default of Open Service Mesh 1.2 is true. This one is closed: docs/decisions/0045.
            enable_egress: false,
            enable_permissive_traffic_policy: true,
            outbound_ip_range_exclusion_list: Vec::new(),
            outbound_ip_range_inclusion_list: Vec::new(),
            outbound_port_exclusion_list: Vec::new(),
            inbound_port_exclusion_list: Vec::new(),
            network_interface_exclusion_list: Vec::new(),
            sidecar_image: "envoyproxy/envoy:v1.40.0".to_owned(),
            enable_privileged_init_container: false,
            envoy_log_level: EnvoyLogLevel::Error,
            local_proxy_mode: LocalProxyMode::Localhost,
            max_data_plane_connections: 0,
            mesh_name: String::new(),
            osm_namespace: String::new(),
            image_pull_secrets: Vec::new(),
            control_plane_tolerations: Vec::new(),
            egress: Egress::default(),
        }
    }
}

impl Default for Egress {
    fn default() -> Self {
        let resources = json!({
            "requests": { "cpu": "100m", "memory": "128Mi" },
            "limits": { "memory": "1Gi" },
        });
        Self {
            image: concat!("osm-egress/shim:", env!("CARGO_PKG_VERSION")).to_owned(),
            image_pull_policy: PullPolicy::IfNotPresent,
            init_image: concat!("osm-egress/init:", env!("CARGO_PKG_VERSION")).to_owned(),
            native_sidecar: NativeSidecar::Auto,
            cni: false,
            cni_bin_dir: "/opt/cni/bin".to_owned(),
            cni_conf_dir: "/etc/cni/net.d".to_owned(),
            cni_exclude_namespaces: Vec::new(),
            module_delivery: INLINE.to_owned(),
            admission_policy: AdmissionPolicy::Explicit,
            replicas: NonZeroU16::MIN.saturating_add(1),
            resources: resources.as_object().cloned().unwrap_or_default(),
            node_selector: BTreeMap::new(),
            http_deny_status: 403,
            idle_timeout: String::new(),
            upstream_idle_timeout: UPSTREAM_IDLE_TIMEOUT.to_owned(),
            allow_custom_methods: false,
            never_resolve_to: Vec::new(),
            nat64_prefixes: Vec::new(),
            pod_dns: PodDns::Warn,
            dns_resolvers: Vec::new(),
            ip_families: IpFamilies::Dual,
            pod_annotations: PodAnnotations::All,
            flow_log: false,
            flows_per_identity: NonZeroU32::MIN.saturating_add(9_999),
            policy_namespaces: Vec::new(),
            encrypted_hello: EncryptedHello::AllowOuter,
            network_policy: true,
            api_server_ports: [443, 6443].into_iter().filter_map(NonZeroU16::new).collect(),
            api_server_cidrs: Vec::new(),
            webhook_timeout_seconds: 10,
            webhook_client_ca_secret: String::new(),
            webhook_client_names: Vec::new(),
            console_token_secret: String::new(),
        }
    }
}

/// The delivery of the module by xDS.
pub(super) const INLINE: &str = "inline";

/// The default of `serve` (`docs/decisions/0094-connections-per-client.md`).
pub const UPSTREAM_IDLE_TIMEOUT: &str = "60s";

/// Parses an idle timeout: 1 second, which is enough for any answer, to a week, which is longer than connections live.
///
/// # Errors
/// Fails when the text is not a duration, or out of range.
pub fn parse_idle_timeout(text: &str) -> Result<Duration, String> {
    let time = duration::parse(text).ok_or("write it as `60s` or `2h`")?;
    let (min, max) = (Duration::from_secs(1), Duration::from_secs(7 * 24 * 3600));
    if (min..=max).contains(&time) { Ok(time) } else { Err("it must be 1s to 168h".to_owned()) }
}

/// The keys below which the user may write whatever Kubernetes accepts.
const FREE_FORM_KEYS: [&str; 2] = ["osm.egress.resources", "osm.egress.nodeSelector"];

/// Resolves the values of a tree over the defaults.
///
/// # Errors
/// Fails when a value has the wrong type or is out of range. The error names its key.
pub fn resolve(tree: &Value) -> Result<Values> {
    let mut all = serde_json::to_value(Values::default())?;
    merge(&mut all, tree.clone());
    remove_nulls(&mut all);
    let values: Values = serde_path_to_error::deserialize(&all).map_err(|error| {
        let path = error.path().to_string();
        anyhow!("value `{path}`: {}{}", error.inner(), advice(&path))
    })?;
    values.validate()?;
    Ok(values)
}

/// The advice for a wrong type: users often write lists wrongly.
fn advice(path: &str) -> &'static str {
    if path.ends_with("List") || path.ends_with('s') { "; write a list as `{a,b}`" } else { "" }
}

impl Values {
    /// The namespaces whose Egress objects apply everywhere, as the flag's text.
    pub(super) fn policy_namespaces(&self, own: &str) -> String {
        let listed = &self.osm.egress.policy_namespaces;
        if listed.is_empty() { own.to_owned() } else { listed.join(",") }
    }

    /// The images, by their keys.
    fn images(&self) -> [(&'static str, &str); 3] {
        [
            ("osm.sidecarImage", &self.osm.sidecar_image),
            ("osm.egress.image", &self.osm.egress.image),
            ("osm.egress.initImage", &self.osm.egress.init_image),
        ]
    }

    /// The images that are referenced by a tag alone, which may refer to another image later.
    pub(super) fn images_without_digest(&self) -> Vec<String> {
        let images = self.images().into_iter();
        let tagged = images.filter(|(_, image)| matches!(image::parse_digest(image), Ok(None)));
        tagged.map(|(key, image)| format!("`{key}` ({image})")).collect()
    }
}

/// Merges a tree over another: mappings are merged, other values are replaced.
pub fn merge(under: &mut Value, over: Value) {
    match (under, over) {
        (Value::Object(under), Value::Object(over)) => {
            for (key, value) in over {
                merge(under.entry(key).or_insert(Value::Null), value);
            }
        }
        (under, over) => *under = over,
    }
}

/// Removes nulls: a user removes a default by setting it to null.
fn remove_nulls(value: &mut Value) {
    if let Value::Object(map) = value {
        map.retain(|_, value| !value.is_null());
        map.values_mut().for_each(remove_nulls);
    }
}

/// Lists every key with its default.
#[must_use]
pub fn table() -> Vec<(String, Value)> {
    fn walk(value: &Value, path: &str, out: &mut Vec<(String, Value)>) {
        match value {
            Value::Object(map) if !FREE_FORM_KEYS.contains(&path) => {
                for (key, value) in map {
                    walk(value, &if path.is_empty() { key.clone() } else { format!("{path}.{key}") }, out);
                }
            }
            Value::Object(_)
            | Value::Array(_)
            | Value::String(_)
            | Value::Number(_)
            | Value::Bool(_)
            | Value::Null => out.push((path.to_owned(), value.clone())),
        }
    }
    let mut out = Vec::new();
    walk(&serde_json::to_value(Values::default()).unwrap_or_default(), "", &mut out);
    out
}

#[cfg(test)]
mod tests;
