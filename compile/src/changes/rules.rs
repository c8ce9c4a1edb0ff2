//! The difference between the rules of one policy, in words: names that are added to a rule are named, not the whole rule.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Display;
use std::sync::Arc;

use egress_policy::{Cidr, EncryptedHello, HostPattern, Port, Protocol, Route, Rule, Upgrade};

use super::{Listed, MAX_LISTED};

/// A rule without its hosts. Its field and its cluster do not say what it allows.
type Shape<'d> =
    (Protocol, Port, Option<&'d [Cidr]>, Option<&'d [Arc<Route>]>, &'d [Upgrade], EncryptedHello);
/// The hosts of all rules of a shape; `None` stands for any.
type Shapes<'d> = BTreeMap<Shape<'d>, BTreeSet<Option<&'d HostPattern>>>;

fn shapes<'d>(rules: &[&'d Rule]) -> Shapes<'d> {
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

/// Adds what the new rules allow and the old did not, and the other way round.
pub(super) fn compare(before: &[&Rule], after: &[&Rule], opens: &mut Listed, closes: &mut Listed) {
    let (before, after) = (shapes(before), shapes(after));
    let nothing = BTreeSet::new();
    for shape in before.keys().chain(after.keys()).collect::<BTreeSet<_>>() {
        let (old, new) = (before.get(shape).unwrap_or(&nothing), after.get(shape).unwrap_or(&nothing));
        for (list, more, less, others) in [(&mut *opens, new, old, &before), (&mut *closes, old, new, &after)]
        {
            let hosts: Vec<_> = more.difference(less).copied().collect();
            if !hosts.is_empty()
                && let Some(addresses) = addresses(shape, more, others)
            {
                list.push(|| describe(shape, &hosts, &addresses));
            }
        }
    }
}

/// The addresses to name: where the other side has the same rule with other blocks, only the blocks that it has not.
/// `None`: it has all of them.
fn addresses<'d>(
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

fn describe(shape: &Shape<'_>, hosts: &[Option<&HostPattern>], addresses: &[&Cidr]) -> String {
    let (protocol, port, blocks, routes, upgrades, encrypted) = shape;
    let named: Vec<&HostPattern> = hosts.iter().copied().flatten().collect();
    let mut text = format!("{} {port}", protocol.as_str());
    if !named.is_empty() {
        text += &format!(" to {}", list(&named));
    } else if *protocol != Protocol::Tcp {
        text += " to any name";
    }
    if blocks.is_some() {
        text += &format!(" at {}", list(addresses));
    } else if named.is_empty() {
        text += " at any address";
    }
    if let Some(routes) = routes {
        let names: Vec<&String> = routes.iter().map(|route| &route.name).collect();
        text += &format!(" by routes {}", if names.is_empty() { "(none)".to_owned() } else { list(&names) });
    }
    if !upgrades.is_empty() {
        text += " with websockets";
    }
    // What is usual is not said: where names choose addresses they pass, and elsewhere not.
    match encrypted {
        EncryptedHello::AllowOuter if blocks.is_some() => text += " with encrypted ClientHellos",
        EncryptedHello::Refuse if *protocol == Protocol::Https && blocks.is_none() && !named.is_empty() => {
            text += " without encrypted ClientHellos";
        }
        EncryptedHello::AllowOuter | EncryptedHello::Refuse => {}
    }
    text
}

/// The first items, and the number of those that are left out.
fn list<T: Display>(items: &[T]) -> String {
    let first: Vec<String> = items.iter().take(MAX_LISTED).map(ToString::to_string).collect();
    let more = items.len().saturating_sub(MAX_LISTED);
    let first = first.join(", ");
    if more > 0 { format!("{first} and {more} more") } else { first }
}
