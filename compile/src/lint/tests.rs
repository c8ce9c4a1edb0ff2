use super::*;
use crate::store::FileUpdate;
use crate::{CompileOptions, compile};

/// What is said about policies of `shop/app`, as `policy field: message`.
fn said(specs: &[&str]) -> Vec<String> {
    let policies = specs.iter().enumerate().map(|(i, spec)| {
        format!(
            "apiVersion: policy.openservicemesh.io/v1alpha1\nkind: Egress\nmetadata: {{name: p{i}, namespace: shop}}\n\
             spec: {{sources: [{{kind: ServiceAccount, name: app, namespace: shop}}], {spec}}}\n"
        )
    });
    let text = policies.collect::<Vec<_>>().join("---\n");
    let mut store = Store::default();
    store.apply(FileUpdate::read("a.yaml".into(), text.as_bytes()));
    let compiled = compile(&store, &CompileOptions::default(), None);
    assert_eq!(store.problems().count(), 0, "{text}");
    let about = |problem: &Problem| {
        assert!(problem.position.is_some());
        let policy = problem.object.as_ref().map(|object| object.name.clone()).unwrap_or_default();
        format!("{policy} {}: {}", problem.field.clone().unwrap_or_default(), problem.message)
    };
    lints(&store, &compiled).iter().map(about).collect()
}

#[test]
fn apexes() {
    const SAID: &str =
        "p0 spec.hosts[0]: `*.a.org` is for the names below `a.org`, and nothing allows that one itself";
    let port = "ports: [{number: 443, protocol: https}]";
    let wildcard = format!("hosts: ['*.a.org'], {port}");
    assert_eq!(said(&[&wildcard]), [SAID]);
    assert_eq!(said(&[&wildcard, "hosts: [a.org], ports: [{number: 80, protocol: http}]"]), [SAID]);
    assert_eq!(said(&[&wildcard, &format!("hosts: [a.org], {port}")]), [""; 0]);
    assert_eq!(said(&[&format!("hosts: ['*.a.org', A.org.], {port}")]), [""; 0]);
}

#[test]
fn names_that_anybody_can_get() {
    for (hosts, expected) in [
        ("'*.github.io'", Some("github.io")),
        ("'*.amazonaws.com'", Some("amazonaws.com")),
        ("'*.windows.net'", Some("blob.core.windows.net")),
        ("me.github.io", None),
        ("'*.me.github.io', me.github.io", None),
        ("'*.ub.io', ub.io", None),
    ] {
        let said = said(&[&format!("hosts: [{hosts}], ports: [{{number: 443, protocol: https}}]")]);
        let found = said.first().map(String::as_str);
        let expected = expected.map(|suffix| format!("anybody can get a name below `{suffix}`"));
        assert_eq!(found.is_some(), expected.is_some(), "{hosts}: {said:?}");
        assert!(
            expected.is_none_or(|text| found.is_some_and(|found| found.contains(&text))),
            "{hosts}: {said:?}"
        );
    }
}

#[test]
fn everything() {
    let all = said(&["ports: [{number: 443, protocol: https}, {number: 22, protocol: tcp}]"]);
    let expected = [
        "p0 spec.ports[0]: this allows any name over TLS on port 443",
        "p0 spec.ports[1]: this allows any address on port 22",
    ];
    assert_eq!(all, expected);
    assert_eq!(said(&["ipAddresses: [10.0.0.0/8], ports: [{number: 22, protocol: tcp}]"]), [""; 0]);
}

#[test]
fn superfluous_ports() {
    let tcp = |blocks: &str| format!("ipAddresses: [{blocks}], ports: [{{number: 22, protocol: tcp}}]");
    let https = |hosts: &str| format!("hosts: [{hosts}], ports: [{{number: 443, protocol: https}}]");
    for (specs, expected) in [
        ([tcp("10.0.0.0/8"), tcp("10.1.0.0/16, 10.2.0.0/16")], Some("p1")),
        ([tcp("10.1.0.0/16"), tcp("10.0.0.0/8")], Some("p0")),
        ([tcp("10.0.0.0/8"), tcp("10.0.0.0/8")], Some("p1")),
        ([tcp("10.0.0.0/8"), tcp("10.1.0.0/16, 11.0.0.0/8")], None),
        ([https("a.org, b.org"), https("b.org")], Some("p1")),
        ([https("a.org"), https("b.org")], None),
        ([https("a.org, '*.a.org'"), https("b.a.org")], None),
        ([https("a.org, '*.a.org'"), https("'*.b.a.org', b.a.org")], None),
        ([https("a.org, b.a.org, '*.a.org'"), https("'*.b.a.org', b.a.org")], Some("p1")),
        ([https("a.org"), "hosts: [a.org], ports: [{number: 443, protocol: http}]".to_owned()], None),
        (
            [
                https("a.org"),
                "hosts: [a.org], ipAddresses: [10.0.0.0/8], ports: [{number: 443, protocol: https}]"
                    .to_owned(),
            ],
            None,
        ),
    ] {
        let said = said(&specs.each_ref().map(String::as_str));
        let expected =
            expected.map(|policy| format!("{policy} spec.ports[0]: everything that this port allows"));
        assert_eq!(said.len(), usize::from(expected.is_some()), "{specs:?}: {said:?}");
        assert!(expected.is_none_or(|text| said[0].starts_with(&text)), "{specs:?}: {said:?}");
    }
}
