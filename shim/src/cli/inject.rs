//! `osm-egress inject`.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use clap::{Args, ValueEnum};
use egress_compile::manifest::spec::MeshConfig;
use egress_compile::manifest::{Body, parse, yaml};

use super::bootstrap::parse_host_port;
use super::output::print;
use egress_envoy::IpFamilies;
use egress_envoy::credentials::Authority;
use egress_inject::{PodAnnotations, PodDns, Settings, documents};

/// Settings of all sidecars, where the MeshConfig has none.
#[derive(Debug, Args)]
pub(super) struct SidecarArgs {
    /// Image of the sidecar, an Envoy.
    #[arg(long, value_name = "IMAGE", default_value = "envoyproxy/envoy:v1.40.0")]
    sidecar_image: String,
    /// Image of the init container, with `osm-egress` and iptables.
    #[arg(long, value_name = "IMAGE", default_value = concat!("osm-egress/init:", env!("CARGO_PKG_VERSION")))]
    init_image: String,
    /// Address at which sidecars reach the control plane, as host:port.
    #[arg(long, value_name = "HOST:PORT", default_value = "osm-egress.osm-system.svc:15128", value_parser = parse_host_port)]
    xds_address: (String, u16),
    /// Authority of the control plane's certificate (PEM). Without it, sidecars use no TLS and present no token.
    #[arg(long, value_name = "FILE")]
    xds_ca: Option<PathBuf>,
    /// Number of worker threads of a sidecar.
    #[arg(long, value_name = "NUMBER", default_value_t = 2, value_parser = clap::value_parser!(u16).range(1..))]
    sidecar_concurrency: u16,
    /// Make sidecars native sidecars: init containers that keep running. Requires Kubernetes 1.29.
    #[arg(long)]
    native_sidecar: bool,
    /// Leave the rules to the CNI plugin (`osm-egress cni`): pods need no container with NET_ADMIN. An annotation of the
    /// namespace, `openservicemesh.io/egress-cni`, overrides this flag in the webhook.
    #[arg(long)]
    cni: bool,
    /// Changes that a pod's annotations may make to its interception: `none`, `tighten` (intercept more) or `all`. Pods
    /// with other changes are refused. An annotation of the namespace overrides this flag.
    #[arg(long, value_name = "WHICH", value_enum, default_value_t = PodAnnotations::All)]
    pod_annotations: PodAnnotations,
    /// Treatment of pods that override names: with `hostAliases` for names that policies allow, or with name servers in
    /// `dnsConfig`.
    #[arg(long, value_name = "WHAT", value_enum, default_value_t)]
    pod_dns: PodDns,
}

impl SidecarArgs {
    pub(super) fn settings(self, ip_families: IpFamilies, token_audience: String) -> Result<Settings> {
        let (xds_host, xds_port) = self.xds_address;
        let xds_ca = self.xds_ca.as_deref().map(authority).transpose()?;
        Ok(Settings {
            sidecar_image: self.sidecar_image,
            init_image: self.init_image,
            xds_host,
            xds_port,
            xds_ca,
            token_audience,
            ip_families,
            concurrency: self.sidecar_concurrency,
            native_sidecar: self.native_sidecar,
            cni: self.cni,
            pod_annotations: self.pod_annotations,
            pod_dns: self.pod_dns,
        })
    }
}

fn authority(file: &Path) -> Result<Authority> {
    let pem = std::fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
    Authority::from_pem(&pem).with_context(|| file.display().to_string())
}

#[derive(Debug, Args)]
pub(super) struct Inject {
    /// File of manifests; `-` for standard input.
    #[arg(short, long, value_name = "FILE")]
    file: PathBuf,
    /// File with the MeshConfig, which excludes destinations from interception and configures sidecars.
    #[arg(long, value_name = "FILE")]
    mesh_config: Option<PathBuf>,
    /// IP families to intercept; `ipv4` for machines without IPv6.
    #[arg(long, value_enum, default_value_t = IpFamilies::Dual)]
    ip_families: IpFamilies,
    /// Audience of the sidecars' tokens.
    #[arg(long, value_name = "NAME", default_value = "osm-egress")]
    token_audience: String,
    /// Output format.
    #[arg(short, long, value_enum, default_value_t = Format::Yaml)]
    output: Format,
    #[command(flatten)]
    sidecar: SidecarArgs,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    Yaml,
    Json,
}

impl Inject {
    pub(super) fn run(self) -> Result<ExitCode> {
        let name = self.file.display().to_string();
        let text = read(&self.file)?;
        let mesh = self.mesh_config.as_deref().map(mesh_config).transpose()?.unwrap_or_default();
        let settings = self.sidecar.settings(self.ip_families, self.token_audience)?;
        let manifests = documents::inject_manifests(&text, &settings, &mesh).with_context(|| name.clone())?;
        for note in &manifests.notes {
            eprintln!("{name}: {note}");
        }
        if settings.xds_ca.is_none() {
            eprintln!(
                "without `--xds-ca`, sidecars use no TLS and show no token: the control plane must run with `--insecure-node-identity`"
            );
        }
        print(&match self.output {
            Format::Yaml => manifests.to_yaml(),
            Format::Json => format!("{:#}\n", manifests.to_json()),
        })
    }
}

fn read(file: &Path) -> Result<String> {
    if file != Path::new("-") {
        let bytes = std::fs::read(file).with_context(|| format!("cannot read {}", file.display()))?;
        return String::from_utf8(bytes).with_context(|| format!("{} is no text", file.display()));
    }
    let mut text = String::new();
    // One byte more, so that what is too long is not cut off but refused.
    let limit = yaml::MAX_BYTES as u64 + 1;
    std::io::stdin().take(limit).read_to_string(&mut text).context("cannot read standard input")?;
    Ok(text)
}

/// The MeshConfig in a file, which has one.
fn mesh_config(file: &Path) -> Result<MeshConfig> {
    let bytes = std::fs::read(file).with_context(|| format!("cannot read {}", file.display()))?;
    let name = file.display().to_string().into();
    let parsed = parse(&name, &bytes).map_err(|problems| {
        let problems: Vec<_> = problems.iter().map(ToString::to_string).collect();
        anyhow::anyhow!("{}", problems.join("\n"))
    })?;
    let mut found = parsed.objects.iter().filter_map(|object| {
        if let Body::MeshConfig(mesh) = &object.body { Some(mesh.clone()) } else { None }
    });
    match (found.next(), found.next()) {
        (Some(mesh), None) => Ok(mesh),
        (None, _) => bail!("{name}: there is no MeshConfig"),
        (Some(_), Some(_)) => {
            bail!("{name}: there is more than one MeshConfig: remove those that do not count")
        }
    }
}
