//! The engine's decisions as a table: rules, connection, expected verdict.

use std::borrow::Cow;
use std::net::SocketAddr;

use egress_policy::{
    ConnectionOutcome, ConnectionStart, Decision, Destination, Headers, HostMatch, Policy, ReasonCode,
    Request, StartOutcome,
};
use serde_json::json;

fn policy(mode: &str, rules: serde_json::Value) -> Policy {
    let mut rules = rules;
    for (i, rule) in rules.as_array_mut().expect("an array").iter_mut().enumerate() {
        rule["policy"] = json!(format!("ns/p{i}"));
        rule["name"] = json!("spec.ports[0]");
    }
    let document = json!({
        "apiVersion": "egress-policy/v1",
        "identity": {"namespace": "ns", "serviceAccount": "sa"},
        "version": "v", "mode": mode, "rules": rules,
    });
    Policy::new(serde_json::from_value(document).expect("a document")).expect("a policy")
}

struct Map<'a>(&'a [(&'a str, &'a str)]);

impl Headers for Map<'_> {
    fn values(&self, name: &str) -> Vec<Cow<'_, str>> {
        self.0.iter().filter(|(n, _)| *n == name).map(|(_, v)| Cow::Borrowed(*v)).collect()
    }
}

fn show(decision: &Decision<'_>) -> String {
    let rule = decision.rule().map_or("-", |rule| rule.policy.as_str());
    match decision {
        Decision::Deny(_) => format!("deny {} {rule}", decision.reason()),
        Decision::Allow(permit) => {
            let to = match &permit.to {
                Destination::Original => "dialled".to_owned(),
                Destination::Resolved(host, HostMatch::Exact) => host.to_string(),
                Destination::Resolved(host, HostMatch::Wildcard) => format!("{host} by wildcard"),
                Destination::Passthrough => "passthrough".to_owned(),
            };
            let cluster = permit.cluster.map(|cluster| format!(" in {cluster}")).unwrap_or_default();
            let would = decision.would_refuse().map(|r| format!(" ({r})")).unwrap_or_default();
            format!("allow {} {rule} -> {to}{cluster}{would}", decision.reason())
        }
    }
}

/// Decides in the order in which the data plane does.
fn decide(policy: &Policy, to: &str, what: &str) -> String {
    let to: SocketAddr = to.parse().expect("an address");
    let decision = match policy.decide_connection(to) {
        ConnectionOutcome::Decided(decision) => return show(&decision),
        ConnectionOutcome::NeedFirstBytes => {
            let start = match what.split_once(' ').unwrap_or((what, "")) {
                ("tls", "") => ConnectionStart::Tls { server_name: None, encrypted: false },
                ("tls", name) => ConnectionStart::Tls { server_name: Some(name), encrypted: false },
                ("ech", "") => ConnectionStart::Tls { server_name: None, encrypted: true },
                ("ech", name) => ConnectionStart::Tls { server_name: Some(name), encrypted: true },
                ("broken", _) => ConnectionStart::BrokenTls(ReasonCode::TlsMalformed),
                ("late", _) => ConnectionStart::TimedOut,
                ("evicted", _) => ConnectionStart::Evicted,
                _ => ConnectionStart::NotTls,
            };
            policy.decide_start(to, start)
        }
    };
    match decision {
        StartOutcome::Decided(decision) => show(&decision),
        StartOutcome::EachRequest => {
            let mut words = what.split(' ');
            let method = words.next().expect("a method");
            let (authority, path) = match words.next().expect("a target").split_once('/') {
                Some((authority, path)) => (authority, format!("/{path}")),
                None => ("", "/".to_owned()),
            };
            let headers: Vec<_> = words.filter_map(|w| w.split_once('=')).collect();
            let headers = Map(&headers);
            let upgrade = headers.0.iter().find(|(name, _)| *name == "upgrade").map(|(_, value)| *value);
            let request =
                Request { authority: Some(authority), method, path: &path, upgrade, headers: &headers };
            show(&policy.decide_request(to, &request))
        }
    }
}

#[test]
fn one_rule_decides_as_documented() {
    let tcp = json!([{"port": 443, "protocol": "tcp"}]);
    let tcp_to = json!([{"port": 5432, "protocol": "tcp", "addresses": ["10.0.0.0/24", "2001:db8::/32"]}]);
    let tcp_nowhere = json!([{"port": 443, "protocol": "tcp", "addresses": []}]);
    let https = json!([{"port": 443, "protocol": "https", "hosts": ["a.org", "*.b.org"]}]);
    let https_any = json!([{"port": 443, "protocol": "https"}]);
    let https_to =
        json!([{"port": 443, "protocol": "https", "hosts": ["a.org"], "addresses": ["10.0.0.0/24"]}]);
    let http = json!([{"port": 80, "protocol": "http", "hosts": ["a.org", "*.b.org"]}]);
    let http_to = json!([{"port": 80, "protocol": "http", "hosts": ["a.org"], "addresses": ["10.0.0.0/24"]}]);
    let routes = json!([{"port": 80, "protocol": "http", "hosts": ["a.org"], "routes": [
        {"name": "g/get", "path": "/get", "methods": ["GET"]},
        {"name": "g/hdr", "path": "/h.*", "headers": [{"name": "x-a", "value": "1+"}, {"name": "host", "value": "a.org"}]},
    ]}]);
    let slashes = json!([{"port": 80, "protocol": "http", "hosts": ["a.org"], "routes": [
        {"name": "g/q", "path": "/q/%2F/get"}, {"name": "g/w", "path": "/w/%2F.*"},
    ]}]);
    let no_routes = json!([{"port": 80, "protocol": "http", "hosts": ["a.org"], "routes": []}]);
    let by_host_header = json!([{"port": 80, "protocol": "http", "routes": [
        {"name": "g/hdr", "headers": [{"name": "host", "value": "10\\.0\\.0\\.1|2001:db8::1"}]},
    ]}]);
    for (rules, to, what, expected) in [
        (&json!([]), "1.2.3.4:443", "tls a.org", "deny no-policy -"),
        (&tcp, "1.2.3.4:443", "", "allow rule ns/p0 -> dialled"),
        (&tcp, "[2001:db8::1]:443", "", "allow rule ns/p0 -> dialled"),
        (&tcp, "1.2.3.4:80", "", "deny no-rule -"),
        (&tcp_to, "10.0.0.7:5432", "", "allow rule ns/p0 -> dialled"),
        (&tcp_to, "[::ffff:10.0.0.7]:5432", "", "allow rule ns/p0 -> dialled"),
        (&tcp_to, "[2001:db8:1::1]:5432", "", "allow rule ns/p0 -> dialled"),
        (&tcp_to, "10.0.1.7:5432", "", "deny no-rule -"),
        (&tcp_to, "[2001:db9::1]:5432", "", "deny no-rule -"),
        (&tcp_nowhere, "10.0.1.7:443", "", "deny no-rule -"),
        (&https, "1.2.3.4:443", "tls a.org", "allow rule ns/p0 -> a.org"),
        (&https, "1.2.3.4:443", "tls A.org", "allow rule ns/p0 -> a.org"),
        (&https, "1.2.3.4:443", "tls x.y.b.org", "allow rule ns/p0 -> x.y.b.org by wildcard"),
        (&https, "1.2.3.4:443", "tls b.org", "deny sni-not-allowed -"),
        (&https, "1.2.3.4:443", "tls xb.org", "deny sni-not-allowed -"),
        (&https, "1.2.3.4:443", "tls x.a.org", "deny sni-not-allowed -"),
        (&https, "1.2.3.4:443", "tls", "deny sni-absent -"),
        (&https, "1.2.3.4:443", "ech a.org", "deny ech-refused ns/p0"),
        (&https, "1.2.3.4:443", "ech z.org", "deny sni-not-allowed -"),
        (&https, "1.2.3.4:443", "ech", "deny ech-refused -"),
        (&https, "1.2.3.4:443", "broken", "deny tls-malformed -"),
        (&https, "1.2.3.4:443", "late", "deny first-bytes-timeout -"),
        (&https, "1.2.3.4:443", "evicted", "deny too-many-pending -"),
        (&http, "1.2.3.4:80", "late", "deny first-bytes-timeout -"),
        (&http, "1.2.3.4:80", "GET a.org/ upgrade=websocket", "deny upgrade-refused ns/p0"),
        (&http, "1.2.3.4:80", "GET c.org/ upgrade=websocket", "deny host-not-allowed -"),
        (&https, "1.2.3.4:443", "GET a.org/", "deny tls-required -"),
        (&https_any, "1.2.3.4:443", "tls", "allow rule ns/p0 -> dialled"),
        (&https_any, "1.2.3.4:443", "ech a.org", "allow rule ns/p0 -> dialled"),
        (&https_any, "1.2.3.4:443", "GET a.org/", "deny tls-required -"),
        (&https_to, "10.0.0.7:443", "tls a.org", "allow rule ns/p0 -> dialled"),
        (&https_to, "10.0.0.7:443", "tls b.org", "deny sni-not-allowed -"),
        (&https_to, "10.0.1.7:443", "tls a.org", "deny no-rule -"),
        (&http, "1.2.3.4:80", "GET a.org/", "allow rule ns/p0 -> a.org"),
        (&http, "1.2.3.4:80", "GET A.ORG.:80/", "allow rule ns/p0 -> a.org"),
        (&http, "1.2.3.4:80", "GET x.b.org/", "allow rule ns/p0 -> x.b.org by wildcard"),
        (&http, "1.2.3.4:80", "GET c.org/", "deny host-not-allowed -"),
        (&http, "1.2.3.4:80", "GET a.org:8080/", "deny authority-port-mismatch -"),
        (&http, "1.2.3.4:80", "GET u@a.org/", "deny authority-malformed -"),
        (&http, "1.2.3.4:80", "GET 127.1/", "deny authority-malformed -"),
        (&http, "1.2.3.4:80", "GET 1.2.3.4/", "deny host-not-allowed -"),
        (&http, "1.2.3.4:80", "GET /", "deny authority-absent -"),
        (&http, "1.2.3.4:80", "CONNECT a.org/", "deny connect-refused -"),
        (&http, "1.2.3.4:80", "tls a.org", "deny no-rule -"),
        (&http_to, "10.0.0.7:80", "GET a.org/", "allow rule ns/p0 -> dialled"),
        (&http_to, "10.0.0.7:80", "GET b.org/", "deny host-not-allowed -"),
        (&http_to, "10.0.1.7:80", "GET a.org/", "deny no-rule -"),
        (&routes, "1.2.3.4:80", "GET a.org/get", "allow rule ns/p0 -> a.org"),
        (&routes, "1.2.3.4:80", "GET a.org/get?x=1", "allow rule ns/p0 -> a.org"),
        (&routes, "1.2.3.4:80", "GET a.org/getx", "deny route-not-allowed ns/p0"),
        (&routes, "1.2.3.4:80", "POST a.org/get", "deny route-not-allowed ns/p0"),
        (&routes, "1.2.3.4:80", "POST a.org/h x-a=11", "allow rule ns/p0 -> a.org"),
        (&routes, "1.2.3.4:80", "POST a.org/h x-a=2", "deny route-not-allowed ns/p0"),
        (&routes, "1.2.3.4:80", "POST a.org/h", "deny route-not-allowed ns/p0"),
        (&routes, "1.2.3.4:80", "POST a.org/h x-a=11 x-a=2", "deny route-not-allowed ns/p0"),
        (&routes, "1.2.3.4:80", "POST a.org/h x-a=2 x-a=11", "deny route-not-allowed ns/p0"),
        (&routes, "1.2.3.4:80", "POST a.org/h x-a=11 x-a=11", "deny route-not-allowed ns/p0"),
        (&routes, "1.2.3.4:80", "POST a.org/h/..;/x x-a=1", "deny route-not-allowed ns/p0"),
        (&routes, "1.2.3.4:80", "POST a.org/h/%252e%2E;v/x x-a=1", "deny route-not-allowed ns/p0"),
        (&routes, "1.2.3.4:80", "POST a.org/h/...;/x?/..;/ x-a=1", "allow rule ns/p0 -> a.org"),
        (&routes, "1.2.3.4:80", "GET a.org/get%2Fx", "deny route-not-allowed ns/p0"),
        (&routes, "1.2.3.4:80", "POST a.org/h%5Cx x-a=1", "deny encoded-slash ns/p0"),
        (&routes, "1.2.3.4:80", "POST a.org/h?%2F x-a=1", "allow rule ns/p0 -> a.org"),
        (&http, "1.2.3.4:80", "GET a.org/@s%2fn", "allow rule ns/p0 -> a.org"),
        (&slashes, "1.2.3.4:80", "GET a.org/q/%2F/get", "allow rule ns/p0 -> a.org"),
        (&slashes, "1.2.3.4:80", "GET a.org/q/%2f/get", "allow rule ns/p0 -> a.org"),
        (&slashes, "1.2.3.4:80", "GET a.org/q/%5c/get", "deny route-not-allowed ns/p0"),
        (&slashes, "1.2.3.4:80", "GET a.org/w/%2F%5c", "deny encoded-slash ns/p0"),
        (&slashes, "1.2.3.4:80", "GET a.org/q/%2f/other", "deny route-not-allowed ns/p0"),
        (&slashes, "1.2.3.4:80", "GET a.org/q///get", "deny route-not-allowed ns/p0"),
        (&slashes, "1.2.3.4:80", "GET a.org/q/%252F/get", "deny route-not-allowed ns/p0"),
        (&slashes, "1.2.3.4:80", "GET a.org/w/%2F..%2Fget", "deny route-not-allowed ns/p0"),
        (&slashes, "1.2.3.4:80", "GET a.org/w/%2F%2e%2e/get", "deny route-not-allowed ns/p0"),
        (&slashes, "1.2.3.4:80", "GET a.org/w/%2Fx", "allow rule ns/p0 -> a.org"),
        (&by_host_header, "10.0.0.1:80", "GET 10.0.0.1/", "allow rule ns/p0 -> dialled"),
        (&by_host_header, "10.0.0.1:80", "GET 10.0.0.1:80/", "allow rule ns/p0 -> dialled"),
        (&by_host_header, "[2001:db8::1]:80", "GET [2001:DB8::1]:80/", "allow rule ns/p0 -> dialled"),
        // However the workload spells the address (RFC 5952 has one spelling for each).
        (&by_host_header, "[2001:db8::1]:80", "GET [2001:DB8:0:0::1]:80/", "allow rule ns/p0 -> dialled"),
        (&by_host_header, "[2001:db8::1]:80", "GET [2001:0db8::0:0:1]/", "allow rule ns/p0 -> dialled"),
        (&by_host_header, "10.0.0.1:80", "GET [::ffff:a00:1]/", "allow rule ns/p0 -> dialled"),
        (&by_host_header, "10.0.0.2:80", "GET 10.0.0.2/", "deny route-not-allowed ns/p0"),
        (&no_routes, "1.2.3.4:80", "GET a.org/", "deny route-not-allowed ns/p0"),
    ] {
        assert_eq!(decide(&policy("enforce", rules.clone()), to, what), expected, "{rules} {to} {what}");
    }
}

#[test]
fn rules_only_add() {
    let both = json!([
        {"port": 443, "protocol": "https", "hosts": ["a.org"]},
        {"port": 443, "protocol": "https", "hosts": ["a.org"], "addresses": ["10.0.0.0/8"]},
        {"port": 443, "protocol": "tcp", "addresses": ["10.9.0.0/16"]},
        {"port": 443, "protocol": "http", "hosts": ["h.org"]},
        {"port": 443, "protocol": "http", "hosts": ["h.org"], "routes": [{"name": "x", "path": "/x"}]},
    ]);
    for (to, what, expected) in [
        ("1.2.3.4:443", "tls a.org", "allow rule ns/p0 -> a.org"),
        ("10.0.0.1:443", "tls a.org", "allow rule ns/p1 -> dialled"),
        ("10.9.0.1:443", "tls z.org", "allow rule ns/p2 -> dialled"),
        ("1.2.3.4:443", "GET h.org/y", "allow rule ns/p3 -> h.org"),
        ("1.2.3.4:443", "GET a.org/y", "deny host-not-allowed -"),
    ] {
        assert_eq!(decide(&policy("enforce", both.clone()), to, what), expected, "{to} {what}");
    }
}

#[test]
fn a_mode_changes_only_what_no_rule_allows() {
    let rules = json!([{"port": 443, "protocol": "https", "hosts": ["a.org"]}]);
    for (mode, to, what, expected) in [
        ("passthrough", "1.2.3.4:22", "", "allow passthrough - -> passthrough"),
        ("passthrough", "1.2.3.4:443", "tls a.org", "allow passthrough - -> passthrough"),
        ("audit", "1.2.3.4:443", "tls a.org", "allow rule ns/p0 -> a.org"),
        ("audit", "1.2.3.4:443", "tls z.org", "allow audit - -> dialled (sni-not-allowed)"),
        ("audit", "1.2.3.4:22", "", "allow audit - -> dialled (no-rule)"),
    ] {
        assert_eq!(decide(&policy(mode, rules.clone()), to, what), expected, "{mode} {to} {what}");
    }
}

#[test]
fn upgrades_and_encrypted_hellos_need_a_rule_of_their_own() {
    let rules = json!([
        {"port": 80, "protocol": "http", "hosts": ["a.org", "b.org"]},
        {"port": 80, "protocol": "http", "hosts": ["a.org"], "upgrades": ["websocket"],
         "routes": [{"name": "g/ws", "path": "/ws"}]},
        {"port": 443, "protocol": "https", "hosts": ["a.org", "b.org"]},
        {"port": 443, "protocol": "https", "hosts": ["*.b.org", "b.org"], "encryptedHello": "allow-outer"},
        {"port": 443, "protocol": "https", "hosts": ["c.org"], "cluster": "c.org:443"},
        {"port": 443, "protocol": "https", "hosts": ["*.c.org", "x.c.org"], "cluster": "*.c.org:443"},
    ]);
    for (to, what, expected) in [
        ("1.2.3.4:80", "GET a.org/ws", "allow rule ns/p0 -> a.org"),
        ("1.2.3.4:80", "GET a.org/ws upgrade=WebSocket", "allow rule ns/p1 -> a.org"),
        ("1.2.3.4:80", "GET a.org/other upgrade=websocket", "deny upgrade-refused ns/p0"),
        ("1.2.3.4:80", "GET b.org/ws upgrade=websocket", "deny upgrade-refused ns/p0"),
        ("1.2.3.4:80", "GET a.org/ws upgrade=TLS/1.0", "deny upgrade-refused ns/p0"),
        ("1.2.3.4:443", "ech a.org", "deny ech-refused ns/p2"),
        ("1.2.3.4:443", "ech z.org", "deny sni-not-allowed -"),
        ("1.2.3.4:443", "ech b.org", "allow rule ns/p3 -> b.org"),
        ("1.2.3.4:443", "ech x.b.org", "allow rule ns/p3 -> x.b.org by wildcard"),
        ("1.2.3.4:443", "tls c.org", "allow rule ns/p4 -> c.org in c.org:443"),
        ("1.2.3.4:443", "tls y.c.org", "allow rule ns/p5 -> y.c.org by wildcard in *.c.org:443"),
        // The name itself is the wider leave, whatever the order.
        ("1.2.3.4:443", "tls x.c.org", "allow rule ns/p5 -> x.c.org in *.c.org:443"),
    ] {
        assert_eq!(decide(&policy("enforce", rules.clone()), to, what), expected, "{to} {what}");
    }
    assert_eq!(
        decide(&policy("audit", rules), "1.2.3.4:80", "GET b.org/ upgrade=websocket"),
        "allow audit ns/p0 -> dialled (upgrade-refused)"
    );
}

#[test]
fn rules_and_modes_do_not_apply_to_the_mesh() {
    let document = |mode: &str| {
        let document = json!({
            "apiVersion": "egress-policy/v1", "identity": {"namespace": "ns", "serviceAccount": "sa"},
            "version": "v", "mode": mode,
            "rules": [{"policy": "a/b", "name": "n", "port": 80, "protocol": "tcp"}],
            "inMesh": [
                {"service": "shop/cart", "addresses": ["10.96.0.1", "fd00::1"], "ports": [80, 9090], "allowed": true},
                {"service": "shop/till", "addresses": ["10.96.0.2"], "ports": [80], "allowed": false},
                {"service": "shop/alias", "addresses": ["10.96.0.2"], "ports": [80], "allowed": true},
            ],
        });
        Policy::new(serde_json::from_value(document).expect("a document")).expect("a policy")
    };
    for (mode, to, expected) in [
        ("enforce", "10.96.0.1:9090", "allow in-mesh shop/cart -> dialled"),
        ("enforce", "[fd00::1]:80", "allow in-mesh shop/cart -> dialled"),
        ("enforce", "[::ffff:10.96.0.2]:80", "deny in-mesh-denied shop/till"),
        ("enforce", "10.96.0.1:81", "deny no-rule -"),
        ("enforce", "10.96.0.3:80", "allow rule a/b -> dialled"),
        ("audit", "10.96.0.2:80", "deny in-mesh-denied shop/till"),
        ("passthrough", "10.96.0.2:80", "deny in-mesh-denied shop/till"),
        ("passthrough", "10.96.0.1:80", "allow in-mesh shop/cart -> dialled"),
        ("passthrough", "10.96.0.1:81", "allow passthrough - -> passthrough"),
    ] {
        assert_eq!(decide(&document(mode), to, ""), expected, "{mode} {to}");
    }
}
