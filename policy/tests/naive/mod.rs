//! A naive model of the engine, written from the documentation: it evaluates every rule, one after the other, in the JSON
//! of the document. No index, no order, and as little of the engine's own code as possible.

use std::borrow::Cow;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use egress_policy::{
    ConnectionOutcome, ConnectionStart, Decision, Destination, Document, Headers, Host, HostMatch, Policy,
    ReasonCode, Request, StartOutcome,
};
use serde_json::{Value, json};

/// The traffic of a workload.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Traffic<'a> {
    /// A TLS ClientHello.
    Tls { name: Option<&'a str>, encrypted: bool },
    /// Something that begins like TLS and is not.
    BrokenTls,
    /// No bytes within the time-out.
    TimedOut,
    /// A plaintext HTTP request. Names of headers are in lower case.
    Http {
        authority: Option<&'a str>,
        method: &'a str,
        path: &'a str,
        upgrade: Option<&'a str>,
        headers: &'a [(&'a str, &'a str)],
    },
}

/// Makes a document: in JSON, so that a new optional field breaks nothing.
pub(crate) fn document(mode: &str, rules: &[Value], in_mesh: &[Value]) -> Value {
    json!({
        "apiVersion": "egress-policy/v1",
        "identity": {"namespace": "ns", "serviceAccount": "sa"},
        "version": "v", "mode": mode, "rules": rules, "inMesh": in_mesh,
    })
}

pub(crate) fn policy(document: &Value) -> Policy {
    let document: Document = serde_json::from_value(document.clone()).expect("a document");
    Policy::new(document).expect("a policy")
}

/// The destination of traffic, as text of which the first in the alphabet wins; `None` when it is refused.
pub(crate) type Verdict = Option<String>;

pub(crate) fn verdict(decision: &Decision<'_>) -> Verdict {
    match decision {
        Decision::Allow(permit) => Some(match &permit.to {
            Destination::Original => "dialled".to_owned(),
            Destination::Resolved(host, HostMatch::Exact) => format!("exact {host}"),
            Destination::Resolved(host, HostMatch::Wildcard) => format!("wildcard {host}"),
            Destination::Passthrough => "passthrough".to_owned(),
        }),
        Decision::Deny(_) => None,
    }
}

/// Decides in the order in which the data plane does.
pub(crate) fn decide<'p>(policy: &'p Policy, to: SocketAddr, traffic: Traffic<'_>) -> Decision<'p> {
    let start = match traffic {
        Traffic::Tls { name, encrypted } => ConnectionStart::Tls { server_name: name, encrypted },
        Traffic::BrokenTls => ConnectionStart::BrokenTls(ReasonCode::TlsMalformed),
        Traffic::TimedOut => ConnectionStart::TimedOut,
        Traffic::Http { .. } => ConnectionStart::NotTls,
    };
    match policy.decide_connection(to) {
        ConnectionOutcome::Decided(decision) => decision,
        ConnectionOutcome::NeedFirstBytes => match policy.decide_start(to, start) {
            StartOutcome::Decided(decision) => decision,
            StartOutcome::EachRequest => request(policy, to, traffic),
        },
    }
}

/// Decides a request alone, as the HTTP plugin does.
pub(crate) fn request<'p>(policy: &'p Policy, to: SocketAddr, traffic: Traffic<'_>) -> Decision<'p> {
    let Traffic::Http { authority, method, path, upgrade, headers } = traffic else {
        panic!("{traffic:?} is no request, and was taken for one")
    };
    policy.decide_request(to, &Request { authority, method, path, upgrade, headers: &List(headers) })
}

struct List<'a>(&'a [(&'a str, &'a str)]);

impl Headers for List<'_> {
    fn values(&self, name: &str) -> Vec<Cow<'_, str>> {
        self.0.iter().filter(|(n, _)| *n == name).map(|(_, value)| Cow::Borrowed(*value)).collect()
    }
}

/// Decides by a document.
pub(crate) fn expected(document: &Value, to: SocketAddr, traffic: Traffic<'_>) -> Verdict {
    let mut in_mesh = items(&document["inMesh"]).filter(|service| {
        items(&service["ports"]).any(|port| *port == to.port())
            && items(&service["addresses"]).any(|address| is_address(address, to.ip()))
    });
    if let Some(service) = in_mesh.next() {
        // A refusal by one service is enough.
        let allowed = service["allowed"] == true && in_mesh.all(|service| service["allowed"] == true);
        return allowed.then(|| "dialled".to_owned());
    }
    let by_rule = items(&document["rules"]).filter_map(|rule| granted(rule, to, traffic)).min();
    match document["mode"].as_str() {
        Some("passthrough") => Some("passthrough".to_owned()),
        Some("audit") => by_rule.or(Some("dialled".to_owned())),
        _ => by_rule,
    }
}

/// Decides by one rule alone.
fn granted(rule: &Value, to: SocketAddr, traffic: Traffic<'_>) -> Verdict {
    let listed = match strings(&rule["addresses"]) {
        None => false,
        Some(blocks) if blocks.iter().any(|block| contains(block, to.ip())) => true,
        Some(_) => return None,
    };
    if rule["port"] != to.port() {
        return None;
    }
    match (rule["protocol"].as_str(), traffic) {
        (Some("tcp"), _) => Some("dialled".to_owned()),
        (Some("https"), Traffic::Tls { name, encrypted }) => match strings(&rule["hosts"]) {
            None => Some("dialled".to_owned()),
            Some(_) if encrypted && rule["encryptedHello"] != "allow-outer" => None,
            Some(hosts) => by_name(&hosts, listed, &Host::canonical(name?).ok()?),
        },
        (Some("http"), Traffic::Http { authority, method, path, upgrade, headers }) => {
            let (host, port) = authority.and_then(split)?;
            if method == "CONNECT" || port.is_some_and(|port| port != to.port()) {
                return None;
            }
            if upgrade.is_some_and(|upgrade| {
                !items(&rule["upgrades"]).any(|known| *known == upgrade.to_ascii_lowercase())
            }) {
                return None;
            }
            let written = match &host {
                Named::Name(host) => host.to_string(),
                Named::Address(address) => address.to_string(),
            };
            if let Some(routes) = rule["routes"].as_array()
                && !routes.iter().any(|route| matches(route, &written, method, path, headers))
            {
                return None;
            }
            match (strings(&rule["hosts"]), host) {
                (None, Named::Name(_)) => Some("dialled".to_owned()),
                // A bare address is only reached where it was dialled.
                (None, Named::Address(address)) => {
                    (address == to.ip().to_canonical()).then(|| "dialled".to_owned())
                }
                (Some(_), Named::Address(_)) => None,
                (Some(hosts), Named::Name(host)) => by_name(&hosts, listed, &host),
            }
        }
        _ => None,
    }
}

fn by_name(patterns: &[&str], listed: bool, host: &Host) -> Verdict {
    let host = host.as_str();
    let exact = patterns.contains(&host);
    let below = patterns.iter().filter_map(|pattern| pattern.strip_prefix('*'));
    let wildcard = below.into_iter().any(|suffix| host.ends_with(suffix));
    match (exact || wildcard, listed) {
        (false, _) => None,
        (true, true) => Some("dialled".to_owned()),
        (true, false) => Some(format!("{} {host}", if exact { "exact" } else { "wildcard" })),
    }
}

fn items(list: &Value) -> impl Iterator<Item = &Value> {
    list.as_array().into_iter().flatten()
}

fn is_address(text: &Value, address: IpAddr) -> bool {
    let text: IpAddr = text.as_str().and_then(|text| text.parse().ok()).expect("an address");
    text.to_canonical() == address.to_canonical()
}

/// Returns a list, if there is one.
fn strings(value: &Value) -> Option<Vec<&str>> {
    Some(value.as_array()?.iter().map(|item| item.as_str().expect("a string")).collect())
}

fn contains(block: &str, address: IpAddr) -> bool {
    let (network, length) = block.split_once('/').expect("a block");
    let length: u32 = length.parse().expect("a length");
    let bits = |address: IpAddr| match address {
        IpAddr::V4(v4) => (4, u128::from(v4.to_bits()) << 96),
        IpAddr::V6(v6) => (6, v6.to_bits()),
    };
    let (family, network) = bits(network.parse().expect("an address"));
    let (other, address) = bits(address.to_canonical());
    let differ = network ^ address;
    family == other && (length == 0 || differ >> (128 - length) == 0)
}

enum Named {
    Name(Host),
    Address(IpAddr),
}

/// Splits an authority into host and port.
fn split(authority: &str) -> Option<(Named, Option<u16>)> {
    let end = if authority.starts_with('[') {
        authority.find(']')? + 1
    } else {
        authority.find(':').unwrap_or(authority.len())
    };
    let (host, rest) = authority.split_at(end);
    let port = match rest.strip_prefix(':') {
        Some("") => None,
        Some(digits) if digits.starts_with(|c: char| c.is_ascii_digit()) => Some(digits.parse().ok()?),
        None if rest.is_empty() => None,
        _ => return None,
    };
    let host = if let Some(literal) = host.strip_prefix('[') {
        let literal = literal.strip_suffix(']')?;
        let address: Ipv6Addr = literal.parse().ok()?;
        Named::Address(IpAddr::V6(address).to_canonical())
    } else if let Ok(address) = host.parse::<Ipv4Addr>() {
        Named::Address(address.into())
    } else {
        Named::Name(Host::canonical(host).ok()?)
    };
    Some((host, port))
}

fn matches(route: &Value, host: &str, method: &str, path: &str, headers: &[(&str, &str)]) -> bool {
    let path = &path[..path.find(['?', '#']).unwrap_or(path.len())];
    let header = |name: &str| match name {
        "host" => vec![host],
        _ => headers.iter().filter(|(n, _)| *n == name).map(|(_, value)| *value).collect(),
    };
    route["path"].as_str().is_none_or(|pattern| matches_path(pattern, path) && !is_dotted(path))
        && strings(&route["methods"]).is_none_or(|methods| methods.contains(&method))
        && route["headers"].as_array().into_iter().flatten().all(|wanted| {
            let (name, pattern) = (wanted["name"].as_str(), wanted["value"].as_str());
            let values = header(name.expect("a name"));
            let pattern = pattern.expect("a pattern");
            !values.is_empty()
                && values.iter().all(|value| whole(pattern, value))
                && (values.len() == 1 || whole(pattern, &values.join(",")))
        })
}

/// Matches a path without its query. Encoded slashes must all be of a kind that the pattern contains, in either case.
fn matches_path(pattern: &str, path: &str) -> bool {
    let kinds = ["%2f", "%5c"];
    let (pattern_kinds, path_kinds) = (pattern.to_ascii_lowercase(), path.to_ascii_lowercase());
    let slashes = || kinds.iter().filter(|kind| path_kinds.contains(**kind));
    let respelled = |spell: fn(&str) -> String| {
        kinds.iter().fold(path.to_owned(), |path, kind| {
            path.replace(kind, &spell(kind)).replace(&kind.to_uppercase(), &spell(kind))
        })
    };
    slashes().all(|kind| pattern_kinds.contains(kind))
        && (whole(pattern, path)
            || slashes().next().is_some()
                && (whole(pattern, &respelled(str::to_uppercase))
                    || whole(pattern, &respelled(str::to_lowercase))))
}

/// Returns whether a segment is `.` or `..` after everything is decoded, and parameters and space are cut off.
fn is_dotted(path: &str) -> bool {
    let mut bytes = path.as_bytes().to_vec();
    loop {
        let once = decode(&bytes);
        if once == bytes {
            break;
        }
        bytes = once;
    }
    bytes.split(|byte| b"/\\".contains(byte)).any(|segment| {
        let end = segment.iter().position(|byte| *byte == b';').unwrap_or(segment.len());
        let name: Vec<u8> = segment[..end].to_vec();
        let letters = name.iter().rposition(|byte| *byte > b' ' && *byte != 0x7f).map_or(0, |last| last + 1);
        let first = name.iter().position(|byte| *byte > b' ' && *byte != 0x7f).unwrap_or(letters);
        [&b"."[..], b".."].contains(&&name[first..letters])
    })
}

fn decode(bytes: &[u8]) -> Vec<u8> {
    let mut decoded = Vec::new();
    let mut at = 0;
    while at < bytes.len() {
        let code = bytes.get(at + 1..at + 3).filter(|code| code.iter().all(u8::is_ascii_hexdigit));
        if let (b'%', Some(code)) = (bytes[at], code) {
            let code = std::str::from_utf8(code).expect("digits");
            decoded.push(u8::from_str_radix(code, 16).expect("digits"));
            at += 3;
        } else {
            decoded.push(bytes[at]);
            at += 1;
        }
    }
    decoded
}

/// Matches the patterns that the tests use, each by hand.
fn whole(pattern: &str, text: &str) -> bool {
    match pattern {
        "/x|/y" => text == "/x" || text == "/y",
        // A dot is any character but the end of a line.
        "/a.*" => text.starts_with("/a") && !text.contains('\n'),
        ".*" => !text.contains('\n'),
        "[0-9]+" => !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit()),
        "a\\.org" => text == "a.org",
        "10\\.0\\.0\\.1" => text == "10.0.0.1",
        "2001:db8::1" => text == pattern,
        "/" | "/get" | "/ws" => pattern == text,
        _ => panic!("the model does not know the pattern {pattern}"),
    }
}
