//! `osm-egress cni`, and the plugin that container runtimes call.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use clap::{Args, Subcommand, ValueEnum};
use egress_cni::install::{self, Options, Removal};
use egress_cni::plugin;

use super::output::print;

#[derive(Debug, Args)]
pub(super) struct Cni {
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Install the plugin on a node, and keep it installed until SIGTERM. A DaemonSet runs this on each node.
    #[command(
        after_help = "Example:\n  osm-egress cni install --bin-dir /host/opt/cni/bin --net-dir /host/etc/cni/net.d --exclude-namespaces kube-system"
    )]
    Install(Box<InstallArgs>),
}

#[derive(Debug, Args)]
struct InstallArgs {
    /// Folder of the node's CNI plugins, as this process sees it.
    #[arg(long, value_name = "FOLDER", default_value = "/host/opt/cni/bin")]
    bin_dir: PathBuf,
    /// Folder of the node's network configuration, as this process sees it.
    #[arg(long, value_name = "FOLDER", default_value = "/host/etc/cni/net.d")]
    net_dir: PathBuf,
    /// The same folder as the node sees it.
    #[arg(long, value_name = "FOLDER", default_value = "/etc/cni/net.d")]
    node_net_dir: PathBuf,
    /// Folder with `token` and `ca.crt` of the service account by which the plugin reads pods.
    #[arg(long, value_name = "FOLDER", default_value = "/var/run/secrets/kubernetes.io/serviceaccount")]
    service_account_dir: PathBuf,
    /// URL of the API server, as nodes reach it. Default: that of the pod that this runs in.
    #[arg(long, value_name = "URL")]
    server: Option<String>,
    /// Namespaces without injection, whose pods start even while the API server is away.
    #[arg(long, value_name = "NAMESPACES", value_delimiter = ',')]
    exclude_namespaces: Vec<String>,
    /// Treatment of the node at SIGTERM: `never` leaves the plugin, `always` takes it off, and `when-uninstalled` takes it off
    /// if the DaemonSet is deleted.
    #[arg(long, value_enum, default_value_t = RemoveWhen::WhenUninstalled)]
    remove: RemoveWhen,
    /// The DaemonSet that runs this, as NAMESPACE/NAME, for `--remove when-uninstalled`.
    #[arg(long, value_name = "NAME", value_parser = parse_object)]
    daemon_set: Option<(String, String)>,
    /// Only check that the plugin is installed and can read pods; exit code 1 if not.
    #[arg(long)]
    check: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum RemoveWhen {
    Never,
    WhenUninstalled,
    Always,
}

fn parse_object(text: &str) -> Result<(String, String), String> {
    let parts = text.split_once('/').filter(|(namespace, name)| !namespace.is_empty() && !name.is_empty());
    let (namespace, name) = parts.ok_or("write it as NAMESPACE/NAME")?;
    Ok((namespace.to_owned(), name.to_owned()))
}

/// The API server as every pod knows it.
fn server_of_pod() -> Result<String> {
    let variable = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
    let (Some(host), Some(port)) = (variable("KUBERNETES_SERVICE_HOST"), variable("KUBERNETES_SERVICE_PORT"))
    else {
        bail!(
            "this runs in no pod (KUBERNETES_SERVICE_HOST and KUBERNETES_SERVICE_PORT are missing): pass `--server URL`"
        );
    };
    Ok(if host.contains(':') { format!("https://[{host}]:{port}") } else { format!("https://{host}:{port}") })
}

impl Cni {
    pub(super) fn run(self) -> Result<ExitCode> {
        match self.command {
            None => Ok(plugin::run()),
            Some(Command::Install(args)) => args.run(),
        }
    }
}

impl InstallArgs {
    fn run(self) -> Result<ExitCode> {
        if self.remove == RemoveWhen::WhenUninstalled && self.daemon_set.is_none() {
            bail!(
                "`--remove when-uninstalled` needs `--daemon-set NAMESPACE/NAME`, or pass `--remove never`"
            );
        }
        let options = Options {
            bin_dir: self.bin_dir,
            net_dir: self.net_dir,
            node_net_dir: self.node_net_dir,
            service_account_dir: self.service_account_dir,
            server: self.server.map_or_else(server_of_pod, Ok)?,
            exclude_namespaces: self.exclude_namespaces,
            removal: match self.remove {
                RemoveWhen::Never => Removal::Never,
                RemoveWhen::WhenUninstalled => Removal::WhenUninstalled,
                RemoveWhen::Always => Removal::Always,
            },
            daemon_set: self.daemon_set,
        };
        if self.check {
            install::check(&options)?;
            return print("the plugin is installed, and can read pods\n");
        }
        tracing_subscriber::fmt().json().with_writer(std::io::stderr).init();
        let runtime = tokio::runtime::Runtime::new().context("cannot start")?;
        runtime.block_on(install::run(options))?;
        Ok(ExitCode::SUCCESS)
    }
}

/// Returns true if a container runtime calls this program as its plugin: by the plugin's file name, or without arguments in
/// the environment of the CNI specification.
pub(super) fn is_plugin_call() -> bool {
    let mut arguments = std::env::args_os();
    let program = arguments.next().map(PathBuf::from).unwrap_or_default();
    let has_arguments = arguments.next().is_some();
    let by_name = program.file_name().is_some_and(|name| name == plugin::PLUGIN_NAME);
    !has_arguments && (by_name || std::env::var_os("CNI_COMMAND").is_some())
}
