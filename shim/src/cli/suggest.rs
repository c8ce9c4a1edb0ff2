//! `osm-egress suggest`.

use std::process::ExitCode;

use anyhow::Result;
use clap::Args;
use egress_policy::Identity;

use super::flow_source::FlowSource;
use super::output::print;
use egress_flows::suggest::Suggestion;
use egress_flows::table::FlowQuery;

#[derive(Debug, Args)]
pub(super) struct SuggestArgs {
    /// The identity to suggest policies for: namespace/service-account.
    #[arg(long, alias = "source", value_name = "NS/SA")]
    identity: Identity,
    #[command(flatten)]
    flows: FlowSource,
}

impl SuggestArgs {
    pub(super) fn run(self) -> Result<ExitCode> {
        let query = FlowQuery::for_identity(self.identity.clone());
        let flows = self.flows.read(&query)?;
        let suggestion = Suggestion::for_identity(&self.identity, &flows.flows);
        if flows.dropped > 0 {
            eprintln!(
                "note: {} flows were evicted to make room and are missing here: raise `serve --flows-per-identity`",
                flows.dropped
            );
        }
        if suggestion.is_empty() {
            eprintln!("note: none of {} flows was denied, or would be without audit mode", flows.flows.len());
        }
        if let Some(warning) = suggestion.size_warning() {
            eprintln!("warning: {warning}");
        }
        print(&suggestion.to_yaml())
    }
}
