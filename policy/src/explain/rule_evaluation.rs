//! The evaluation of one rule alone. The tests compare it with the engine.

use std::borrow::Cow;
use std::net::IpAddr;

use super::near_host::find_nearest;
use super::{Mismatch, Question, RouteEvaluation, RouteMismatch, Traffic};
use crate::authority::{Authority, AuthorityHost};
use crate::path::{self, EncodedSlashes, has_dot_segment};
use crate::policy::all_match;
use crate::{Cidr, EncryptedHello, FullMatch, Host, HostPattern, Protocol, Request, Route, Rule, Upgrade};

/// The number of items of a long list that are shown.
const MAX_SHOWN_ITEMS: usize = 4;

/// Finds every reason why the rule does not allow the connection.
pub(super) fn find_mismatches(rule: &Rule, question: &Question<'_>, address: IpAddr) -> Vec<Mismatch> {
    let mut mismatches = Vec::new();
    if rule.port.get() != question.port {
        mismatches.push(Mismatch::Port { listed: rule.port.get(), dialled: question.port });
    }
    if let Some(blocks) = &rule.addresses
        && !blocks.iter().any(|block| block.contains(address))
    {
        let (listed, more) = take_first(blocks.iter().map(Cidr::to_string));
        mismatches.push(Mismatch::Address {
            dialled: question.address.map(|a| a.to_canonical()),
            listed,
            more,
        });
    }
    match rule.protocol {
        Protocol::Tcp => {}
        Protocol::Https => evaluate_tls(rule, question.traffic, &mut mismatches),
        Protocol::Http => evaluate_http(rule, question, address, &mut mismatches),
    }
    mismatches
}

/// Returns whether a rule of another port has anything in common with the connection: a name that both have, or the
/// address.
pub(super) fn has_in_common(rule: &Rule, question: &Question<'_>) -> bool {
    let has_name = match question.traffic {
        Traffic::Tls { server_name, .. } => server_name.is_some(),
        Traffic::Http(_) => true,
        Traffic::BrokenTls(_) | Traffic::Rejected(_) | Traffic::Other | Traffic::Silence => false,
    };
    let by_address = question.address.zip(rule.addresses.as_ref());
    (has_name && rule.hosts.is_some() && rule.protocol != Protocol::Tcp)
        || by_address.is_some_and(|(address, blocks)| blocks.iter().any(|block| block.contains(address)))
}

fn evaluate_tls(rule: &Rule, traffic: Traffic<'_>, mismatches: &mut Vec<Mismatch>) {
    if rule.routes.is_some() {
        mismatches.push(Mismatch::RoutesOverTls);
    }
    match traffic {
        Traffic::Tls { server_name, encrypted } => {
            let Some(hosts) = &rule.hosts else { return };
            if encrypted && rule.encrypted_hello == EncryptedHello::Refuse {
                mismatches.push(Mismatch::VisibleName);
            }
            match server_name.map(Host::canonical) {
                None => mismatches.push(Mismatch::ServerName),
                Some(Err(_)) => mismatches.push(Mismatch::ReadableServerName),
                Some(Ok(name)) => mismatches.extend(find_host_mismatch(hosts, &name)),
            }
        }
        Traffic::BrokenTls(reason) => mismatches.push(Mismatch::ClientHello { reason }),
        Traffic::Http(request) => {
            mismatches.push(Mismatch::Tls);
            // The same over TLS may be allowed.
            if let (Some(hosts), Some(name)) = (&rule.hosts, name_of(request)) {
                mismatches.extend(find_host_mismatch(hosts, &name));
            }
        }
        Traffic::Rejected(_) | Traffic::Other => mismatches.push(Mismatch::Tls),
        Traffic::Silence => mismatches.push(Mismatch::FirstBytes),
    }
}

fn evaluate_http(rule: &Rule, question: &Question<'_>, address: IpAddr, mismatches: &mut Vec<Mismatch>) {
    match question.traffic {
        Traffic::Http(request) => evaluate_request(rule, question.port, address, request, mismatches),
        Traffic::Tls { server_name, .. } => {
            mismatches.push(Mismatch::Plaintext);
            if let (Some(hosts), Some(Ok(name))) = (&rule.hosts, server_name.map(Host::canonical)) {
                mismatches.extend(find_host_mismatch(hosts, &name));
            }
        }
        Traffic::BrokenTls(_) => mismatches.push(Mismatch::Plaintext),
        Traffic::Rejected(_) | Traffic::Other => mismatches.push(Mismatch::Request),
        Traffic::Silence => mismatches.push(Mismatch::FirstBytes),
    }
}

fn evaluate_request(
    rule: &Rule,
    port: u16,
    address: IpAddr,
    request: &Request<'_>,
    mismatches: &mut Vec<Mismatch>,
) {
    if request.method == "CONNECT" {
        mismatches.push(Mismatch::OtherMethod);
    }
    if let Some(requested) = request.upgrade {
        let known =
            requested.eq_ignore_ascii_case("websocket") && rule.upgrades.contains(&Upgrade::Websocket);
        if !known {
            mismatches.push(Mismatch::Upgrade { requested: requested.to_owned() });
        }
    }
    let text = request.authority.unwrap_or_default();
    let host_text = match Authority::parse(text) {
        _ if text.is_empty() => {
            mismatches.push(Mismatch::Authority);
            None
        }
        None => {
            mismatches.push(Mismatch::ReadableAuthority { authority: text.to_owned() });
            None
        }
        Some(authority) => {
            if let Some(named) = authority.port.filter(|named| *named != port) {
                mismatches.push(Mismatch::AuthorityPort { named, dialled: port });
            }
            match (authority.host, &rule.hosts) {
                (AuthorityHost::Name(name), hosts) => {
                    mismatches.extend(hosts.as_ref().and_then(|hosts| find_host_mismatch(hosts, &name)));
                    Some(name.to_string())
                }
                (AuthorityHost::Address(named), Some(_)) => {
                    mismatches.push(Mismatch::Name { address: named });
                    Some(named.to_string())
                }
                (AuthorityHost::Address(named), None) => {
                    if named != address {
                        mismatches.push(Mismatch::SameAddress { named });
                    }
                    Some(named.to_string())
                }
            }
        }
    };
    if let (Some(routes), Some(host)) = (&rule.routes, host_text) {
        let evaluations: Vec<RouteEvaluation> =
            routes.iter().map(|route| evaluate_route(route, &host, request)).collect();
        if evaluations.iter().all(|route| !route.mismatches.is_empty()) {
            mismatches.push(Mismatch::Route { routes: evaluations });
        }
    }
}

fn evaluate_route(route: &Route, host: &str, request: &Request<'_>) -> RouteEvaluation {
    // A document with a pattern that does not compile is refused, so there is none here.
    let matches = |pattern: &str, text: &str| FullMatch::new(pattern).is_ok_and(|p| p.matches(text));
    let mut mismatches = Vec::new();
    let path = request.path.split(['?', '#']).next().unwrap_or_default();
    if let Some(pattern) = route.path.as_deref() {
        if !EncodedSlashes::find_in(path).is_subset_of(EncodedSlashes::find_in(pattern)) {
            mismatches.push(RouteMismatch::PathWithoutEncodedSlash {
                pattern: pattern.to_owned(),
                path: path.to_owned(),
            });
        }
        if !FullMatch::new(pattern).is_ok_and(|pattern| path::matches(&pattern, path)) {
            mismatches.push(RouteMismatch::Path { pattern: pattern.to_owned(), path: path.to_owned() });
        }
        if has_dot_segment(path) {
            mismatches.push(RouteMismatch::PathWithoutDotSegments { path: path.to_owned() });
        }
    }
    if let Some(listed) =
        route.methods.as_ref().filter(|methods| !methods.iter().any(|m| m == request.method))
    {
        mismatches.push(RouteMismatch::Method { listed: listed.clone(), method: request.method.to_owned() });
    }
    for header in &route.headers {
        let name = header.name.to_ascii_lowercase();
        let values = match name.as_str() {
            "host" => vec![Cow::Borrowed(host)],
            name => request.headers.values(name),
        };
        if !FullMatch::new(&header.value).is_ok_and(|pattern| all_match(&pattern, &values)) {
            let value = values.iter().find(|value| !matches(&header.value, value));
            let value = value.map(|value| value.clone().into_owned());
            let value = value.or_else(|| (!values.is_empty()).then(|| values.join(",")));
            mismatches.push(RouteMismatch::Header { name, pattern: header.value.clone(), value });
        }
    }
    RouteEvaluation { route: route.name.clone(), mismatches }
}

/// The name in a request's authority, if it has one.
fn name_of(request: &Request<'_>) -> Option<Host> {
    match Authority::parse(request.authority?)?.host {
        AuthorityHost::Name(name) => Some(name),
        AuthorityHost::Address(_) => None,
    }
}

fn find_host_mismatch(hosts: &[HostPattern], name: &Host) -> Option<Mismatch> {
    let is_listed = hosts.iter().any(|pattern| match pattern {
        HostPattern::Exact(host) => host == name,
        HostPattern::Below(suffix) => name.ancestors().any(|above| above == suffix.as_str()),
    });
    if is_listed {
        return None;
    }
    let (listed, more) = take_first(hosts.iter().map(HostPattern::to_string));
    Some(Mismatch::Host { name: name.to_string(), near: find_nearest(hosts, name), listed, more })
}

/// Takes the first items of a list, and counts the others.
fn take_first(mut items: impl ExactSizeIterator<Item = String>) -> (Vec<String>, usize) {
    let listed: Vec<String> = items.by_ref().take(MAX_SHOWN_ITEMS).collect();
    (listed, items.len())
}
