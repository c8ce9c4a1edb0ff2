//! What is right and yet may not be what was meant. Only what is certain is said: these are no guesses.
//!
//! Unlike the problems of [`Condition`](crate::Condition)s, which objects carry in a cluster, these look at all
//! policies together and are for whoever writes them.

mod dns;
pub mod search_domains;
mod shadow;
pub mod shared_suffixes;

use std::collections::{BTreeMap, BTreeSet};

use egress_policy::{Document, Host, HostPattern, Protocol, Rule};

use self::search_domains::ClusterNames;
use crate::Compiled;
use crate::compile::host;
use crate::manifest::spec::Egress;
use crate::manifest::{Body, Object, Problem, Severity};
use crate::store::Store;

/// Everything that there is to say, in no particular order.
#[must_use]
pub fn lints(store: &Store, compiled: &Compiled) -> Vec<Problem> {
    let documents: Vec<&Document> = compiled.documents.values().map(AsRef::as_ref).collect();
    let shadowed = shadow::shadowed(&documents);
    let apexes = uncovered_apexes(&documents);
    let wide = wide_rules(&documents);
    let mut problems: Vec<Problem> = dns::refused(store, compiled).into_iter().collect();
    let objects = store.index().objects;
    let names = ClusterNames::of(objects.keys().copied());
    for object in objects.into_values() {
        let Body::Egress(egress) = &object.body else { continue };
        let policy = format!("{}/{}", object.reference.namespace, object.reference.name);
        let apexes = apexes.get(policy.as_str());
        for (field, pattern) in patterns(egress) {
            problems.extend(about_pattern(object, &field, &pattern, apexes));
            problems.extend(names.about(object, &field, &pattern));
        }
        for index in 0..egress.ports.len() {
            let field = format!("spec.ports[{index}]");
            let by = shadowed.get(&(policy.as_str(), field.as_str()));
            problems.extend(by.map(|(other, part)| {
                let message = format!("everything that this port allows, Egress {other} {part} allows too");
                lint(Severity::Info, object, &field, message).advice("one of the two is enough")
            }));
            problems.extend(allows_all(object, egress, &field, wide.get(&(policy.as_str(), field.as_str()))));
        }
    }
    problems
}

/// The patterns of an object's hosts, with their fields.
fn patterns(egress: &Egress) -> impl Iterator<Item = (String, HostPattern)> {
    let texts = egress.hosts.iter().flatten().enumerate();
    texts.filter_map(|(i, text)| Some((format!("spec.hosts[{i}]"), host::pattern(text).ok()?)))
}

fn about_pattern(
    object: &Object,
    field: &str,
    pattern: &HostPattern,
    apexes: Option<&BTreeSet<&Host>>,
) -> Vec<Problem> {
    let HostPattern::Below(above) = pattern else { return Vec::new() };
    let mut problems = Vec::new();
    if let Some(suffix) = shared_suffixes::below(above) {
        let message = format!("anybody can get a name below `{suffix}`, and `{pattern}` allows it");
        let advice = "name the hosts that are meant: data can leave through a stranger's";
        problems.push(lint(Severity::Warning, object, field, message).advice(advice));
    } else if apexes.is_some_and(|apexes| apexes.contains(above)) {
        let message =
            format!("`{pattern}` is for the names below `{above}`, and nothing allows that one itself");
        let advice = format!("list `{above}` too, if it is meant");
        problems.push(lint(Severity::Info, object, field, message).advice(advice));
    }
    problems
}

/// Names above a wildcard that are allowed nowhere, by policy.
fn uncovered_apexes<'d>(documents: &[&'d Document]) -> BTreeMap<&'d str, BTreeSet<&'d Host>> {
    let mut apexes: BTreeMap<&str, BTreeSet<&Host>> = BTreeMap::new();
    for document in documents {
        // By port alone: whoever lists the name for another protocol has thought of it.
        let exact: BTreeSet<(u16, &Host)> = document
            .rules
            .iter()
            .flat_map(|rule| {
                rule.hosts.iter().flat_map(|hosts| hosts.iter()).map(|pattern| (rule.port.get(), pattern))
            })
            .filter_map(|(port, pattern)| match pattern {
                HostPattern::Exact(host) => Some((port, host)),
                HostPattern::Below(_) => None,
            })
            .collect();
        for rule in &document.rules {
            for pattern in rule.hosts.iter().flat_map(|hosts| hosts.iter()) {
                if let HostPattern::Below(above) = pattern
                    && !exact.contains(&(rule.port.get(), above))
                {
                    apexes.entry(&rule.policy).or_default().insert(above);
                }
            }
        }
    }
    apexes
}

/// Rules that look neither at addresses nor at names, by policy and part of it.
fn wide_rules<'d>(documents: &[&'d Document]) -> BTreeMap<(&'d str, &'d str), &'d Rule> {
    let rules = documents.iter().flat_map(|document| &document.rules).map(AsRef::as_ref);
    let wide = rules.filter(|rule: &&Rule| rule.hosts.is_none() && rule.addresses.is_none());
    wide.map(|rule| ((rule.policy.as_str(), rule.name.as_str()), rule)).collect()
}

/// A port that looks neither at addresses nor at names. Where hosts are listed in vain, or lists are empty, that
/// is said already.
fn allows_all(object: &Object, egress: &Egress, field: &str, rule: Option<&&Rule>) -> Option<Problem> {
    if egress.hosts.is_some() || egress.ip_addresses.is_some() {
        return None;
    }
    let rule = rule?;
    let what = match rule.protocol {
        Protocol::Tcp => "any address",
        Protocol::Https => "any name over TLS",
        // Grants nothing without hosts.
        Protocol::Http => return None,
    };
    let message = format!("this allows {what} on port {}", rule.port);
    let advice = "add `ipAddresses` or `hosts`, unless everything is meant";
    Some(lint(Severity::Info, object, field, message).advice(advice))
}

fn lint(severity: Severity, object: &Object, field: &str, message: String) -> Problem {
    Problem::new(severity, message)
        .at(&object.file, object.position(field))
        .object(&object.reference)
        .field(field)
}

#[cfg(test)]
mod tests;
