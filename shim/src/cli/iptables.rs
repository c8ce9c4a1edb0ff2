//! `osm-egress iptables`.

use std::net::IpAddr;
use std::process::ExitCode;

use anyhow::{Result, bail};
use clap::{Args, ValueEnum};
use ipnet::IpNet;

use super::output::print;
use egress_envoy::IpFamilies;
use egress_inject::interception::{
    self, Backend, Family, Inbound, Interception, OUTBOUND_PORT, PROXY_UID, apply_rules, listening_uids,
    parse_interface,
};

#[derive(Debug, Args)]
pub(super) struct Iptables {
    /// Port of Envoy's outbound listener.
    #[arg(long, value_name = "PORT", default_value_t = OUTBOUND_PORT, value_parser = clap::value_parser!(u16).range(1..))]
    outbound_port: u16,
    /// Uid of Envoy, whose own connections are not intercepted. Neither are those of other processes with this uid.
    #[arg(long, value_name = "UID", default_value_t = PROXY_UID, value_parser = clap::value_parser!(u32).range(1..))]
    proxy_uid: u32,
    /// Destination ports to exclude from interception.
    #[arg(long, value_name = "PORTS", value_delimiter = ',', value_parser = clap::value_parser!(u16).range(1..))]
    exclude_ports: Vec<u16>,
    /// Destination address blocks (IPv4 or IPv6) to exclude from interception.
    #[arg(long, value_name = "CIDRS", value_delimiter = ',', value_parser = parse_block)]
    exclude_cidrs: Vec<IpNet>,
    /// Destination address blocks to intercept, and no others. Exclusions still apply.
    #[arg(long, value_name = "CIDRS", value_delimiter = ',', value_parser = parse_block)]
    include_cidrs: Vec<IpNet>,
    /// Network interfaces to exclude from interception.
    #[arg(long, value_name = "NAMES", value_delimiter = ',', value_parser = parse_interface)]
    exclude_interfaces: Vec<String>,
    /// Intercept inbound connections too, for an Envoy that listens on this port. osm-egress has no such listener.
    #[arg(long, value_name = "PORT", value_parser = clap::value_parser!(u16).range(1..))]
    inbound_port: Option<u16>,
    /// Ports of the workload to exclude from inbound interception.
    #[arg(long, value_name = "PORTS", value_delimiter = ',', requires = "inbound_port", value_parser = clap::value_parser!(u16).range(1..))]
    exclude_inbound_ports: Vec<u16>,
    /// IP families to intercept; `ipv4` only if nothing can leave by IPv6.
    #[arg(long, value_enum, default_value_t = IpFamilies::Dual)]
    ip_families: IpFamilies,
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

fn parse_block(text: &str) -> Result<IpNet, String> {
    text.parse().or_else(|_| {
        text.parse::<IpAddr>()
            .map(IpNet::from)
            .map_err(|_| "write it as a block of addresses: 10.0.0.0/8 or fd00::/8".to_owned())
    })
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
        let families = match self.ip_families {
            IpFamilies::Dual => Family::ALL.as_slice(),
            IpFamilies::Ipv4 => &[Family::V4],
        };
        let backend = match self.backend {
            Tools::Auto => Backend::Auto,
            Tools::Nft => Backend::Nft,
            Tools::Legacy => Backend::Legacy,
        };
        let (dry_run, remove) = (self.dry_run, self.remove);
        let interception = self.interception();
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

    fn interception(self) -> Interception {
        let exclude_ports = self.exclude_inbound_ports;
        Interception {
            outbound_port: self.outbound_port,
            proxy_uid: self.proxy_uid,
            exclude_interfaces: self.exclude_interfaces,
            exclude_blocks: self.exclude_cidrs,
            exclude_ports: self.exclude_ports,
            include_blocks: self.include_cidrs,
            inbound: self.inbound_port.map(|port| Inbound { port, exclude_ports }),
        }
    }
}
