//! `osm-egress compile`.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::{Args, ValueEnum};
use egress_compile::manifest::Severity;
use egress_policy::{Identity, Plugin};
use egress_standalone::{CURRENT, Configuration, EnvoyVersion, MODULE, plugin};

use super::blocked_ranges::BlockedRangesArgs;
use super::mesh_args::MeshArgs;
use super::output::print;
use crate::check;

#[derive(Debug, Args)]
pub(super) struct Compile {
    /// Folder of manifests.
    dir: PathBuf,
    /// Identity to compile for: namespace/service-account.
    #[arg(long, value_name = "NS/SA")]
    identity: Identity,
    /// Print the result even if manifests have errors. As in the control plane, an object with an error grants nothing,
    /// and the rest applies.
    #[arg(long)]
    keep_going: bool,
    /// Output to print.
    #[arg(long, short, value_enum, default_value_t = Form::Json)]
    output: Form,
    /// Path of the wasm module on Envoy's machine, for `--output envoy`.
    #[arg(long, value_name = "PATH", default_value = MODULE)]
    wasm: String,
    /// Version of the Envoy that reads the output, for `--output envoy`.
    #[arg(long, value_name = "VERSION", default_value_t = CURRENT)]
    envoy_version: EnvoyVersion,
    #[command(flatten)]
    blocked: BlockedRangesArgs,
    #[command(flatten)]
    mesh: MeshArgs,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Form {
    /// The policy document.
    Json,
    /// Configuration of the network filter, with the document in it.
    Network,
    /// Configuration of the HTTP filter, with the document in it.
    Http,
    /// Complete configuration of an Envoy: envoy/standalone.yaml with this policy.
    Envoy,
}

impl Compile {
    /// Prints diagnostics to standard error, and the output unless there are errors without `--keep-going`.
    pub(super) fn run(self) -> Result<ExitCode> {
        let (report, compiled) = check::compiled(&self.dir, &self.mesh.into());
        let code = report.exit_code(false);
        // What is only good to know is for `check`.
        for problem in report.diagnostics.iter().filter(|problem| problem.severity != Severity::Info) {
            eprintln!("{problem}");
        }
        if code != 0 && !self.keep_going {
            eprintln!("{}", report.summary);
            return Ok(ExitCode::from(code));
        }
        let document = compiled.document(&self.identity);
        if !compiled.documents.contains_key(&self.identity) {
            let mode = document.mode.as_str();
            eprintln!("note: no policy names {}; its mode is `{mode}`", self.identity);
        }
        let clusters = compiled.clusters(&self.identity);
        if self.output != Form::Envoy {
            for own in clusters {
                eprintln!("note: the document leads to a cluster of its own, `{}`: define it", own.name);
            }
        }
        let text = match self.output {
            Form::Json => serde_json::to_string_pretty(&*document)?,
            Form::Network => plugin(Plugin::Network, &document),
            Form::Http => plugin(Plugin::Http, &document),
            Form::Envoy => {
                let configuration = Configuration {
                    document: &document,
                    clusters,
                    module: &self.wasm,
                    version: self.envoy_version,
                    blocked: &self.blocked.into(),
                };
                return print(&configuration.to_string());
            }
        };
        print(&format!("{text}\n"))
    }
}
