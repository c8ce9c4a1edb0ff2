//! The command line: a file for each command.

mod blocked_ranges;
mod bootstrap;
mod check;
mod cni;
mod compile;
mod evidence;
mod explain;
mod flow_source;
mod flows;
mod inject;
mod install;
mod installation;
mod iptables;
mod mesh_args;
mod namespace;
mod output;
mod serve;
mod simulate;
mod status;
mod suggest;
mod test;
mod timeout;
mod uninstall;
mod validate_interception;
mod verify;

use std::process::ExitCode;

use anyhow::Result;
use clap::{CommandFactory, Parser, Subcommand};

use self::bootstrap::BootstrapArgs;
use self::check::Check;
use self::cni::Cni;
use self::compile::Compile;
use self::explain::ExplainArgs;
use self::flows::FlowsArgs;
use self::inject::Inject;
use self::install::Install;
use self::iptables::Iptables;
use self::namespace::Namespace;
use self::output::print;
use self::serve::Serve;
use self::simulate::SimulateArgs;
use self::status::StatusArgs;
use self::suggest::SuggestArgs;
use self::test::TestArgs;
use self::uninstall::Uninstall;
use self::validate_interception::ValidateInterception;
use self::verify::Verify;
use egress_core::sanitize;
use egress_install::crds;

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
        after_help = "Examples:\n  osm-egress serve --config-dir manifests --wasm target/egress_filter.wasm --insecure-node-identity\n  osm-egress serve --wasm egress_filter.wasm --tls-cert tls.crt --tls-key tls.key --service-account-tokens"
    )]
    Serve(Box<Serve>),
    /// Print an Envoy bootstrap for the sidecar of an identity.
    #[command(
        after_help = "Example:\n  osm-egress bootstrap --identity curl/curl --envoy-version 1.40 > bootstrap.yaml\n  osm-egress bootstrap --identity curl/curl --xds osm-egress.osm-system.svc:15128 --xds-ca ca.crt --token-file /var/run/secrets/osm-egress/token > bootstrap.yaml"
    )]
    Bootstrap(BootstrapArgs),
    /// Say what is wrong with a folder of manifests; exit code 1 if anything is.
    #[command(after_help = "Example:\n  osm-egress check manifests")]
    Check(Check),
    /// Print the policy document of one identity, for an Envoy without our control plane.
    #[command(after_help = "Example:\n  osm-egress compile manifests --identity curl/curl > policy.json")]
    Compile(Compile),
    /// Show what a running control plane knows: objects, identities, proxies.
    #[command(after_help = "Example:\n  osm-egress status --output json | jq .proxies")]
    Status(StatusArgs),
    /// Put the control plane into a cluster.
    #[command(
        after_help = "Examples:\n  osm-egress install --set osm.egress.image=registry.example/shim:0.1.0,osm.egress.initImage=registry.example/init:0.1.0\n  osm-egress install --set osm.enableEgress=true -f values.yaml\n  osm-egress install --dry-run -o yaml"
    )]
    Install(Box<Install>),
    /// Bring an installed control plane up to date, and renew its certificate. The MeshConfig stays as it is.
    #[command(after_help = "Example:\n  osm-egress upgrade --set osm.egress.replicas=3")]
    Upgrade(Box<Install>),
    /// Take away what `install` made. Objects of yours stay, and what was there before.
    #[command(after_help = "Example:\n  osm-egress uninstall --timeout 2m")]
    Uninstall(Uninstall),
    /// Say which namespaces belong to the mesh.
    #[command(after_help = "Example:\n  osm-egress namespace add bookstore bookbuyer")]
    Namespace(Namespace),
    /// Say what works in a cluster, what does not, and what no sidecar sees; exit code 1 if anything failed.
    #[command(
        after_help = "Example:\n  osm-egress verify -o json | jq '.checks[] | select(.state != \"ok\")'"
    )]
    Verify(Verify),
    /// Give the pods in manifests their sidecars.
    #[command(
        after_help = "Examples:\n  osm-egress inject -f deployment.yaml --xds-ca ca.crt | kubectl apply -f -\n  kubectl get meshconfig osm-mesh-config -n osm-system -o yaml > mesh.yaml && osm-egress inject -f - --mesh-config mesh.yaml < pods.yaml"
    )]
    Inject(Inject),
    /// Send the outbound connections of this network namespace to its Envoy.
    #[command(
        after_help = "Examples:\n  osm-egress iptables --exclude-ports 5432,6379 --exclude-cidrs 10.96.0.1/32\n  osm-egress iptables --dry-run\n  osm-egress iptables --remove"
    )]
    Iptables(Iptables),
    /// The CNI plugin: without a subcommand, serve one call of a container runtime.
    Cni(Cni),
    /// Prove, without permissions and before the sidecar starts, that the outbound connections of this network namespace are
    /// redirected to it; exit code 1 if not.
    #[command(after_help = "Example:\n  osm-egress validate-interception --exclude-ports 5432,6379")]
    ValidateInterception(ValidateInterception),
    /// Say whether a workload may reach something, by which rule, and what the other rules lack. Exit code 3 if
    /// it may not.
    #[command(
        after_help = "Examples:\n  osm-egress explain --config-dir manifests --identity curl/curl --to https://httpbin.org\n  osm-egress explain --pod curl/curl-7bb5845476-zwxbt --to http://httpbin.org/get --method POST --header 'x-key: 1'\n  osm-egress explain --document policy.json --to tcp://db.example:5432 --address 10.1.2.3 -o json"
    )]
    Explain(Box<ExplainArgs>),
    /// Check what is expected of policies: a file of connections and their verdicts; exit code 1 if any differs.
    #[command(
        after_help = "Example:\n  osm-egress test --config-dir manifests expected.yaml --junit report.xml"
    )]
    Test(TestArgs),
    /// Show what workloads talk to, and what was decided: for a control plane that runs with `--flow-log`.
    #[command(after_help = "Example:\n  osm-egress flows --identity curl/curl --verdict deny --follow")]
    Flows(FlowsArgs),
    /// Print policies that allow what a workload was refused, or would have been refused outside of audit mode.
    #[command(
        after_help = "Examples:\n  osm-egress suggest --identity curl/curl > suggested.yaml\n  kubectl logs curl-7bb5845476-zwxbt -c envoy | osm-egress suggest --identity curl/curl --log -"
    )]
    Suggest(SuggestArgs),
    /// Say what changed manifests would change for the flows that were seen; exit code 1 if something that is
    /// allowed would be refused.
    #[command(
        after_help = "Examples:\n  osm-egress simulate -f manifests-as-they-would-be\n  osm-egress simulate -f suggested.yaml --cluster --identity curl/curl"
    )]
    Simulate(Box<SimulateArgs>),
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

/// Runs the command line: 0 is success, 1 failure, and 2 (by clap) wrong usage.
#[must_use]
pub fn run() -> ExitCode {
    if cni::is_plugin_call() {
        return egress_cni::plugin::run();
    }
    match Cli::parse().run() {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {}", sanitize::lines(&format!("{error:#}")));
            ExitCode::FAILURE
        }
    }
}

impl Cli {
    fn run(self) -> Result<ExitCode> {
        match self.command {
            Command::Serve(args) => args.run().map(|()| ExitCode::SUCCESS),
            Command::Bootstrap(args) => print(&args.bootstrap()?.to_string()),
            Command::Check(args) => args.run(),
            Command::Compile(args) => args.run(),
            Command::Status(args) => args.run(),
            Command::Install(args) => args.run(false).map(|()| ExitCode::SUCCESS),
            Command::Upgrade(args) => args.run(true).map(|()| ExitCode::SUCCESS),
            Command::Uninstall(args) => args.run().map(|()| ExitCode::SUCCESS),
            Command::Namespace(args) => args.run().map(|()| ExitCode::SUCCESS),
            Command::Verify(args) => args.run(),
            Command::Inject(args) => args.run(),
            Command::Iptables(args) => args.run(),
            Command::Cni(args) => args.run(),
            Command::ValidateInterception(args) => args.run(),
            Command::Explain(args) => args.run(),
            Command::Test(args) => args.run(),
            Command::Flows(args) => args.run(),
            Command::Suggest(args) => args.run(),
            Command::Simulate(args) => args.run(),
            Command::Crds => print(&crds::format_all()),
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
