//! Interception as arguments of a command: of `osm-egress iptables`, and of the init container of a pod.

use std::net::IpAddr;

use clap::{Args, Parser};
use egress_envoy::IpFamilies;
use ipnet::IpNet;

use super::{Family, Inbound, Interception, OUTBOUND_PORT, PROXY_UID, parse_interface};

/// Flags that describe an interception.
#[derive(Clone, Debug, Args)]
pub struct InterceptionArgs {
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
}

fn parse_block(text: &str) -> Result<IpNet, String> {
    text.parse().or_else(|_| {
        text.parse::<IpAddr>()
            .map(IpNet::from)
            .map_err(|_| "write it as a block of addresses: 10.0.0.0/8 or fd00::/8".to_owned())
    })
}

impl InterceptionArgs {
    /// The address families that are intercepted.
    #[must_use]
    pub const fn families(&self) -> &'static [Family] {
        families(self.ip_families)
    }

    /// The interception.
    #[must_use]
    pub fn interception(self) -> Interception {
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

/// The address families of a setting.
const fn families(setting: IpFamilies) -> &'static [Family] {
    match setting {
        IpFamilies::Dual => &Family::ALL,
        IpFamilies::Ipv4 => &[Family::V4],
    }
}

/// Flags without a command.
#[derive(Debug, Parser)]
#[command(no_binary_name = true, disable_help_flag = true)]
struct Flags {
    #[command(flatten)]
    args: InterceptionArgs,
}

/// Parses the arguments of an injected init container, after the name of its command.
///
/// # Errors
/// Returns clap's text if a flag is unknown or a value is invalid.
pub fn parse_arguments<'a>(
    arguments: impl IntoIterator<Item = &'a str>,
) -> Result<(Interception, &'static [Family]), String> {
    let flags = Flags::try_parse_from(arguments).map_err(|error| {
        let text = error.to_string();
        let line = text.lines().next().unwrap_or_default();
        line.trim_start_matches("error: ").to_owned()
    })?;
    let families = flags.args.families();
    Ok((flags.args.interception(), families))
}

/// Renders an interception without inbound interception as the arguments of an init container.
pub(crate) fn render_arguments(interception: &Interception, families: IpFamilies) -> Vec<String> {
    let Interception { exclude_interfaces, exclude_blocks, exclude_ports, include_blocks, .. } = interception;
    let mut arguments = Vec::new();
    let mut list = |flag: &str, items: Vec<String>| {
        if !items.is_empty() {
            arguments.extend([flag.to_owned(), items.join(",")]);
        }
    };
    list("--exclude-ports", exclude_ports.iter().map(ToString::to_string).collect());
    list("--exclude-cidrs", exclude_blocks.iter().map(ToString::to_string).collect());
    list("--include-cidrs", include_blocks.iter().map(ToString::to_string).collect());
    list("--exclude-interfaces", exclude_interfaces.clone());
    if families == IpFamilies::Ipv4 {
        list("--ip-families", vec!["ipv4".to_owned()]);
    }
    arguments
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_of_an_init_container_give_the_interception_back() {
        let interception = Interception {
            exclude_interfaces: vec!["eth1".into(), "tun+".into()],
            exclude_blocks: ["1.1.1.1/32", "2001:db8::/32"].map(|b| b.parse().expect("a block")).to_vec(),
            exclude_ports: vec![10, 20],
            include_blocks: ["0.0.0.0/0"].map(|b| b.parse().expect("a block")).to_vec(),
            ..Interception::default()
        };
        for (setting, families) in
            [(IpFamilies::Dual, Family::ALL.as_slice()), (IpFamilies::Ipv4, &[Family::V4])]
        {
            for interception in [&interception, &Interception::default()] {
                let arguments = render_arguments(interception, setting);
                let parsed = parse_arguments(arguments.iter().map(String::as_str));
                assert_eq!(parsed, Ok((interception.clone(), families)), "{arguments:?}");
            }
        }
    }

    #[test]
    fn arguments_of_a_newer_version_are_refused_and_named() {
        let refused = parse_arguments(["--exclude-moons", "1"]).expect_err("a refusal");
        assert_eq!(refused, "unexpected argument '--exclude-moons' found");
        let refused = parse_arguments(["--exclude-ports", "0"]).expect_err("a refusal");
        assert!(refused.starts_with("invalid value '0' for '--exclude-ports"), "{refused}");
    }
}
