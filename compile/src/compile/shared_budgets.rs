//! Budgets that objects share: that of an identity, of a namespace, and of the whole control plane.

use std::collections::BTreeMap;

use egress_policy::Identity;

use super::egress::Policy;
use crate::budget::{self, Excess, MAX_NAMESPACE_REFERENCES, Usage};

/// The most identities that a message lists.
const MAX_NAMED: usize = 3;

/// Removes sources that exceed the budget of their identity, or of the object's namespace. Older objects come
/// first, and of equal age those whose name sorts first: a later object takes nothing from one that is already
/// there. Returns the policies' names in that order.
pub(super) fn enforce(policies: &mut [Policy<'_>]) -> Vec<String> {
    let mut order: Vec<usize> = (0..policies.len()).collect();
    let age = |index: &usize| policies.get(*index).map(|policy| (policy.made, policy.reference));
    order.sort_by(|a, b| age(a).cmp(&age(b)));
    let mut usages: BTreeMap<Identity, Usage> = BTreeMap::new();
    let mut references: BTreeMap<&str, usize> = BTreeMap::new();
    let mut names = Vec::with_capacity(order.len());
    for &index in &order {
        let Some(policy) = policies.get_mut(index) else { continue };
        names.push(policy.sink.name());
        let mut refused: Vec<(Identity, Excess)> = Vec::new();
        let usage = policy.usage;
        policy.sources.retain(|identity| {
            let used = usages.get(identity).copied().unwrap_or_default();
            let excess = used.plus(usage).excess();
            refused.extend(excess.map(|excess| (identity.clone(), excess)));
            excess.is_none()
        });
        if let Some((_, excess)) = refused.first() {
            policy.is_over_shared_budget = policy.sources.is_empty();
            let remedy = excess.remedy;
            let mut message =
                format!("together with older objects, {excess}, so this object grants nothing to");
            for (number, (identity, _)) in refused.iter().take(MAX_NAMED).enumerate() {
                message.push_str(if number == 0 { " " } else { ", " });
                message.push_str(&identity.to_string());
            }
            if let Some(more @ 1..) = refused.len().checked_sub(MAX_NAMED) {
                message.push_str(&format!(" and {more} more"));
            }
            let advice = format!("{remedy}, in this object or in others of the same identity");
            policy.sink.over_shared_budget("spec", message, &advice);
        }
        let of_namespace = references.entry(policy.reference.namespace.as_str()).or_default();
        let all = of_namespace.saturating_add(usage.count_references(policy.sources.len()));
        if let Some(excess) = budget::check_references(all, MAX_NAMESPACE_REFERENCES) {
            policy.is_over_shared_budget = true;
            policy.sources.clear();
            let message = format!(
                "together with older objects of the namespace, {excess}, so this object grants nothing"
            );
            let advice = format!("{}, in this object or in others of the same namespace", excess.remedy);
            policy.sink.over_shared_budget("spec", message, &advice);
            continue;
        }
        *of_namespace = all;
        for identity in &policy.sources {
            let used = usages.entry(identity.clone()).or_default();
            *used = used.plus(usage);
        }
    }
    enforce_memory_shares(policies, &order);
    names
}

/// Removes all sources of policies whose namespace exceeds its share of memory. The share depends on the needs
/// of other namespaces, but a namespace that needs little never loses to one that needs much.
fn enforce_memory_shares(policies: &mut [Policy<'_>], order: &[usize]) {
    let mut wanted: BTreeMap<&str, usize> = BTreeMap::new();
    for policy in policies.iter().filter(|policy| !policy.sources.is_empty()) {
        let of_namespace = wanted.entry(policy.reference.namespace.as_str()).or_default();
        *of_namespace = of_namespace.saturating_add(policy.memory());
    }
    let share = budget::compute_share(wanted.into_values());
    let mut used: BTreeMap<&str, usize> = BTreeMap::new();
    for &index in order {
        let Some(policy) = policies.get_mut(index).filter(|policy| !policy.sources.is_empty()) else {
            continue;
        };
        let of_namespace = used.entry(policy.reference.namespace.as_str()).or_default();
        let all = of_namespace.saturating_add(policy.memory());
        let Some(excess) = budget::check_memory(all, share) else {
            *of_namespace = all;
            continue;
        };
        policy.is_over_shared_budget = true;
        policy.sources.clear();
        let message =
            format!("together with older objects of the namespace, {excess}, so this object grants nothing");
        let advice = format!("{}, in this object or in others of the same namespace", excess.remedy);
        policy.sink.over_shared_budget("spec", message, &advice);
    }
}
