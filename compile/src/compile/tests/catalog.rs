//! The grants of valid objects.

use super::*;

#[test]
fn valid_objects_grant_exactly_these_rules() {
    let get = "{name: m, pathRegex: /foo, methods: [GET]}";
    let two = by_group("g1") + ", " + &by_group("g2");
    let groups = group("g1", get) + &group("g2", "{name: m, pathRegex: /bar, methods: [GET]}");
    for (name, text, expected) in [
        (
            "CAT1: hosts on ports",
            egress("a", "hosts: [foo.com], ports: [{number: 80, protocol: http}]")
                + &egress("b", "hosts: [bar.com], ports: [{number: 80, protocol: http}]")
                + &egress("c", "hosts: [baz.com], ports: [{number: 90, protocol: http}]"),
            vec![
                "n/a http:80 any [foo.com] any",
                "n/b http:80 any [bar.com] any",
                "n/c http:90 any [baz.com] any",
            ],
        ),
        (
            "CAT2: http and tcp in one policy",
            egress(
                "a",
                "hosts: [foo.com], ports: [{number: 80, protocol: http}, {number: 100, protocol: tcp}]",
            ) + &egress("b", "hosts: [bar.com], ports: [{number: 80, protocol: http}]"),
            vec!["n/a http:80 any [foo.com] any", "n/a tcp:100 any any any", "n/b http:80 any [bar.com] any"],
        ),
        (
            "CAT3: https and tcp on one port",
            egress("a", "hosts: [foo.com], ports: [{number: 100, protocol: https}]")
                + &egress("b", "ports: [{number: 100, protocol: tcp}]"),
            vec!["n/a https:100 any [foo.com] any", "n/b tcp:100 any any any"],
        ),
        (
            "CAT4: settings that exist",
            egress(
                "a",
                &format!(
                    "hosts: [foo.com], ports: [{{number: 100, protocol: https}}], matches: [{}]",
                    by_settings("s")
                ),
            ) + &settings("s"),
            vec!["n/a https:100 any [foo.com] any in foo.com:100"],
        ),
        (
            "CAT5: settings that do not exist",
            egress(
                "a",
                &format!(
                    "hosts: [foo.com], ports: [{{number: 100, protocol: https}}], matches: [{}]",
                    by_settings("s")
                ),
            ),
            vec![],
        ),
        (
            "CAT6: two hosts",
            egress("a", "hosts: [foo.com, bar.com], ports: [{number: 80, protocol: http}]"),
            vec!["n/a http:80 any [bar.com foo.com] any"],
        ),
        (
            "CAT7: two route groups",
            egress(
                "a",
                &format!("hosts: [foo.com], ports: [{{number: 80, protocol: http}}], matches: [{two}]"),
            ) + &groups,
            vec!["n/a http:80 any [foo.com] [g1/m:/foo:GET: g2/m:/bar:GET:]"],
        ),
        (
            "CAT8: addresses and a route group",
            egress(
                "a",
                &format!(
                    "hosts: [foo.com], ipAddresses: [1.1.1.1/32, 10.0.0.0/24], ports: [{{number: 80, protocol: http}}], matches: [{}]",
                    by_group("g1")
                ),
            ) + &groups,
            vec!["n/a http:80 [1.1.1.1/32 10.0.0.0/24] [foo.com] [g1/m:/foo:GET:]"],
        ),
        (
            "CAT9: settings and no route group",
            egress(
                "a",
                &format!(
                    "hosts: [foo.com, bar.com], ports: [{{number: 80, protocol: http}}], matches: [{}]",
                    by_settings("s")
                ),
            ) + &settings("s"),
            vec![
                "n/a http:80 any [bar.com] any in bar.com:80",
                "n/a http:80 any [foo.com] any in foo.com:80",
            ],
        ),
        (
            "CAT10: a group of two matches",
            egress(
                "a",
                &format!(
                    "hosts: [foo.com], ports: [{{number: 80, protocol: http}}], matches: [{}]",
                    by_group("g")
                ),
            ) + &group("g", "{name: x}, {name: y, pathRegex: /y}"),
            vec!["n/a http:80 any [foo.com] [g/x:any:any: g/y:/y:any:]"],
        ),
        (
            "a group without matches",
            egress(
                "a",
                &format!(
                    "hosts: [foo.com], ports: [{{number: 80, protocol: http}}], matches: [{}]",
                    by_group("g")
                ),
            ) + &group("g", ""),
            vec!["n/a http:80 any [foo.com] []"],
        ),
        (
            "a group without matches beside another",
            egress(
                "a",
                &format!("hosts: [foo.com], ports: [{{number: 80, protocol: http}}], matches: [{two}]"),
            ) + &group("g1", "")
                + &group("g2", get),
            vec!["n/a http:80 any [foo.com] [g2/m:/foo:GET:]"],
        ),
        (
            "RDS4: methods",
            egress(
                "a",
                &format!(
                    "hosts: [foo.com], ports: [{{number: 80, protocol: http}}], matches: [{}]",
                    by_group("g")
                ),
            ) + &group(
                "g",
                "{name: a, methods: [GET, POST, PUT, POST, GET, '']}, {name: b, methods: [GET, '*']}, {name: d, methods: [get]}",
            ),
            vec!["n/a http:80 any [foo.com] [g/a:any:GET,POST,PUT: g/b:any:any: g/d:any:GET:]"],
        ),
        (
            "RDS6: headers as a list and as a map",
            egress(
                "a",
                &format!(
                    "hosts: [foo.com], ports: [{{number: 80, protocol: http}}], matches: [{}]",
                    by_group("g")
                ),
            ) + &group(
                "g",
                "{name: a, headers: [{User-Agent: curl.*}, {host: foo.com}]}, {name: b, headers: {x: y, a: b}}",
            ),
            vec![
                "n/a http:80 any [foo.com] [g/a:any:any:host=foo.com,user-agent=curl.* g/b:any:any:a=b,x=y]",
            ],
        ),
        (
            "a header that stands there twice: the last one counts",
            egress(
                "a",
                &format!(
                    "hosts: [foo.com], ports: [{{number: 80, protocol: http}}], matches: [{}]",
                    by_group("g")
                ),
            ) + &group("g", "{name: a, headers: [{X: one}, {x: two}]}"),
            vec!["n/a http:80 any [foo.com] [g/a:any:any:x=two]"],
        ),
        (
            "a group of another namespace does not count",
            egress(
                "a",
                &format!(
                    "hosts: [foo.com], ports: [{{number: 80, protocol: http}}], matches: [{}]",
                    by_group("g")
                ),
            ) + &group("g", get).replace("namespace: n", "namespace: other"),
            vec![],
        ),
        (
            "X5: protocols in any case",
            egress(
                "a",
                "hosts: [foo.com], ports: [{number: 1, protocol: HTTP}, {number: 2, protocol: Https}, {number: 3, protocol: TCP}, {number: 4, protocol: TCP-server-first}]",
            ),
            vec![
                "n/a http:1 any [foo.com] any",
                "n/a https:2 any [foo.com] any",
                "n/a tcp:3 any any any",
                "n/a tcp:4 any any any",
            ],
        ),
        (
            "https without hosts",
            egress("a", "ipAddresses: [10.0.0.1/32], ports: [{number: 443, protocol: https}]"),
            vec!["n/a https:443 [10.0.0.1/32] any any"],
        ),
        (
            "empty lists are not absent ones, as in OSM",
            egress("a", "hosts: [], ipAddresses: [], matches: [], ports: [{number: 443, protocol: https}]"),
            vec![],
        ),
        (
            "hosts in other spellings, and twice",
            egress(
                "a",
                "hosts: [FOO.com, foo.com., '*.Bar.com', bücher.example], ports: [{number: 443, protocol: https}]",
            ),
            vec!["n/a https:443 any [foo.com xn--bcher-kva.example *.bar.com] any"],
        ),
        (
            "blocks with host bits, of both families, and twice",
            egress(
                "a",
                "ipAddresses: [10.1.2.3/8, 10.0.0.0/8, '2001:DB8::1/32', '::ffff:192.0.2.1/128'], ports: [{number: 22, protocol: tcp}]",
            ),
            vec!["n/a tcp:22 [10.0.0.0/8 192.0.2.1/32 2001:db8::/32] any any"],
        ),
        (
            "X3: the same host in two policies with different groups",
            egress(
                "a",
                &format!(
                    "hosts: [foo.com], ports: [{{number: 80, protocol: http}}], matches: [{}]",
                    by_group("g1")
                ),
            ) + &egress(
                "b",
                &format!(
                    "hosts: [foo.com], ports: [{{number: 80, protocol: http}}], matches: [{}]",
                    by_group("g2")
                ),
            ) + &groups,
            vec!["n/a http:80 any [foo.com] [g1/m:/foo:GET:]", "n/b http:80 any [foo.com] [g2/m:/bar:GET:]"],
        ),
        (
            "X4: the same host in two https policies",
            egress("a", "hosts: [foo.com, bar.com], ports: [{number: 443, protocol: https}]")
                + &egress("b", "hosts: [foo.com], ports: [{number: 443, protocol: https}]"),
            vec!["n/a https:443 any [bar.com foo.com] any", "n/b https:443 any [foo.com] any"],
        ),
        (
            "TP1: equal policies stay apart by name only",
            egress("a", "ports: [{number: 22, protocol: tcp}, {number: 22, protocol: tcp}]"),
            vec!["n/a tcp:22 any any any", "n/a tcp:22 any any any"],
        ),
    ] {
        assert_eq!(rules(&compiled(&text)), expected, "{name}");
    }
}

#[test]
fn valid_objects_grant_to_exactly_these_identities() {
    let text = "apiVersion: policy.openservicemesh.io/v1alpha1\nkind: Egress\nmetadata: {name: p, namespace: n}\n\
                spec:\n  ports: [{number: 22, protocol: tcp}]\n  sources:\n  \
                - {kind: ServiceAccount, name: sa-1, namespace: test}\n  \
                - {kind: ServiceAccount, name: sa-1, namespace: test}\n  \
                - {kind: ServiceAccount, name: sa-2, namespace: test}\n  \
                - {kind: Deployment, name: sa-4, namespace: test}\n  \
                - {kind: ServiceAccount, name: Sa_5, namespace: test}\n  \
                - {kind: ServiceAccount, name: a.b, namespace: other}\n";
    // As in Open Service Mesh: every namespace may grant to every other.
    let options = CompileOptions { policy_namespaces: PolicyNamespaces::All, ..CompileOptions::default() };
    let compiled = compile(&store(text), &options, None);
    for (name, sa, expected) in [
        ("K8S2: named", "test/sa-1", 1),
        ("K8S2: named last", "test/sa-2", 1),
        ("K8S2: not named", "test/sa-3", 0),
        ("the same name elsewhere", "n/sa-1", 0),
        ("another kind", "test/sa-4", 0),
        ("another namespace", "other/a.b", 1),
    ] {
        assert_eq!(compiled.document(&identity(sa)).rules.len(), expected, "{name}");
    }
    assert!(!status(&compiled, "Egress n/p").accepted);
}
