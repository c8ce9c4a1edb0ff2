//! The objects that are read, field for field as Open Service Mesh and SMI have them.
//!
//! Values are as lenient as one object can be without taking the others of its kind along: what is
//! wrong with a port or a CIDR is found when it is compiled, and concerns that rule alone.

use std::collections::BTreeMap;

use serde::Deserialize;

/// `metadata`.
#[derive(Debug, Clone, Default, Deserialize)]
pub struct Metadata {
    /// The name.
    pub name: String,
    /// The namespace.
    #[serde(default)]
    pub namespace: Option<String>,
    /// Annotations.
    #[serde(default)]
    pub annotations: Option<BTreeMap<String, String>>,
}

/// `config.openservicemesh.io` MeshConfig, of which only `spec.traffic.enableEgress` matters here.
#[derive(Debug, Deserialize)]
pub struct MeshConfig {
    /// `spec`.
    pub spec: MeshConfigSpec,
}

/// The parts that have nothing to do with egress are taken as they are.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct MeshConfigSpec {
    /// Traffic management.
    #[serde(default)]
    pub traffic: Traffic,
    #[serde(default, rename = "sidecar")]
    _sidecar: serde::de::IgnoredAny,
    #[serde(default, rename = "featureFlags")]
    _feature_flags: serde::de::IgnoredAny,
    #[serde(default, rename = "observability")]
    _observability: serde::de::IgnoredAny,
    #[serde(default, rename = "certificate")]
    _certificate: serde::de::IgnoredAny,
}

/// `spec.traffic`: strict, because a misspelt switch is a switch that does not work.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Traffic {
    /// Global egress.
    #[serde(default)]
    pub enable_egress: bool,
    #[serde(default, rename = "enablePermissiveTrafficPolicyMode")]
    _permissive: Option<bool>,
    #[serde(default, rename = "outboundIPRangeExclusionList")]
    _outbound_ip_exclusion: Option<Vec<String>>,
    #[serde(default, rename = "outboundIPRangeInclusionList")]
    _outbound_ip_inclusion: Option<Vec<String>>,
    #[serde(default, rename = "outboundPortExclusionList")]
    _outbound_port_exclusion: Option<Vec<u16>>,
    #[serde(default, rename = "inboundPortExclusionList")]
    _inbound_port_exclusion: Option<Vec<u16>>,
    #[serde(default, rename = "networkInterfaceExclusionList")]
    _interface_exclusion: Option<Vec<String>>,
    #[serde(default, rename = "inboundExternalAuthorization")]
    _external_authorization: serde::de::IgnoredAny,
}

/// `policy.openservicemesh.io/v1alpha1` Egress.
#[derive(Debug, Deserialize)]
pub struct Egress {
    /// `spec`.
    pub spec: EgressSpec,
}

/// What the sources may reach.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct EgressSpec {
    /// Whom it applies to.
    #[serde(default)]
    pub sources: Option<Vec<Source>>,
    /// Names: authorities for `http`, SNI for `https`.
    #[serde(default)]
    pub hosts: Option<Vec<String>>,
    /// CIDR blocks.
    #[serde(default)]
    pub ip_addresses: Option<Vec<String>>,
    /// Ports.
    #[serde(default)]
    pub ports: Option<Vec<PortSpec>>,
    /// Route groups and settings in the same namespace.
    #[serde(default)]
    pub matches: Option<Vec<Reference>>,
}

/// A service account.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Source {
    /// `ServiceAccount`.
    pub kind: String,
    /// Its name.
    pub name: String,
    /// Its namespace.
    pub namespace: String,
}

/// A port and what is spoken there.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PortSpec {
    /// 1 to 65535.
    pub number: i64,
    /// `http`, `https`, `tcp` or `tcp-server-first`, in any case.
    pub protocol: String,
}

/// A reference to an object in the same namespace.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Reference {
    /// Group and version, unlike elsewhere in Kubernetes.
    #[serde(default)]
    pub api_group: Option<String>,
    /// The kind.
    pub kind: String,
    /// The name.
    pub name: String,
}

/// `specs.smi-spec.io/v1alpha4` HTTPRouteGroup.
#[derive(Debug, Deserialize)]
pub struct HttpRouteGroup {
    /// `spec`.
    pub spec: HttpRouteGroupSpec,
}

/// Routes.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct HttpRouteGroupSpec {
    /// Of which one must match.
    #[serde(default)]
    pub matches: Option<Vec<HttpMatch>>,
}

/// One route: all that is given must match.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct HttpMatch {
    /// The name; for egress all matches of a group count.
    pub name: String,
    /// A regular expression for the whole path.
    #[serde(default)]
    pub path_regex: Option<String>,
    /// Methods; `*` is any.
    #[serde(default)]
    pub methods: Option<Vec<String>>,
    /// Headers and regular expressions for their values.
    #[serde(default)]
    pub headers: Option<Headers>,
}

/// The CRD has a list of maps, the text of SMI a map.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
pub enum Headers {
    /// As the CRD has it; of a name that is there twice the last counts.
    List(Vec<BTreeMap<String, String>>),
    /// As the specification writes it.
    Map(BTreeMap<String, String>),
}

/// `policy.openservicemesh.io/v1alpha1` UpstreamTrafficSetting.
#[derive(Debug, Deserialize)]
pub struct UpstreamTrafficSetting {
    #[serde(rename = "spec")]
    _spec: UpstreamTrafficSettingSpec,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct UpstreamTrafficSettingSpec {
    #[serde(rename = "host")]
    _host: String,
    #[serde(default, rename = "connectionSettings")]
    _connection_settings: serde::de::IgnoredAny,
    #[serde(default, rename = "rateLimit")]
    _rate_limit: serde::de::IgnoredAny,
    #[serde(default, rename = "httpRoutes")]
    _http_routes: serde::de::IgnoredAny,
}
