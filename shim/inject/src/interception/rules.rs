//! Rules of an interception, and their notation in iptables-save, so that rules in force can be compared with the expected
//! ones.

use std::fmt;

use ipnet::IpNet;

use super::rule_spec::{Condition, RuleSpec, Target};
use super::{Family, INBOUND_PORT, Interception, deduplicate};

/// Chain of the kernel for connections that begin here.
pub const OUTPUT: &str = "OUTPUT";
/// Chain of the kernel for connections that come in.
pub const PREROUTING: &str = "PREROUTING";

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

impl From<RuleSpec> for Rule {
    fn from(spec: RuleSpec) -> Self {
        Self { chain: spec.chain.to_owned(), text: spec.to_string() }
    }
}

fn rule(chain: &'static str, conditions: Vec<Condition>, target: Target) -> RuleSpec {
    RuleSpec { chain, conditions, target }
}

impl Interception {
    /// The rules of a family, in order, in the notation of iptables-save.
    #[must_use]
    pub fn rules(&self, family: Family) -> Vec<Rule> {
        self.rule_specs(family).into_iter().map(Rule::from).collect()
    }

    /// The rules of a family, in order.
    #[must_use]
    pub fn rule_specs(&self, family: Family) -> Vec<RuleSpec> {
        let mut rules = self.inbound_rules();
        rules.extend(self.outbound_rules(family));
        rules
    }

    fn inbound_rules(&self) -> Vec<RuleSpec> {
        let port = self.inbound.as_ref().map_or(INBOUND_PORT, |inbound| inbound.port);
        let tcp = || vec![Condition::Tcp];
        let mut rules = vec![rule(IN_REDIRECT, tcp(), Target::Redirect(port))];
        let Some(inbound) = &self.inbound else { return rules };
        rules.push(rule(PREROUTING, tcp(), Target::Jump(INBOUND)));
        for interface in deduplicate(&self.exclude_interfaces) {
            rules.push(rule(INBOUND, vec![Condition::InInterface(interface.clone())], Target::Return));
        }
        rules.extend(port_rules(INBOUND, &inbound.exclude_ports));
        for port in EXTERNAL_PROBE_PORTS {
            rules.push(rule(INBOUND, vec![Condition::Tcp, Condition::Port(port)], Target::Return));
        }
        rules.push(rule(INBOUND, tcp(), Target::Jump(IN_REDIRECT)));
        rules
    }

    fn outbound_rules(&self, family: Family) -> Vec<RuleSpec> {
        use Condition::{Destination, OutInterface, Owner, Port, Tcp};
        let Self { outbound_port, proxy_uid, .. } = self;
        let owner = |negated| Owner { uid: *proxy_uid, negated };
        let loopback = |negated| Destination { block: family.loopback(), negated };
        let lo = || OutInterface("lo".to_owned());
        let mut rules = vec![
            rule(OUT_REDIRECT, vec![Tcp], Target::Redirect(*outbound_port)),
            // Never reached, but part of Open Service Mesh's table.
            rule(OUT_REDIRECT, vec![Tcp, Port(ADMIN_PORT)], Target::Accept),
            rule(OUTPUT, vec![Tcp], Target::Jump(OUTBOUND)),
            rule(OUTBOUND, vec![loopback(true), lo(), owner(false)], Target::Jump(IN_REDIRECT)),
            rule(OUTBOUND, vec![lo(), owner(true)], Target::Return),
            rule(OUTBOUND, vec![owner(false)], Target::Return),
            rule(OUTBOUND, vec![loopback(false)], Target::Return),
        ];
        for interface in deduplicate(&self.exclude_interfaces) {
            rules.push(rule(OUTBOUND, vec![OutInterface(interface.clone())], Target::Return));
        }
        for conditions in destination_conditions(&self.exclude_blocks, family) {
            rules.push(rule(OUTBOUND, conditions, Target::Return));
        }
        rules.extend(port_rules(OUTBOUND, &self.exclude_ports));
        for conditions in destination_conditions(&self.include_blocks, family) {
            rules.push(rule(OUTBOUND, conditions, Target::Jump(OUT_REDIRECT)));
        }
        // A list of IPv4 blocks includes no IPv6 address.
        let rest = if self.include_blocks.is_empty() { Target::Jump(OUT_REDIRECT) } else { Target::Return };
        rules.push(rule(OUTBOUND, Vec::new(), rest));
        rules
    }

    /// The input of iptables-restore that installs the rules.
    #[must_use]
    pub fn restore_input(&self, family: Family) -> String {
        format_restore_input(&self.rules(family), &[], &[])
    }
}

/// Conditions for a family's blocks: none for the block of all addresses, as iptables prints it.
fn destination_conditions(blocks: &[IpNet], family: Family) -> Vec<Vec<Condition>> {
    deduplicate(blocks.iter().filter(|block| family.contains(block)).map(IpNet::trunc))
        .into_iter()
        .map(|block| match block.prefix_len() {
            0 => Vec::new(),
            _ => vec![Condition::Destination { block, negated: false }],
        })
        .collect()
}

fn port_rules(chain: &'static str, ports: &[u16]) -> Vec<RuleSpec> {
    deduplicate(ports)
        .chunks(MAX_MULTIPORT_PORTS)
        .map(|some| {
            let ports = some.iter().map(|port| **port).collect();
            rule(chain, vec![Condition::Tcp, Condition::Ports(ports)], Target::Return)
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
