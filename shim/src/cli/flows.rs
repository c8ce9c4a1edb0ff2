//! `osm-egress flows`.

use std::net::{Ipv4Addr, SocketAddr};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Result;
use clap::Args;
use egress_policy::Identity;

use super::flow_source::fetch_page;
use super::output::{Output, print};
use egress_flows::table::{FlowList, FlowQuery, VerdictFilter, collect_pages};
use egress_flows::text;

/// The time between two requests for new flows.
const POLL_INTERVAL: Duration = Duration::from_secs(1);

#[derive(Debug, Args)]
pub(super) struct FlowsArgs {
    /// The admin address of a control plane that runs with `--flow-log`.
    #[arg(long, value_name = "ADDRESS", default_value_t = SocketAddr::from((Ipv4Addr::LOCALHOST, 15129)))]
    admin: SocketAddr,
    /// Only flows of this identity: namespace/service-account.
    #[arg(long, alias = "source", value_name = "NS/SA")]
    identity: Option<Identity>,
    /// Only flows with this verdict.
    #[arg(long, value_enum)]
    verdict: Option<VerdictFilter>,
    /// Print new flows until interrupted.
    #[arg(long, short)]
    follow: bool,
    /// Output format. With `--follow`, JSON is one object per line.
    #[arg(long, short, value_enum, default_value_t = Output::Text)]
    output: Output,
}

impl FlowsArgs {
    pub(super) fn run(self) -> Result<ExitCode> {
        let runtime = tokio::runtime::Runtime::new()?;
        let fetch_all =
            |query: &FlowQuery| collect_pages(query, |page| runtime.block_on(fetch_page(self.admin, page)));
        let mut query =
            FlowQuery { identity: self.identity.clone(), verdict: self.verdict, ..FlowQuery::default() };
        let mut flows = fetch_all(&query)?;
        if flows.dropped > 0 {
            eprintln!(
                "note: {} flows were evicted to make room: raise `serve --flows-per-identity`",
                flows.dropped
            );
        }
        if !self.follow {
            flows.flows.sort_by_cached_key(|flow| {
                (flow.identity.clone(), flow.destination(), flow.decision.clone())
            });
            return print(&self.format(&flows)?);
        }
        loop {
            print(&self.format(&flows)?)?;
            query.after = flows.sequence;
            std::thread::sleep(POLL_INTERVAL);
            flows = fetch_all(&query)?;
        }
    }

    fn format(&self, flows: &FlowList) -> Result<String> {
        Ok(match (self.output, self.follow) {
            (Output::Text, _) => flows.flows.iter().map(text::format_line).collect(),
            (Output::Json, false) => format!("{}\n", serde_json::to_string_pretty(flows)?),
            (Output::Json, true) => {
                let lines: Result<Vec<String>, _> = flows.flows.iter().map(serde_json::to_string).collect();
                lines?.iter().map(|line| format!("{line}\n")).collect()
            }
        })
    }
}
