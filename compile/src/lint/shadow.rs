//! Rules that another rule makes superfluous.

use std::collections::BTreeMap;

use egress_policy::{Cidr, Document, EncryptedHello, Host, HostPattern, Protocol, Rule};

/// Of more rules for one port each pair would take too long; then none is looked at.
const MOST: usize = 256;
/// The most comparisons of all rules. 256 rules of 20 hosts are so many.
const MAX_COMPARISONS: usize = 30_000_000;

/// Policy and part of it.
type Part<'d> = (&'d str, &'d str);

/// The parts of policies that, for every identity, another part makes superfluous, and by which. Of equal ones the
/// first is kept.
pub(super) fn shadowed<'d>(documents: &[&'d Document]) -> BTreeMap<Part<'d>, Part<'d>> {
    let mut found: BTreeMap<Part<'_>, Option<Part<'_>>> = BTreeMap::new();
    let mut comparisons = 0_usize;
    for document in documents {
        let mut groups: BTreeMap<(u16, Protocol), Vec<&Rule>> = BTreeMap::new();
        for rule in &document.rules {
            groups.entry((rule.port.get(), rule.protocol)).or_default().push(rule);
        }
        for rules in groups.values() {
            let items: usize = rules.iter().map(|rule| items(rule)).sum();
            let worst = if rules.len() > 1 { items.saturating_mul(items) } else { 0 };
            let is_too_much = rules.len() > MOST || comparisons.saturating_add(worst) > MAX_COMPARISONS;
            if !is_too_much {
                comparisons += worst;
            }
            for (i, rule) in rules.iter().enumerate() {
                let covers = |(j, other): &(usize, &&Rule)| {
                    *j != i && covers(other, rule) && (*j < i || !covers(rule, other))
                };
                let by = if is_too_much { None } else { rules.iter().enumerate().find(covers) };
                let by = by.map(|(_, other)| part(other));
                // Once not covered, never superfluous.
                let known = found.entry(part(rule)).or_insert(by);
                *known = known.and(by);
            }
        }
    }
    found.into_iter().filter_map(|(part, by)| Some((part, by?))).collect()
}

/// How many things a rule lists.
fn items(rule: &Rule) -> usize {
    let (hosts, blocks) = (rule.hosts.as_ref(), rule.addresses.as_ref());
    let routes = rule.routes.as_ref().map_or(0, |routes| routes.len());
    1 + hosts.map_or(0, |hosts| hosts.len()) + blocks.map_or(0, |blocks| blocks.len()) + routes
}

fn part(rule: &Rule) -> Part<'_> {
    (&rule.policy, &rule.name)
}

/// Whether `wide` allows whatever `narrow` allows, with the same destination. Both are of one port and protocol.
fn covers(wide: &Rule, narrow: &Rule) -> bool {
    let addresses = match (&wide.addresses, &narrow.addresses) {
        (None, None) => true,
        // A name goes where it was dialled only where blocks are listed.
        (None, Some(_)) => wide.protocol == Protocol::Tcp,
        (Some(_), None) => false,
        (Some(wide), Some(narrow)) => narrow.iter().all(|n| wide.iter().any(|w| holds(*w, *n))),
    };
    let hosts = match (&wide.hosts, &narrow.hosts) {
        (None, None) => true,
        // A name that is not listed goes where it was dialled.
        (None, Some(_)) | (Some(_), None) => false,
        (Some(wide), Some(narrow)) => narrow.iter().all(|n| wide.iter().any(|w| lists(w, n))),
    };
    let routes = match (&wide.routes, &narrow.routes) {
        (None, _) => true,
        (Some(_), None) => false,
        (Some(wide), Some(narrow)) => narrow.iter().all(|route| wide.contains(route)),
    };
    addresses
        && hosts
        && routes
        && narrow.upgrades.iter().all(|upgrade| wide.upgrades.contains(upgrade))
        && (narrow.encrypted_hello == EncryptedHello::Refuse
            || narrow.encrypted_hello == wide.encrypted_hello)
        && wide.cluster == narrow.cluster
}

fn holds(wide: Cidr, narrow: Cidr) -> bool {
    wide.net().contains(&narrow.net())
}

/// An exact name is not superfluous beside a wildcard: it may lead to private networks.
fn lists(wide: &HostPattern, narrow: &HostPattern) -> bool {
    match (wide, narrow) {
        (HostPattern::Exact(wide), HostPattern::Exact(narrow)) => wide == narrow,
        (HostPattern::Below(wide), HostPattern::Below(narrow)) => wide == narrow || is_below(narrow, wide),
        (HostPattern::Exact(_), HostPattern::Below(_)) | (HostPattern::Below(_), HostPattern::Exact(_)) => {
            false
        }
    }
}

fn is_below(name: &Host, above: &Host) -> bool {
    name.as_str().strip_suffix(above.as_str()).is_some_and(|rest| rest.ends_with('.'))
}
