//! The difference between the rules of one policy, as text. Where names were added to a rule, only those names
//! are listed.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Display;
use std::sync::Arc;

use egress_policy::{Cidr, EncryptedHello, HostPattern, Port, Protocol, Route, Rule, Upgrade};

use super::{MAX_LISTED, TruncatedList};

/// A rule without its hosts, field and cluster.
type Shape<'d> =
    (Protocol, Port, Option<&'d [Cidr]>, Option<&'d [Arc<Route>]>, &'d [Upgrade], EncryptedHello);
/// The hosts of all rules of a shape. `None` stands for any host.
type Shapes<'d> = BTreeMap<Shape<'d>, BTreeSet<Option<&'d HostPattern>>>;

fn group_by_shape<'d>(rules: &[&'d Rule]) -> Shapes<'d> {
    let mut shapes = Shapes::new();
    for rule in rules {
        let shape = (
            rule.protocol,
            rule.port,
            rule.addresses.as_deref(),
            rule.routes.as_deref(),
            rule.upgrades.as_slice(),
            rule.encrypted_hello,
        );
        let hosts = shapes.entry(shape).or_default();
        match &rule.hosts {
            Some(listed) => hosts.extend(listed.iter().map(Some)),
            None => drop(hosts.insert(None)),
        }
    }
    shapes
}

/// Adds to `opens` what only the new rules allow, and to `closes` what only the old rules allow.
pub(super) fn compare_rules(
    before: &[&Rule],
    after: &[&Rule],
    opens: &mut TruncatedList,
    closes: &mut TruncatedList,
) {
    let (before, after) = (group_by_shape(before), group_by_shape(after));
    let nothing = BTreeSet::new();
    for shape in before.keys().chain(after.keys()).collect::<BTreeSet<_>>() {
        let (old, new) = (before.get(shape).unwrap_or(&nothing), after.get(shape).unwrap_or(&nothing));
        for (list, more, less, others) in [(&mut *opens, new, old, &before), (&mut *closes, old, new, &after)]
        {
            let hosts: Vec<_> = more.difference(less).copied().collect();
            if !hosts.is_empty()
                && let Some(addresses) = list_new_addresses(shape, more, others)
            {
                list.push(|| describe_rule(shape, &hosts, &addresses));
            }
        }
    }
}

/// The addresses to list. Where the other side has the same rule with other blocks, these are only the blocks
/// that it lacks. `None`: it has all of them.
fn list_new_addresses<'d>(
    shape: &Shape<'d>,
    hosts: &BTreeSet<Option<&HostPattern>>,
    others: &Shapes<'_>,
) -> Option<Vec<&'d Cidr>> {
    let (protocol, port, Some(blocks), routes, upgrades, encrypted) = *shape else { return Some(Vec::new()) };
    let same = |other: &Shape<'_>| {
        (other.0, other.1, other.3, other.4, other.5) == (protocol, port, routes, upgrades, encrypted)
    };
    // Ordered by protocol and port, so that only rules of this port are looked at.
    let of_port = others.range((protocol, port, None, None, &[][..], EncryptedHello::Refuse)..);
    let twins = of_port
        .take_while(|(other, _)| (other.0, other.1) == (protocol, port))
        .filter(|(other, listed)| same(other) && *listed == hosts)
        .filter_map(|(other, _)| other.2);
    let known: BTreeSet<&Cidr> = twins.flatten().collect();
    let rest: Vec<&Cidr> = blocks.iter().filter(|block| !known.contains(block)).collect();
    (!rest.is_empty()).then_some(rest)
}

fn describe_rule(shape: &Shape<'_>, hosts: &[Option<&HostPattern>], addresses: &[&Cidr]) -> String {
    let (protocol, port, blocks, routes, upgrades, encrypted) = shape;
    let named: Vec<&HostPattern> = hosts.iter().copied().flatten().collect();
    let mut text = format!("{} {port}", protocol.as_str());
    if !named.is_empty() {
        text += &format!(" to {}", format_list(&named));
    } else if *protocol != Protocol::Tcp {
        text += " to any name";
    }
    if blocks.is_some() {
        text += &format!(" at {}", format_list(addresses));
    } else if named.is_empty() {
        text += " at any address";
    }
    if let Some(routes) = routes {
        let names: Vec<&String> = routes.iter().map(|route| &route.name).collect();
        text += &format!(
            " by routes {}",
            if names.is_empty() { "(none)".to_owned() } else { format_list(&names) }
        );
    }
    if !upgrades.is_empty() {
        text += " with websockets";
    }
    // Only exceptions are mentioned: encrypted ClientHellos usually pass where names choose addresses.
    match encrypted {
        EncryptedHello::AllowOuter if blocks.is_some() => text += " with encrypted ClientHellos",
        EncryptedHello::Refuse if *protocol == Protocol::Https && blocks.is_none() && !named.is_empty() => {
            text += " without encrypted ClientHellos";
        }
        EncryptedHello::AllowOuter | EncryptedHello::Refuse => {}
    }
    text
}

/// Formats the first items and the number of items left out.
fn format_list<T: Display>(items: &[T]) -> String {
    let first: Vec<String> = items.iter().take(MAX_LISTED).map(ToString::to_string).collect();
    let more = items.len().saturating_sub(MAX_LISTED);
    let first = first.join(", ");
    if more > 0 { format!("{first} and {more} more") } else { first }
}
