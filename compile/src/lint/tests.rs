use super::*;
use crate::store::FileUpdate;
use crate::{CompileOptions, compile};

/// Returns the lints about policies of `shop/app`, as `policy field: message`.
fn lint_specs(specs: &[&str]) -> Vec<String> {
    // What is messages of the mesh as a whole has tests of its own.
    lint_with("", specs).into_iter().filter(|text| !text.contains("DNS over TCP")).collect()
}

/// The same beside other manifests.
fn lint_with(others: &str, specs: &[&str]) -> Vec<String> {
    let policies = specs.iter().enumerate().map(|(i, spec)| {
        format!(
            "apiVersion: policy.openservicemesh.io/v1alpha1\nkind: Egress\nmetadata: {{name: p{i}, namespace: shop}}\n\
             spec: {{sources: [{{kind: ServiceAccount, name: app, namespace: shop}}], {spec}}}\n"
        )
    });
    let text = policies.chain([others.to_owned()]).collect::<Vec<_>>().join("---\n");
    let mut store = Store::default();
    store.apply(FileUpdate::read("a.yaml".into(), text.as_bytes()));
    let compiled = compile(&store, &CompileOptions::default(), None);
    assert_eq!(store.diagnostics().count(), 0, "{text}");
    let about = |diagnostic: &Diagnostic| {
        assert_eq!(diagnostic.position.is_some(), diagnostic.object.is_some());
        let policy = diagnostic.object.as_ref().map(|object| object.name.clone()).unwrap_or_default();
        format!("{policy} {}: {}", diagnostic.field.clone().unwrap_or_default(), diagnostic.message)
    };
    lint_policies(&store, &compiled).iter().map(about).collect()
}

#[test]
fn a_wildcard_without_its_apex_is_reported() {
    const MESSAGE: &str =
        "p0 spec.hosts[0]: `*.a.org` covers the names below `a.org`, but nothing allows `a.org` itself";
    let port = "ports: [{number: 443, protocol: https}]";
    let wildcard = format!("hosts: ['*.a.org'], {port}");
    assert_eq!(lint_specs(&[&wildcard]), [MESSAGE]);
    assert_eq!(lint_specs(&[&wildcard, "hosts: [a.org], ports: [{number: 80, protocol: http}]"]), [MESSAGE]);
    assert_eq!(lint_specs(&[&wildcard, &format!("hosts: [a.org], {port}")]), [""; 0]);
    assert_eq!(lint_specs(&[&format!("hosts: ['*.a.org', A.org.], {port}")]), [""; 0]);
}

#[test]
fn wildcards_over_shared_suffixes_are_reported() {
    for (hosts, expected) in [
        ("'*.github.io'", Some("github.io")),
        ("'*.amazonaws.com'", Some("amazonaws.com")),
        ("'*.windows.net'", Some("blob.core.windows.net")),
        ("me.github.io", None),
        ("'*.me.github.io', me.github.io", None),
        ("'*.ub.io', ub.io", None),
    ] {
        let messages = lint_specs(&[&format!("hosts: [{hosts}], ports: [{{number: 443, protocol: https}}]")]);
        let found = messages.first().map(String::as_str);
        let expected = expected.map(|suffix| format!("anyone can register a name below `{suffix}`"));
        assert_eq!(found.is_some(), expected.is_some(), "{hosts}: {messages:?}");
        assert!(
            expected.is_none_or(|text| found.is_some_and(|found| found.contains(&text))),
            "{hosts}: {messages:?}"
        );
    }
}

#[test]
fn ports_open_to_everything_are_reported() {
    let all = lint_specs(&["ports: [{number: 443, protocol: https}, {number: 22, protocol: tcp}]"]);
    let expected = [
        "p0 spec.ports[0]: this allows any name over TLS on port 443",
        "p0 spec.ports[1]: this allows any address on port 22",
    ];
    assert_eq!(all, expected);
    assert_eq!(lint_specs(&["ipAddresses: [10.0.0.0/8], ports: [{number: 22, protocol: tcp}]"]), [""; 0]);
}

#[test]
fn redundant_ports_are_reported() {
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
        let messages = lint_specs(&specs.each_ref().map(String::as_str));
        let expected = expected.map(|policy| {
            (format!("{policy} spec.ports[0]: "), "already allows everything that this port allows")
        });
        assert_eq!(messages.len(), usize::from(expected.is_some()), "{specs:?}: {messages:?}");
        let found =
            |(start, end): (String, &str)| messages[0].starts_with(&start) && messages[0].ends_with(end);
        assert!(expected.is_none_or(found), "{specs:?}: {messages:?}");
    }
}

#[test]
fn refused_dns_over_tcp_is_reported() {
    const MESH: &str = "apiVersion: config.openservicemesh.io/v1alpha2\nkind: MeshConfig\n\
        metadata: {name: osm-mesh-config, namespace: osm-system}\nspec: {traffic: TRAFFIC}\n";
    const NAMES: &str = "hosts: [a.org], ports: [{number: 443, protocol: https}]";
    let mesh = |traffic: &str| MESH.replace("TRAFFIC", traffic);
    let mode = |mode: &str| {
        format!(
            "apiVersion: v1\nkind: Namespace\nmetadata: {{name: shop, annotations: {{openservicemesh.io/egress-mode: {mode}}}}}\n"
        )
    };
    let rule = |port: u16, protocol: &str| {
        format!("ports: [{{number: {port}, protocol: {protocol}}}], ipAddresses: [10.96.0.10/32]")
    };
    let service = "apiVersion: v1\nkind: Namespace\nmetadata: {name: dns, labels: {openservicemesh.io/monitored-by: osm}}\n---\n\
        apiVersion: v1\nkind: Service\nmetadata: {name: dns, namespace: dns}\n\
        spec: {clusterIP: 10.96.0.10, selector: {app: dns}, ports: [{port: 53}]}\n";
    let permissive = mesh("{enablePermissiveTrafficPolicyMode: true}");
    for (name, others, specs, is_reported) in [
        ("nothing else", String::new(), vec![NAMES.to_owned()], true),
        ("a MeshConfig", mesh("{}"), vec![NAMES.to_owned()], true),
        ("another port", mesh("{outboundPortExclusionList: [5353]}"), vec![NAMES.to_owned()], true),
        (
            "the port is left out",
            mesh("{outboundPortExclusionList: [22, 53]}"),
            vec![NAMES.to_owned()],
            false,
        ),
        (
            "blocks are left out",
            mesh("{outboundIPRangeExclusionList: [10.0.0.0/8]}"),
            vec![NAMES.to_owned()],
            false,
        ),
        (
            "some blocks only",
            mesh("{outboundIPRangeInclusionList: [10.0.0.0/8]}"),
            vec![NAMES.to_owned()],
            false,
        ),
        ("an interface", mesh("{networkInterfaceExclusionList: [eth1]}"), vec![NAMES.to_owned()], false),
        ("lists without anything", mesh("{outboundIPRangeExclusionList: []}"), vec![NAMES.to_owned()], true),
        ("global egress", mesh("{enableEgress: true}"), vec![NAMES.to_owned()], false),
        ("audit", mode("audit"), vec![NAMES.to_owned()], false),
        ("passthrough", mode("passthrough"), vec![NAMES.to_owned()], false),
        ("a rule", String::new(), vec![NAMES.to_owned(), rule(53, "tcp")], false),
        ("a rule that wants TLS", String::new(), vec![NAMES.to_owned(), rule(53, "https")], true),
        ("a rule for another port", String::new(), vec![NAMES.to_owned(), rule(5353, "tcp")], true),
        ("no names", String::new(), vec![rule(5432, "tcp")], false),
        ("a service of the mesh", format!("{permissive}---\n{service}"), vec![NAMES.to_owned()], false),
        ("a service that is refused", format!("{}---\n{service}", mesh("{}")), vec![NAMES.to_owned()], true),
        ("no policy", String::new(), vec![], false),
    ] {
        let specs: Vec<_> = specs.iter().map(String::as_str).collect();
        let messages = lint_with(&others, &specs);
        let found = messages.iter().filter(|text| text.contains("DNS over TCP")).count();
        assert_eq!(found, usize::from(is_reported), "{name}: {messages:?}");
    }
    let messages = lint_with(&mesh("{}"), &[NAMES]);
    assert_eq!(
        messages.first().map(String::as_str),
        Some(
            "osm-mesh-config spec.traffic: no rule allows DNS over TCP (port 53) for `shop/app`: queries over UDP bypass \
             the sidecar, but a response that is too long for UDP is retried over TCP and \
             refused"
        )
    );
}

/// The lint is reported once, whatever the number of identities.
#[test]
fn refused_dns_over_tcp_is_reported_once_for_many() {
    let sources: Vec<_> =
        (0..9).map(|i| format!("{{kind: ServiceAccount, name: a{i}, namespace: shop}}")).collect();
    let egress = format!(
        "apiVersion: policy.openservicemesh.io/v1alpha1\nkind: Egress\nmetadata: {{name: all, namespace: shop}}\n\
         spec: {{sources: [{}], hosts: [a.org], ports: [{{number: 443, protocol: https}}]}}\n",
        sources.join(", ")
    );
    let messages = lint_with(&egress, &[]);
    assert_eq!(messages.len(), 1, "{messages:?}");
    assert!(messages[0].contains("for `shop/a0`, `shop/a1`, `shop/a2` and 6 more:"), "{messages:?}");
}

#[test]
fn hosts_that_need_search_domains_are_reported() {
    const OTHERS: &str = "apiVersion: v1\nkind: Namespace\nmetadata: {name: dev}\n---\n\
        apiVersion: v1\nkind: Service\nmetadata: {name: cart, namespace: store}\n\
        spec: {clusterIP: 10.96.0.10, selector: {app: cart}, ports: [{port: 80}]}\n";
    for (host, expected) in [
        ("db", Some("p0 spec.hosts[0]: `db` is resolved as written and is not a fully qualified name")),
        (
            "cart.store",
            Some("p0 spec.hosts[0]: `cart.store` is resolved as written and is not a fully qualified name"),
        ),
        (
            "cart.store.svc",
            Some(
                "p0 spec.hosts[0]: `cart.store.svc` is resolved as written and is not a fully qualified name",
            ),
        ),
        (
            "'*.store.svc'",
            Some("p0 spec.hosts[0]: `*.store.svc` is resolved as written and is not a fully qualified name"),
        ),
        (
            "web.dev",
            Some(
                "p0 spec.hosts[0]: `web.dev` is resolved as written: search domains, which would complete it to \
                 `web.dev.svc.cluster.local`, do not apply",
            ),
        ),
        ("pod-0.db.shop", Some("p0 spec.hosts[0]: `pod-0.db.shop` is resolved as written: search domains")),
        ("localhost", None),
        ("httpbin.org", None),
        ("cart.store.svc.cluster.local", None),
        ("svc.example", None),
    ] {
        let messages =
            lint_with(OTHERS, &[&format!("hosts: [{host}], ports: [{{number: 80, protocol: http}}]")]);
        let found: Vec<_> = messages.iter().filter(|text| text.contains("resolved as written")).collect();
        assert_eq!(found.len(), usize::from(expected.is_some()), "{host}: {messages:?}");
        assert!(expected.is_none_or(|text| found[0].starts_with(text)), "{host}: {messages:?}");
    }
}

#[test]
fn hosts_are_completed_with_the_search_domain() {
    let namespaces = ["shop", "dev"].into();
    let complete =
        |host, own| search_domains::complete_host(host, own, &namespaces).map(|found| found.complete);
    for (host, own, expected) in [
        ("db", Some("shop"), Some("db.shop.svc.cluster.local")),
        ("db", None, Some("db.NAMESPACE.svc.cluster.local")),
        ("Db.Shop.", None, Some("db.shop.svc.cluster.local")),
        ("db.shop.svc", None, Some("db.shop.svc.cluster.local")),
        ("*.shop", None, Some("*.shop.svc.cluster.local")),
        ("*.shop.svc", None, Some("*.shop.svc.cluster.local")),
        ("*.org", None, None),
        ("not a host", None, None),
    ] {
        assert_eq!(complete(host, own).as_deref(), expected, "{host}");
    }
}
