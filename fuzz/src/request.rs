//! What a workload asks for, against policies that are fixed: the engine, the naive model of it, and
//! some things that must hold whatever the model says.

use std::net::SocketAddr;
use std::sync::LazyLock;

use egress_policy::{Decision, Policy, ReasonCode};
use serde_json::{Value, json};

use super::naive::{self, Traffic};

/// The names that some rule lists; `*` stands for any labels.
const LISTED: [&str; 5] = ["a.org", "*.b.org", "c.org", "xn--bcher-kva.example", "*.x.a.org"];

struct Fixed {
    rules: Vec<Value>,
    enforce: Policy,
    audit: Policy,
    passthrough: Policy,
}

static POLICIES: LazyLock<Vec<Fixed>> = LazyLock::new(|| {
    let names = json!([
        {"port": 80, "protocol": "http", "hosts": ["a.org", "*.b.org", "xn--bcher-kva.example"]},
        {"port": 443, "protocol": "https", "hosts": ["a.org", "*.b.org", "*.x.a.org"]},
        {"port": 8080, "protocol": "http", "hosts": ["*.x.a.org"]},
    ]);
    let addresses = json!([
        {"port": 80, "protocol": "http", "hosts": ["a.org"], "addresses": ["10.0.0.0/8", "2001:db8::/32"]},
        {"port": 443, "protocol": "https", "hosts": ["a.org"], "addresses": ["10.0.0.0/8"]},
        {"port": 443, "protocol": "https", "addresses": ["2001:db8::/32"]},
        {"port": 5432, "protocol": "tcp", "addresses": ["10.0.0.1/32"]},
    ]);
    let routes = json!([
        {"port": 80, "protocol": "http", "hosts": ["a.org", "c.org"], "routes": [
            {"name": "g/get", "path": "/get", "methods": ["GET"]},
            {"name": "g/any", "path": "/a.*", "headers": [{"name": "x-key", "value": "[0-9]+"}]},
            {"name": "g/host", "path": "/x|/y", "headers": [{"name": "host", "value": "a\\.org"}]},
        ]},
        {"port": 80, "protocol": "http", "hosts": ["c.org"], "routes": []},
    ]);
    let mixed = json!([
        {"port": 80, "protocol": "http", "addresses": ["10.0.0.0/8"]},
        {"port": 80, "protocol": "http", "hosts": ["a.org"]},
        {"port": 80, "protocol": "https", "hosts": ["c.org"]},
        {"port": 443, "protocol": "tcp", "addresses": ["10.0.0.1/32"]},
        {"port": 443, "protocol": "https", "hosts": ["a.org"]},
        {"port": 443, "protocol": "http", "hosts": ["c.org"], "routes": [{"name": "g/m", "methods": ["POST"]}]},
    ]);
    [names, addresses, routes, mixed, json!([])]
        .into_iter()
        .map(|rules| {
            let mut rules: Vec<Value> = rules.as_array().cloned().expect("a list");
            for (n, rule) in rules.iter_mut().enumerate() {
                rule["policy"] = json!(format!("ns/p{n}"));
                rule["name"] = json!("spec.ports[0]");
            }
            let policy = |mode| naive::policy(mode, &rules);
            Fixed {
                enforce: policy("enforce"),
                audit: policy("audit"),
                passthrough: policy("passthrough"),
                rules,
            }
        })
        .collect()
});

/// Lines: the dialled address, the method, the authority (also taken for a server name), the path, and
/// headers as `name: value`.
pub fn request(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let mut lines = text.split('\n');
    let mut line = || lines.next().unwrap_or_default();
    let to: SocketAddr = line().parse().unwrap_or_else(|_| SocketAddr::from(([203, 0, 113, 1], 80)));
    let (method, authority, path) = (line(), line(), line());
    // As Envoy gives them: names in lower case.
    let headers: Vec<(String, &str)> = lines
        .filter_map(|line| line.split_once(": "))
        .map(|(name, value)| (name.to_ascii_lowercase(), value))
        .collect();
    let headers: Vec<(&str, &str)> = headers.iter().map(|(name, value)| (name.as_str(), *value)).collect();
    let http = Traffic::Http { authority: Some(authority), method, path, headers: &headers };
    for fixed in POLICIES.iter() {
        asked(fixed, to, http);
        for (name, encrypted) in [(Some(authority), false), (Some(authority), true), (None, false)] {
            asked(fixed, to, Traffic::Tls { name, encrypted });
        }
        asked(fixed, to, Traffic::BrokenTls);
        let absent = Traffic::Http { authority: None, method, path, headers: &headers };
        asked(fixed, to, absent);

        // The HTTP plugin asks about requests only, so those answers must hold alone.
        let decision = naive::request(&fixed.enforce, to, http);
        http_invariants(&decision, to, authority, method);
        let without: Vec<Value> =
            fixed.rules.iter().filter(|rule| rule["protocol"] == "http").cloned().collect();
        assert_eq!(naive::verdict(&decision), naive::expected(&without, to, http));

        // Behind `?` and `#` nothing counts.
        let plain = path.split(['?', '#']).next().unwrap_or_default();
        for path in
            [plain.to_owned(), format!("{plain}?{method}"), format!("{plain}#/get"), format!("{path}?/get")]
        {
            let same = Traffic::Http { authority: Some(authority), method, path: &path, headers: &headers };
            assert_eq!(naive::request(&fixed.enforce, to, same), decision, "{path:?}");
        }
        // Case and one trailing dot mean nothing in a name, and the dialled port may be said.
        let upper = authority.to_ascii_uppercase();
        let same = Traffic::Http { authority: Some(&upper), method, path, headers: &headers };
        assert_eq!(naive::request(&fixed.enforce, to, same), decision, "{upper:?}");
        if decision.is_allowed() && !authority.contains(':') {
            let dotted = format!(
                "{authority}{}:{}",
                if is_address(authority) || authority.ends_with('.') { "" } else { "." },
                to.port()
            );
            let same = Traffic::Http { authority: Some(&dotted), method, path, headers: &headers };
            assert_eq!(naive::request(&fixed.enforce, to, same), decision, "{dotted:?}");
        }
    }
}

fn is_address(text: &str) -> bool {
    text.parse::<std::net::IpAddr>().is_ok()
}

fn asked(fixed: &Fixed, to: SocketAddr, traffic: Traffic<'_>) {
    let decision = naive::ask(&fixed.enforce, to, traffic);
    let verdict = naive::verdict(&decision);
    assert_eq!(verdict, naive::expected(&fixed.rules, to, traffic));
    if let Some(resolved) = verdict.as_deref().and_then(|verdict| verdict.strip_prefix("resolved ")) {
        assert!(is_listed(resolved), "{resolved} is on no list");
        let asked_for = match traffic {
            Traffic::Tls { name, .. } => name,
            Traffic::Http { authority, .. } => authority.map(|a| a.split(':').next().unwrap_or_default()),
            Traffic::BrokenTls => None,
        };
        let asked_for = asked_for.expect("a name").to_ascii_lowercase();
        assert_eq!(
            asked_for.strip_suffix('.').unwrap_or(&asked_for),
            resolved,
            "another name than was asked for"
        );
    }
    let audited = naive::ask(&fixed.audit, to, traffic);
    match &decision {
        Decision::Allow(_) => assert_eq!(audited, decision),
        Decision::Deny(refusal) => {
            assert!(audited.is_allowed());
            assert_eq!(audited.would_refuse(), Some(refusal.reason));
        }
    }
    let through = naive::ask(&fixed.passthrough, to, traffic);
    assert_eq!(naive::verdict(&through).as_deref(), Some("passthrough"));
}

fn http_invariants(decision: &Decision<'_>, to: SocketAddr, authority: &str, method: &str) {
    if method == "CONNECT" {
        assert_eq!(decision.reason(), ReasonCode::ConnectRefused);
    }
    if !decision.is_allowed() {
        return;
    }
    assert!(
        authority.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.:[]".contains(&b)),
        "something odd in {authority:?}"
    );
    let port = match authority.rsplit_once(']') {
        Some((_, rest)) => rest.strip_prefix(':'),
        None => authority.split_once(':').map(|(_, port)| port),
    };
    assert!(
        port.is_none_or(|port| port.parse() == Ok(to.port())),
        "{authority:?} names another port than {to}"
    );
}

fn is_listed(host: &str) -> bool {
    LISTED.iter().any(|listed| match listed.strip_prefix('*') {
        Some(suffix) => host.len() > suffix.len() && host.ends_with(suffix),
        None => host == *listed,
    })
}
