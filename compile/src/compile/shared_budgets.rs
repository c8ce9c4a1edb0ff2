//! Which objects fit into the budgets of their identities, of their namespace, and of all.

use std::collections::BTreeMap;

use egress_policy::Identity;

use super::egress::Policy;
use crate::budget::{self, Excess, MAX_REFERENCES_OF_NAMESPACE, Usage};

/// The most identities that a message names.
const MAX_NAMED: usize = 3;

/// Takes from policies the sources that have no room for them, in the budget of the source or in that of the object's
/// namespace. Older objects come first, and of one age those whose name does: an object that comes later takes nothing
/// away from one that is there. Returns their names in that order.
pub(super) fn make_room(policies: &mut [Policy<'_>]) -> Vec<String> {
    let mut order: Vec<usize> = (0..policies.len()).collect();
    let age = |index: &usize| policies.get(*index).map(|policy| (policy.made, policy.reference));
    order.sort_by(|a, b| age(a).cmp(&age(b)));
    let mut usages: BTreeMap<Identity, Usage> = BTreeMap::new();
    let mut references: BTreeMap<&str, usize> = BTreeMap::new();
    let mut names = Vec::with_capacity(order.len());
    for &index in &order {
        let Some(policy) = policies.get_mut(index) else { continue };
        names.push(policy.issues.name());
        let mut refused: Vec<(Identity, Excess)> = Vec::new();
        let usage = policy.usage;
        policy.sources.retain(|identity| {
            let used = usages.get(identity).copied().unwrap_or_default();
            let excess = used.plus(usage).excess();
            refused.extend(excess.map(|excess| (identity.clone(), excess)));
            excess.is_none()
        });
        if let Some((_, excess)) = refused.first() {
            policy.is_crowded_out = policy.sources.is_empty();
            let remedy = excess.remedy;
            let mut message =
                format!("with older objects there would be {excess}, so this one grants nothing to");
            for (number, (identity, _)) in refused.iter().take(MAX_NAMED).enumerate() {
                message.push_str(if number == 0 { " " } else { ", " });
                message.push_str(&identity.to_string());
            }
            if let Some(more @ 1..) = refused.len().checked_sub(MAX_NAMED) {
                message.push_str(&format!(" and {more} more"));
            }
            let advice = format!("{remedy}, in this object or in others of the same identity");
            policy.issues.crowded_out("spec", message, &advice);
        }
        let of_namespace = references.entry(policy.reference.namespace.as_str()).or_default();
        let all = of_namespace.saturating_add(usage.references(policy.sources.len()));
        if let Some(excess) = budget::references(all, MAX_REFERENCES_OF_NAMESPACE) {
            policy.is_crowded_out = true;
            policy.sources.clear();
            let message = format!(
                "with older objects of the namespace there would be {excess}, so this one grants nothing"
            );
            let advice = format!("{}, in this object or in others of the same namespace", excess.remedy);
            policy.issues.crowded_out("spec", message, &advice);
            continue;
        }
        *of_namespace = all;
        for identity in &policy.sources {
            let used = usages.entry(identity.clone()).or_default();
            *used = used.plus(usage);
        }
    }
    share_memory(policies, &order);
    names
}

/// Takes from policies all sources where their namespace has no memory left. What a namespace may have depends on what
/// others want, but no namespace that wants little has less because another wants much.
fn share_memory(policies: &mut [Policy<'_>], order: &[usize]) {
    let mut wanted: BTreeMap<&str, usize> = BTreeMap::new();
    for policy in policies.iter().filter(|policy| !policy.sources.is_empty()) {
        let of_namespace = wanted.entry(policy.reference.namespace.as_str()).or_default();
        *of_namespace = of_namespace.saturating_add(policy.memory());
    }
    let share = budget::share(wanted.into_values());
    let mut used: BTreeMap<&str, usize> = BTreeMap::new();
    for &index in order {
        let Some(policy) = policies.get_mut(index).filter(|policy| !policy.sources.is_empty()) else {
            continue;
        };
        let of_namespace = used.entry(policy.reference.namespace.as_str()).or_default();
        let all = of_namespace.saturating_add(policy.memory());
        let Some(excess) = budget::memory_excess(all, share) else {
            *of_namespace = all;
            continue;
        };
        policy.is_crowded_out = true;
        policy.sources.clear();
        let message = format!(
            "with older objects of the namespace there would be {excess}, so this one grants nothing"
        );
        let advice = format!("{}, in this object or in others of the same namespace", excess.remedy);
        policy.issues.crowded_out("spec", message, &advice);
    }
}
