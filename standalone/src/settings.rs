//! The settings of listeners, clusters and plugins.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;
use egress_compile::blocked_ranges::BlockedRanges;

/// The delivery of the module to Envoy.
#[derive(Clone, Debug)]
pub enum Module {
    /// Inside the plugin's configuration: one channel, nothing else to secure.
    Inline(Bytes),
    /// As a file that Envoy's machine has.
    File(PathBuf),
}

/// The settings that are the same for every identity.
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
    /// The blocked ranges, to which no name may lead.
    pub blocked: BlockedRanges,
    /// The time that the first bytes of a connection may take where they decide.
    pub first_bytes_timeout: Duration,
    /// The time that a connection may be silent; none: without a limit.
    pub idle_timeout: Option<Duration>,
    /// The time that a connection to an HTTP origin is kept without a request.
    pub upstream_idle_timeout: Duration,
    /// True if requests may have methods that Envoy does not know.
    pub allow_custom_methods: bool,
    /// True if connections over IPv6 are intercepted as well.
    pub ipv6: bool,
    /// True if proxies report each connection and request to the control plane.
    pub flow_log: bool,
}

impl Settings {
    /// The settings of an Envoy without control plane: what the control plane has by default, the module in a file, and
    /// IPv4 alone.
    #[must_use]
    pub fn standalone(module: &str, blocked: &BlockedRanges) -> Self {
        Self {
            module: Module::File(module.into()),
            listener_port: 15001,
            http_deny_status: 403,
            dns_resolvers: Vec::new(),
            blocked: blocked.clone(),
            first_bytes_timeout: Duration::from_secs(5),
            idle_timeout: None,
            upstream_idle_timeout: Duration::from_secs(60),
            allow_custom_methods: false,
            ipv6: false,
            flow_log: false,
        }
    }
}
