//! What one rule lacks, by looking at it alone. The tests hold it against the engine.

use std::borrow::Cow;
use std::net::IpAddr;

use super::near::nearest;
use super::{Mismatch, Question, RouteEvaluation, RouteMismatch, Traffic};
use crate::authority::{self, Authority, AuthorityHost};
use crate::path::{self, EncodedSlashes, has_dot_segment};
use crate::policy::all_match;
use crate::{Cidr, EncryptedHello, FullMatch, Host, HostPattern, Protocol, Request, Route, Rule, Upgrade};

/// How much of a long list is told.
const SOME: usize = 4;

/// Everything that keeps the rule from allowing the connection.
pub(super) fn lacks(rule: &Rule, question: &Question<'_>, address: IpAddr) -> Vec<Mismatch> {
    let mut lacks = Vec::new();
    if rule.port.get() != question.port {
        lacks.push(Mismatch::Port { listed: rule.port.get(), dialled: question.port });
    }
    if let Some(blocks) = &rule.addresses
        && !blocks.iter().any(|block| block.contains(address))
    {
        let (listed, more) = some(blocks.iter().map(Cidr::to_string));
        lacks.push(Mismatch::Address { dialled: question.address.map(|a| a.to_canonical()), listed, more });
    }
    match rule.protocol {
        Protocol::Tcp => {}
        Protocol::Https => tls(rule, question.traffic, &mut lacks),
        Protocol::Http => http(rule, question, address, &mut lacks),
    }
    lacks
}

/// Whether a rule of another port has anything in common with the connection: a name that both have, or the
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

fn tls(rule: &Rule, traffic: Traffic<'_>, lacks: &mut Vec<Mismatch>) {
    if rule.routes.is_some() {
        lacks.push(Mismatch::RoutesOverTls);
    }
    match traffic {
        Traffic::Tls { server_name, encrypted } => {
            let Some(hosts) = &rule.hosts else { return };
            if encrypted && rule.encrypted_hello == EncryptedHello::Refuse {
                lacks.push(Mismatch::VisibleName);
            }
            match server_name.map(Host::canonical) {
                None => lacks.push(Mismatch::ServerName),
                Some(Err(_)) => lacks.push(Mismatch::ReadableServerName),
                Some(Ok(name)) => lacks.extend(host(hosts, &name)),
            }
        }
        Traffic::BrokenTls(reason) => lacks.push(Mismatch::ClientHello { reason }),
        Traffic::Http(request) => {
            lacks.push(Mismatch::Tls);
            // Whether the same over TLS would do.
            if let (Some(hosts), Some(name)) = (&rule.hosts, name_of(request)) {
                lacks.extend(host(hosts, &name));
            }
        }
        Traffic::Rejected(_) | Traffic::Other => lacks.push(Mismatch::Tls),
        Traffic::Silence => lacks.push(Mismatch::FirstBytes),
    }
}

fn http(rule: &Rule, question: &Question<'_>, address: IpAddr, lacks: &mut Vec<Mismatch>) {
    match question.traffic {
        Traffic::Http(asked) => request(rule, question.port, address, asked, lacks),
        Traffic::Tls { server_name, .. } => {
            lacks.push(Mismatch::Plaintext);
            if let (Some(hosts), Some(Ok(name))) = (&rule.hosts, server_name.map(Host::canonical)) {
                lacks.extend(host(hosts, &name));
            }
        }
        Traffic::BrokenTls(_) => lacks.push(Mismatch::Plaintext),
        Traffic::Rejected(_) | Traffic::Other => lacks.push(Mismatch::Request),
        Traffic::Silence => lacks.push(Mismatch::FirstBytes),
    }
}

fn request(rule: &Rule, port: u16, address: IpAddr, request: &Request<'_>, lacks: &mut Vec<Mismatch>) {
    if request.method == "CONNECT" {
        lacks.push(Mismatch::OtherMethod);
    }
    if let Some(asked) = request.upgrade {
        let known = asked.eq_ignore_ascii_case("websocket") && rule.upgrades.contains(&Upgrade::Websocket);
        if !known {
            lacks.push(Mismatch::Upgrade { asked: asked.to_owned() });
        }
    }
    let text = request.authority.unwrap_or_default();
    let host_text = match Authority::parse(text) {
        _ if text.is_empty() => {
            lacks.push(Mismatch::Authority);
            None
        }
        None => {
            lacks.push(Mismatch::ReadableAuthority { authority: text.to_owned() });
            None
        }
        Some(authority) => {
            if let Some(named) = authority.port.filter(|named| *named != port) {
                lacks.push(Mismatch::AuthorityPort { named, dialled: port });
            }
            match (authority.host, &rule.hosts) {
                (AuthorityHost::Name(name), hosts) => {
                    lacks.extend(hosts.as_ref().and_then(|hosts| host(hosts, &name)));
                    Some(name.to_string())
                }
                (AuthorityHost::Address(named), Some(_)) => {
                    lacks.push(Mismatch::Name { address: named });
                    Some(authority::literal(text).to_ascii_lowercase())
                }
                (AuthorityHost::Address(named), None) => {
                    if named != address {
                        lacks.push(Mismatch::SameAddress { named });
                    }
                    Some(authority::literal(text).to_ascii_lowercase())
                }
            }
        }
    };
    if let (Some(routes), Some(host)) = (&rule.routes, host_text) {
        let missed: Vec<RouteEvaluation> = routes.iter().map(|route| missed(route, &host, request)).collect();
        if missed.iter().all(|route| !route.mismatches.is_empty()) {
            lacks.push(Mismatch::Route { routes: missed });
        }
    }
}

fn missed(route: &Route, host: &str, request: &Request<'_>) -> RouteEvaluation {
    // A pattern that does not compile makes no policy at all.
    let matches = |pattern: &str, text: &str| FullMatch::new(pattern).is_ok_and(|p| p.matches(text));
    let mut lacks = Vec::new();
    let path = request.path.split(['?', '#']).next().unwrap_or_default();
    if let Some(pattern) = route.path.as_deref() {
        if !EncodedSlashes::of(path).are_in(EncodedSlashes::of(pattern)) {
            lacks.push(RouteMismatch::PathWithoutEncodedSlash {
                pattern: pattern.to_owned(),
                path: path.to_owned(),
            });
        }
        if !FullMatch::new(pattern).is_ok_and(|pattern| path::matches(&pattern, path)) {
            lacks.push(RouteMismatch::Path { pattern: pattern.to_owned(), path: path.to_owned() });
        }
        if has_dot_segment(path) {
            lacks.push(RouteMismatch::PathWithoutDotSegments { path: path.to_owned() });
        }
    }
    if let Some(listed) =
        route.methods.as_ref().filter(|methods| !methods.iter().any(|m| m == request.method))
    {
        lacks.push(RouteMismatch::Method { listed: listed.clone(), method: request.method.to_owned() });
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
            lacks.push(RouteMismatch::Header { name, pattern: header.value.clone(), value });
        }
    }
    RouteEvaluation { route: route.name.clone(), lacks }
}

/// The name that a request is for, where it is one.
fn name_of(request: &Request<'_>) -> Option<Host> {
    match Authority::parse(request.authority?)?.host {
        AuthorityHost::Name(name) => Some(name),
        AuthorityHost::Address(_) => None,
    }
}

fn host(hosts: &[HostPattern], name: &Host) -> Option<Mismatch> {
    let is_listed = hosts.iter().any(|pattern| match pattern {
        HostPattern::Exact(host) => host == name,
        HostPattern::Below(suffix) => name.ancestors().any(|above| above == suffix.as_str()),
    });
    if is_listed {
        return None;
    }
    let (listed, more) = some(hosts.iter().map(HostPattern::to_string));
    Some(Mismatch::Host { name: name.to_string(), near: nearest(hosts, name), listed, more })
}

/// The beginning of a list, and how many more there are.
fn some(mut items: impl ExactSizeIterator<Item = String>) -> (Vec<String>, usize) {
    let listed: Vec<String> = items.by_ref().take(SOME).collect();
    (listed, items.len())
}
