use crate::store::FileUpdate;
use crate::{CompileOptions, compile};

use super::*;

fn store(text: &str) -> Store {
    let mut store = Store::default();
    store.apply(FileUpdate::read("a.yaml".into(), text.as_bytes()));
    let diagnostics: Vec<String> = store.diagnostics().map(|diagnostic| diagnostic.to_string()).collect();
    assert!(diagnostics.is_empty(), "{diagnostics:#?}\n{text}");
    store
}

/// Each record in lines.
fn changes(before: &str, after: &str) -> Vec<String> {
    let (old, new) = (store(before), store(after));
    let options = CompileOptions::default();
    let (before, after) = (compile(&old, &options, None), compile(&new, &options, None));
    let old = PolicyState { store: &old, compiled: &before };
    let new = PolicyState { store: &new, compiled: &after };
    let mut lines = Vec::new();
    for GrantChange { object, file, changed, effects, more_effects } in compare_grants(old, new) {
        let changed: Vec<String> = changed.iter().map(ToString::to_string).collect();
        lines.push(format!("{object} in {file} by {}", changed.join(", ")));
        for Effect { opens, closes, identities } in effects {
            lines.push(format!("  opens [{opens}] closes [{closes}] for {identities}"));
        }
        assert_eq!(more_effects, 0);
    }
    lines
}

fn policy(sources: &[&str], spec: &str) -> String {
    let source = |name: &&str| format!("{{kind: ServiceAccount, name: {name}, namespace: n}}");
    let sources = sources.iter().map(source).collect::<Vec<_>>().join(", ");
    format!(
        "---\napiVersion: policy.openservicemesh.io/v1alpha1\nkind: Egress\n\
         metadata: {{name: p, namespace: n}}\nspec: {{sources: [{sources}], {spec}}}\n"
    )
}

fn mesh(on: bool) -> String {
    format!(
        "---\napiVersion: config.openservicemesh.io/v1alpha2\nkind: MeshConfig\n\
         metadata: {{name: osm-mesh-config, namespace: osm-system}}\nspec: {{traffic: {{enableEgress: {on}}}}}\n"
    )
}

fn namespace(annotations: &str) -> String {
    format!("---\napiVersion: v1\nkind: Namespace\nmetadata: {{name: n, annotations: {{{annotations}}}}}\n")
}

const TCP: &str = "ports: [{number: 22, protocol: tcp}]";

#[test]
fn a_changed_policy_reports_opened_and_closed_access() {
    let https = |hosts: &str| format!("hosts: [{hosts}], ports: [{{number: 443, protocol: https}}]");
    let at = |blocks: &str| format!("ipAddresses: [{blocks}], {TCP}");
    let by = "in a.yaml by Egress n/p";
    for (name, before, after, expected) in [
        ("nothing", policy(&["a"], TCP), policy(&["a"], TCP), vec![]),
        (
            "a new policy",
            String::new(),
            policy(&["a"], TCP),
            vec!["  opens [tcp 22 at any address] closes [] for n/a"],
        ),
        (
            "it goes",
            policy(&["b", "a"], TCP),
            String::new(),
            vec!["  opens [] closes [tcp 22 at any address] for n/a; n/b"],
        ),
        (
            "a host more, a host less",
            policy(&["a"], &https("a.org, b.org")),
            policy(&["a"], &https("b.org, '*.c.org'")),
            vec!["  opens [https 443 to *.c.org] closes [https 443 to a.org] for n/a"],
        ),
        (
            "a block more",
            policy(&["a"], &at("10.0.0.0/8")),
            policy(&["a"], &at("10.0.0.0/8, 192.0.2.0/24")),
            vec!["  opens [tcp 22 at 192.0.2.0/24] closes [] for n/a"],
        ),
        (
            "another order of ports",
            policy(&["a"], "ports: [{number: 22, protocol: tcp}, {number: 23, protocol: tcp}]"),
            policy(&["a"], "ports: [{number: 23, protocol: tcp}, {number: 22, protocol: tcp}]"),
            vec![],
        ),
        (
            "another source and another port",
            policy(&["a"], TCP),
            policy(&["a", "b"], "ports: [{number: 22, protocol: tcp}, {number: 23, protocol: tcp}]"),
            vec![
                "  opens [tcp 23 at any address] closes [] for n/a",
                "  opens [tcp 22 at any address; tcp 23 at any address] closes [] for n/b",
            ],
        ),
        (
            "a mistake",
            policy(&["a"], TCP),
            policy(&["a"], "ports: [{number: 22, protocol: tcpp}]"),
            vec!["  opens [] closes [tcp 22 at any address] for n/a"],
        ),
    ] {
        let found = changes(&before, &after);
        let mut wanted: Vec<String> = expected.into_iter().map(str::to_owned).collect();
        if !wanted.is_empty() {
            wanted.insert(0, format!("Egress n/p {by}"));
        }
        assert_eq!(found, wanted, "{name}");
    }
}

/// A policy opens more without a word of its own: by its route group, or by the Namespace of its source.
#[test]
fn a_change_of_a_referenced_object_is_attributed_to_the_policy() {
    let group = |path: &str| {
        format!(
            "---\napiVersion: specs.smi-spec.io/v1alpha4\nkind: HTTPRouteGroup\n\
             metadata: {{name: g, namespace: n}}\nspec: {{matches: [{{name: m, pathRegex: {path}}}]}}\n"
        )
    };
    let http = "hosts: [a.org], ports: [{number: 80, protocol: http}], \
                matches: [{apiGroup: specs.smi-spec.io/v1alpha4, kind: HTTPRouteGroup, name: g}]";
    let found = changes(&(policy(&["a"], http) + &group("/a")), &(policy(&["a"], http) + &group("/.*")));
    let line = "  opens [http 80 to a.org by routes g/m] closes [http 80 to a.org by routes g/m] for n/a";
    assert_eq!(found, ["Egress n/p in a.yaml by HTTPRouteGroup n/g", line]);
    let foreign = policy(&["a"], TCP).replace("{name: p, namespace: n}", "{name: p, namespace: m}");
    let found = changes(
        &(foreign.clone() + &namespace("")),
        &(foreign + &namespace("openservicemesh.io/egress-policy-namespaces: m")),
    );
    let line = "  opens [tcp 22 at any address] closes [] for n/a";
    assert_eq!(found, ["Egress m/p in a.yaml by Namespace n", line]);
}

#[test]
fn a_changed_mode_reports_opened_and_closed_access() {
    let account = "---\napiVersion: v1\nkind: ServiceAccount\n\
        metadata: {name: a, namespace: n, annotations: {openservicemesh.io/egress-mode: audit}}\n";
    let delegated = namespace("openservicemesh.io/egress-mode-delegation: service-accounts");
    let audit = namespace("openservicemesh.io/egress-mode: audit");
    for (name, before, after, expected) in [
        (
            "the switch",
            mesh(false) + &policy(&["a"], TCP),
            mesh(true) + &policy(&["a"], TCP),
            vec![
                "MeshConfig osm-system/osm-mesh-config in a.yaml by MeshConfig osm-system/osm-mesh-config",
                "  opens [mode `passthrough` instead of `enforce`] closes [] for every service account whose mode nothing else sets",
            ],
        ),
        (
            "a namespace is enforced again",
            audit,
            namespace(""),
            vec![
                "Namespace n in a.yaml by Namespace n",
                "  opens [] closes [mode `enforce` instead of `audit`] for the service accounts of namespace n",
            ],
        ),
        ("a mode that does not count", String::new(), account.to_owned(), vec![]),
        (
            "the namespace lets it",
            account.to_owned() + &namespace(""),
            account.to_owned() + &delegated,
            vec![
                "ServiceAccount n/a in a.yaml by Namespace n",
                "  opens [mode `audit` instead of `enforce`] closes [] for n/a",
            ],
        ),
    ] {
        assert_eq!(changes(&before, &after), expected, "{name}");
    }
}

#[test]
fn a_record_is_bounded() {
    let hosts: Vec<String> = (0..2000).map(|i| format!("h{i:04}.org")).collect();
    let accounts: Vec<String> = (0..50).map(|i| format!("a{i:02}")).collect();
    let accounts: Vec<&str> = accounts.iter().map(String::as_str).collect();
    let ports: Vec<String> = (1..100).map(|i| format!("{{number: {i}, protocol: https}}")).collect();
    let spec = format!("hosts: [{}], ports: [{}]", hosts.join(","), ports.join(","));
    let lines = changes("", &policy(&accounts, &spec));
    assert_eq!(lines.len(), 2);
    assert!(lines[1].contains("h0009.org and 1990 more; https 2 to ") && lines[1].contains("; and 89 more]"));
    assert!(lines[1].ends_with("n/a09; and 40 more"), "{}", lines[1]);
    assert!(lines[1].len() < 3000, "{}", lines[1].len());
}
