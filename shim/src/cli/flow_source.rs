//! The flags that say where flows come from.

use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::num::NonZeroUsize;
use std::path::PathBuf;

use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use egress_policy::Identity;
use jiff::Timestamp;

use crate::flows::memory::{Filter, Flows, Key, Limit, Memory};
use crate::flows::{Flow, line};
use crate::status;

#[derive(Debug, Args)]
pub(super) struct FlowSource {
    /// The admin address of a control plane that runs with `--flow-log`.
    #[arg(long, value_name = "ADDRESS", default_value_t = SocketAddr::from((Ipv4Addr::LOCALHOST, 15129)))]
    admin: SocketAddr,
    /// Read the log of an Envoy instead, as it is on its standard output; `-` for this program's input. Needs
    /// `--source`.
    #[arg(long, value_name = "FILE", requires = "source", conflicts_with = "admin")]
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

/// Asks page by page. A flow that changes meanwhile comes again, as it is then.
pub(super) fn all(filter: &Filter, mut ask: impl FnMut(&Filter) -> Result<Flows>) -> Result<Flows> {
    let mut page = Filter { limit: Limit::MOST, newest: false, ..filter.clone() };
    let mut flows: HashMap<(String, Key), Flow> = HashMap::new();
    let answer = loop {
        let mut answer = ask(&page)?;
        if answer.sequence < page.after {
            // Another control plane, or it started anew: what was said before is not what it knows.
            page.after = 0;
            flows.clear();
            continue;
        }
        let last = answer.flows.last().map(|flow| flow.sequence);
        flows.extend(answer.flows.drain(..).map(|flow| ((flow.identity.clone(), Key::of(&flow)), flow)));
        match last {
            Some(last) if answer.more && last > page.after => page.after = last,
            Some(_) | None => break answer,
        }
    };
    let mut flows: Vec<Flow> = flows.into_values().collect();
    flows.sort_by_key(|flow| flow.sequence);
    Ok(Flows { flows, more: false, ..answer })
}

/// Asks a running control plane once.
pub(super) async fn fetch(admin: SocketAddr, filter: &Filter) -> Result<Flows> {
    let text = status::ask(admin, &filter.path()).await?;
    let flows: Flows = serde_json::from_str(&text).context("the control plane sent no flows")?;
    ensure!(flows.enabled, "the control plane at {admin} remembers no flows: run it with `serve --flow-log`");
    Ok(flows)
}

fn from_log(file: &std::path::Path, filter: &Filter) -> Result<Flows> {
    use std::io::{BufRead, BufReader, Read};
    /// No line of ours is longer.
    const LONGEST: u64 = 1 << 20;
    let Some(identity): Option<&Identity> = filter.identity.as_ref() else {
        bail!("a log does not say whose it is: pass `--source NAMESPACE/SERVICE-ACCOUNT`")
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
    all(filter, |page| Ok(memory.flows(page)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALLOWED: &str = r#"{"kind":"connection","dialled":"192.0.2.1:PORT","decision":"allow rule a/b c"}"#;

    fn see(memory: &Memory, port: u16) {
        let seen = line::read(&ALLOWED.replace("PORT", &port.to_string()));
        assert!(seen.is_some());
        memory.record(&"shop/app".parse().expect("an identity"), "p", Timestamp::now(), vec![seen]);
    }

    fn memory(flows: u16) -> Memory {
        let memory = Memory::new(NonZeroUsize::new(60_000).expect("not zero"));
        (1..=flows).for_each(|port| see(&memory, port));
        memory
    }

    #[test]
    fn until_there_is_no_more() {
        let memory = memory(25_000);
        let mut pages = 0;
        let flows = all(&Filter::default(), |page| {
            let answer = memory.flows(page);
            pages += 1;
            // One that was told of already changes, and another that was not.
            see(&memory, 1);
            see(&memory, 24_000);
            Ok(answer)
        })
        .expect("flows");
        assert_eq!((pages, flows.flows.len(), flows.more), (3, 25_000, false));
        let counts: Vec<_> =
            flows.flows.iter().filter(|flow| flow.count > 1).map(|flow| (flow.port, flow.count)).collect();
        assert_eq!(counts, [(1, 3), (24_000, 3)]);
        assert!(flows.flows.is_sorted_by_key(|flow| flow.sequence));
    }

    #[test]
    fn a_control_plane_that_starts_anew() {
        let (old, new) = (memory(12_000), memory(3));
        let mut pages = 0;
        let flows = all(&Filter::default(), |page| {
            pages += 1;
            Ok(if pages == 1 { old.flows(page) } else { new.flows(page) })
        });
        assert_eq!(flows.expect("flows").flows.len(), 3);
    }
}
