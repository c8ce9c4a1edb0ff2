mod any_bytes;

use std::num::NonZeroUsize;
use std::sync::atomic::Ordering;

use egress_compile::store::{FileUpdate, Store};
use egress_compile::{CompileOptions, Compiled, compile};
use egress_policy::Identity;
use jiff::Timestamp;

use super::memory::{Filter, Flows, Limit, Memory, Wanted};
use super::simulate::Simulation;
use super::suggest::Suggestion;
use super::{Flow, Observation, line, text};

fn memory(per_identity: usize) -> Memory {
    Memory::new(NonZeroUsize::new(per_identity).expect("not zero"))
}

fn identity(text: &str) -> Identity {
    text.parse().expect("an identity")
}

fn at(day: i64) -> Timestamp {
    Timestamp::from_second(1_764_000_000 + day * 86_400).expect("a time")
}

fn connection(
    decision: &str,
    to: &str,
    resolved: Option<&str>,
    server_name: Option<&str>,
) -> Option<Observation> {
    Observation::connection(decision, to.parse().expect("an address"), resolved, server_name)
}

fn request(decision: &str, to: &str, authority: &str, path: &str) -> Option<Observation> {
    let to = to.parse().expect("an address");
    Observation::request(Some(decision), to, authority, ("GET", path, None), None)
}

#[test]
fn a_hundred_thousand_destinations() {
    let memory = memory(10_000);
    let (loud, quiet) = (identity("shop/loud"), identity("shop/quiet"));
    memory.record(&quiet, "p", at(0), vec![connection("deny no-rule - -", "192.0.2.1:25", None, None)]);
    for number in 0..100_000 {
        let name = format!("n{number}.example.com");
        let seen = connection("deny sni-not-allowed - -", "192.0.2.1:443", None, Some(&name));
        memory.record(&loud, "p", at(0), vec![seen]);
    }
    assert_eq!(memory.len(), 10_001);
    assert_eq!(memory.counts.dropped.load(Ordering::Relaxed), 90_000);
    assert_eq!(memory.counts.entries.load(Ordering::Relaxed), 100_001);
    // The last ones are there, and another identity's are not touched.
    let of_loud = Filter { identity: Some(loud), ..Filter::default() };
    let flows = memory.flows(&of_loud);
    assert_eq!(flows.flows.first().and_then(|flow| flow.name.clone()).as_deref(), Some("n90000.example.com"));
    assert_eq!((flows.flows.len(), flows.more), (1_000, true));
    assert_eq!(memory.flows(&Filter { identity: Some(quiet), ..Filter::default() }).flows.len(), 1);
}

#[test]
fn page_by_page() {
    let memory = memory(100);
    for number in 0..10 {
        let verdict = if number % 2 == 0 { "deny no-rule - -" } else { "allow audit - - no-rule" };
        let seen = connection(verdict, &format!("192.0.2.{number}:25"), None, None);
        memory.record(&identity(&format!("shop/app-{}", number / 6)), "p", at(0), vec![seen]);
    }
    let page = |filter: &Filter| {
        let Flows { flows, more, sequence, .. } = memory.flows(filter);
        assert_eq!(sequence, 10);
        (flows.iter().map(|flow| flow.sequence).collect::<Vec<_>>(), more)
    };
    let limit = |number: usize| Limit::try_from(number).expect("a limit");
    let filter = |after, number| Filter { after, limit: limit(number), ..Filter::default() };
    assert_eq!(page(&filter(0, 4)), (vec![1, 2, 3, 4], true));
    assert_eq!(page(&filter(4, 4)), (vec![5, 6, 7, 8], true));
    assert_eq!(page(&filter(8, 4)), (vec![9, 10], false));
    assert_eq!(page(&filter(6, 4)), (vec![7, 8, 9, 10], false));
    assert_eq!(page(&filter(10, 4)), (vec![], false));
    assert_eq!(page(&filter(u64::MAX, 4)), (vec![], false));
    let newest = |after, number| Filter { newest: true, ..filter(after, number) };
    assert_eq!(page(&newest(0, 4)), (vec![10, 9, 8, 7], true));
    assert_eq!(page(&newest(7, 4)), (vec![10, 9, 8], false));
    let denied = |filter: Filter| Filter { verdict: Some(Wanted::Deny), ..filter };
    assert_eq!(page(&denied(filter(2, 2))), (vec![3, 5], true));
    assert_eq!(page(&denied(newest(0, 9))), (vec![9, 7, 5, 3, 1], false));
    let of = |number: usize, filter: Filter| Filter {
        identity: Some(identity(&format!("shop/app-{number}"))),
        ..filter
    };
    assert_eq!(page(&of(0, denied(newest(0, 2)))), (vec![5, 3], true));
    assert_eq!(page(&of(1, filter(0, 4))), (vec![7, 8, 9, 10], false));
    assert_eq!(page(&of(7, filter(0, 4))), (vec![], false));
}

/// Whoever is believed by his node id can be anybody; all together are bounded too.
#[test]
fn many_identities() {
    let memory = memory(10_000);
    for number in 0..20 {
        let whose = identity(&format!("shop/app-{number}"));
        for port in 1..=7_000 {
            let seen = connection("deny no-rule - -", &format!("192.0.2.1:{port}"), None, None);
            memory.record(&whose, "p", at(0), vec![seen]);
        }
    }
    assert_eq!(memory.len(), 100_000);
    assert_eq!(memory.counts.dropped.load(Ordering::Relaxed), 40_000);
}

#[test]
fn what_is_seen_again_stays() {
    let memory = memory(2);
    let app = identity("shop/app");
    for (day, host) in ["a.org", "b.org", "a.org", "c.org"].into_iter().enumerate() {
        let day = i64::try_from(day).expect("small");
        let seen = connection("allow rule shop/web spec.ports[0]", "192.0.2.1:443", Some(host), None);
        memory.record(&app, &format!("p{day}"), at(day), vec![seen]);
    }
    let Flows { flows, dropped, sequence, .. } = memory.flows(&Filter::default());
    let names: Vec<_> = flows.iter().map(|flow| (flow.name.as_deref(), flow.count)).collect();
    assert_eq!(names, [(Some("a.org"), 2), (Some("c.org"), 1)]);
    assert_eq!((dropped, sequence), (1, 4));
    assert_eq!((flows[0].first_seen, flows[0].last_seen), (at(0), at(2)));
    assert_eq!(flows[0].nodes, ["p0", "p2"]);
    assert_eq!(memory.flows(&Filter { after: 3, ..Filter::default() }).flows.len(), 1);
    assert_eq!(memory.flows(&Filter { verdict: Some(Wanted::Deny), ..Filter::default() }).flows.len(), 0);
    // What goes over the wire is what was there.
    let json = serde_json::to_string(&flows).expect("JSON");
    assert_eq!(serde_json::from_str::<Vec<Flow>>(&json).expect("flows"), flows);
}

#[test]
fn hostile_bytes() {
    let memory = memory(100);
    let app = identity("shop/app");
    let long = "x".repeat(64 << 10);
    for hostile in [
        "\x1b]0;owned\x07\x1b[2J",
        "<script>alert(1)</script>",
        "a\r\n- \"*.evil.org\"\n#",
        "\u{202e}gro",
        &long,
    ] {
        let seen = vec![
            connection("allow audit - - sni-not-allowed", "192.0.2.1:443", None, Some(hostile)),
            request("allow audit - - host-not-allowed", "192.0.2.1:80", hostile, hostile),
            Observation::request(
                Some("deny route-not-allowed shop/web spec.ports[0]"),
                "192.0.2.1:80".parse().expect("an address"),
                "a.org",
                (hostile, hostile, Some(hostile)),
                None,
            ),
            // What is no decision of ours is not taken for one.
            connection(&format!("deny {hostile} - -"), "192.0.2.1:25", None, None),
            connection(hostile, "192.0.2.1:25", None, None),
        ];
        memory.record(&app, hostile, at(0), seen);
    }
    assert_eq!(memory.counts.undecided.load(Ordering::Relaxed), 10);
    let flows = memory.flows(&Filter::default()).flows;
    let is_plain =
        |text: &str| text.chars().all(|c| c == '\n' || c == ' ' || c == '…' || c.is_ascii_graphic());
    for flow in &flows {
        let line = text::line(flow);
        assert!(is_plain(&line) && line.lines().count() == 1 && line.len() < 1_000, "{line}");
        assert!(serde_json::to_string(flow).expect("JSON").len() < 4_000);
    }
    let yaml = Suggestion::of(&app, &flows).yaml();
    assert!(is_plain(&yaml) && yaml.len() < 20_000, "{yaml}");
    // None of it is a name, so nothing is allowed.
    for line in yaml.lines().filter(|line| !line.starts_with('#')) {
        assert!(!line.contains("evil") && !line.contains("script") && !line.contains("xxx"), "{line}");
    }
    let simulation = Simulation::of(&flows, None, &compiled(ENFORCED), 15001).expect("it compiles");
    assert!(is_plain(&simulation.to_string()), "{simulation}");
}

const ACCOUNT: &str = "apiVersion: v1\nkind: Namespace\n\
    metadata: {name: shop, annotations: {openservicemesh.io/egress-mode-delegation: service-accounts}}\n\
    ---\napiVersion: v1\nkind: ServiceAccount\n\
    metadata: {name: app, namespace: shop, annotations: {openservicemesh.io/egress-mode: MODE}}\n";

const ENFORCED: &str = "
apiVersion: policy.openservicemesh.io/v1alpha1
kind: Egress
metadata: {name: web, namespace: shop}
spec:
  sources: [{kind: ServiceAccount, name: app, namespace: shop}]
  hosts: [a.org]
  ports: [{number: 80, protocol: http}, {number: 443, protocol: https}]
---
apiVersion: policy.openservicemesh.io/v1alpha1
kind: Egress
metadata: {name: database, namespace: shop}
spec:
  sources: [{kind: ServiceAccount, name: app, namespace: shop}]
  ipAddresses: [198.51.100.0/24]
  ports: [{number: 5432, protocol: tcp}]
";

fn store(text: &str) -> Store {
    let mut store = Store::default();
    store.apply(FileUpdate::read("a.yaml".into(), text.as_bytes()));
    store
}

fn compiled(text: &str) -> Compiled {
    compile(&store(text), &CompileOptions::default(), None)
}

/// What an application did in audit mode.
fn audited() -> Vec<Flow> {
    let memory = memory(100);
    let app = identity("shop/app");
    let audit = |reason: &str| format!("allow audit - - {reason}");
    for (day, seen) in [
        connection("allow rule shop/web spec.ports[1]", "192.0.2.1:443", Some("a.org"), None),
        connection(&audit("sni-not-allowed"), "192.0.2.2:443", None, Some("b.org")),
        request(&audit("host-not-allowed"), "192.0.2.2:80", "b.org", "/v1?token=secret"),
        request(&audit("host-not-allowed"), "192.0.2.2:80", "b.org:80", "/v2"),
        connection(&audit("sni-not-allowed"), "192.0.2.3:443", None, Some("bucket.s3.amazonaws.com")),
        connection(&audit("sni-not-allowed"), "192.0.2.3:443", None, Some("bucket.s3.amazonaws.com")),
        connection(&audit("sni-absent"), "[2001:db8::7]:443", None, Some("-")),
        connection(&audit("no-rule"), "198.51.100.7:6379", None, None),
        connection(&audit("no-rule"), "198.51.100.8:6379", None, None),
        request("allow audit shop/web spec.ports[0] route-not-allowed", "192.0.2.1:80", "a.org", "/admin"),
        connection("deny in-mesh-denied shop/backend Service", "10.0.0.1:80", None, None),
        request(&audit("host-not-allowed"), "192.0.2.2:80", "[2001:db8::1]", "/"),
        connection("deny address-forbidden shop/web spec.ports[1]", "192.0.2.1:443", Some("a.org"), None),
    ]
    .into_iter()
    .enumerate()
    {
        memory.record(&app, "p", at(i64::try_from(day).expect("small")), vec![seen]);
    }
    memory.flows(&Filter::default()).flows
}

#[test]
fn lines() {
    let lines: String = audited().iter().map(text::line).collect();
    insta::assert_snapshot!(lines);
}

/// What failed, and what Envoy could not read, is nothing that a policy allows.
#[test]
fn what_no_policy_changes_is_not_suggested() {
    for reason in [
        "name-not-found",
        "dns-failed",
        "name-unresolved",
        "encoded-slash",
        "path-refused",
        "request-malformed",
        "headers-too-large",
    ] {
        let memory = memory(100);
        let seen = connection(&format!("deny {reason} shop/web r"), "192.0.2.1:443", Some("a.org"), None);
        memory.record(&identity("shop/app"), "p", at(0), vec![seen]);
        let yaml = Suggestion::of(&identity("shop/app"), &memory.flows(&Filter::default()).flows).yaml();
        assert!(yaml.contains(&format!("# Not suggested: https://a.org:443 (1 time): {reason}: ")), "{yaml}");
        assert!(!yaml.contains("kind: Egress"), "{yaml}");
    }
}

#[test]
fn what_is_suggested() {
    let yaml = Suggestion::of(&identity("shop/app"), &audited()).yaml();
    insta::assert_snapshot!(yaml);
    let compiled = compiled(&yaml);
    // That there is no MeshConfig is no fault of the suggestion.
    let problems: Vec<_> = compiled.diagnostics().filter(|problem| problem.object.is_some()).collect();
    assert_eq!(problems, Vec::<&egress_compile::manifest::Diagnostic>::new());
    assert!(!yaml.contains('*') && !yaml.contains("secret"));
    let nothing = Suggestion::of(&identity("shop/other"), &audited());
    assert!(nothing.is_empty());
    insta::assert_snapshot!(nothing.yaml(), @r"
    # What shop/other was refused, or would have been. Made by `osm-egress suggest`.
    # Keep what it should reach, and no more: whatever ran there is in this list.
    # Nothing is suggested.
    ");
}

/// Whatever is suggested is allowed then, and enforcing takes away nothing but what is not suggested.
#[test]
fn what_is_suggested_is_enough() {
    let flows = audited();
    let suggested = Suggestion::of(&identity("shop/app"), &flows).yaml();
    let audit = store(&format!("{}---{ENFORCED}", ACCOUNT.replace("MODE", "audit")));
    let enforce = audit.overlay(&store(&ACCOUNT.replace("MODE", "enforce")));
    let options = CompileOptions::default();
    let before = compile(&audit, &options, None);
    let without = compile(&enforce, &options, None);
    let simulation = Simulation::of(&flows, Some(&before), &without, 15001).expect("it compiles");
    assert!(simulation.loses());
    insta::assert_snapshot!("without_the_suggestion", simulation);
    let with = compile(&enforce.overlay(&store(&suggested)), &options, None);
    let simulation = Simulation::of(&flows, Some(&before), &with, 15001).expect("it compiles");
    insta::assert_snapshot!("with_the_suggestion", simulation);
}

/// Ten thousand destinations are said to be many, and are policies that can be applied.
#[test]
fn many_destinations() {
    let memory = memory(20_000);
    let app = identity("shop/app");
    for number in 0..10_000 {
        let name = format!("n{number}.example.com");
        let seen = connection("deny sni-not-allowed - -", "192.0.2.1:443", Some(&name), None);
        memory.record(&app, "p", at(0), vec![seen]);
    }
    for number in 0..2_000 {
        let seen =
            connection("deny sni-not-allowed - -", "192.0.2.1:443", Some(&format!("<{number}>")), None);
        memory.record(&app, "p", at(0), vec![seen]);
    }
    let filter = Filter { limit: Limit::MOST, ..Filter::default() };
    let mut flows = memory.flows(&filter).flows;
    flows.extend(memory.flows(&Filter { after: 10_000, ..filter }).flows);
    let suggestion = Suggestion::of(&app, &flows);
    let many = "10000 destinations. What has so many crawls, scans, or carries data away in names; 10000 are below \
                example.com";
    assert_eq!(suggestion.many().as_deref(), Some(many));
    let yaml = suggestion.yaml();
    assert!(yaml.contains(&format!("# MANY: {many}.\n")) && !yaml.contains('*'));
    assert_eq!(yaml.lines().filter(|line| line.starts_with("# Not suggested: ")).count(), 101);
    assert!(yaml.contains("# Not suggested: 1900 others\n"));
    assert!(yaml.split("\n---\n").all(|policy| policy.len() < 200_000));
    let enforced = compiled(&yaml);
    let problems: Vec<_> = enforced.diagnostics().filter(|problem| problem.object.is_some()).collect();
    assert_eq!(problems, Vec::<&egress_compile::manifest::Diagnostic>::new());
    let simulation = Simulation::of(&flows, None, &enforced, 15001).expect("it compiles");
    assert_eq!(simulation.changes.len(), 10_000);
    let text = simulation.to_string();
    assert!(
        text.contains("… and 9800 other changes: `-o json` has all of them\n12000 flows looked at"),
        "{text}"
    );
    assert!(text.lines().count() < 610 && Suggestion::of(&app, &audited()).many().is_none());
}

#[test]
fn what_changes() {
    let flows = audited();
    // As it was decided, and as it would be with the same manifests in audit mode.
    let same = compiled(&format!("{}---{ENFORCED}", ACCOUNT.replace("MODE", "audit")));
    let simulation = Simulation::of(&flows, None, &same, 15001).expect("it compiles");
    assert!(!simulation.loses() && simulation.changes.is_empty(), "{simulation}");
    // Where the first bytes decide that were never looked at.
    let names = ENFORCED.replace("5432, protocol: tcp", "6379, protocol: https");
    let simulation = Simulation::of(&flows, None, &compiled(&names), 15001).expect("it compiles");
    assert!(simulation.loses());
    insta::assert_snapshot!(simulation);
}

#[test]
fn lines_of_envoys_log() {
    for (given, expected) in [
        ("[2026-11-25 01:00:00.000][1][info] starting", None),
        (r#"{"kind":"connection","dialled":"192.0.2.1:80","decision":null}"#, None),
        (
            r#"{"kind":"connection","dialled":"192.0.2.1:443","decision":"deny sni-not-allowed - -","name":null,"server_name":"b.org"}"#,
            connection("deny sni-not-allowed - -", "192.0.2.1:443", None, Some("b.org")),
        ),
        (
            r#"{"kind":"request","dialled":"192.0.2.1:80","decision":"allow rule a/b c","authority":"a.org","method":"GET","path":"/?x","refused":null}"#,
            request("allow rule a/b c", "192.0.2.1:80", "a.org", "/"),
        ),
        (
            r#"{"kind":"request","dialled":"192.0.2.1:80","decision":"allow rule a/b c","authority":"a.org","method":"GET","path":"/","refused":"address-forbidden"}"#,
            request("deny address-forbidden a/b c", "192.0.2.1:80", "a.org", "/"),
        ),
    ] {
        assert_eq!(line::read(given), expected, "{given}");
    }
}
