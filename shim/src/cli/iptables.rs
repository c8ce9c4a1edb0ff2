//! `osm-egress iptables`.

use std::process::ExitCode;

use anyhow::{Result, bail};
use clap::{Args, ValueEnum};

use super::output::print;
use egress_inject::interception::{
    self, Backend, Interception, InterceptionArgs, apply_rules, listening_uids,
};

#[derive(Debug, Args)]
pub(super) struct Iptables {
    #[command(flatten)]
    interception: InterceptionArgs,
    /// Variant of iptables: the choice of the system, or a specific one.
    #[arg(long, value_enum, default_value_t = Tools::Auto)]
    backend: Tools,
    /// Print the rules in the format of iptables-restore and ip6tables-restore, and change nothing.
    #[arg(long, conflicts_with = "remove")]
    dry_run: bool,
    /// Remove the rules.
    #[arg(long)]
    remove: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Tools {
    Auto,
    Nft,
    Legacy,
}

/// Refuses rules by which an Envoy that runs already would get its own connections back.
fn refuse_other_user(interception: &Interception) -> Result<()> {
    let Interception { outbound_port: port, proxy_uid, .. } = interception;
    if let Some(other) = listening_uids(*port).into_iter().find(|uid| uid != proxy_uid) {
        let remedy = match other {
            0 => format!("run Envoy as uid {proxy_uid}, not as root"),
            _ => format!("run Envoy as uid {proxy_uid}, or pass `--proxy-uid {other}`"),
        };
        bail!(
            "uid {other} listens on port {port}, and the connections of uid {proxy_uid} alone would be left alone: Envoy \
             would get its own connections back, and refuse them. Nothing was changed: {remedy}"
        );
    }
    Ok(())
}

impl Iptables {
    pub(super) fn run(self) -> Result<ExitCode> {
        let families = self.interception.families();
        let backend = match self.backend {
            Tools::Auto => Backend::Auto,
            Tools::Nft => Backend::Nft,
            Tools::Legacy => Backend::Legacy,
        };
        let (dry_run, remove) = (self.dry_run, self.remove);
        let interception = self.interception.interception();
        if dry_run {
            let text =
                families.iter().map(|&family| format!("# {family}\n{}", interception.restore_input(family)));
            return print(&text.collect::<String>());
        }
        if !remove {
            refuse_other_user(&interception)?;
        }
        let wanted = (!remove).then_some(&interception);
        let text = apply_rules(wanted, families, backend)?.into_iter().map(|change| {
            let interception::FamilyChange { family, tool, changed } = change;
            let what = match (remove, changed) {
                (false, true) => "intercepted",
                (false, false) => "intercepted already",
                (true, true) => "no longer intercepted",
                (true, false) => "not intercepted",
            };
            format!("{family}: {what} ({tool})\n")
        });
        print(&text.collect::<String>())
    }
}
