//! Properties of any set of objects.

use std::collections::BTreeSet;

use proptest::prelude::*;
use proptest::sample::{select, subsequence};

use super::*;

#[derive(Clone, Debug)]
struct Case {
    hosts: Vec<&'static str>,
    addresses: Vec<&'static str>,
    ports: Vec<(i64, &'static str)>,
    sources: Vec<&'static str>,
    groups: Vec<&'static str>,
}

const HOSTS: &[&str] = &["foo.com", "FOO.com", "*.foo.com", "bar.com.", "bücher.example"];
const BAD_HOSTS: &[&str] = &["*", "10.0.0.1", "a*.b", "x:80"];
const ADDRESSES: &[&str] = &["10.0.0.0/8", "10.1.1.1/8", "1.1.1.1/32", "2001:db8::/32"];
const PROTOCOLS: &[&str] = &["http", "HTTPS", "tcp", "tcp-server-first"];

fn case() -> impl Strategy<Value = Case> {
    (
        subsequence(HOSTS, 0..=HOSTS.len()).prop_shuffle(),
        subsequence(ADDRESSES, 0..=ADDRESSES.len()).prop_shuffle(),
        prop::collection::vec((1..4_i64, select(PROTOCOLS)), 0..4),
        subsequence(vec!["app", "other", "third"], 0..=3).prop_shuffle(),
        subsequence(vec!["g", "h"], 0..=2).prop_shuffle(),
    )
        .prop_map(|(hosts, addresses, ports, sources, groups)| Case {
            hosts,
            addresses,
            ports,
            sources,
            groups,
        })
}

fn manifest(name: &str, case: &Case) -> String {
    let list = |items: &[&str]| items.iter().map(|item| format!("'{item}'")).collect::<Vec<_>>().join(", ");
    let ports: Vec<String> = case
        .ports
        .iter()
        .map(|(number, protocol)| format!("{{number: {number}, protocol: {protocol}}}"))
        .collect();
    let sources: Vec<String> =
        case.sources.iter().map(|sa| format!("{{kind: ServiceAccount, name: {sa}, namespace: n}}")).collect();
    let groups: Vec<String> = case.groups.iter().map(|group| by_group(group)).collect();
    // An empty list grants nothing; an absent one stands for anything.
    let given = |field: &str, items: &str| {
        if items.is_empty() { String::new() } else { format!(", {field}: [{items}]") }
    };
    format!(
        "---\napiVersion: policy.openservicemesh.io/v1alpha1\nkind: Egress\nmetadata: {{name: {name}, namespace: n}}\n\
         spec: {{sources: [{}], ports: [{}]{}{}{}}}\n",
        sources.join(", "),
        ports.join(", "),
        given("hosts", &list(&case.hosts)),
        given("ipAddresses", &list(&case.addresses)),
        given("matches", &groups.join(", ")),
    )
}

fn groups() -> String {
    group("g", "{name: a, pathRegex: /a}, {name: b, methods: [GET]}")
        + &group("h", "{name: a, pathRegex: /h}")
}

/// Every document, without what names the place of a rule in its list of ports.
fn permissions(compiled: &Compiled) -> BTreeMap<String, BTreeSet<String>> {
    ["n/app", "n/other", "n/third"]
        .into_iter()
        .map(|name| {
            (
                name.to_owned(),
                compiled.document(&identity(name)).rules.iter().map(|rule| line(rule)).collect(),
            )
        })
        .collect()
}

proptest! {
    #[test]
    fn the_order_of_files_and_documents_changes_nothing(
        cases in prop::collection::vec(case(), 1..6),
        order in any::<prop::sample::Index>(),
    ) {
        let texts: Vec<String> = cases.iter().enumerate().map(|(i, case)| manifest(&format!("p{i}"), case)).collect();
        let straight = compiled(&(texts.concat() + &groups()));
        // As one file, in another order.
        let mut turned = texts.clone();
        turned.rotate_left(order.index(texts.len()));
        let turned = compiled(&(groups() + &turned.concat()));
        prop_assert_eq!(&straight.documents, &turned.documents);
        // As several files, the last one read first.
        let mut store = Store::default();
        let parts: Vec<String> = texts.iter().cloned().chain([groups()]).collect();
        for (i, text) in parts.iter().enumerate().rev() {
            store.apply(FileUpdate::read(format!("{}.yaml", 9 - i).into(), text.as_bytes()));
        }
        let files = compile(&store, &CompileOptions::default(), None);
        prop_assert_eq!(&straight.documents, &files.documents);
    }

    #[test]
    fn the_order_of_lists_changes_nothing(case in case()) {
        let mut turned = case.clone();
        turned.hosts.reverse();
        turned.addresses.reverse();
        turned.sources.reverse();
        turned.groups.reverse();
        let straight = compiled(&(manifest("p", &case) + &groups()));
        prop_assert_eq!(&straight.documents, &compiled(&(manifest("p", &turned) + &groups())).documents);
        turned.ports.reverse();
        prop_assert_eq!(permissions(&straight), permissions(&compiled(&(manifest("p", &turned) + &groups()))));
    }

    #[test]
    fn adding_something_invalid_never_grants_more(
        case in case(),
        what in 0..6_usize,
        at in any::<prop::sample::Index>(),
        bad_host in select(BAD_HOSTS),
    ) {
        let mut worse = case.clone();
        let wrong = groups() + &group("bad", "{name: a, pathRegex: '('}");
        match what {
            // A first block turns `any` into a list, so this too may only take away.
            0 => worse.addresses.insert(at.index(case.addresses.len() + 1), "999.1.1.1/32"),
            1 => worse.hosts.insert(at.index(case.hosts.len() + 1), bad_host),
            2 => worse.ports.insert(at.index(case.ports.len() + 1), (80, "htttp")),
            3 => worse.ports.insert(at.index(case.ports.len() + 1), (70_000, "tcp")),
            4 => worse.groups.insert(at.index(case.groups.len() + 1), "missing"),
            _ => worse.groups.insert(at.index(case.groups.len() + 1), "bad"),
        }
        let before = permissions(&compiled(&(manifest("p", &case) + &wrong)));
        let after = permissions(&compiled(&(manifest("p", &worse) + &wrong)));
        for (identity, rules) in &after {
            prop_assert!(rules.is_subset(&before[identity]), "{}: {:?} not in {:?}", identity, rules, before[identity]);
        }
    }

    #[test]
    fn an_invalid_policy_beside_others_adds_no_rules(case in case(), other in case()) {
        let mut bad = other;
        bad.addresses.push("10.0.0.0/33");
        let alone = compiled(&(manifest("p", &case) + &groups()));
        let both = compiled(&(manifest("p", &case) + &manifest("q", &bad) + &groups()));
        for name in ["n/app", "n/other", "n/third"] {
            prop_assert_eq!(alone.document(&identity(name)), both.document(&identity(name)));
        }
    }

    #[test]
    fn every_document_is_what_the_engine_reads(case in case()) {
        for document in compiled(&(manifest("p", &case) + &groups())).documents.values() {
            let wire = serde_json::to_string(&**document).expect("JSON");
            prop_assert_eq!(&serde_json::from_str::<Document>(&wire).expect("a document"), &**document);
            prop_assert!(document.rules.is_sorted());
        }
    }
}
