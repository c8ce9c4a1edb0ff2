//! Requests of a workload under fixed policies: the engine is compared with the naive model, and with invariants that do
//! not depend on the model.

use std::net::SocketAddr;
use std::sync::LazyLock;

use egress_policy::{Decision, Policy, ReasonCode};
use serde_json::{Value, json};

use super::naive::{self, Traffic};

/// The host patterns of all rules; `*` stands for any labels.
const LISTED: [&str; 5] = ["a.org", "*.b.org", "c.org", "xn--bcher-kva.example", "*.x.a.org"];

/// A set of rules in each mode, and its rules for requests alone.
struct Fixed {
    enforce: (Value, Policy),
    audit: Policy,
    passthrough: Policy,
    for_requests: Value,
}

static POLICIES: LazyLock<Vec<Fixed>> = LazyLock::new(|| {
    let names = json!([
        {"port": 80, "protocol": "http", "hosts": ["a.org", "*.b.org", "xn--bcher-kva.example"]},
        {"port": 443, "protocol": "https", "hosts": ["a.org", "*.b.org", "*.x.a.org"]},
        {"port": 443, "protocol": "https", "hosts": ["c.org"], "encryptedHello": "allow-outer"},
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
        {"port": 80, "protocol": "http", "hosts": ["c.org"], "upgrades": ["websocket"], "cluster": "c.org:80",
            "routes": [{"name": "g/ws", "path": "/ws"}]},
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
            // The last set has services of the mesh beside it.
            let in_mesh = json!([
                {"service": "ns/s", "addresses": ["10.0.0.1"], "ports": [8080], "allowed": true},
                {"service": "ns/t", "addresses": ["10.0.0.1", "2001:db8::1"], "ports": [80], "allowed": false},
            ]);
            let in_mesh = in_mesh.as_array().filter(|_| rules.is_empty()).cloned().unwrap_or_default();
            let made = |mode| {
                let document = naive::document(mode, &rules, &in_mesh);
                let policy = naive::policy(&document);
                (document, policy)
            };
            let http: Vec<Value> = rules.iter().filter(|rule| rule["protocol"] == "http").cloned().collect();
            Fixed {
                enforce: made("enforce"),
                audit: made("audit").1,
                passthrough: made("passthrough").1,
                for_requests: naive::document("enforce", &http, &in_mesh),
            }
        })
        .collect()
});

/// Reads lines: the original destination, the method, the authority (also used as a server name), the path, and headers
/// as `name: value`.
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
    let upgrade = headers.iter().find(|(name, _)| *name == "upgrade").map(|(_, value)| *value);
    let response = Traffic::Http { authority: Some(authority), method, path, upgrade, headers: &headers };
    for fixed in POLICIES.iter() {
        let others = [
            with(response, None, path),
            Traffic::Tls { name: Some(authority), encrypted: true },
            Traffic::Tls { name: None, encrypted: false },
            Traffic::BrokenTls,
            Traffic::TimedOut,
        ];
        // One of the others: all at once take too long.
        let other = others[data.len() % others.len()];
        for traffic in [response, Traffic::Tls { name: Some(authority), encrypted: false }, other] {
            connection(fixed, to, traffic);
        }

        // The HTTP plugin asks about requests only, so those answers must hold alone.
        let policy = &fixed.enforce.1;
        let decision = naive::request(policy, to, response);
        assert_eq!(naive::verdict(&decision), naive::expected(&fixed.for_requests, to, response));
        if is_in_mesh(&decision) {
            continue;
        }
        invariants(&decision, to, authority, method, upgrade);

        // Behind `?` and `#` nothing counts.
        let plain = path.split(['?', '#']).next().unwrap_or_default();
        for path in
            [plain.to_owned(), format!("{plain}?{method}"), format!("{plain}#/get"), format!("{path}?/get")]
        {
            assert_eq!(
                naive::request(policy, to, with(response, Some(authority), &path)),
                decision,
                "{path:?}"
            );
        }
        // Case and one trailing dot mean nothing in a name, and the dialled port may be said.
        let upper = authority.to_ascii_uppercase();
        assert_eq!(naive::request(policy, to, with(response, Some(&upper), path)), decision, "{upper:?}");
        if decision.is_allowed() && !authority.contains(':') {
            let dot = if is_address(authority) || authority.ends_with('.') { "" } else { "." };
            let long = format!("{authority}{dot}:{}", to.port());
            assert_eq!(naive::request(policy, to, with(response, Some(&long), path)), decision, "{long:?}");
        }
    }
}

/// Makes the same request with another target.
fn with<'a>(response: Traffic<'a>, authority: Option<&'a str>, path: &'a str) -> Traffic<'a> {
    match response {
        Traffic::Http { method, upgrade, headers, .. } => {
            Traffic::Http { authority, method, path, upgrade, headers }
        }
        Traffic::Tls { .. } | Traffic::BrokenTls | Traffic::TimedOut => response,
    }
}

fn is_address(text: &str) -> bool {
    text.parse::<std::net::IpAddr>().is_ok()
}

fn connection(fixed: &Fixed, to: SocketAddr, traffic: Traffic<'_>) {
    let decision = naive::decide(&fixed.enforce.1, to, traffic);
    let verdict = naive::verdict(&decision);
    assert_eq!(verdict, naive::expected(&fixed.enforce.0, to, traffic));
    let resolved = verdict.as_deref().and_then(|verdict| verdict.split_once(' '));
    if let Some((_, resolved)) = resolved {
        assert!(is_listed(resolved), "{resolved} is on no list");
        let requested_host = match traffic {
            Traffic::Tls { name, .. } => name,
            Traffic::Http { authority, .. } => authority.map(|a| a.split(':').next().unwrap_or_default()),
            Traffic::BrokenTls | Traffic::TimedOut => None,
        };
        let requested_host = requested_host.expect("a name").to_ascii_lowercase();
        let requested_host = requested_host.strip_suffix('.').unwrap_or(&requested_host);
        assert_eq!(requested_host, resolved, "another name than was asked for");
    }
    let audited = naive::decide(&fixed.audit, to, traffic);
    let through = naive::decide(&fixed.passthrough, to, traffic);
    if is_in_mesh(&decision) {
        assert_eq!((&audited, &through), (&decision, &decision));
        return;
    }
    assert_eq!(naive::verdict(&through).as_deref(), Some("passthrough"));
    match &decision {
        Decision::Deny(refusal) => assert_eq!(audited.would_refuse(), Some(refusal.reason)),
        Decision::Allow(_) => assert_eq!(audited, decision),
    }
}

/// Returns whether the destination is in the mesh, where egress rules do not apply.
fn is_in_mesh(decision: &Decision<'_>) -> bool {
    matches!(decision.reason(), ReasonCode::InMesh | ReasonCode::InMeshDenied)
}

/// Checks the invariants of any request that leaves the mesh.
fn invariants(decision: &Decision<'_>, to: SocketAddr, authority: &str, method: &str, upgrade: Option<&str>) {
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
    assert!(upgrade.is_none_or(|upgrade| upgrade.eq_ignore_ascii_case("websocket")), "{upgrade:?}");
    let port = match authority.rsplit_once(']') {
        Some((_, rest)) => rest.strip_prefix(':'),
        None => authority.split_once(':').map(|(_, port)| port),
    };
    assert!(
        port.is_none_or(|port| port.is_empty() || port.parse() == Ok(to.port())),
        "{authority:?} names another port than {to}"
    );
}

fn is_listed(host: &str) -> bool {
    LISTED.iter().any(|listed| match listed.strip_prefix('*') {
        Some(suffix) => host.len() > suffix.len() && host.ends_with(suffix),
        None => host == *listed,
    })
}
