//! The flags for the source of flows: a control plane or a log.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::num::NonZeroUsize;
use std::path::PathBuf;

use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use egress_policy::Identity;
use jiff::Timestamp;

use egress_flows::access_log::json::{self, Skipped};
use egress_flows::table::{FlowList, FlowQuery, FlowTable, collect_pages};
use egress_status::AdminClient;

#[derive(Debug, Args)]
pub(super) struct FlowSource {
    /// The admin address of a control plane that runs with `--flow-log`.
    #[arg(long, value_name = "ADDRESS", default_value_t = SocketAddr::from((Ipv4Addr::LOCALHOST, 15129)))]
    admin: SocketAddr,
    /// Read an Envoy's log from a file, or with `-` from standard input, instead of asking a control plane. Requires
    /// `--identity`.
    #[arg(long, value_name = "FILE", requires = "identity", conflicts_with = "admin")]
    log: Option<PathBuf>,
}

impl FlowSource {
    /// Reads all flows that match a query. All flows of a log are of one identity.
    pub(super) fn read(&self, query: &FlowQuery) -> Result<FlowList> {
        match &self.log {
            Some(file) => read_log(file, query),
            None => {
                let runtime = tokio::runtime::Runtime::new()?;
                collect_pages(query, |page| runtime.block_on(fetch_page(self.admin, page)))
            }
        }
    }
}

/// Fetches one page of flows from a running control plane.
pub(super) async fn fetch_page(admin: SocketAddr, query: &FlowQuery) -> Result<FlowList> {
    let text = AdminClient::new(admin).get(&query.path()).await?;
    let flows: FlowList = serde_json::from_str(&text).with_context(|| {
        format!("{admin} did not answer with flows: is it the admin address of `osm-egress serve`?")
    })?;
    ensure!(flows.enabled, "the control plane at {admin} records no flows: run it with `serve --flow-log`");
    Ok(flows)
}

/// Reads the flows of an Envoy's log.
fn read_log(file: &std::path::Path, query: &FlowQuery) -> Result<FlowList> {
    use std::io::{BufRead, BufReader, Read};
    /// The longest line that is read at once: a line of the access log is far shorter.
    const MAX_LINE_BYTES: u64 = 1 << 20;
    let Some(identity): Option<&Identity> = query.identity.as_ref() else {
        bail!("a log does not name its workload: pass `--identity NAMESPACE/SERVICE-ACCOUNT`")
    };
    let read_error = || format!("cannot read the log {}", file.display());
    let input: Box<dyn Read> = if file.as_os_str() == "-" {
        Box::new(std::io::stdin())
    } else {
        Box::new(std::fs::File::open(file).with_context(read_error)?)
    };
    let mut input = BufReader::new(input);
    // The limit of a control plane for all identities.
    let table = FlowTable::new(NonZeroUsize::new(100_000).unwrap_or(NonZeroUsize::MIN));
    let mut has_decision = false;
    let mut skipped: BTreeMap<Skipped, u64> = BTreeMap::new();
    loop {
        let mut bytes = Vec::new();
        if input.by_ref().take(MAX_LINE_BYTES).read_until(b'\n', &mut bytes).with_context(read_error)? == 0 {
            break;
        }
        match json::read_line(&String::from_utf8_lossy(&bytes)) {
            Ok(observation) => {
                has_decision = true;
                table.record(identity, "log", Timestamp::now(), vec![Some(observation)]);
            }
            Err(reason) => *skipped.entry(reason).or_default() += 1,
        }
    }
    if !skipped.is_empty() {
        let counts: Vec<String> =
            skipped.iter().map(|(reason, count)| format!("{count} {}", reason.as_str())).collect();
        eprintln!(
            "{}: skipped {} lines: {}",
            file.display(),
            skipped.values().sum::<u64>(),
            counts.join(", ")
        );
    }
    ensure!(
        has_decision,
        "{} contains no decision: pass the output of an Envoy whose access log is on",
        file.display()
    );
    Ok(table.list_all(query))
}
