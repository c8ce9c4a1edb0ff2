//! Rules in the notation of iptables-save, so that rules in force can be compared with the expected ones.

use std::fmt;

use ipnet::IpNet;

use super::{Family, INBOUND_PORT, Interception, deduplicate};

const INBOUND: &str = "OSM_PROXY_INBOUND";
const IN_REDIRECT: &str = "OSM_PROXY_IN_REDIRECT";
const OUTBOUND: &str = "OSM_PROXY_OUTBOUND";
const OUT_REDIRECT: &str = "OSM_PROXY_OUT_REDIRECT";

/// Chains of osm-egress. Their names are Open Service Mesh's.
pub const CHAINS: [&str; 4] = [INBOUND, IN_REDIRECT, OUTBOUND, OUT_REDIRECT];

/// Maximum number of ports in one rule of iptables' `multiport`.
const MAX_MULTIPORT_PORTS: usize = 15;
const ADMIN_PORT: u16 = 15000;
/// Open Service Mesh's ports for metrics and probes, which are called from outside the pod.
const EXTERNAL_PROBE_PORTS: [u16; 5] = [15010, 15901, 15902, 15903, 15904];

/// A rule at the end of a chain of the table `nat`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// Chain.
    pub chain: String,
    /// Conditions and target.
    pub text: String,
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "-A {} {}", self.chain, self.text)
    }
}

fn rule(chain: &str, text: impl Into<String>) -> Rule {
    Rule { chain: chain.to_owned(), text: text.into() }
}

impl Interception {
    /// The rules of a family, in order.
    #[must_use]
    pub fn rules(&self, family: Family) -> Vec<Rule> {
        let mut rules = self.inbound_rules();
        rules.extend(self.outbound_rules(family));
        rules
    }

    fn inbound_rules(&self) -> Vec<Rule> {
        let port = self.inbound.as_ref().map_or(INBOUND_PORT, |inbound| inbound.port);
        let mut rules = vec![rule(IN_REDIRECT, format!("-p tcp -j REDIRECT --to-ports {port}"))];
        let Some(inbound) = &self.inbound else { return rules };
        rules.push(rule("PREROUTING", format!("-p tcp -j {INBOUND}")));
        for interface in deduplicate(&self.exclude_interfaces) {
            rules.push(rule(INBOUND, format!("-i {interface} -j RETURN")));
        }
        rules.extend(port_rules(INBOUND, &inbound.exclude_ports));
        for port in EXTERNAL_PROBE_PORTS {
            rules.push(rule(INBOUND, format!("-p tcp -m tcp --dport {port} -j RETURN")));
        }
        rules.push(rule(INBOUND, format!("-p tcp -j {IN_REDIRECT}")));
        rules
    }

    fn outbound_rules(&self, family: Family) -> Vec<Rule> {
        let Self { outbound_port, proxy_uid: uid, .. } = self;
        let loopback = family.loopback();
        let mut rules = vec![
            rule(OUT_REDIRECT, format!("-p tcp -j REDIRECT --to-ports {outbound_port}")),
            // Never reached, but part of Open Service Mesh's table.
            rule(OUT_REDIRECT, format!("-p tcp -m tcp --dport {ADMIN_PORT} -j ACCEPT")),
            rule("OUTPUT", format!("-p tcp -j {OUTBOUND}")),
            rule(OUTBOUND, format!("! -d {loopback} -o lo -m owner --uid-owner {uid} -j {IN_REDIRECT}")),
            rule(OUTBOUND, format!("-o lo -m owner ! --uid-owner {uid} -j RETURN")),
            rule(OUTBOUND, format!("-m owner --uid-owner {uid} -j RETURN")),
            rule(OUTBOUND, format!("-d {loopback} -j RETURN")),
        ];
        for interface in deduplicate(&self.exclude_interfaces) {
            rules.push(rule(OUTBOUND, format!("-o {interface} -j RETURN")));
        }
        for condition in destination_conditions(&self.exclude_blocks, family) {
            rules.push(rule(OUTBOUND, format!("{condition}-j RETURN")));
        }
        rules.extend(port_rules(OUTBOUND, &self.exclude_ports));
        for condition in destination_conditions(&self.include_blocks, family) {
            rules.push(rule(OUTBOUND, format!("{condition}-j {OUT_REDIRECT}")));
        }
        // A list of IPv4 blocks includes no IPv6 address.
        let rest = if self.include_blocks.is_empty() { OUT_REDIRECT } else { "RETURN" };
        rules.push(rule(OUTBOUND, format!("-j {rest}")));
        rules
    }

    /// The input of iptables-restore that installs the rules.
    #[must_use]
    pub fn restore_input(&self, family: Family) -> String {
        format_restore_input(&self.rules(family), &[], &[])
    }
}

/// Formats the conditions for a family's blocks. iptables prints none for the block of all addresses.
fn destination_conditions(blocks: &[IpNet], family: Family) -> Vec<String> {
    deduplicate(blocks.iter().filter(|block| family.contains(block)).map(IpNet::trunc))
        .into_iter()
        .map(|block| if block.prefix_len() == 0 { String::new() } else { format!("-d {block} ") })
        .collect()
}

fn port_rules(chain: &'static str, ports: &[u16]) -> Vec<Rule> {
    deduplicate(ports)
        .chunks(MAX_MULTIPORT_PORTS)
        .map(|some| {
            let some: Vec<_> = some.iter().map(|port| port.to_string()).collect();
            rule(chain, format!("-p tcp -m multiport --dports {} -j RETURN", some.join(",")))
        })
        .collect()
}

/// Formats the input of iptables-restore that adds and removes rules in one transaction. Declaring a chain empties
/// it.
pub(super) fn format_restore_input(rules: &[Rule], leaving: &[Rule], chains: &[&str]) -> String {
    let mut text = "*nat\n".to_owned();
    let wanted = |chain: &str| rules.iter().any(|rule| rule.chain == chain);
    for chain in CHAINS.into_iter().filter(|chain| wanted(chain) || chains.contains(chain)) {
        text.push_str(&format!(":{chain} - [0:0]\n"));
    }
    for Rule { chain, text: rule } in leaving {
        text.push_str(&format!("-D {chain} {rule}\n"));
    }
    for rule in rules {
        text.push_str(&format!("{rule}\n"));
    }
    for chain in chains.iter().filter(|chain| !wanted(chain)) {
        text.push_str(&format!("-X {chain}\n"));
    }
    text + "COMMIT\n"
}
