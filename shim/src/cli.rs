//! The command line.

use std::io::{IsTerminal, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use clap::{Args, CommandFactory, Parser, Subcommand, ValueEnum};
use egress_policy::{Cidr, Identity};

use crate::check;
use crate::crds;
use crate::envoy::bootstrap::{Bootstrap, CURRENT, EnvoyVersion};
use crate::envoy::{IpFamilies, Module, Settings};
use crate::serve;
use egress_compile::{CompileOptions, duration};

/// What is logged unless `RUST_LOG` says otherwise. The Kubernetes client's own lines repeat, for each kind and
/// attempt, what is said once here.
const DEFAULT_LOG: &str = "info,kube_client=off,kube_runtime=off";

/// Egress control for workloads behind stock Envoy sidecars.
#[derive(Debug, Parser)]
#[command(name = "osm-egress", version, arg_required_else_help = true)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the control plane.
    #[command(
        after_help = "Examples:\n  osm-egress serve --config-dir manifests --wasm target/egress_filter.wasm --insecure-node-identity\n  osm-egress serve --kubeconfig ~/.kube/config --wasm target/egress_filter.wasm --insecure-node-identity"
    )]
    Serve(Serve),
    /// Print an Envoy bootstrap for the sidecar of an identity.
    #[command(
        after_help = "Example:\n  osm-egress bootstrap --identity curl/curl --envoy-version 1.40 > bootstrap.yaml"
    )]
    Bootstrap(BootstrapArgs),
    /// Say what is wrong with a folder of manifests; exit code 1 if anything is.
    #[command(after_help = "Example:\n  osm-egress check manifests")]
    Check(Check),
    /// Show what a running control plane knows: objects, identities, proxies.
    #[command(after_help = "Example:\n  osm-egress status --output json | jq .proxies")]
    Status(StatusArgs),
    /// Print the definitions of the objects, for an API server.
    #[command(after_help = "Example:\n  osm-egress crds | kubectl apply -f -")]
    Crds,
    /// Print the JSON Schema of the policy document.
    Schema,
    /// Print a completion script for a shell.
    #[command(after_help = "Example:\n  osm-egress completions bash > /etc/bash_completion.d/osm-egress")]
    Completions {
        /// The shell.
        shell: clap_complete::Shell,
    },
}

#[derive(Debug, Args)]
struct Mesh {
    /// Name of the MeshConfig that counts.
    #[arg(long, default_value = "osm-mesh-config")]
    mesh_config_name: String,
    /// Namespace of the MeshConfig that counts.
    #[arg(long, default_value = "osm-system")]
    osm_namespace: String,
    /// Name of the mesh, in the label `openservicemesh.io/monitored-by` of its namespaces.
    #[arg(long, default_value = "osm")]
    mesh_name: String,
}

impl From<Mesh> for CompileOptions {
    fn from(mesh: Mesh) -> Self {
        Self {
            mesh_config_name: mesh.mesh_config_name,
            mesh_config_namespace: mesh.osm_namespace,
            mesh_name: mesh.mesh_name,
        }
    }
}

#[derive(Debug, Args)]
struct Serve {
    /// Folder of manifests: MeshConfig, Egress, HTTPRouteGroup, Namespace, ServiceAccount. Without it, objects
    /// are read from a cluster.
    #[arg(long, value_name = "DIR", conflicts_with = "kubeconfig")]
    config_dir: Option<PathBuf>,
    /// The cluster to read from. Default: the one that this runs in, else kubectl's.
    #[arg(long, value_name = "FILE")]
    kubeconfig: Option<PathBuf>,
    /// The filter: the wasm module.
    #[arg(long, value_name = "FILE", env = "EGRESS_WASM")]
    wasm: PathBuf,
    /// How the module gets to Envoy: `inline`, or `file:PATH` on Envoy's machine.
    #[arg(long, value_name = "HOW", default_value = "inline", value_parser = parse_delivery)]
    module_delivery: Delivery,
    /// Believe what proxies say of themselves in their node id (`<anything>.<service account>.<namespace>`) or metadata.
    #[arg(long)]
    insecure_node_identity: bool,
    /// Where proxies connect.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:15128")]
    xds_listen: SocketAddr,
    /// Where /healthz, /readyz, /metrics and /status are.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:15129")]
    admin_listen: SocketAddr,
    /// Port of the outbound listener in every sidecar.
    #[arg(long, value_name = "PORT", default_value_t = 15001, value_parser = clap::value_parser!(u16).range(1..))]
    listener_port: u16,
    /// HTTP status of a refused request; 404 is Open Service Mesh's.
    #[arg(long, value_name = "STATUS", default_value_t = 403, value_parser = clap::value_parser!(u16).range(400..=599))]
    http_deny_status: u16,
    /// Name server that sidecars ask for allowed names; several by commas. Default: their own /etc/resolv.conf.
    #[arg(long, value_name = "ADDRESS", value_delimiter = ',')]
    dns_resolver: Vec<SocketAddr>,
    /// Blocks of addresses that names must not lead to, besides loopback, link-local and the like; several
    /// by commas. The addresses of your pods and services belong here.
    #[arg(long, value_name = "CIDR", value_delimiter = ',', value_parser = parse_block)]
    never_resolve_to: Vec<Cidr>,
    /// How long the first bytes of a connection may take where they decide, as in `5s` or `300ms`.
    #[arg(long, value_name = "DURATION", default_value = "5s", value_parser = parse_timeout)]
    first_bytes_timeout: Duration,
    /// Which connections are redirected to sidecars; `ipv4` where machines have no IPv6.
    #[arg(long, value_enum, default_value_t = IpFamilies::Dual)]
    ip_families: IpFamilies,
    /// How logs are written.
    #[arg(long, value_enum, default_value_t = LogFormat::Text)]
    log_format: LogFormat,
    #[command(flatten)]
    mesh: Mesh,
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

fn parse_block(text: &str) -> Result<Cidr, String> {
    Cidr::canonical(text).map_err(|e| e.to_string())
}

fn parse_timeout(text: &str) -> Result<Duration, String> {
    let time = duration::parse(text).ok_or("write it as `5s` or `300ms`")?;
    let (least, most) = (Duration::from_millis(10), Duration::from_secs(3600));
    if (least..=most).contains(&time) { Ok(time) } else { Err("it must be 10ms to 1h".to_owned()) }
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum LogFormat {
    Text,
    Json,
}

#[derive(Debug, Args)]
struct BootstrapArgs {
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

fn parse_host_port(text: &str) -> Result<(String, u16), String> {
    let (host, port) = text.rsplit_once(':').ok_or("write it as host:port")?;
    let port = port.parse().ok().filter(|port| *port > 0).ok_or("the port must be 1 to 65535")?;
    let host = host.trim_start_matches('[').trim_end_matches(']');
    if host.parse::<IpAddr>().is_err() {
        egress_policy::Host::canonical(host).map_err(|e| e.to_string())?;
    }
    Ok((host.to_owned(), port))
}

#[derive(Debug, Args)]
struct Check {
    /// The folder.
    dir: PathBuf,
    /// Warnings are errors.
    #[arg(long)]
    strict: bool,
    /// How to print it.
    #[arg(long, value_enum, default_value_t = Output::Text)]
    output: Output,
    #[command(flatten)]
    mesh: Mesh,
}

#[derive(Debug, Args)]
struct StatusArgs {
    /// The control plane's admin address.
    #[arg(long, value_name = "ADDRESS", default_value_t = SocketAddr::from((Ipv4Addr::LOCALHOST, 15129)))]
    admin: SocketAddr,
    /// How to print it.
    #[arg(long, value_enum, default_value_t = Output::Text)]
    output: Output,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Output {
    Text,
    Json,
}

/// Runs the command line: 0 is success, 1 failure, and 2 (by clap) wrong usage.
#[must_use]
pub fn run() -> ExitCode {
    match Cli::parse().run() {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

impl Cli {
    fn run(self) -> Result<ExitCode> {
        match self.command {
            Command::Serve(args) => args.run().map(|()| ExitCode::SUCCESS),
            Command::Bootstrap(args) => print(&args.bootstrap().to_string()),
            Command::Check(args) => args.run(),
            Command::Status(args) => args.run(),
            Command::Crds => print(&crds::yaml()),
            Command::Schema => {
                let schema = schemars::schema_for!(egress_policy::Document);
                print(&format!("{}\n", serde_json::to_string_pretty(&schema)?))
            }
            Command::Completions { shell } => {
                let mut script = Vec::new();
                clap_complete::generate(shell, &mut Self::command(), "osm-egress", &mut script);
                print(&String::from_utf8(script)?)
            }
        }
    }
}

/// A reader that has had enough (`| head`) is no failure.
fn print(text: &str) -> Result<ExitCode> {
    match std::io::stdout().write_all(text.as_bytes()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => Err(error.into()),
        _ => Ok(ExitCode::SUCCESS),
    }
}

impl Serve {
    fn run(self) -> Result<()> {
        if !self.insecure_node_identity {
            bail!(
                "proxies have no credentials to show yet: pass `--insecure-node-identity` to believe their node id, \
                 on a machine where only you can reach {}",
                self.xds_listen
            );
        }
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
        let config = serve::Config {
            origin: match self.config_dir {
                Some(folder) => serve::Origin::Folder(folder),
                None => serve::Origin::Cluster(self.kubeconfig),
            },
            options: self.mesh.into(),
            envoy: Settings {
                module,
                listener_port: self.listener_port,
                http_deny_status: self.http_deny_status,
                dns_resolvers: self.dns_resolver,
                never_resolve_to: self.never_resolve_to,
                first_bytes_timeout: self.first_bytes_timeout,
                ip_families: self.ip_families,
            },
            xds: self.xds_listen,
            admin: self.admin_listen,
        };
        if !config.xds.ip().is_loopback() {
            tracing::warn!(address = %config.xds, "whoever reaches this address can read every policy");
        }
        tokio::runtime::Runtime::new()?.block_on(serve::run(config))
    }
}

impl BootstrapArgs {
    fn bootstrap(self) -> Bootstrap {
        let (xds_host, xds_port) = self.xds;
        Bootstrap {
            identity: self.identity,
            proxy: self.proxy,
            version: self.envoy_version,
            xds_host,
            xds_port,
            admin_port: self.admin_port,
            delta: self.delta,
        }
    }
}

impl Check {
    fn run(self) -> Result<ExitCode> {
        let report = check::check(&self.dir, &self.mesh.into());
        print(&match self.output {
            Output::Json => format!("{:#}\n", report.to_json()),
            Output::Text => report.to_string(),
        })?;
        Ok(ExitCode::from(report.exit_code(self.strict)))
    }
}

impl StatusArgs {
    fn run(self) -> Result<ExitCode> {
        let body = tokio::runtime::Runtime::new()?.block_on(crate::status::fetch(self.admin))?;
        let text = match self.output {
            Output::Json => body,
            Output::Text => crate::status::describe(&body)?,
        };
        print(&text)
    }
}
