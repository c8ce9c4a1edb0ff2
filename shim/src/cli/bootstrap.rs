//! `osm-egress bootstrap`.

use std::net::IpAddr;

use clap::Args;
use egress_policy::Identity;

use crate::envoy::bootstrap::{Bootstrap, CURRENT, EnvoyVersion};

#[derive(Debug, Args)]
pub(super) struct BootstrapArgs {
    /// Whose sidecar: namespace/service-account.
    #[arg(long, value_name = "NS/SA")]
    identity: Identity,
    /// First part of the node id; tells the proxies of one identity apart.
    #[arg(long, default_value = "sidecar", value_parser = parse_node_part)]
    proxy: String,
    /// The Envoy that will read it.
    #[arg(long, value_name = "VERSION", default_value_t = CURRENT)]
    envoy_version: EnvoyVersion,
    /// Where the control plane is: host:port.
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:15128", value_parser = parse_host_port)]
    xds: (String, u16),
    /// Envoy's admin port on loopback.
    #[arg(long, value_name = "PORT", default_value_t = 15000)]
    admin_port: u16,
    /// Ask for changes only instead of the state of the world.
    #[arg(long)]
    delta: bool,
}

fn parse_node_part(text: &str) -> Result<String, String> {
    let valid = !text.is_empty()
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_'));
    if valid { Ok(text.to_owned()) } else { Err("use letters, digits, `-`, `_` and `.`".to_owned()) }
}

pub(super) fn parse_host_port(text: &str) -> Result<(String, u16), String> {
    let (host, port) = text.rsplit_once(':').ok_or("write it as host:port")?;
    let port = port.parse().ok().filter(|port| *port > 0).ok_or("the port must be 1 to 65535")?;
    let host = host.trim_start_matches('[').trim_end_matches(']');
    if host.parse::<IpAddr>().is_err() {
        egress_policy::Host::canonical(host).map_err(|e| e.to_string())?;
    }
    Ok((host.to_owned(), port))
}

impl BootstrapArgs {
    pub(super) fn bootstrap(self) -> Bootstrap {
        let (xds_host, xds_port) = self.xds;
        Bootstrap {
            identity: Some(self.identity),
            proxy: self.proxy,
            version: self.envoy_version,
            xds_host,
            xds_port,
            admin_port: self.admin_port,
            delta: self.delta,
            ready: None,
        }
    }
}
