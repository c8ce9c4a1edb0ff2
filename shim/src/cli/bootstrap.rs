//! `osm-egress bootstrap`.

use std::net::IpAddr;
use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::Args;
use egress_policy::Identity;
use egress_standalone::{CURRENT, EnvoyVersion};

use egress_envoy::bootstrap::{Bootstrap, Ready};
use egress_envoy::credentials::{Authority, ClientFiles, Credentials, EnvoyPath, Security};

#[derive(Debug, Args)]
pub(super) struct BootstrapArgs {
    /// Identity of the sidecar: namespace/service-account.
    #[arg(long, value_name = "NS/SA")]
    identity: Identity,
    /// First part of the node id. It distinguishes the proxies of one identity.
    #[arg(long, default_value = "sidecar", value_parser = parse_node_part)]
    proxy: String,
    /// Version of the Envoy that reads the bootstrap.
    #[arg(long, value_name = "VERSION", default_value_t = CURRENT)]
    envoy_version: EnvoyVersion,
    /// Address of the control plane, as host:port.
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:15128", value_parser = parse_host_port)]
    xds: (String, u16),
    #[command(flatten)]
    security: SecurityArgs,
    /// Envoy's admin port on loopback.
    #[arg(long, value_name = "PORT", default_value_t = 15000)]
    admin_port: u16,
    /// Port on all addresses for /ready and /stats/prometheus. /ready succeeds once Envoy has its configuration.
    #[arg(long, value_name = "PORT", value_parser = clap::value_parser!(u16).range(1..))]
    ready_port: Option<u16>,
    /// Use incremental (delta) xDS instead of state-of-the-world.
    #[arg(long)]
    delta: bool,
}

/// Authentication between Envoy and the control plane. Without `--xds-ca` there is none.
#[derive(Debug, Args)]
struct SecurityArgs {
    /// Connect over TLS. The certificate of the control plane must be signed by this authority (PEM) and name the host
    /// of `--xds`.
    #[arg(long, value_name = "FILE")]
    xds_ca: Option<PathBuf>,
    /// Present the service account token in this file, on Envoy's machine. A renewed token is used from the next stream
    /// on.
    #[arg(long, value_name = "PATH", requires = "xds_ca", conflicts_with = "client_cert")]
    token_file: Option<EnvoyPath>,
    /// Present the client certificate in this file (PEM, with its chain), on Envoy's machine.
    #[arg(long, value_name = "PATH", requires_all = ["xds_ca", "client_key", "client_sds"])]
    client_cert: Option<EnvoyPath>,
    /// Key of the client certificate (PEM), in the same folder.
    #[arg(long, value_name = "PATH", requires = "client_cert")]
    client_key: Option<EnvoyPath>,
    /// Write the file through which Envoy watches the certificate and its key. On Envoy's machine it has the same path.
    #[arg(long, value_name = "PATH", requires = "client_cert")]
    client_sds: Option<EnvoyPath>,
}

impl SecurityArgs {
    fn security(self) -> Result<Security> {
        let Some(file) = self.xds_ca else { return Ok(Security::Plaintext) };
        let pem =
            std::fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))?;
        let authority = Authority::from_pem(&pem).with_context(|| file.display().to_string())?;
        let credentials = match (self.token_file, self.client_cert, self.client_key, self.client_sds) {
            (Some(file), ..) => Credentials::Token(file),
            (None, Some(certificate), Some(key), Some(sds)) => {
                let files = ClientFiles::new(certificate, key, sds)?;
                let path = files.sds().to_string();
                std::fs::write(&path, files.to_string()).with_context(|| format!("cannot write {path}"))?;
                Credentials::Certificate(files)
            }
            _ => Credentials::NodeId,
        };
        Ok(Security::Tls { authority, credentials })
    }
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
    pub(super) fn bootstrap(self) -> Result<Bootstrap> {
        let (xds_host, xds_port) = self.xds;
        Ok(Bootstrap {
            identity: Some(self.identity),
            proxy: self.proxy,
            version: self.envoy_version,
            security: self.security.security()?,
            xds_host,
            xds_port,
            admin_port: self.admin_port,
            delta: self.delta,
            ready: self.ready_port.map(|port| Ready { port, ipv6: false }),
        })
    }
}
