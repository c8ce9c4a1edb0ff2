//! Permissions: the namespaces whose objects may grant access to an identity.

use super::*;

/// An Egress `{namespace}/{name}` for these identities.
fn policy(namespace: &str, name: &str, sources: &[&str], spec: &str) -> String {
    let source = |identity: &&str| {
        let (namespace, name) = identity.split_once('/').expect("an identity");
        format!("{{kind: ServiceAccount, name: {name}, namespace: {namespace}}}")
    };
    let sources = sources.iter().map(source).collect::<Vec<_>>().join(", ");
    format!(
        "---\napiVersion: policy.openservicemesh.io/v1alpha1\nkind: Egress\n\
         metadata: {{name: {name}, namespace: {namespace}}}\nspec: {{sources: [{sources}], {spec}}}\n"
    )
}

fn namespace(name: &str, annotations: &str) -> String {
    format!(
        "---\napiVersion: v1\nkind: Namespace\nmetadata: {{name: {name}, annotations: {{{annotations}}}}}\n"
    )
}

fn with(text: &str, policy_namespaces: &str) -> Compiled {
    let policy_namespaces = policy_namespaces.parse().expect("a list of namespaces");
    compile(&store(text), &CompileOptions { policy_namespaces, ..CompileOptions::default() }, None)
}

const SSH: &str = "ports: [{number: 22, protocol: tcp}]";

#[test]
fn an_object_grants_within_its_namespace_unless_an_administrator_permits_more() {
    let listed = |list: &str| namespace("n", &format!("{POLICY_NAMESPACES_ANNOTATION}: '{list}'"));
    for (name, of, text, flag, counts) in [
        ("its own", "n", String::new(), "", true),
        ("another", "m", String::new(), "osm-system", false),
        ("the mesh's own", "osm-system", String::new(), "osm-system", true),
        ("the mesh's own, left out", "osm-system", String::new(), "other", false),
        ("the flag lists it", "m", String::new(), "x, m", true),
        ("the flag lists all", "m", String::new(), "*", true),
        ("the target lists it", "m", listed("x, m"), "", true),
        ("the target lists all", "m", listed("*"), "", true),
        ("the target lists another", "m", listed("x"), "", false),
        ("the target lists nobody", "m", listed(""), "", false),
        ("the target's list has a mistake", "m", listed("m, M"), "", false),
        (
            "the object's own namespace lists itself",
            "m",
            namespace("m", "openservicemesh.io/egress-policy-namespaces: m"),
            "",
            false,
        ),
        (
            "another namespace lists it",
            "m",
            namespace("o", "openservicemesh.io/egress-policy-namespaces: m"),
            "",
            false,
        ),
    ] {
        let compiled = with(&(text + &policy(of, "p", &["n/app"], SSH)), flag);
        let status = status(&compiled, &format!("Egress {of}/p"));
        assert_eq!(rules(&compiled).len(), usize::from(counts), "{name}");
        assert_eq!(status.accepted, counts, "{name}");
        assert_eq!(status.reason(), if counts { "Accepted" } else { "NotPermitted" }, "{name}");
        assert_eq!(status.rules, usize::from(counts), "{name}");
        assert_eq!(status.sources.len(), usize::from(counts), "{name}");
    }
}

#[test]
fn permitted_sources_are_granted_and_others_reported() {
    let text = policy("m", "p", &["m/app", "n/app", "o/app"], SSH);
    let compiled = with(&text, "osm-system");
    let rules_of = |name: &str| compiled.document(&identity(name)).rules.len();
    assert_eq!((rules_of("m/app"), rules_of("n/app"), rules_of("o/app")), (1, 0, 0));
    let status = status(&compiled, "Egress m/p");
    assert_eq!((status.reason(), status.rules), ("NotPermitted", 1));
    let fields: Vec<_> =
        status.diagnostics.iter().filter_map(|diagnostic| diagnostic.field.as_deref()).collect();
    assert_eq!(fields, ["spec.sources[1]", "spec.sources[2]"]);
    let first = status.diagnostics[0].to_string();
    for part in [
        "a.yaml:5:",
        "`n/app` is in another namespace, and objects in `m` may not grant access to it",
        "openservicemesh.io/egress-policy-namespaces: m",
        "--policy-namespaces",
    ] {
        assert!(first.contains(part), "{part}: {first}");
    }
    // Another error takes precedence as the reason.
    let bad = policy("m", "p", &["n/app"], "ports: [{number: 22, protocol: tcpp}]");
    assert_eq!(super::status(&with(&bad, ""), "Egress m/p").reason(), "Invalid");
}

#[test]
fn settings_of_one_namespace_never_affect_another() {
    let by =
        "matches: [{apiGroup: policy.openservicemesh.io/v1alpha1, kind: UpstreamTrafficSetting, name: s}]";
    let https = "hosts: [a.org], ports: [{number: 443, protocol: https}]";
    let limits = |namespace: &str, most: u32| {
        settings("s")
            .replace("namespace: n", &format!("namespace: {namespace}"))
            .replace("maxConnections: 1", &format!("maxConnections: {most}"))
    };
    // `a` comes before `n`, and would come first.
    let foreign = limits("a", 1) + &policy("a", "p", &["n/app", "a/app"], &format!("{https}, {by}"));
    let own = limits("n", 7) + &policy("n", "q", &["n/app"], &format!("{https}, {by}"));
    let compiled = with(&(foreign.clone() + &own), "a");
    let found: Vec<_> = compiled
        .clusters(&identity("n/app"))
        .iter()
        .map(|cluster| (cluster.name.as_str(), cluster.limits.max_connections))
        .collect();
    assert_eq!(found, [("a.org:443", Some(7)), ("a.org:443@a", Some(1))]);
    assert!(compiled.statuses.values().all(|status| status.accepted), "{}", diagnostics(&compiled));
    assert!(status(&compiled, "Egress n/q").diagnostics.is_empty(), "{}", diagnostics(&compiled));
    // The first rule leads what both allow: the own one.
    let document = compiled.document(&identity("n/app"));
    let policies: Vec<_> = document.rules.iter().map(|rule| rule.policy.as_str()).collect();
    assert_eq!(policies, ["n/q", "a/p"]);
    // At home the name is Open Service Mesh's.
    let home: Vec<_> = compiled.clusters(&identity("a/app")).iter().map(|c| c.name.clone()).collect();
    assert_eq!(home, ["a.org:443"]);
    // Without settings of its own it is not in the other's cluster either.
    let compiled = with(&(foreign + &policy("n", "q", &["n/app"], https)), "a");
    let document = compiled.document(&identity("n/app"));
    assert_eq!(document.rules[0].cluster, None);
    assert_eq!(document.rules[1].cluster.as_deref(), Some("a.org:443@a"));
}

#[test]
fn a_traffic_target_applies_in_the_namespace_of_its_destination() {
    let target = |namespace: &str| {
        format!(
            "---\napiVersion: access.smi-spec.io/v1alpha3\nkind: TrafficTarget\n\
             metadata: {{name: t, namespace: {namespace}}}\n\
             spec: {{destination: {{kind: ServiceAccount, name: cart, namespace: shop}}, \
             sources: [{{kind: ServiceAccount, name: app, namespace: n}}], rules: [{{kind: TCPRoute, name: x}}]}}\n"
        )
    };
    assert!(status(&compiled(&target("shop")), "TrafficTarget shop/t").accepted);
    let elsewhere = compiled(&target("n"));
    let status = status(&elsewhere, "TrafficTarget n/t");
    assert!(!status.accepted);
    assert_eq!(status.diagnostics[0].field.as_deref(), Some("spec.destination.namespace"));
}

#[test]
fn lists_of_namespaces_are_parsed() {
    for (text, expected) in [
        ("", Some("")),
        ("a", Some("a")),
        (" b , a,", Some("a,b")),
        ("a,*", Some("*")),
        ("A", None),
        ("a.b", None),
    ] {
        let found = text.parse::<PolicyNamespaces>().ok().map(|list| list.to_string());
        assert_eq!(found.as_deref(), expected, "{text}");
    }
}
