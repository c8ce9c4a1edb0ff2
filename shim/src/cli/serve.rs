//! `osm-egress serve`.

use std::io::IsTerminal;
use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use clap::{ArgGroup, Args, ValueEnum};

use super::blocked_ranges::BlockedRangesArgs;
use super::inject::SidecarArgs;
use super::mesh_args::MeshArgs;
use super::timeout::parse_timeout;
use crate::serve;
use crate::source::{ProxyAuth, SourceConfig};
use egress_admin::console::playground::Playground;
use egress_admin::console::token::Token;
use egress_admin::guard::HostName;
use egress_compile::duration;
use egress_envoy::{IpFamilies, Module, Settings};
use egress_install::values::{UPSTREAM_IDLE_TIMEOUT, parse_idle_timeout};
use egress_transport::tls::TlsFiles;
use egress_xds::identify::TrustDomain;

/// The log filter if `RUST_LOG` is not set. The Kubernetes client is silent because it repeats, for each kind and
/// attempt, what the control plane logs once.
const DEFAULT_LOG: &str = "info,kube_client=off,kube_runtime=off";

#[derive(Debug, Args)]
pub(super) struct Serve {
    /// Folder of manifests: MeshConfig, Egress, HTTPRouteGroup, Namespace, ServiceAccount. Without it, objects are read
    /// from a cluster.
    #[arg(long, value_name = "DIR", conflicts_with = "kubeconfig")]
    config_dir: Option<PathBuf>,
    /// Kubeconfig of the cluster to read from. Default: the cluster that the command runs in, else that of kubectl.
    #[arg(long, value_name = "FILE")]
    kubeconfig: Option<PathBuf>,
    /// File of the filter, a wasm module.
    #[arg(long, value_name = "FILE", env = "EGRESS_WASM")]
    wasm: PathBuf,
    /// Delivery of the module to Envoy: `inline`, over xDS, or `file:PATH`, a file on Envoy's machine.
    #[arg(long, value_name = "HOW", default_value = "inline", value_parser = parse_delivery)]
    module_delivery: Delivery,
    #[command(flatten)]
    identity: IdentityArgs,
    /// Address to listen on for proxies (xDS).
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:15128")]
    xds_listen: SocketAddr,
    /// Address to listen on for webhooks of the API server: /validate checks objects, and with `--xds-ca`, /mutate
    /// injects sidecars into pods. Requires `--tls-cert`.
    #[arg(long, value_name = "ADDRESS", requires = "tls_cert")]
    webhook_listen: Option<SocketAddr>,
    /// Accept only webhook clients with a certificate of this authority (PEM). docs/install.md explains how the API
    /// server gets one.
    #[arg(long, value_name = "FILE", requires = "webhook_listen")]
    webhook_client_ca: Option<PathBuf>,
    /// Accept only webhook clients whose certificate has one of these names, as common name or alternative name;
    /// comma-separated. A cluster's own authority signs other certificates too.
    #[arg(long, value_name = "NAME", value_delimiter = ',', requires = "webhook_client_ca")]
    webhook_client_name: Vec<String>,
    /// Name of this control plane, unique among the replicas of its mesh. Default: the host name.
    #[arg(long, value_name = "NAME", value_parser = parse_replica)]
    replica_name: Option<String>,
    /// Address to listen on for /healthz, /readyz, /metrics, /status, /flows and the console (the admin port).
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:15129")]
    admin_listen: SocketAddr,
    /// Names under which browsers may use the admin port, besides addresses and `localhost`; comma-separated.
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    admin_host: Vec<HostName>,
    /// Let the console switch global egress and create policies. Users must connect from this machine or pod and have
    /// the console's token.
    #[arg(long)]
    console_write: bool,
    /// File with the console's token. Default without a cluster: a random token, which is logged at the start. Required
    /// on a cluster.
    #[arg(long, value_name = "FILE", requires = "console_write")]
    console_token_file: Option<PathBuf>,
    /// Folder of the playground, as `cargo xtask playground` writes it. It is served at /playground/, and the console
    /// links to it.
    #[arg(long, value_name = "DIR")]
    playground: Option<PathBuf>,
    /// Port of the outbound listener in every sidecar.
    #[arg(long, value_name = "PORT", default_value_t = 15001, value_parser = clap::value_parser!(u16).range(1..))]
    listener_port: u16,
    /// HTTP status of a refused request. Open Service Mesh uses 404.
    #[arg(long, value_name = "STATUS", default_value_t = 403, value_parser = clap::value_parser!(u16).range(400..=599))]
    http_deny_status: u16,
    /// Name servers that sidecars query for allowed names; comma-separated. Default: those in /etc/resolv.conf of the
    /// sidecar.
    #[arg(long, value_name = "ADDRESS", value_delimiter = ',')]
    dns_resolver: Vec<SocketAddr>,
    #[command(flatten)]
    blocked: BlockedRangesArgs,
    /// Timeout for the first bytes of a connection, if the decision needs them, as in `5s` or `300ms`.
    #[arg(long, value_name = "DURATION", default_value = "5s", value_parser = parse_timeout)]
    first_bytes_timeout: Duration,
    /// Idle time after which a connection is closed, as in `2h`. Default: no limit, as without a sidecar.
    #[arg(long, value_name = "DURATION", value_parser = parse_idle_timeout)]
    idle_timeout: Option<Duration>,
    /// Idle time after which a sidecar closes a connection to an HTTP origin. Each connection of a workload has its
    /// own, and this closes those whose client has gone.
    #[arg(long, value_name = "DURATION", default_value = UPSTREAM_IDLE_TIMEOUT, value_parser = parse_idle_timeout)]
    upstream_idle_timeout: Duration,
    /// Allow HTTP methods that Envoy does not know, such as `PURGE`. Envoy's support is unfinished.
    #[arg(long)]
    allow_custom_methods: bool,
    /// IP families to redirect to sidecars; `ipv4` for machines without IPv6.
    #[arg(long, value_enum, default_value_t = IpFamilies::Dual)]
    ip_families: IpFamilies,
    /// Have proxies report each connection and request, for `osm-egress flows`, `suggest` and `simulate`.
    #[arg(long)]
    flow_log: bool,
    /// Maximum number of flows kept for each identity. The least recently seen flow is evicted.
    #[arg(long, value_name = "NUMBER", default_value = "10000", requires = "flow_log")]
    flows_per_identity: NonZeroUsize,
    /// Keep flows in this SQLite file, so that they survive a restart. The file is created if it does not exist.
    /// Control planes cannot share it.
    #[arg(long, value_name = "FILE", requires = "flow_log")]
    flow_db: Option<PathBuf>,
    /// Log format.
    #[arg(long, value_enum, default_value_t = LogFormat::Text)]
    log_format: LogFormat,
    #[command(flatten)]
    sidecar: SidecarArgs,
    #[command(flatten)]
    mesh: MeshArgs,
}

/// Identification of proxies. At least one method is required.
#[derive(Debug, Args)]
#[command(group(ArgGroup::new("identification").required(true).multiple(true)
    .args(["client_ca", "service_account_tokens", "insecure_node_identity"])))]
struct IdentityArgs {
    /// Certificate of the control plane (PEM, with its chain). Read again when it changes.
    #[arg(long, value_name = "FILE", requires = "tls_key")]
    tls_cert: Option<PathBuf>,
    /// Key of the control plane's certificate (PEM).
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    tls_key: Option<PathBuf>,
    /// Accept client certificates of this authority (PEM). They name a service account: as SPIFFE URI
    /// `spiffe://TRUST-DOMAIN/ns/NS/sa/SA`, or as common name `UUID.sidecar.SA.NS.TRUST-DOMAIN`.
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    client_ca: Option<PathBuf>,
    /// Trust domain of client certificates.
    #[arg(long, value_name = "DOMAIN", default_value = "cluster.local")]
    trust_domain: TrustDomain,
    /// Accept projected service account tokens. The API server reviews them.
    #[arg(long, requires = "tls_cert", conflicts_with = "config_dir")]
    service_account_tokens: bool,
    /// Audience that tokens must have.
    #[arg(long, value_name = "AUDIENCE", default_value = "osm-egress")]
    token_audience: String,
    /// Interval at which the credentials of an open stream are checked again.
    #[arg(long, value_name = "DURATION", default_value = "5m", value_parser = parse_interval)]
    credential_review_interval: Duration,
    /// Trust the identity that a proxy claims in its node id (`<anything>.<service account>.<namespace>`) or metadata.
    /// Anyone who can connect can claim any identity.
    #[arg(long, conflicts_with_all = ["client_ca", "service_account_tokens"])]
    insecure_node_identity: bool,
}

impl IdentityArgs {
    fn split(self, webhook_client_ca: Option<PathBuf>) -> (Option<TlsFiles>, ProxyAuth) {
        let by = if self.insecure_node_identity {
            ProxyAuth::NodeId
        } else {
            ProxyAuth::Credentials {
                trust_domain: self.trust_domain,
                token_audience: self.service_account_tokens.then_some(self.token_audience),
                review_interval: self.credential_review_interval,
            }
        };
        let client_ca = self.client_ca;
        let pair = self.tls_cert.zip(self.tls_key);
        let files = |(certificate, key)| TlsFiles { certificate, key, client_ca, webhook_client_ca };
        (pair.map(files), by)
    }
}

#[derive(Debug, Clone)]
enum Delivery {
    Inline,
    File(PathBuf),
}

fn parse_delivery(text: &str) -> Result<Delivery, String> {
    match text.split_once(':') {
        None if text == "inline" => Ok(Delivery::Inline),
        Some(("file", path)) if !path.is_empty() => Ok(Delivery::File(path.into())),
        _ => Err("use `inline` or `file:PATH`".to_owned()),
    }
}

fn parse_replica(text: &str) -> Result<String, String> {
    let is_letter = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let (first, last) = (text.bytes().next(), text.bytes().next_back());
    let is_name = text.len() <= 200
        && text.bytes().all(|byte| is_letter(byte) || byte == b'-')
        && first.is_some_and(is_letter)
        && last.is_some_and(is_letter);
    if is_name { Ok(text.to_owned()) } else { Err("use lower-case letters, digits and `-`".to_owned()) }
}

/// The host's name, which is the pod's in a cluster, with what a name in a cluster cannot have replaced.
fn host_name() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default().to_lowercase();
    let name = name.trim().replace(|c: char| !c.is_ascii_alphanumeric(), "-");
    parse_replica(name.trim_matches('-')).unwrap_or_else(|_| "host".to_owned())
}

fn parse_interval(text: &str) -> Result<Duration, String> {
    let time = duration::parse(text).ok_or("write it as `5m` or `30s`")?;
    let (least, most) = (Duration::from_secs(1), Duration::from_secs(3600));
    if (least..=most).contains(&time) { Ok(time) } else { Err("it must be 1s to 1h".to_owned()) }
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum LogFormat {
    Text,
    Json,
}

impl Serve {
    /// Returns the token that the console requires for changes. On a cluster it comes from a file: many people read the
    /// log of a cluster, it is kept for long, and each replica would generate its own token.
    fn console_token(&self) -> Result<Option<Token>> {
        if !self.console_write {
            return Ok(None);
        }
        if let Some(file) = &self.console_token_file {
            return Token::from_file(file.clone()).map(Some);
        }
        if self.config_dir.is_none() {
            bail!(
                "on a cluster the console writes only with a token of yours: pass `--console-token-file FILE`"
            );
        }
        let (token, text) = Token::generate()?;
        tracing::warn!(token = text, "the console may write, for who has this token");
        Ok(Some(token))
    }

    pub(super) fn run(self) -> Result<()> {
        let subscriber = tracing_subscriber::fmt()
            .with_env_filter(
                tracing_subscriber::EnvFilter::try_from_default_env().unwrap_or_else(|_| DEFAULT_LOG.into()),
            )
            .with_ansi(std::io::stderr().is_terminal())
            .with_writer(std::io::stderr);
        match self.log_format {
            LogFormat::Text => subscriber.init(),
            LogFormat::Json => subscriber.json().init(),
        }
        let console_token = self.console_token()?;
        let playground = self.playground.as_deref().map(Playground::open).transpose()?;
        let module = match self.module_delivery {
            Delivery::File(path) => Module::File(path),
            Delivery::Inline => {
                let bytes = std::fs::read(&self.wasm).with_context(|| {
                    format!(
                        "cannot read the module {}: build it with `cargo xtask build`",
                        self.wasm.display()
                    )
                })?;
                if !bytes.starts_with(b"\0asm") {
                    bail!("{} is not a wasm module", self.wasm.display());
                }
                Module::Inline(Bytes::from(bytes))
            }
        };
        let token_audience = self.identity.token_audience.clone();
        let (tls, auth) = self.identity.split(self.webhook_client_ca);
        let sidecars = self.sidecar.settings(self.ip_families, token_audience)?;
        let config = serve::Config {
            source: match self.config_dir {
                Some(folder) => SourceConfig::Folder(folder),
                None => SourceConfig::Cluster(self.kubeconfig),
            },
            options: self.mesh.into(),
            replica: self.replica_name.unwrap_or_else(host_name),
            webhook: self.webhook_listen,
            webhook_clients: self.webhook_client_name.into(),
            // Without an authority they could not show who they are, and would get nothing.
            sidecars: sidecars.xds_ca.is_some().then_some(sidecars),
            envoy: Settings {
                module,
                listener_port: self.listener_port,
                http_deny_status: self.http_deny_status,
                dns_resolvers: self.dns_resolver,
                blocked: self.blocked.into(),
                first_bytes_timeout: self.first_bytes_timeout,
                idle_timeout: self.idle_timeout,
                upstream_idle_timeout: self.upstream_idle_timeout,
                allow_custom_methods: self.allow_custom_methods,
                ipv6: self.ip_families == IpFamilies::Dual,
                flow_log: self.flow_log,
            },
            flows_per_identity: self.flows_per_identity,
            flow_db: self.flow_db,
            tls,
            auth,
            xds: self.xds_listen,
            admin: self.admin_listen,
            admin_hosts: self.admin_host,
            console_token,
            playground,
        };
        if matches!(config.auth, ProxyAuth::NodeId) && !config.xds.ip().is_loopback() {
            tracing::warn!(address = %config.xds, "whoever reaches this address can read every policy");
        }
        tokio::runtime::Runtime::new()?.block_on(serve::run(config))
    }
}
