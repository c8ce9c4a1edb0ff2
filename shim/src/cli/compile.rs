//! `osm-egress compile`.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::{Args, ValueEnum};
use egress_policy::{Identity, Plugin};

use super::{Mesh, print};
use crate::check;

#[derive(Debug, Args)]
pub(super) struct Compile {
    /// The folder of manifests.
    dir: PathBuf,
    /// Whose policy: namespace/service-account.
    #[arg(long, value_name = "NS/SA")]
    identity: Identity,
    /// What to print.
    #[arg(long, short, value_enum, default_value_t = Form::Json)]
    output: Form,
    #[command(flatten)]
    mesh: Mesh,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Form {
    /// The policy document.
    Json,
    /// The configuration of the network filter, with the document in it.
    Network,
    /// The configuration of the HTTP filter, with the document in it.
    Http,
}

impl Compile {
    /// Problems are told on the standard error. Where something is wrong nothing is printed, so that no half of a
    /// policy gets anywhere.
    pub(super) fn run(self) -> Result<ExitCode> {
        let (report, compiled) = check::compiled(&self.dir, &self.mesh.into());
        let code = report.exit_code(false);
        for problem in &report.problems {
            eprintln!("{problem}");
        }
        if code != 0 {
            eprintln!("{}", report.summary);
            return Ok(ExitCode::from(code));
        }
        let document = compiled.document(&self.identity);
        if !compiled.documents.contains_key(&self.identity) {
            let mode = document.mode.as_str();
            eprintln!("note: no policy names {}; its mode is `{mode}`", self.identity);
        }
        for own in compiled.clusters(&self.identity) {
            eprintln!("note: the document leads to a cluster of its own, `{}`: define it", own.name);
        }
        let wrapped =
            |plugin: Plugin| serde_json::json!({"plugin": plugin, "version": document.version, "policy": *document});
        let text = match self.output {
            Form::Json => serde_json::to_string_pretty(&*document)?,
            Form::Network => wrapped(Plugin::Network).to_string(),
            Form::Http => wrapped(Plugin::Http).to_string(),
        };
        print(&format!("{text}\n"))
    }
}
