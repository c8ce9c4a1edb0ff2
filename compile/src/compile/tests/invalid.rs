//! Invalid parts grant nothing and are reported; valid parts beside them stay in force.

use super::*;

/// Name, manifests, and what is still granted.
fn cases() -> Vec<(&'static str, String, Vec<&'static str>)> {
    let tcp = "{number: 22, protocol: tcp}";
    let http = "{number: 80, protocol: http}";
    let https = "{number: 443, protocol: https}";
    let reference = |group: &str, kind: &str| format!("{{apiGroup: {group}, kind: {kind}, name: x}}");
    let matched = |refs: String| {
        egress("a", &format!("hosts: [foo.com], ports: [{http}, {https}, {tcp}], matches: [{refs}]"))
    };
    let beside_http = vec!["n/a https:443 any [foo.com] any", "n/a tcp:22 any any any"];
    vec![
        (
            "protocol",
            egress("a", &format!("ports: [{{number: 80, protocol: htttp}}, {tcp}]")),
            vec!["n/a tcp:22 any any any"],
        ),
        (
            "port out of range",
            egress(
                "a",
                &format!(
                    "ports: [{{number: 0, protocol: tcp}}, {{number: 65536, protocol: tcp}}, {{number: -1, protocol: tcp}}, {{number: 9223372036854775807, protocol: tcp}}, {tcp}]"
                ),
            ),
            vec!["n/a tcp:22 any any any"],
        ),
        ("X6: address", egress("a", &format!("ipAddresses: [999.1.1.1/32], ports: [{tcp}]")), vec![]),
        (
            "an address among others",
            egress(
                "a",
                &format!(
                    "hosts: [foo.com], ipAddresses: [10.0.0.0/8, 10.0.0.1], ports: [{tcp}, {http}, {https}]"
                ),
            ),
            vec![],
        ),
        (
            "hosts",
            egress(
                "a",
                &format!(
                    "hosts: [foo.com, 10.0.0.1, '*', 'a*.foo.com', 'foo.com:80', 'https://foo.com/x', ''], ports: [{http}, {https}, {tcp}]"
                ),
            ),
            vec!["n/a tcp:22 any any any"],
        ),
        (
            "http without hosts",
            egress("a", &format!("ports: [{http}, {https}]")),
            vec!["n/a https:443 any any any"],
        ),
        (
            "empty lists",
            egress("a", &format!("hosts: [], ipAddresses: [], matches: [], ports: [{https}, {tcp}]")),
            vec![],
        ),
        ("hosts without a value", egress("a", &format!("hosts: , ports: [{https}]")), vec![]),
        (
            "ipAddresses without a value",
            egress("a", &format!("ipAddresses: ~, ports: [{https}, {tcp}]")),
            vec![],
        ),
        (
            "matches without a value",
            egress("a", &format!("hosts: [foo.com], matches: ~, ports: [{http}]")),
            vec![],
        ),
        (
            "empty parts of a route",
            egress("a", &format!("hosts: [foo.com], matches: [{}], ports: [{http}]", by_group("g")))
                + &group(
                    "g",
                    "{name: a, pathRegex: ''}, {name: b, methods: []}, {name: c, headers: []}, {name: d, pathRegex: }, \
                     {name: e, methods: ['']}, {name: f, headers: {}}, {name: g, methods: }, {name: h, headers: }",
                ),
            vec![],
        ),
        (
            "hosts for tcp",
            egress("a", "hosts: [foo.com], ports: [{number: 22, protocol: tcp-server-first}]"),
            vec!["n/a tcp:22 any any any"],
        ),
        (
            "notes on spelling",
            egress(
                "a",
                &format!("hosts: [FOO.com., bücher.example], ipAddresses: [10.1.2.3/8], ports: [{https}]"),
            ),
            vec!["n/a https:443 [10.0.0.0/8] [foo.com xn--bcher-kva.example] any"],
        ),
        (
            "no ports and no sources",
            egress("a", "ports: []")
                .replace("sources: [{kind: ServiceAccount, name: app, namespace: n}]", "sources: []"),
            vec![],
        ),
        ("VAL1: group of a match", matched(reference("invalid", "HTTPRouteGroup")), vec![]),
        (
            "VAL: kind of a match, routes",
            matched(reference("specs.smi-spec.io/v1alpha4", "TCPRoute")),
            vec![],
        ),
        (
            "VAL: kind of a match, settings",
            matched(reference("policy.openservicemesh.io/v1alpha1", "Egress")),
            vec![],
        ),
        (
            "VAL2: a route group",
            matched(by_group("g")) + &group("g", "{name: m}"),
            vec![
                "n/a http:80 any [foo.com] [g/m:any:any:]",
                "n/a https:443 any [foo.com] any",
                "n/a tcp:22 any any any",
            ],
        ),
        (
            "VAL3: settings",
            matched(by_settings("s")) + &settings("s"),
            vec![
                "n/a http:80 any [foo.com] any in foo.com:80",
                "n/a https:443 any [foo.com] any in foo.com:443",
                "n/a tcp:22 any any any in 22",
            ],
        ),
        (
            "VAL4: two settings",
            matched(by_settings("s") + ", " + &by_settings("t")) + &settings("s") + &settings("t"),
            vec![],
        ),
        ("settings that do not exist", matched(by_settings("s")), vec![]),
        ("a route group that does not exist", matched(by_group("g")), beside_http.clone()),
        (
            "one of two route groups does not exist",
            matched(by_group("g") + ", " + &by_group("h")) + &group("g", "{name: m}"),
            beside_http.clone(),
        ),
        (
            "a route group for https",
            egress("a", &format!("hosts: [foo.com], ports: [{https}], matches: [{}]", by_group("g")))
                + &group("g", "{name: m}"),
            vec!["n/a https:443 any [foo.com] any"],
        ),
        (
            "a route group in which everything is wrong",
            matched(by_group("g"))
                + &group(
                    "g",
                    "{name: a, pathRegex: '('}, {name: b, methods: [FETCH]}, {name: c, headers: [{x: '(?=a)'}, {':path': /}, {'a b': c}]}, {name: d, headers: {x: '['}}, {name: e}",
                ),
            beside_http.clone(),
        ),
        (
            "an invalid route group beside a valid one",
            matched(by_group("g") + ", " + &by_group("h"))
                + &group("g", "{name: a, pathRegex: a)|(b}")
                + &group("h", "{name: m}"),
            beside_http,
        ),
        (
            "a header twice",
            matched(by_group("g")) + &group("g", "{name: m, headers: [{X: a}, {x: b}]}"),
            vec![
                "n/a http:80 any [foo.com] [g/m:any:any:x=b]",
                "n/a https:443 any [foo.com] any",
                "n/a tcp:22 any any any",
            ],
        ),
        ("an empty route group", group("g", ""), vec![]),
        (
            "one policy does not hurt another",
            egress("a", &format!("ipAddresses: [x], ports: [{tcp}]"))
                + &egress("b", &format!("ports: [{tcp}]")),
            vec!["n/b tcp:22 any any any"],
        ),
    ]
}

#[test]
fn invalid_parts_grant_nothing() {
    for (name, text, expected) in cases() {
        assert_eq!(rules(&compiled(&text)), expected, "{name}");
    }
}

#[test]
fn invalid_parts_are_reported_with_a_remedy() {
    let mut out = String::new();
    for (name, text, _) in cases() {
        out.push_str(&format!("## {name}\n{}", diagnostics(&compiled(&text))));
    }
    insta::assert_snapshot!(out);
}

#[test]
fn an_object_is_accepted_when_nothing_in_it_is_an_error() {
    for (name, text, _) in cases() {
        for status in compiled(&text).statuses.values() {
            let has_error = status.diagnostics.iter().any(|p| p.severity == Severity::Error);
            assert_eq!(status.accepted, !has_error, "{name}: {}", status.object);
        }
    }
}

#[test]
fn a_status_has_this_json() {
    let compiled =
        compiled(&egress("a", "ports: [{number: 80, protocol: htttp}, {number: 22, protocol: tcp}]"));
    insta::assert_json_snapshot!(status(&compiled, "Egress n/a"));
}
