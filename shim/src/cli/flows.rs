//! `osm-egress flows`.

use std::net::{Ipv4Addr, SocketAddr};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Result;
use clap::Args;
use egress_policy::Identity;

use super::flow_source::fetch;
use super::output::{Output, print};
use egress_flows::memory::{Filter, Flows, Wanted, all};
use egress_flows::text;

/// The interval at which a control plane is asked for new flows.
const PAUSE: Duration = Duration::from_secs(1);

#[derive(Debug, Args)]
pub(super) struct FlowsArgs {
    /// The admin address of a control plane that runs with `--flow-log`.
    #[arg(long, value_name = "ADDRESS", default_value_t = SocketAddr::from((Ipv4Addr::LOCALHOST, 15129)))]
    admin: SocketAddr,
    /// Only those of this namespace/service-account.
    #[arg(long, alias = "source", value_name = "NS/SA")]
    identity: Option<Identity>,
    /// Only those with this verdict.
    #[arg(long, value_enum)]
    verdict: Option<Wanted>,
    /// Go on with what comes, until interrupted.
    #[arg(long, short)]
    follow: bool,
    /// How to print them: with `--follow`, JSON is an object a line.
    #[arg(long, short, value_enum, default_value_t = Output::Text)]
    output: Output,
}

impl FlowsArgs {
    pub(super) fn run(self) -> Result<ExitCode> {
        let runtime = tokio::runtime::Runtime::new()?;
        let ask = |filter: &Filter| all(filter, |page| runtime.block_on(fetch(self.admin, page)));
        let mut filter =
            Filter { identity: self.identity.clone(), verdict: self.verdict, ..Filter::default() };
        let mut flows = ask(&filter)?;
        if flows.dropped > 0 {
            eprintln!(
                "note: {} flows were forgotten because others came: raise `serve --flows-per-identity`",
                flows.dropped
            );
        }
        if !self.follow {
            flows
                .flows
                .sort_by_cached_key(|flow| (flow.identity.clone(), flow.destination(), flow.decided.clone()));
            return print(&self.text(&flows)?);
        }
        let mut news = flows;
        loop {
            print(&self.text(&news)?)?;
            filter.after = news.sequence;
            std::thread::sleep(PAUSE);
            news = ask(&filter)?;
        }
    }

    fn text(&self, flows: &Flows) -> Result<String> {
        Ok(match (self.output, self.follow) {
            (Output::Text, _) => flows.flows.iter().map(text::line).collect(),
            (Output::Json, false) => format!("{}\n", serde_json::to_string_pretty(flows)?),
            (Output::Json, true) => {
                let lines: Result<Vec<String>, _> = flows.flows.iter().map(serde_json::to_string).collect();
                lines?.iter().map(|line| format!("{line}\n")).collect()
            }
        })
    }
}
