//! `osm-egress explain`.

use std::net::{IpAddr, SocketAddr};
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use clap::{ArgGroup, Args, ValueEnum};
use egress_policy::Identity;

use super::evidence::{EvidenceArgs, Origin, identity};
use super::output::{Output, print};
use crate::explain::evidence::PolicySource;
use crate::explain::probe::{Probe, ProbeArgs};
use crate::explain::{ExplainRequest, Report, explain};
use egress_core::sanitize;
use egress_kubernetes as kubernetes;
use egress_status::{AdminClient, proxies};

/// The exit code of a connection that is not allowed.
const DENIED: u8 = 3;

#[derive(Debug, Args)]
#[command(group = ArgGroup::new("what").required(true).args(["to", "to_ext_port"]))]
pub(super) struct ExplainArgs {
    /// The identity that connects: namespace/service-account.
    #[arg(long, alias = "source", value_name = "NS/SA", conflicts_with = "pod")]
    identity: Option<Identity>,
    /// The pod that connects: namespace/name. Its service account is looked up in the cluster.
    #[arg(long, value_name = "NS/POD", visible_alias = "from-pod", value_parser = parse_pod, conflicts_with_all = ["config_dir", "document"])]
    pod: Option<(String, String)>,
    /// Destination: `https://HOST:PORT/PATH`, `http://…`, `ws://…`, `tcp://HOST:PORT`, `tcp-server-first://HOST:PORT`,
    /// or `HOST:PORT`.
    #[arg(long, value_name = "TARGET")]
    to: Option<String>,
    /// Method of an HTTP request. Default: GET.
    #[arg(long)]
    method: Option<String>,
    /// Header of an HTTP request. May be repeated.
    #[arg(long, value_name = "NAME: VALUE")]
    header: Vec<String>,
    /// Server name in the ClientHello; empty for none. Default: the host of the destination.
    #[arg(long, value_name = "NAME")]
    sni: Option<String>,
    /// Put an encrypted ClientHello (ECH) into the ClientHello.
    #[arg(long)]
    ech: bool,
    /// First bytes of the connection, in hexadecimal.
    #[arg(long, value_name = "HEX")]
    client_hello_hex: Option<String>,
    /// Address that the workload dials for the host.
    #[arg(long, value_name = "IP", conflicts_with = "resolve")]
    address: Option<IpAddr>,
    /// Resolve the host with the name servers of this machine.
    #[arg(long)]
    resolve: bool,
    /// Port to connect to, as in `osm verify connectivity`.
    #[arg(long, value_name = "PORT", conflicts_with_all = ["to"], value_parser = clap::value_parser!(u16).range(1..))]
    to_ext_port: Option<u16>,
    /// Host to connect to, as in `osm verify connectivity`.
    #[arg(long, value_name = "HOST", requires = "to_ext_port")]
    to_ext_host: Option<String>,
    /// Protocol, as in `osm verify connectivity`.
    #[arg(long, value_enum, requires = "to_ext_port", default_value_t = AppProtocol::Http)]
    app_protocol: AppProtocol,
    /// Admin address of a control plane, to list the proxies that have acknowledged the policy. Without it, a cluster
    /// reports only their number.
    #[arg(long, value_name = "ADDRESS")]
    admin: Option<SocketAddr>,
    /// Show every rule, even those that are far from a match.
    #[arg(long)]
    all: bool,
    /// Output format.
    #[arg(long, short, value_enum, default_value_t = Output::Text)]
    output: Output,
    #[command(flatten)]
    evidence: EvidenceArgs,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum AppProtocol {
    Http,
    Https,
    Tcp,
    TcpServerFirst,
}

fn parse_pod(text: &str) -> Result<(String, String), String> {
    let wrong = "write it as namespace/name";
    let (namespace, name) = text.split_once('/').ok_or(wrong)?;
    if namespace.is_empty() || name.is_empty() || name.contains('/') {
        return Err(wrong.to_owned());
    }
    Ok((namespace.to_owned(), name.to_owned()))
}

/// The evidence of an answer, and the identity that it is about.
struct Found {
    evidence: PolicySource,
    identity: Identity,
    notes: Vec<String>,
}

impl ExplainArgs {
    pub(super) fn run(self) -> Result<ExitCode> {
        let probe = self.probe()?;
        let runtime = tokio::runtime::Runtime::new()?;
        let report = runtime.block_on(self.report(probe))?;
        // Tasks that follow a cluster are not waited for.
        runtime.shutdown_background();
        // What is asked about may be what a workload chose.
        print(&sanitize::lines(&match self.output {
            Output::Json => format!("{:#}\n", report.to_json()),
            Output::Text => format!("{}{}", self.osm_block(&report), report.text(self.all)),
        }))?;
        Ok(if report.is_allowed() { ExitCode::SUCCESS } else { ExitCode::from(DENIED) })
    }

    fn probe(&self) -> Result<Probe> {
        let to = match (&self.to, self.to_ext_port) {
            (Some(to), _) => to.clone(),
            (None, Some(port)) => {
                let scheme = match self.app_protocol {
                    AppProtocol::Http => "http",
                    AppProtocol::Https => "https",
                    AppProtocol::Tcp => "tcp",
                    AppProtocol::TcpServerFirst => "tcp-server-first",
                };
                let Some(host) = &self.to_ext_host else {
                    bail!(
                        "the answer depends on the destination: pass `--to-ext-host HOST` with `--to-ext-port`"
                    )
                };
                format!("{scheme}://{host}:{port}")
            }
            (None, None) => bail!("pass `--to`"),
        };
        let args = ProbeArgs {
            to,
            method: self.method.clone(),
            headers: self.header.clone(),
            sni: self.sni.clone(),
            ech: self.ech,
            client_hello: self.client_hello_hex.clone(),
        };
        Ok(args.parse()?)
    }

    async fn report(&self, probe: Probe) -> Result<Report> {
        let addresses = self.addresses(&probe).await?;
        let resolved = self.resolve && probe.address.is_none();
        let Found { evidence, identity, notes } = self.find().await?;
        let explain_request = ExplainRequest {
            identity,
            probe,
            addresses,
            resolved,
            listener_port: self.evidence.listener_port,
            blocked: self.evidence.blocked.clone().into(),
        };
        let mut report = explain(&evidence, &explain_request)?;
        report.notes.extend(notes);
        if let Some(admin) = self.admin {
            let status = AdminClient::new(admin).status().await?;
            let pod = self.pod.as_ref().map(|(_, name)| name.as_str());
            let document = evidence.document(&explain_request.identity)?;
            report.proxies = Some(proxies::find_proxies(&status, &explain_request.identity, pod, &document));
        }
        Ok(report)
    }

    async fn addresses(&self, probe: &Probe) -> Result<Vec<IpAddr>> {
        if let Some(address) = self.address.or(probe.address) {
            return Ok(vec![address]);
        }
        let Some(name) = probe.name.as_ref().filter(|_| self.resolve) else { return Ok(Vec::new()) };
        let found = tokio::net::lookup_host((name.as_str(), probe.port)).await;
        let found = found.with_context(|| format!("this machine finds no address for `{name}`"))?;
        let mut addresses: Vec<IpAddr> = Vec::new();
        // As they are: a mapped address is another one to who asks where a name leads.
        for address in found.map(|to| to.ip()) {
            if !addresses.contains(&address) {
                addresses.push(address);
            }
        }
        Ok(addresses)
    }

    async fn find(&self) -> Result<Found> {
        if self.evidence.needs_identity() && self.identity.is_none() && self.pod.is_none() {
            bail!("pass `--identity NAMESPACE/SERVICE-ACCOUNT`, or on a cluster `--pod NAMESPACE/NAME`");
        }
        let origin = self.evidence.origin().await?;
        let client = match &origin {
            Origin::Cluster(connection) if self.admin.is_none() => Some(connection.client.clone()),
            Origin::Cluster(_) | Origin::Read(_) => None,
        };
        let mut notes = Vec::new();
        let mut given = self.identity.clone();
        if let (Some((namespace, name)), Origin::Cluster(connection)) = (&self.pod, &origin) {
            let pod = kubernetes::find_pod(&connection.client, namespace, name).await?;
            if !pod.has_sidecar {
                notes.push(format!(
                    "pod `{namespace}/{name}` has no container `envoy`: nothing intercepts what it does"
                ));
            }
            given = Some(pod.identity);
        }
        let evidence = self.evidence.read(origin).await?;
        let identity = identity(given.as_ref(), &evidence)?;
        if let Some(client) = client {
            let document = evidence.document(&identity)?;
            let message = kubernetes::reported_versions(&client, &self.evidence.options(), &identity).await;
            notes.push(match message {
                Ok(message) => proxies::format_summary(&message, &identity, &document),
                Err(reason) => {
                    format!("which proxies have this document cannot be read ({reason}): pass `--admin`")
                }
            });
        }
        Ok(Found { evidence, identity, notes })
    }

    /// The output of `osm verify connectivity`, where its flags were used.
    fn osm_block(&self, report: &Report) -> String {
        let Some(port) = self.to_ext_port else { return String::new() };
        let who = match &self.pod {
            Some((namespace, name)) => format!("pod \"{namespace}/{name}\""),
            None => format!("service account \"{}\"", report.identity),
        };
        let status = if report.is_allowed() { "Success" } else { "Failure" };
        format!(
            "---------------------------------------------\n\
             [+] Context: Verify if {who} can access external service on port {port}\n\
             Status: {status}\n\
             ---------------------------------------------\n\n"
        )
    }
}
