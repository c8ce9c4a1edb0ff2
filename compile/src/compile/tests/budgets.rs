//! Objects over a budget grant nothing, are reported, and cost little.

use std::fmt::Write;
use std::time::{Duration, Instant};

use super::*;
use crate::budget::{self, MAX_DIAGNOSTICS, MAX_DOCUMENT_BYTES, MAX_ENTRIES};
use crate::manifest::{Cause, ParsedFile, parse_value};
use crate::store::FileUpdate;

/// `count` items of a list in YAML.
fn list(count: usize, item: impl Fn(usize) -> String) -> String {
    (0..count).map(item).collect::<Vec<_>>().join(", ")
}

fn hosts(count: usize) -> String {
    format!("hosts: [{}]", list(count, |n| format!("h{n}.org")))
}

fn ports(count: usize, protocol: &str) -> String {
    format!("ports: [{}]", list(count, |n| format!("{{number: {}, protocol: {protocol}}}", n + 1)))
}

/// The diagnostic of an object that is too large, as `field: message`.
fn excess(compiled: &Compiled, name: &str) -> String {
    let status = status(compiled, name);
    assert!(!status.accepted, "{name}");
    let mut sizes =
        status.diagnostics.iter().filter(|p| matches!(p.cause, Cause::Size | Cause::SharedBudget));
    let diagnostic = sizes.next().unwrap_or_else(|| panic!("{name}: {:?}", status.diagnostics));
    assert!(diagnostic.advice.is_some());
    diagnostic.format_brief()
}

#[test]
fn too_many_entries_are_refused_quickly() {
    let text = egress("p", &format!("{}, {}", hosts(3000), ports(3000, "https")));
    let store = store(&text);
    let start = Instant::now();
    let compiled = compile(&store, &CompileOptions::default(), None);
    assert_eq!(
        excess(&compiled, "Egress n/p"),
        "spec: 9000000 names and address blocks (counted per port) exceed the limit of 250000"
    );
    assert!(rules(&compiled).is_empty());
    let report = crate::check::Report::of(&store, &compiled);
    assert_eq!(report.exit_code(false), 1);
    assert!(start.elapsed() < Duration::from_secs(2), "{:?}", start.elapsed());
}

/// Rules of many ports and identities share the lists of their object.
#[test]
fn lists_are_shared() {
    let sources = list(900, |n| format!("{{kind: ServiceAccount, name: a{n}, namespace: n}}"));
    let blocks = "ipAddresses: [10.0.0.0/8]";
    let text = egress("p", &format!("{}, {blocks}, {}", hosts(100), ports(300, "https")))
        .replace("{kind: ServiceAccount, name: app, namespace: n}", &sources);
    let compiled = compiled(&text);
    assert!(status(&compiled, "Egress n/p").accepted, "{}", diagnostics(&compiled));
    let first = compiled.document(&identity("n/a0"));
    for document in compiled.documents.values() {
        assert_eq!(document.rules.len(), 300);
        for (rule, same) in document.rules.iter().zip(&first.rules) {
            assert!(Arc::ptr_eq(rule, same));
            let (hosts, first) = (rule.hosts.as_ref().expect("hosts"), first.rules[0].hosts.as_ref());
            assert!(Arc::ptr_eq(hosts, first.expect("hosts")));
        }
    }
}

#[test]
fn lists_of_an_object_are_bounded() {
    let one = "ports: [{number: 443, protocol: https}]";
    let block = |n: usize| format!("10.{}.{}.0/24", n / 250, n % 250);
    let settings_of = format!("matches: [{}]", by_settings("s"));
    for (spec, expected) in [
        (format!("{}, {one}", hosts(100_001)), "spec.hosts: 100001 hosts exceed the limit of 100000"),
        (
            format!("ipAddresses: [{}], {one}", list(10_001, block)),
            "spec.ipAddresses: 10001 ipAddresses exceed the limit of 10000",
        ),
        (ports(4097, "tcp"), "spec.ports: 4097 ports exceed the limit of 4096"),
        (
            format!("matches: [{}], {one}", list(101, |_| by_group("g"))),
            "spec.matches: 101 matches exceed the limit of 100",
        ),
        (
            format!("{}, {one}, {settings_of}", hosts(1001)),
            "spec: 1001 clusters (one per host and port with connection settings) exceed the limit of 1000",
        ),
        // Each name has blocks of its own in the filter's tables.
        (
            format!("{}, ipAddresses: [{}], {one}", hosts(200), list(1000, block)),
            "spec: 400200 names and address blocks (counted per port) exceed the limit of 250000",
        ),
    ] {
        let compiled = compiled(&(egress("p", &spec) + &settings("s")));
        assert_eq!(excess(&compiled, "Egress n/p"), expected);
        assert!(rules(&compiled).is_empty(), "{expected}");
    }
    let sources = list(1001, |n| format!("{{kind: ServiceAccount, name: a{n}, namespace: n}}"));
    let text = egress("p", one).replace("{kind: ServiceAccount, name: app, namespace: n}", &sources);
    let compiled = compiled(&text);
    assert_eq!(excess(&compiled, "Egress n/p"), "spec.sources: 1001 sources exceed the limit of 1000");
    assert!(compiled.documents.is_empty());
}

#[test]
fn lists_and_patterns_of_a_route_group_are_bounded() {
    let web = "hosts: [a.org], ports: [{number: 80, protocol: http}]";
    let large = |n: usize| format!("{{name: m{n}, pathRegex: '/{n}[a-z]{{1000}}'}}");
    for (matches, expected) in [
        (list(1001, |n| format!("{{name: m{n}}}")), "spec.matches: 1001 matches exceed the limit of 1000"),
        (
            format!("{{name: m, pathRegex: '{}'}}", "a?".repeat(2050)),
            "spec.matches[0].pathRegex: 4100 bytes in one pattern exceed the limit of 4096",
        ),
        (
            format!("{{name: m, headers: [{}]}}", list(65, |n| format!("x-{n}: a"))),
            "spec.matches[0].headers: 65 headers exceed the limit of 64",
        ),
        (
            list(60, |n| format!("{{name: m{n}, headers: [{}]}}", list(60, |n| format!("x-{n}: a")))),
            "spec.matches: 3600 patterns exceed the limit of 3276",
        ),
        (list(90, large), "spec.matches: 33890304 bytes of compiled patterns exceed the limit of 33554432"),
    ] {
        let text = egress("p", &format!("{web}, matches: [{}]", by_group("g"))) + &group("g", &matches);
        let compiled = compiled(&text);
        assert_eq!(excess(&compiled, "HTTPRouteGroup n/g"), expected);
        assert!(rules(&compiled).is_empty(), "{expected}");
    }
    // Each port has patterns of its own in the filter.
    let text = egress("p", &format!("hosts: [a.org], {}, matches: [{}]", ports(10, "http"), by_group("g")))
        + &group("g", &list(20, large));
    let compiled = compiled(&text);
    assert!(status(&compiled, "HTTPRouteGroup n/g").accepted);
    assert_eq!(
        excess(&compiled, "Egress n/p"),
        "spec: 80691200 bytes of compiled patterns (counted per port) exceed the limit of 33554432"
    );
    assert!(rules(&compiled).is_empty());
}

/// A hundred thousand hosts fit: in one object, and in ten thousand.
#[test]
fn a_hundred_thousand_hosts_fit() {
    let https = "ports: [{number: 443, protocol: https}]";
    let one = compiled(&egress("p", &format!("{}, {https}", hosts(100_000))));
    assert!(status(&one, "Egress n/p").accepted, "{:?}", status(&one, "Egress n/p").diagnostics);
    assert_eq!(
        one.document(&identity("n/app")).rules[0].hosts.as_ref().map(|hosts| hosts.len()),
        Some(100_000)
    );
    let mut store = Store::default();
    for n in 0..10_000 {
        store.apply(made(&format!("egress-{n}"), None, 10));
    }
    let compiled = compile(&store, &CompileOptions::default(), None);
    assert_eq!(compiled.document(&identity("n/app")).rules.len(), 10_000);
    assert!(compiled.statuses.values().all(|status| status.accepted));
}

/// An object that a server made, at a time.
fn made(name: &str, time: Option<&str>, hosts: usize) -> FileUpdate {
    let hosts: Vec<String> = (0..hosts).map(|n| format!("{name}{n}.org")).collect();
    let object = serde_json::json!({
        "apiVersion": "policy.openservicemesh.io/v1alpha1", "kind": "Egress",
        "metadata": {"name": name, "namespace": "n", "creationTimestamp": time},
        "spec": {
            "sources": [{"kind": "ServiceAccount", "name": "app", "namespace": "n"}],
            "hosts": hosts, "ports": [{"number": 443, "protocol": "https"}],
        },
    });
    let file: Arc<str> = name.into();
    let parsed: ParsedFile = parse_value(&file, object).expect("readable");
    FileUpdate { file, change: crate::store::Change::Read(parsed) }
}

/// The oldest objects count, and of one age those whose name comes first, whatever order they come in.
#[test]
fn the_newest_objects_exceed_a_shared_budget() {
    let (old, new) = (Some("2024-01-01T00:00:00Z"), Some("2024-02-01T00:00:00Z"));
    for (objects, crowded) in [
        ([("a", new), ("b", old), ("c", old)], "a"),
        ([("a", old), ("b", new), ("c", old)], "b"),
        ([("a", old), ("b", old), ("c", old)], "c"),
        // Objects of files have no time of creation.
        ([("a", None), ("b", None), ("c", None)], "c"),
    ] {
        let each = MAX_ENTRIES / 2 - 50_000;
        for turned in [false, true] {
            let mut store = Store::default();
            let mut updates: Vec<_> =
                objects.iter().map(|(name, time)| made(name, *time, each + 10_000)).collect();
            // A small one has room beside them.
            updates.push(made("z", new, 10));
            if turned {
                updates.reverse();
            }
            for update in updates {
                store.apply(update);
            }
            let compiled = compile(&store, &CompileOptions::default(), None);
            for (name, _) in &objects {
                let status = status(&compiled, &format!("Egress n/{name}"));
                assert_eq!(status.accepted, *name != crowded, "{objects:?} {name}");
                assert_eq!(status.sources.is_empty(), *name == crowded);
                assert_eq!(status.rules, usize::from(*name != crowded));
            }
            let output = excess(&compiled, &format!("Egress n/{crowded}"));
            let expected = "names and address blocks (counted per port) exceed the limit of 250000, \
                            so this object grants nothing to n/app";
            assert!(output.starts_with("spec: together with older objects, 2550"), "{output}");
            assert!(output.ends_with(expected), "{output}");
            assert!(status(&compiled, "Egress n/z").accepted);
            assert_eq!(compiled.document(&identity("n/app")).rules.len(), 3);
        }
    }
}

/// An object that is over the budget of one identity still grants to others.
#[test]
fn a_shared_budget_is_per_identity() {
    let both =
        "{kind: ServiceAccount, name: app, namespace: n}, {kind: ServiceAccount, name: other, namespace: n}";
    let https = "ports: [{number: 443, protocol: https}, {number: 444, protocol: https}]";
    let full = egress("a", &format!("{}, {https}", hosts(100_000)));
    let shared = egress("b", &format!("{}, {https}", hosts(50_000)))
        .replace("{kind: ServiceAccount, name: app, namespace: n}", both);
    let compiled = compiled(&(full + &shared));
    assert!(excess(&compiled, "Egress n/b").ends_with("so this object grants nothing to n/app"));
    let names = |who: &str| -> Vec<String> {
        compiled.document(&identity(who)).rules.iter().map(|rule| rule.policy.clone()).collect()
    };
    assert_eq!(names("n/app"), ["n/a", "n/a"]);
    assert_eq!(names("n/other"), ["n/b", "n/b"]);
    let sources = &status(&compiled, "Egress n/b").sources;
    assert!(sources.contains(&identity("n/other")) && sources.len() == 1);
}

/// An Egress object of so many sources, and ports that each makes a rule of.
fn wide(name: &str, sources: usize, spec: &str) -> String {
    let sources = list(sources, |n| format!("{{kind: ServiceAccount, name: a{n}, namespace: n}}"));
    egress(name, spec).replace("{kind: ServiceAccount, name: app, namespace: n}", &sources)
}

/// Sources times rules are bounded: service accounts need not exist.
#[test]
fn references_of_an_object_are_bounded() {
    let settled = |count| {
        format!(
            "{}, ports: [{{number: 443, protocol: https}}], matches: [{}]",
            hosts(count),
            by_settings("s")
        )
    };
    for (sources, spec, amount) in [
        (1000, ports(300, "tcp"), None),
        (73, ports(4096, "tcp"), None),
        (1000, settled(60), None),
        (1000, ports(301, "tcp"), Some(301_000)),
        (74, ports(4096, "tcp"), Some(303_104)),
        // A cluster counts as four.
        (1000, settled(61), Some(305_000)),
    ] {
        let compiled = compiled(&(wide("p", sources, &spec) + &settings("s")));
        let Some(amount) = amount else {
            assert!(status(&compiled, "Egress n/p").accepted, "{sources}: {}", diagnostics(&compiled));
            continue;
        };
        let noun = "rules (counted per source; a cluster counts as four)";
        let expected = format!("spec: {amount} {noun} exceed the limit of 300000");
        assert_eq!(excess(&compiled, "Egress n/p"), expected);
        assert_eq!(status(&compiled, "Egress n/p").reason(), "TooLarge");
        assert!(rules(&compiled).is_empty(), "{expected}");
    }
}

/// All objects of a namespace have a budget of references, in which the oldest come first. Those of other namespaces have
/// theirs.
#[test]
fn references_of_a_namespace_are_bounded() {
    let full = ports(300, "tcp");
    let objects = ["a", "b", "c", "d"].map(|name| wide(name, 1000, &full)).concat();
    let other = wide("a", 1000, &full).replace("namespace: n", "namespace: other");
    let compiled = compiled(&(objects + &wide("e", 1000, &ports(100, "tcp")) + &other));
    let output = excess(&compiled, "Egress n/d");
    assert_eq!(
        output,
        "spec: together with older objects of the namespace, 1200000 rules (counted per source; a cluster counts \
         as four) exceed the limit of 1000000, so this object grants nothing"
    );
    let crowded = status(&compiled, "Egress n/d");
    assert_eq!((crowded.reason(), crowded.rules, crowded.sources.len()), ("TooLarge", 0, 0));
    for name in ["n/a", "n/b", "n/c", "n/e", "other/a"] {
        assert!(status(&compiled, &format!("Egress {name}")).accepted, "{name}");
    }
    // What is crowded out takes nothing from its identities either.
    assert_eq!(compiled.document(&identity("n/a0")).rules.len(), 1000);
    assert_eq!(compiled.document(&identity("other/a0")).rules.len(), 300);
}

/// The bytes that are counted are at least those that there are.
#[test]
fn documents_are_within_their_budget() {
    let long = |n: usize| format!("{}.{}.{}.h{n}.org", "a".repeat(60), "b".repeat(60), "c".repeat(60));
    let spec = |count: usize| format!("hosts: [{}], {}", list(count, long), ports(2, "https"));
    let fits = compiled(&egress("p", &spec(19_000)));
    assert!(status(&fits, "Egress n/p").accepted);
    let length = |compiled: &Compiled| {
        serde_json::to_string(&*compiled.document(&identity("n/app"))).expect("JSON").len()
    };
    assert!(
        (MAX_DOCUMENT_BYTES - 1_000_000..MAX_DOCUMENT_BYTES + 256).contains(&length(&fits)),
        "{}",
        length(&fits)
    );
    let over = compiled(&egress("p", &spec(22_000)));
    let output = excess(&over, "Egress n/p");
    assert!(output.contains("bytes of policy document exceed the limit of 8388608"), "{output}");
}

/// Of an object with an error in every line, only some errors are kept.
#[test]
fn diagnostics_are_bounded() {
    let mut text = String::from("hosts: [");
    for n in 0..20_000 {
        write!(text, "'!{n}', ").expect("a string");
    }
    text.push_str("], ports: [{number: 443, protocol: https}]");
    let compiled = compiled(&egress("p", &text));
    let status = status(&compiled, "Egress n/p");
    assert!(!status.accepted);
    assert_eq!(status.diagnostics.len(), MAX_DIAGNOSTICS + 1);
    let more = status.diagnostics.iter().find(|p| p.message.contains("more")).expect("a count");
    assert_eq!(more.message, "19900 more diagnostics of severity `error` are not listed");
    assert_eq!(budget::MAX_DIAGNOSTICS, 100);
}

/// The memory of all objects is bounded. One namespace cannot have all of it, and many with large needs leave room for those
/// with small ones.
#[test]
fn memory_of_all_objects_is_bounded() {
    let long = |n: usize| format!("{}.{}.{}.h{n}.org", "a".repeat(60), "b".repeat(60), "c".repeat(60));
    let spec = format!("hosts: [{}], ports: [{{number: 443, protocol: https}}]", list(6_500, long));
    let object = |namespace: &str, n: usize| {
        egress(&format!("p{n:02}"), &spec)
            .replace("name: app", &format!("name: a{n}"))
            .replace("namespace: n", &format!("namespace: {namespace}"))
    };
    let accepted = |objects: &[String]| -> Vec<String> {
        // A file has at most 32 MiB.
        let mut store = Store::default();
        for (number, text) in objects.iter().enumerate() {
            store.apply(FileUpdate::read(format!("{number:03}.yaml").into(), text.as_bytes()));
        }
        let compiled = compile(&store, &CompileOptions::default(), None);
        let accepted = compiled.statuses.values().filter(|status| status.accepted);
        for refused in compiled.statuses.values().filter(|status| !status.accepted) {
            assert_eq!((refused.reason(), refused.rules), ("TooLarge", 0));
            assert!(refused.diagnostics[0].message.contains("bytes of control plane memory"));
        }
        accepted.map(|status| status.object.to_string()).collect()
    };
    // One namespace has its share, and the oldest objects come first.
    let all: Vec<String> = (0..20).map(|n| object("n", n)).collect();
    let fitting = accepted(&all);
    assert!((10..16).contains(&fitting.len()), "{}", fitting.len());
    assert_eq!(fitting, (0..fitting.len()).map(|n| format!("Egress n/p{n:02}")).collect::<Vec<_>>());
    // Five have a fifth of all each, and a small one all it needs.
    let small = egress("small", "hosts: [a.org], ports: [{number: 443, protocol: https}]")
        .replace("namespace: n", "namespace: zz");
    let all: Vec<String> = ["a", "b", "c", "d", "e"]
        .into_iter()
        .flat_map(|namespace| (0..12).map(move |n| (namespace, n)))
        .map(|(namespace, n)| object(namespace, n))
        .chain([small])
        .collect();
    let fitting = accepted(&all);
    let of = |namespace: &str| fitting.iter().filter(|name| name.contains(&format!(" {namespace}/"))).count();
    assert_eq!(of("zz"), 1, "{fitting:?}");
    assert!((5..9).contains(&of("a")), "{}", of("a"));
    for namespace in ["b", "c", "d", "e"] {
        assert_eq!(of(namespace), of("a"));
    }
}
