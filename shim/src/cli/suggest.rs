//! `osm-egress suggest`.

use std::process::ExitCode;

use anyhow::Result;
use clap::Args;
use egress_policy::Identity;

use super::flow_source::FlowSource;
use super::output::print;
use egress_flows::memory::Filter;
use egress_flows::suggest::Suggestion;

#[derive(Debug, Args)]
pub(super) struct SuggestArgs {
    /// For whom: namespace/service-account.
    #[arg(long, alias = "source", value_name = "NS/SA")]
    identity: Identity,
    #[command(flatten)]
    flows: FlowSource,
}

impl SuggestArgs {
    pub(super) fn run(self) -> Result<ExitCode> {
        let filter = Filter { identity: Some(self.identity.clone()), ..Filter::default() };
        let flows = self.flows.read(&filter)?;
        let suggestion = Suggestion::of(&self.identity, &flows.flows);
        if flows.dropped > 0 {
            eprintln!(
                "note: {} flows were forgotten because others came, and are not in this",
                flows.dropped
            );
        }
        if suggestion.is_empty() {
            eprintln!("note: of {} flows none was refused, or would have been", flows.flows.len());
        }
        if let Some(many) = suggestion.many() {
            eprintln!("note: {many}");
        }
        print(&suggestion.yaml())
    }
}
