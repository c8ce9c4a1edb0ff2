//! Rules that another rule makes redundant.

use std::collections::BTreeMap;

use egress_policy::{Cidr, Document, EncryptedHello, Host, HostPattern, Protocol, Rule};

/// The most rules for one port. With more, comparing each pair would take too long, so none is compared.
const MAX_RULES_PER_PORT: usize = 256;
/// The most comparisons of all rules: 256 rules with 20 hosts each.
const MAX_COMPARISONS: usize = 30_000_000;

/// Policy and part of it.
type RuleName<'d> = (&'d str, &'d str);

/// Finds the rules that, for every identity, another rule makes redundant, and that other rule. Of equal rules
/// the first is kept.
pub(super) fn find_shadowed<'d>(documents: &[&'d Document]) -> BTreeMap<RuleName<'d>, RuleName<'d>> {
    let mut found: BTreeMap<RuleName<'_>, Option<RuleName<'_>>> = BTreeMap::new();
    let mut comparisons = 0_usize;
    for document in documents {
        let mut groups: BTreeMap<(u16, Protocol), Vec<&Rule>> = BTreeMap::new();
        for rule in &document.rules {
            groups.entry((rule.port.get(), rule.protocol)).or_default().push(rule);
        }
        for rules in groups.values() {
            let items: usize = rules.iter().map(|rule| count_items(rule)).sum();
            let worst = if rules.len() > 1 { items.saturating_mul(items) } else { 0 };
            let is_too_much =
                rules.len() > MAX_RULES_PER_PORT || comparisons.saturating_add(worst) > MAX_COMPARISONS;
            if !is_too_much {
                comparisons = comparisons.saturating_add(worst);
            }
            for (i, rule) in rules.iter().enumerate() {
                let covers = |(j, other): &(usize, &&Rule)| {
                    *j != i && covers(other, rule) && (*j < i || !covers(rule, other))
                };
                let by = if is_too_much { None } else { rules.iter().enumerate().find(covers) };
                let by = by.map(|(_, other)| rule_name(other));
                // A rule that is needed once is not redundant.
                let known = found.entry(rule_name(rule)).or_insert(by);
                *known = known.and(by);
            }
        }
    }
    found.into_iter().filter_map(|(part, by)| Some((part, by?))).collect()
}

/// Counts the items that a rule lists.
fn count_items(rule: &Rule) -> usize {
    let hosts = rule.hosts.as_ref().map_or(0, |hosts| hosts.len());
    let blocks = rule.addresses.as_ref().map_or(0, |blocks| blocks.len());
    let routes = rule.routes.as_ref().map_or(0, |routes| routes.len());
    [1, hosts, blocks, routes].into_iter().fold(0, usize::saturating_add)
}

fn rule_name(rule: &Rule) -> RuleName<'_> {
    (&rule.policy, &rule.name)
}

/// Returns true if `wide` allows everything that `narrow` allows, with the same destination. Both have the same
/// port and protocol.
fn covers(wide: &Rule, narrow: &Rule) -> bool {
    let addresses = match (&wide.addresses, &narrow.addresses) {
        (None, None) => true,
        // A name goes to the original destination only if blocks are listed.
        (None, Some(_)) => wide.protocol == Protocol::Tcp,
        (Some(_), None) => false,
        (Some(wide), Some(narrow)) => narrow.iter().all(|n| wide.iter().any(|w| contains_block(*w, *n))),
    };
    let hosts = match (&wide.hosts, &narrow.hosts) {
        (None, None) => true,
        // A name that is not listed goes to the original destination.
        (None, Some(_)) | (Some(_), None) => false,
        (Some(wide), Some(narrow)) => narrow.iter().all(|n| wide.iter().any(|w| contains_pattern(w, n))),
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

fn contains_block(wide: Cidr, narrow: Cidr) -> bool {
    wide.net().contains(&narrow.net())
}

/// Returns true if one pattern contains the other. An exact name is not redundant beside a wildcard, because it
/// may lead to private networks.
fn contains_pattern(wide: &HostPattern, narrow: &HostPattern) -> bool {
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
