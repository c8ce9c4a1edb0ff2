//! What `install` can be told: the `osm.*` values of Open Service Mesh's chart that concern egress, under their
//! names, and ours under `osm.egress`. `docs/install.md` has them in a table, which a test holds against the types.

mod foreign;
mod set;

use std::collections::BTreeMap;
use std::num::{NonZeroU16, NonZeroU32};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use egress_compile::PolicyNamespaces;
use egress_compile::blocked_ranges::Nat64Prefix;
use egress_compile::duration;
use egress_compile::manifest::yaml;
use egress_policy::{Cidr, EncryptedHello};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::image;

/// Everything.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub struct Values {
    /// As in Open Service Mesh's chart, everything stands below `osm`.
    pub osm: Osm,
}

/// Those that have Open Service Mesh's names.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub struct Osm {
    /// Whether everything outside the mesh may be reached.
    pub enable_egress: bool,
    /// Whether everything in the mesh may be reached.
    pub enable_permissive_traffic_policy: bool,
    /// Blocks of addresses that sidecars do not see.
    #[serde(rename = "outboundIPRangeExclusionList")]
    pub outbound_ip_range_exclusion_list: Vec<String>,
    /// The only blocks of addresses that sidecars see.
    #[serde(rename = "outboundIPRangeInclusionList")]
    pub outbound_ip_range_inclusion_list: Vec<String>,
    /// Ports outside that sidecars do not see.
    pub outbound_port_exclusion_list: Vec<NonZeroU16>,
    /// Ports of workloads that sidecars do not see.
    pub inbound_port_exclusion_list: Vec<NonZeroU16>,
    /// Network interfaces that sidecars do not see.
    pub network_interface_exclusion_list: Vec<String>,
    /// Image of Envoy.
    pub sidecar_image: String,
    /// Whether init containers run privileged.
    pub enable_privileged_init_container: bool,
    /// Log level of Envoy.
    pub envoy_log_level: EnvoyLogLevel,
    /// Where sidecars reach their workload.
    pub local_proxy_mode: LocalProxyMode,
    /// The most proxies that may connect; 0 for any number.
    pub max_data_plane_connections: u32,
    /// Name of the mesh; empty for the flag's.
    pub mesh_name: String,
    /// Namespace of the control plane; empty for the flag's.
    pub osm_namespace: String,
    /// Secrets for pulling the control plane's image, as `{name: …}`.
    pub image_pull_secrets: Vec<BTreeMap<String, String>>,
    /// Tolerations of the control plane's pods.
    pub control_plane_tolerations: Vec<Map<String, Value>>,
    /// Ours.
    pub egress: Egress,
}

/// Those that Open Service Mesh does not have.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub struct Egress {
    /// Image of the control plane.
    pub image: String,
    /// When it is pulled.
    pub image_pull_policy: PullPolicy,
    /// Image of the init container of pods: it has iptables, which the control plane's has not.
    pub init_image: String,
    /// How many control planes run.
    pub replicas: NonZeroU16,
    /// Resources of each.
    pub resources: Map<String, Value>,
    /// Nodes that they run on.
    pub node_selector: BTreeMap<String, String>,
    /// HTTP status of a refused request.
    pub http_deny_status: u16,
    /// How long a connection may be silent, as in `2h`; empty: as long as its ends want.
    pub idle_timeout: String,
    /// How long a sidecar keeps a connection to an HTTP origin without a request.
    pub upstream_idle_timeout: String,
    /// Whether HTTP requests may have methods that Envoy does not know.
    pub allow_custom_methods: bool,
    /// Blocks of addresses that names must not lead to.
    pub never_resolve_to: Vec<String>,
    /// Prefixes of NAT64 translators.
    pub nat64_prefixes: Vec<String>,
    /// What becomes of pods that lead names.
    pub pod_dns: PodDns,
    /// Name servers of sidecars, as `ADDRESS:PORT`; empty for their own.
    pub dns_resolvers: Vec<String>,
    /// Which connections are redirected to sidecars.
    pub ip_families: IpFamilies,
    /// What annotations of pods may change about their interception.
    pub pod_annotations: PodAnnotations,
    /// Whether sidecars tell of each connection and request.
    pub flow_log: bool,
    /// How many flows each control plane remembers of each identity.
    pub flows_per_identity: NonZeroU32,
    /// Namespaces whose Egress objects count for service accounts of every namespace, `*` for all; empty: the mesh's own.
    pub policy_namespaces: Vec<String>,
    /// What becomes of encrypted ClientHellos where no annotation of the policy says it.
    pub encrypted_hello: EncryptedHello,
    /// Whether there is a NetworkPolicy around the control plane.
    pub network_policy: bool,
    /// Ports of the API server that it lets through, besides those that the cluster names.
    pub api_server_ports: Vec<NonZeroU16>,
    /// Blocks of addresses from which the API server connects to the webhooks, for the NetworkPolicy; empty: any.
    #[serde(rename = "apiServerCIDRs")]
    pub api_server_cidrs: Vec<String>,
    /// How long the API server waits for an answer of a webhook.
    pub webhook_timeout_seconds: u8,
    /// Secret with the authority of the certificate that the API server shows to webhooks, as `ca.crt`; empty: it need
    /// show none.
    pub webhook_client_ca_secret: String,
    /// Names that this certificate must have one of; empty: any.
    pub webhook_client_names: Vec<String>,
    /// Secret with the token by which the console writes, as `token`; empty: it does not.
    pub console_token_secret: String,
}

/// Log levels of Envoy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[expect(missing_docs, reason = "they say it themselves")]
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

/// Where sidecars reach their workload.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "they say it themselves")]
pub enum LocalProxyMode {
    Localhost,
    PodIP,
}

/// When an image is pulled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "they say it themselves")]
pub enum PullPolicy {
    Always,
    IfNotPresent,
    Never,
}

/// What becomes of pods that lead names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[expect(missing_docs, reason = "they say it themselves")]
pub enum PodDns {
    Allow,
    Warn,
    Refuse,
}

/// Which connections are redirected to sidecars.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[expect(missing_docs, reason = "they say it themselves")]
pub enum IpFamilies {
    Dual,
    Ipv4,
}

/// What annotations of pods may change about their interception.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[expect(missing_docs, reason = "they say it themselves")]
pub enum PodAnnotations {
    None,
    Tighten,
    All,
}

impl Default for Osm {
    fn default() -> Self {
        Self {
            // Open Service Mesh 1.2 says true. Closed when in doubt: docs/decisions/0045.
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

/// What `serve` has if it is told nothing (`docs/decisions/0094-connections-per-client.md`).
pub const UPSTREAM_IDLE_TIMEOUT: &str = "60s";

/// Reads a limit on silence. A second is enough for any answer, and a week is longer than connections live.
///
/// # Errors
/// When it is no duration, or out of these bounds.
pub fn idle_timeout(text: &str) -> Result<Duration, String> {
    let time = duration::parse(text).ok_or("write it as `60s` or `2h`")?;
    let (least, most) = (Duration::from_secs(1), Duration::from_secs(7 * 24 * 3600));
    if (least..=most).contains(&time) { Ok(time) } else { Err("it must be 1s to 168h".to_owned()) }
}

/// Below these the user may write what Kubernetes takes.
const FREE: [&str; 2] = ["osm.egress.resources", "osm.egress.nodeSelector"];

/// What the user gave, checked for its keys.
#[derive(Clone, Debug, PartialEq)]
pub struct Given {
    /// The values, as a tree.
    pub tree: Value,
    /// What was given and means nothing here.
    pub ignored: Vec<String>,
}

impl Given {
    /// Reads files, then settings; what comes later counts.
    ///
    /// # Errors
    /// When a file cannot be read, a setting is not of the form, or a key is not known.
    pub fn read(files: &[impl AsRef<Path>], settings: &[String]) -> Result<Self> {
        let mut tree = json!({});
        for file in files {
            let path = file.as_ref();
            merge(
                &mut tree,
                read(path).with_context(|| format!("cannot use the values of {}", path.display()))?,
            );
        }
        for setting in settings {
            set::apply(&mut tree, setting).map_err(|why| anyhow!("`--set {setting}`: {why}"))?;
        }
        let mut ignored = Vec::new();
        check(&mut tree, &serde_json::to_value(Values::default())?, "", &mut ignored)?;
        // Wrong types are found here, where it is known who gave them.
        resolve(&tree)?;
        Ok(Self { tree, ignored })
    }
}

/// The values of a tree, over the defaults.
///
/// # Errors
/// When one has the wrong type or is out of range; with its key.
pub fn resolve(tree: &Value) -> Result<Values> {
    let mut all = serde_json::to_value(Values::default())?;
    merge(&mut all, tree.clone());
    prune(&mut all);
    let values: Values = serde_path_to_error::deserialize(&all).map_err(|error| {
        let path = error.path().to_string();
        anyhow!("value `{path}`: {}{}", error.inner(), advice(&path))
    })?;
    values.check()?;
    Ok(values)
}

/// Lists are what people get wrong.
fn advice(path: &str) -> &'static str {
    if path.ends_with("List") || path.ends_with('s') { "; write a list as `{a,b}`" } else { "" }
}

impl Values {
    /// The namespaces whose Egress objects count everywhere.
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

    /// The images that only a tag names, which another image may have tomorrow.
    pub(super) fn images_without_digest(&self) -> Vec<String> {
        let images = self.images().into_iter();
        let tagged = images.filter(|(_, image)| matches!(image::digest(image), Ok(None)));
        tagged.map(|(key, image)| format!("`{key}` ({image})")).collect()
    }

    fn check(&self) -> Result<()> {
        let Osm { egress, .. } = &self.osm;
        for (key, list) in [
            ("osm.outboundIPRangeExclusionList", &self.osm.outbound_ip_range_exclusion_list),
            ("osm.outboundIPRangeInclusionList", &self.osm.outbound_ip_range_inclusion_list),
            ("osm.egress.neverResolveTo", &egress.never_resolve_to),
            ("osm.egress.apiServerCIDRs", &egress.api_server_cidrs),
        ] {
            for (i, block) in list.iter().enumerate() {
                Cidr::canonical(block).map_err(|why| anyhow!("value `{key}[{i}]`: `{block}`: {why}"))?;
            }
        }
        for (i, prefix) in egress.nat64_prefixes.iter().enumerate() {
            let _: Nat64Prefix =
                prefix.parse().map_err(|why| anyhow!("value `osm.egress.nat64Prefixes[{i}]`: {why}"))?;
        }
        for (i, address) in egress.dns_resolvers.iter().enumerate() {
            let _: std::net::SocketAddr = address.parse().map_err(|_| {
                anyhow!("value `osm.egress.dnsResolvers[{i}]`: `{address}`: write it as `ADDRESS:PORT`")
            })?;
        }
        for (key, image) in self.images() {
            if image.is_empty() || image.contains(char::is_whitespace) {
                bail!("value `{key}`: `{image}` is no image");
            }
            image::digest(image).map_err(|why| anyhow!("value `{key}`: {why}"))?;
        }
        for (i, secret) in self.osm.image_pull_secrets.iter().enumerate() {
            if !secret.keys().eq(["name"]) {
                bail!("value `osm.imagePullSecrets[{i}]`: write it as `{{name: SECRET}}`");
            }
        }
        if !(400..=599).contains(&egress.http_deny_status) {
            bail!("value `osm.egress.httpDenyStatus`: {} is not 400 to 599", egress.http_deny_status);
        }
        for (key, text) in [
            ("osm.egress.idleTimeout", Some(&egress.idle_timeout).filter(|text| !text.is_empty())),
            ("osm.egress.upstreamIdleTimeout", Some(&egress.upstream_idle_timeout)),
        ] {
            if let Some(text) = text {
                idle_timeout(text).map_err(|why| anyhow!("value `{key}`: {text:?}: {why}"))?;
            }
        }
        for (i, name) in egress.policy_namespaces.iter().enumerate() {
            let found: Result<PolicyNamespaces, _> = name.parse();
            if name.contains(',') || found.is_err() || found == Ok(PolicyNamespaces::default()) {
                bail!(
                    "value `osm.egress.policyNamespaces[{i}]`: `{name}` is not a namespace; `*` stands for all"
                );
            }
        }
        let is_name = |text: &str| {
            text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-.".contains(&b))
        };
        for (key, name) in [
            ("osm.egress.consoleTokenSecret", &egress.console_token_secret),
            ("osm.egress.webhookClientCaSecret", &egress.webhook_client_ca_secret),
        ] {
            if !is_name(name) {
                bail!("value `{key}`: `{name}` is no name of a Secret");
            }
        }
        if !egress.webhook_client_names.is_empty() && egress.webhook_client_ca_secret.is_empty() {
            bail!(
                "value `osm.egress.webhookClientNames`: nobody is asked for a certificate without \
                 `osm.egress.webhookClientCaSecret`"
            );
        }
        if let Some(name) =
            egress.webhook_client_names.iter().find(|name| name.is_empty() || name.contains(','))
        {
            bail!("value `osm.egress.webhookClientNames`: `{name}` is no name of a certificate");
        }
        if !(1..=30).contains(&egress.webhook_timeout_seconds) {
            bail!(
                "value `osm.egress.webhookTimeoutSeconds`: {} is not 1 to 30",
                egress.webhook_timeout_seconds
            );
        }
        Ok(())
    }
}

fn read(path: &Path) -> Result<Value> {
    let bytes = std::fs::read(path)?;
    let documents = yaml::parse_bytes(&bytes).map_err(|error| {
        let place = error.position.map(|at| format!("line {}: ", at.line)).unwrap_or_default();
        anyhow!("{place}{error}: {}", error.advice)
    })?;
    let mut documents = documents.into_iter().map(|document| document.value);
    match (documents.next(), documents.next()) {
        (None, _) => Ok(json!({})),
        (Some(value @ Value::Object(_)), None) => Ok(value),
        (Some(_), None) => bail!("it holds no mapping of keys to values"),
        (Some(_), Some(_)) => bail!("it holds several documents"),
    }
}

/// Lays a tree over another: mappings are merged, everything else is replaced.
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

/// Takes away what is null: that is how a default is taken away.
fn prune(value: &mut Value) {
    if let Value::Object(map) = value {
        map.retain(|_, value| !value.is_null());
        map.values_mut().for_each(prune);
    }
}

/// Takes out what means nothing here, and refuses what nobody knows.
fn check(tree: &mut Value, known: &Value, path: &str, ignored: &mut Vec<String>) -> Result<()> {
    if FREE.contains(&path) {
        return Ok(());
    }
    let (Value::Object(tree), Value::Object(known)) = (tree, known) else { return Ok(()) };
    for key in tree.keys().cloned().collect::<Vec<_>>() {
        let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
        if let Some(below) = known.get(&key) {
            check(tree.get_mut(&key).unwrap_or(&mut Value::Null), below, &path, ignored)?;
        } else if let Some(why) = foreign::find(&path) {
            tree.remove(&key);
            ignored.push(format!("value `{path}` of Open Service Mesh means nothing here: {why}"));
        } else {
            let near = nearest(&path).map(|near| format!("; did you mean `{near}`?")).unwrap_or_default();
            bail!("value `{path}` is not known{near} docs/install.md lists all values");
        }
    }
    Ok(())
}

/// The known key that is written most like this one.
fn nearest(path: &str) -> Option<String> {
    let lower = path.to_lowercase();
    let ours = table().into_iter().map(|(key, _)| key);
    ours.chain(foreign::KEYS.iter().map(|(key, _)| (*key).to_owned()))
        .map(|key| (strsim::normalized_damerau_levenshtein(&lower, &key.to_lowercase()), key))
        .filter(|(likeness, _)| *likeness > 0.6)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, key)| key)
}

/// Every key with its default.
#[must_use]
pub fn table() -> Vec<(String, Value)> {
    fn walk(value: &Value, path: &str, out: &mut Vec<(String, Value)>) {
        match value {
            Value::Object(map) if !FREE.contains(&path) => {
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
