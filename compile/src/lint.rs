//! Lints: manifests that are valid and yet may not do what was meant. Only certain findings are reported.
//!
//! Unlike the diagnostics of an [`ObjectStatus`](crate::ObjectStatus), which the object carries in a cluster,
//! lints look at all policies together and address their author.

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
use crate::manifest::{Body, Diagnostic, Object, Severity};
use crate::store::Store;

/// Checks all policies. The diagnostics are in no particular order.
#[must_use]
pub fn lint_policies(store: &Store, compiled: &Compiled) -> Vec<Diagnostic> {
    let documents: Vec<&Document> = compiled.documents.values().map(AsRef::as_ref).collect();
    let shadowed = shadow::find_shadowed(&documents);
    let apexes = find_uncovered_apexes(&documents);
    let wide = find_wide_rules(&documents);
    let mut diagnostics: Vec<Diagnostic> = dns::check_dns_over_tcp(store, compiled).into_iter().collect();
    let objects = store.index().objects;
    let names = ClusterNames::collect(objects.keys().copied());
    for object in objects.into_values() {
        let Body::Egress(egress) = &object.body else { continue };
        let policy = format!("{}/{}", object.reference.namespace, object.reference.name);
        let apexes = apexes.get(policy.as_str());
        for (field, pattern) in list_patterns(egress) {
            diagnostics.extend(check_pattern(object, &field, &pattern, apexes));
            diagnostics.extend(names.check_host(object, &field, &pattern));
        }
        for index in 0..egress.ports.len() {
            let field = format!("spec.ports[{index}]");
            let by = shadowed.get(&(policy.as_str(), field.as_str()));
            diagnostics.extend(by.map(|(other, part)| {
                let message =
                    format!("Egress {other} {part} already allows everything that this port allows");
                lint(Severity::Info, object, &field, message).advice("remove one of the two")
            }));
            diagnostics.extend(check_wide_port(
                object,
                egress,
                &field,
                wide.get(&(policy.as_str(), field.as_str())),
            ));
        }
    }
    diagnostics
}

/// Returns the host patterns of an object with their fields.
fn list_patterns(egress: &Egress) -> impl Iterator<Item = (String, HostPattern)> {
    let texts = egress.hosts.iter().flatten().enumerate();
    texts.filter_map(|(i, text)| Some((format!("spec.hosts[{i}]"), host::parse_pattern(text).ok()?)))
}

fn check_pattern(
    object: &Object,
    field: &str,
    pattern: &HostPattern,
    apexes: Option<&BTreeSet<&Host>>,
) -> Vec<Diagnostic> {
    let HostPattern::Below(above) = pattern else { return Vec::new() };
    let mut diagnostics = Vec::new();
    if let Some(suffix) = shared_suffixes::find_below(above) {
        let message = format!("anyone can register a name below `{suffix}`, and `{pattern}` allows it");
        let advice = "list the exact hosts: data could leave through a name that a stranger owns";
        diagnostics.push(lint(Severity::Warning, object, field, message).advice(advice));
    } else if apexes.is_some_and(|apexes| apexes.contains(above)) {
        let message =
            format!("`{pattern}` covers the names below `{above}`, but nothing allows `{above}` itself");
        let advice = format!("list `{above}` too if you need it");
        diagnostics.push(lint(Severity::Info, object, field, message).advice(advice));
    }
    diagnostics
}

/// Finds the parent names of wildcards that no rule allows, by policy.
fn find_uncovered_apexes<'d>(documents: &[&'d Document]) -> BTreeMap<&'d str, BTreeSet<&'d Host>> {
    let mut apexes: BTreeMap<&str, BTreeSet<&Host>> = BTreeMap::new();
    for document in documents {
        // By port alone: an author who lists the name for another protocol has thought of it.
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

/// Finds the rules that check neither addresses nor names, by policy and rule.
fn find_wide_rules<'d>(documents: &[&'d Document]) -> BTreeMap<(&'d str, &'d str), &'d Rule> {
    let rules = documents.iter().flat_map(|document| &document.rules).map(AsRef::as_ref);
    let wide = rules.filter(|rule: &&Rule| rule.hosts.is_none() && rule.addresses.is_none());
    wide.map(|rule| ((rule.policy.as_str(), rule.name.as_str()), rule)).collect()
}

/// Reports a port that checks neither addresses nor names. Hosts that are listed without effect and empty lists
/// are reported elsewhere.
fn check_wide_port(
    object: &Object,
    egress: &Egress,
    field: &str,
    rule: Option<&&Rule>,
) -> Option<Diagnostic> {
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
    let advice = "add `ipAddresses` or `hosts`, unless you want to allow everything";
    Some(lint(Severity::Info, object, field, message).advice(advice))
}

fn lint(severity: Severity, object: &Object, field: &str, message: String) -> Diagnostic {
    Diagnostic::new(severity, message)
        .at(&object.file, object.position(field))
        .object(&object.reference)
        .field(field)
}

#[cfg(test)]
mod tests;
