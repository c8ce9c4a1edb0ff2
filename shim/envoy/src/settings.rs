//! The settings of all resources.

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

/// The address families that are intercepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum IpFamilies {
    /// IPv4 and IPv6.
    Dual,
    /// IPv4 only, where machines have no IPv6.
    Ipv4,
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
    /// The address families that are intercepted.
    pub ip_families: IpFamilies,
    /// True if proxies report each connection and request to the control plane.
    pub flow_log: bool,
}
