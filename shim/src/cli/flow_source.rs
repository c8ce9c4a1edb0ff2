//! The flags that say where flows come from.

use std::net::{Ipv4Addr, SocketAddr};
use std::num::NonZeroUsize;
use std::path::PathBuf;

use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use egress_policy::Identity;
use jiff::Timestamp;

use egress_flows::line;
use egress_flows::memory::{Filter, Flows, Memory, all};
use egress_status::AdminClient;

#[derive(Debug, Args)]
pub(super) struct FlowSource {
    /// The admin address of a control plane that runs with `--flow-log`.
    #[arg(long, value_name = "ADDRESS", default_value_t = SocketAddr::from((Ipv4Addr::LOCALHOST, 15129)))]
    admin: SocketAddr,
    /// Read the log of an Envoy instead, as it is on its standard output; `-` for this program's input. Needs
    /// `--identity`.
    #[arg(long, value_name = "FILE", requires = "identity", conflicts_with = "admin")]
    log: Option<PathBuf>,
}

impl FlowSource {
    /// All flows that are wanted; of a log, all are of one identity.
    pub(super) fn read(&self, filter: &Filter) -> Result<Flows> {
        match &self.log {
            Some(file) => from_log(file, filter),
            None => {
                let runtime = tokio::runtime::Runtime::new()?;
                all(filter, |page| runtime.block_on(fetch(self.admin, page)))
            }
        }
    }
}

/// Asks a running control plane once.
pub(super) async fn fetch(admin: SocketAddr, filter: &Filter) -> Result<Flows> {
    let text = AdminClient::new(admin).get(&filter.path()).await?;
    let flows: Flows = serde_json::from_str(&text).context("the control plane sent no flows")?;
    ensure!(flows.enabled, "the control plane at {admin} remembers no flows: run it with `serve --flow-log`");
    Ok(flows)
}

fn from_log(file: &std::path::Path, filter: &Filter) -> Result<Flows> {
    use std::io::{BufRead, BufReader, Read};
    /// No line of ours is longer.
    const LONGEST: u64 = 1 << 20;
    let Some(identity): Option<&Identity> = filter.identity.as_ref() else {
        bail!("a log does not say whose it is: pass `--identity NAMESPACE/SERVICE-ACCOUNT`")
    };
    let named = || format!("cannot read the log {}", file.display());
    let input: Box<dyn Read> = if file.as_os_str() == "-" {
        Box::new(std::io::stdin())
    } else {
        Box::new(std::fs::File::open(file).with_context(named)?)
    };
    let mut input = BufReader::new(input);
    // As many as a control plane remembers of all identities.
    let memory = Memory::new(NonZeroUsize::new(100_000).unwrap_or(NonZeroUsize::MIN));
    let mut any = false;
    loop {
        let mut bytes = Vec::new();
        if input.by_ref().take(LONGEST).read_until(b'\n', &mut bytes).with_context(named)? == 0 {
            break;
        }
        // Other lines are Envoy's own, or of connections of which nothing was decided.
        if let Some(observation) = line::read(&String::from_utf8_lossy(&bytes)) {
            any = true;
            memory.record(identity, "log", Timestamp::now(), vec![Some(observation)]);
        }
    }
    ensure!(
        any,
        "there is no decision in {}: name the output of an Envoy, with its access log",
        file.display()
    );
    Ok(memory.all(filter))
}
