//! Interception rules in nf_tables, over netlink: neither iptables nor nft is needed.
//!
//! The rules are those of `osm-egress iptables`, in a table of their own for each address family. A change replaces both
//! tables in one transaction.

mod attribute;
mod message;
mod socket;

use egress_inject::interception::{CHAINS, Family, Interception, OUTPUT, PREROUTING};

use self::attribute::{contains, split};
use self::socket::{Change, NetlinkError, Socket};

/// Name of the tables.
const TABLE: &str = "osm-egress";
/// Protocol families of nf_tables.
const IPV4: u8 = 2;
const IPV6: u8 = 10;
/// Numbers of the hooks.
const PREROUTING_HOOK: u32 = 0;
const OUTPUT_HOOK: u32 = 3;

/// Rules that could not be installed or read.
#[derive(Debug, thiserror::Error)]
#[error("nf_tables: {0}{remedy}", remedy = remedy(.0))]
pub(crate) struct RulesError(#[from] NetlinkError);

fn remedy(error: &NetlinkError) -> &'static str {
    use nix::errno::Errno;
    let (NetlinkError::Call(_, reason) | NetlinkError::Refused { reason, .. }) = error else { return "" };
    let missing =
        [Errno::EPROTONOSUPPORT, Errno::EOPNOTSUPP, Errno::EAFNOSUPPORT, Errno::ENOENT, Errno::EPFNOSUPPORT];
    if *reason == Errno::EPERM {
        ": the plugin must run as root, as container runtimes run it"
    } else if missing.contains(reason) {
        ": the node's kernel needs nf_tables with nat and redirect (modules nf_tables, nft_chain_nat and nft_redir), and IPv6 \
         unless `osm.egress.ipFamilies` is ipv4"
    } else {
        ""
    }
}

const fn family_number(family: Family) -> u8 {
    match family {
        Family::V4 => IPV4,
        Family::V6 => IPV6,
    }
}

/// Chains with rules, and the hook of those that the kernel calls.
fn chains(interception: &Interception) -> Vec<(&'static str, Option<u32>)> {
    let inbound = interception.inbound.is_some();
    let own = CHAINS.into_iter().map(|name| (name, None));
    let hooks = [(OUTPUT, Some(OUTPUT_HOOK))].into_iter();
    own.chain(hooks).chain(inbound.then_some((PREROUTING, Some(PREROUTING_HOOK)))).collect()
}

/// Installs the rules in the network namespace of this thread, in place of earlier ones.
pub(crate) fn install_rules(interception: &Interception, families: &[Family]) -> Result<(), RulesError> {
    let mut changes = Vec::new();
    for family in families {
        let number = family_number(*family);
        let mut change =
            |operation, attributes| changes.push(Change { operation, family: number, attributes });
        // A table can only be deleted when it exists.
        change(message::NEW_TABLE, message::table(TABLE));
        change(message::DELETE_TABLE, message::table(TABLE));
        change(message::NEW_TABLE, message::table(TABLE));
        for (name, hook) in chains(interception) {
            change(message::NEW_CHAIN, message::chain(TABLE, name, hook));
        }
        for spec in interception.rule_specs(*family) {
            for rule in message::rules(TABLE, &spec) {
                change(message::NEW_RULE, rule);
            }
        }
    }
    Ok(Socket::open()?.commit(&changes)?)
}

/// Checks the rules in the network namespace of this thread. Returns the first difference.
pub(crate) fn find_difference(
    interception: &Interception,
    families: &[Family],
) -> Result<Option<String>, RulesError> {
    let socket = Socket::open()?;
    for family in families {
        let number = family_number(*family);
        let own = |operation| -> Result<Vec<Vec<u8>>, NetlinkError> {
            let mut found = socket.list(operation, number)?;
            found.retain(|object| split(object).contains(&(message::TABLE, b"osm-egress\0")));
            Ok(found)
        };
        let found = own(message::GET_CHAIN)?;
        for (name, hook) in chains(interception) {
            let expected = message::chain(TABLE, name, hook);
            if !found.iter().any(|chain| contains(chain, &expected)) {
                return Ok(Some(format!("{family}: chain `{name}` is missing or changed")));
            }
        }
        // The kernel lists them by chain, in the order of evaluation.
        let found = own(message::GET_RULE)?;
        let mut count = 0;
        for (name, _) in chains(interception) {
            let in_chain = |rule: &&Vec<u8>| contains(rule, &message::rule_place(TABLE, name));
            let found: Vec<_> = found.iter().filter(in_chain).collect();
            let specs = interception.rule_specs(*family).into_iter().filter(|spec| spec.chain == name);
            let expected: Vec<_> = specs.flat_map(|spec| message::rules(TABLE, &spec)).collect();
            let same = found.len() == expected.len()
                && found.iter().zip(&expected).all(|(found, expected)| contains(found, expected));
            if !same {
                return Ok(Some(format!("{family}: the rules of chain `{name}` are missing or changed")));
            }
            count += expected.len();
        }
        if found.len() != count {
            return Ok(Some(format!("{family}: there are rules of another program in table `{TABLE}`")));
        }
    }
    Ok(None)
}
