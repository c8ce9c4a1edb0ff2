mod access_log_lines;
mod arbitrary_input;

use std::num::NonZeroUsize;
use std::sync::atomic::Ordering;

use egress_compile::store::{FileUpdate, Store};
use egress_compile::{CompileOptions, Compiled, compile};
use egress_policy::Identity;
use jiff::Timestamp;

use super::simulate::Simulation;
use super::suggest::Suggestion;
use super::table::{FlowList, FlowQuery, FlowTable, PageLimit, VerdictFilter};
use super::{Flow, Observation, text};

fn new_table(max_per_identity: usize) -> FlowTable {
    FlowTable::new(NonZeroUsize::new(max_per_identity).expect("not zero"))
}

fn identity(text: &str) -> Identity {
    text.parse().expect("an identity")
}

fn day(number: i64) -> Timestamp {
    Timestamp::from_second(1_764_000_000 + number * 86_400).expect("a time")
}

fn connection(
    decision: &str,
    destination: &str,
    resolved: Option<&str>,
    server_name: Option<&str>,
) -> Option<Observation> {
    let decision = decision.parse().ok()?;
    Some(Observation::from_connection(
        decision,
        destination.parse().expect("an address"),
        resolved,
        server_name,
    ))
}

fn request(decision: &str, destination: &str, authority: &str, path: &str) -> Option<Observation> {
    let destination = destination.parse().expect("an address");
    Observation::from_request(decision.parse().ok(), destination, authority, ("GET", path, None), None)
}

#[test]
fn the_oldest_flows_of_the_same_identity_are_evicted() {
    let table = new_table(10_000);
    let (loud, quiet) = (identity("shop/loud"), identity("shop/quiet"));
    table.record(&quiet, "p", day(0), vec![connection("deny no-rule - -", "192.0.2.1:25", None, None)]);
    for number in 0..100_000 {
        let name = format!("n{number}.example.com");
        let observation = connection("deny sni-not-allowed - -", "192.0.2.1:443", None, Some(&name));
        table.record(&loud, "p", day(0), vec![observation]);
    }
    assert_eq!(table.len(), 10_001);
    assert_eq!(table.counters.dropped.load(Ordering::Relaxed), 90_000);
    assert_eq!(table.counters.entries.load(Ordering::Relaxed), 100_001);
    // The last flows stay, and so do those of another identity.
    let of_loud = FlowQuery { identity: Some(loud), ..FlowQuery::default() };
    let flows = table.list_page(&of_loud);
    assert_eq!(flows.flows.first().and_then(|flow| flow.name.clone()).as_deref(), Some("n90000.example.com"));
    assert_eq!((flows.flows.len(), flows.more), (1_000, true));
    assert_eq!(table.list_page(&FlowQuery { identity: Some(quiet), ..FlowQuery::default() }).flows.len(), 1);
}

#[test]
fn pages_hold_the_flows_that_match_the_query() {
    let table = new_table(100);
    for number in 0..10 {
        let verdict = if number % 2 == 0 { "deny no-rule - -" } else { "allow audit - - no-rule" };
        let observation = connection(verdict, &format!("192.0.2.{number}:25"), None, None);
        table.record(&identity(&format!("shop/app-{}", number / 6)), "p", day(0), vec![observation]);
    }
    let page = |filter: &FlowQuery| {
        let FlowList { flows, more, sequence, .. } = table.list_page(filter);
        assert_eq!(sequence, 10);
        (flows.iter().map(|flow| flow.sequence).collect::<Vec<_>>(), more)
    };
    let limit = |number: usize| PageLimit::try_from(number).expect("a limit");
    let filter = |after, number| FlowQuery { after, limit: limit(number), ..FlowQuery::default() };
    assert_eq!(page(&filter(0, 4)), (vec![1, 2, 3, 4], true));
    assert_eq!(page(&filter(4, 4)), (vec![5, 6, 7, 8], true));
    assert_eq!(page(&filter(8, 4)), (vec![9, 10], false));
    assert_eq!(page(&filter(6, 4)), (vec![7, 8, 9, 10], false));
    assert_eq!(page(&filter(10, 4)), (vec![], false));
    assert_eq!(page(&filter(u64::MAX, 4)), (vec![], false));
    let newest = |after, number| FlowQuery { newest: true, ..filter(after, number) };
    assert_eq!(page(&newest(0, 4)), (vec![10, 9, 8, 7], true));
    assert_eq!(page(&newest(7, 4)), (vec![10, 9, 8], false));
    let denied = |filter: FlowQuery| FlowQuery { verdict: Some(VerdictFilter::Deny), ..filter };
    assert_eq!(page(&denied(filter(2, 2))), (vec![3, 5], true));
    assert_eq!(page(&denied(newest(0, 9))), (vec![9, 7, 5, 3, 1], false));
    let of = |number: usize, filter: FlowQuery| FlowQuery {
        identity: Some(identity(&format!("shop/app-{number}"))),
        ..filter
    };
    assert_eq!(page(&of(0, denied(newest(0, 2)))), (vec![5, 3], true));
    assert_eq!(page(&of(1, filter(0, 4))), (vec![7, 8, 9, 10], false));
    assert_eq!(page(&of(7, filter(0, 4))), (vec![], false));
}

/// A client that is trusted by its node id can claim any identity, so the flows of all identities together have a limit.
#[test]
fn the_flows_of_all_identities_are_limited() {
    let table = new_table(10_000);
    for number in 0..20 {
        let owner = identity(&format!("shop/app-{number}"));
        for port in 1..=7_000 {
            let observation = connection("deny no-rule - -", &format!("192.0.2.1:{port}"), None, None);
            table.record(&owner, "p", day(0), vec![observation]);
        }
    }
    assert_eq!(table.len(), 100_000);
    assert_eq!(table.counters.dropped.load(Ordering::Relaxed), 40_000);
}

#[test]
fn a_flow_that_is_seen_again_is_evicted_later() {
    let table = new_table(2);
    let app = identity("shop/app");
    for (number, host) in ["a.org", "b.org", "a.org", "c.org"].into_iter().enumerate() {
        let number = i64::try_from(number).expect("small");
        let observation = connection("allow rule shop/web spec.ports[0]", "192.0.2.1:443", Some(host), None);
        table.record(&app, &format!("p{number}"), day(number), vec![observation]);
    }
    let FlowList { flows, dropped, sequence, .. } = table.list_page(&FlowQuery::default());
    let names: Vec<_> = flows.iter().map(|flow| (flow.name.as_deref(), flow.count)).collect();
    assert_eq!(names, [(Some("a.org"), 2), (Some("c.org"), 1)]);
    assert_eq!((dropped, sequence), (1, 4));
    assert_eq!((flows[0].first_seen, flows[0].last_seen), (day(0), day(2)));
    assert_eq!(flows[0].nodes, ["p0", "p2"]);
    assert_eq!(table.list_page(&FlowQuery { after: 3, ..FlowQuery::default() }).flows.len(), 1);
    assert_eq!(
        table
            .list_page(&FlowQuery { verdict: Some(VerdictFilter::Deny), ..FlowQuery::default() })
            .flows
            .len(),
        0
    );
    // The JSON holds every field.
    let json = serde_json::to_string(&flows).expect("JSON");
    assert_eq!(serde_json::from_str::<Vec<Flow>>(&json).expect("flows"), flows);
}

#[test]
fn hostile_text_is_sanitized() {
    let table = new_table(100);
    let app = identity("shop/app");
    let long = "x".repeat(64 << 10);
    for hostile in [
        "\x1b]0;owned\x07\x1b[2J",
        "<script>alert(1)</script>",
        "a\r\n- \"*.evil.org\"\n#",
        "\u{202e}gro",
        &long,
    ] {
        let observation = vec![
            connection("allow audit - - sni-not-allowed", "192.0.2.1:443", None, Some(hostile)),
            request("allow audit - - host-not-allowed", "192.0.2.1:80", hostile, hostile),
            Observation::from_request(
                "deny route-not-allowed shop/web spec.ports[0]".parse().ok(),
                "192.0.2.1:80".parse().expect("an address"),
                "a.org",
                (hostile, hostile, Some(hostile)),
                None,
            ),
            // A text that is not a decision is not recorded as one.
            connection(&format!("deny {hostile} - -"), "192.0.2.1:25", None, None),
            connection(hostile, "192.0.2.1:25", None, None),
        ];
        table.record(&app, hostile, day(0), observation);
    }
    assert_eq!(table.counters.undecided.load(Ordering::Relaxed), 10);
    let flows = table.list_page(&FlowQuery::default()).flows;
    let is_plain =
        |text: &str| text.chars().all(|c| c == '\n' || c == ' ' || c == '…' || c.is_ascii_graphic());
    for flow in &flows {
        let line = text::format_line(flow);
        assert!(is_plain(&line) && line.lines().count() == 1 && line.len() < 1_000, "{line}");
        assert!(serde_json::to_string(flow).expect("JSON").len() < 4_000);
    }
    let yaml = Suggestion::for_identity(&app, &flows).to_yaml();
    assert!(is_plain(&yaml) && yaml.len() < 20_000, "{yaml}");
    // None of it is a name, so nothing is allowed.
    for line in yaml.lines().filter(|line| !line.starts_with('#')) {
        assert!(!line.contains("evil") && !line.contains("script") && !line.contains("xxx"), "{line}");
    }
    let simulation = Simulation::run(&flows, None, &compiled(ENFORCED), 15001).expect("it compiles");
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

/// The flows of an application in audit mode.
fn audited_flows() -> Vec<Flow> {
    let table = new_table(100);
    let app = identity("shop/app");
    let audit = |reason: &str| format!("allow audit - - {reason}");
    for (number, observation) in [
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
        table.record(&app, "p", day(i64::try_from(number).expect("small")), vec![observation]);
    }
    table.list_page(&FlowQuery::default()).flows
}

#[test]
fn a_flow_is_one_line_of_text() {
    let lines: String = audited_flows().iter().map(text::format_line).collect();
    insta::assert_snapshot!(lines);
}

/// No policy allows a request that failed, or that Envoy could not read.
#[test]
fn denials_that_no_policy_changes_are_not_suggested() {
    for reason in [
        "name-not-found",
        "dns-failed",
        "name-unresolved",
        "encoded-slash",
        "path-refused",
        "request-malformed",
        "headers-too-large",
    ] {
        let table = new_table(100);
        let observation =
            connection(&format!("deny {reason} shop/web r"), "192.0.2.1:443", Some("a.org"), None);
        table.record(&identity("shop/app"), "p", day(0), vec![observation]);
        let yaml =
            Suggestion::for_identity(&identity("shop/app"), &table.list_page(&FlowQuery::default()).flows)
                .to_yaml();
        assert!(yaml.contains(&format!("# Not suggested: https://a.org:443 (1 time): {reason}: ")), "{yaml}");
        assert!(!yaml.contains("kind: Egress"), "{yaml}");
    }
}

/// A name that YAML reads as another type stands in quotes. A comment shows a request as the flow has it.
#[test]
fn suggestions_quote_what_yaml_reads_otherwise() {
    let (table, account) = (new_table(100), identity("null/0644"));
    let observations = [
        connection("deny sni-not-allowed - -", "192.0.2.1:443", None, Some("no")),
        request("deny host-not-allowed - -", "192.0.2.1:80", "on", "/caf\u{e9}\\"),
    ];
    table.record(&account, "p", day(0), observations.to_vec());
    let flows = table.list_page(&FlowQuery::default()).flows;
    let yaml = Suggestion::for_identity(&account, &flows).to_yaml();
    for line in
        ["  namespace: \"null\"\n", "    name: \"0644\"\n", "  - \"no\" # ", "    # GET /caf\\u{e9}\\\\\n"]
    {
        assert!(yaml.contains(line), "{line:?} is missing:\n{yaml}");
    }
    let compiled = compiled(&yaml);
    let problems: Vec<_> = compiled.diagnostics().filter(|problem| problem.object.is_some()).collect();
    assert_eq!(problems, Vec::<&egress_compile::manifest::Diagnostic>::new());
    let simulation = Simulation::run(&flows, None, &compiled, 15001).expect("it compiles");
    assert!(simulation.changes.len() == 2 && !simulation.has_losses(), "{simulation}");
}

/// An authority may name a port, and another one than the dialled one.
#[test]
fn a_destination_has_one_port() {
    for (authority, expected) in [
        ("a.org", "http://a.org:8081"),
        ("a.org:8081", "http://a.org:8081"),
        ("a.org:", "http://a.org:8081"),
        ("a.org:443", "http://a.org:8081 (asked for port 443)"),
        ("[2001:db8::1]", "http://[2001:db8::1]:8081"),
        ("[2001:db8::1]:443", "http://[2001:db8::1]:8081 (asked for port 443)"),
    ] {
        let table = new_table(100);
        let observation = request("deny host-not-allowed - -", "192.0.2.1:8081", authority, "/");
        table.record(&identity("shop/app"), "p", day(0), vec![observation]);
        let flows = table.list_page(&FlowQuery::default()).flows;
        assert_eq!(flows[0].destination(), expected, "{authority}");
    }
}

#[test]
fn suggestions_are_valid_manifests() {
    let yaml = Suggestion::for_identity(&identity("shop/app"), &audited_flows()).to_yaml();
    insta::assert_snapshot!(yaml);
    let compiled = compiled(&yaml);
    // The missing MeshConfig is not the suggestion's problem.
    let problems: Vec<_> = compiled.diagnostics().filter(|problem| problem.object.is_some()).collect();
    assert_eq!(problems, Vec::<&egress_compile::manifest::Diagnostic>::new());
    assert!(!yaml.contains('*') && !yaml.contains("secret"));
    let nothing = Suggestion::for_identity(&identity("shop/other"), &audited_flows());
    assert!(nothing.is_empty());
    insta::assert_snapshot!(nothing.to_yaml(), @r"
    # Destinations that shop/other was denied, or would be without audit mode. Written by `osm-egress suggest`.
    # Keep only what it needs: this list holds whatever ran there, also what should not have run.
    # Nothing to suggest.
    ");
}

/// With the suggested policies, enforcement denies only the flows that are not suggested.
#[test]
fn suggestions_are_sufficient_for_enforcement() {
    let flows = audited_flows();
    let suggested = Suggestion::for_identity(&identity("shop/app"), &flows).to_yaml();
    let audit = store(&format!("{}---{ENFORCED}", ACCOUNT.replace("MODE", "audit")));
    let enforce = audit.overlay(&store(&ACCOUNT.replace("MODE", "enforce")));
    let options = CompileOptions::default();
    let before = compile(&audit, &options, None);
    let without = compile(&enforce, &options, None);
    let simulation = Simulation::run(&flows, Some(&before), &without, 15001).expect("it compiles");
    assert!(simulation.has_losses());
    insta::assert_snapshot!("without_the_suggestion", simulation);
    let with = compile(&enforce.overlay(&store(&suggested)), &options, None);
    let simulation = Simulation::run(&flows, Some(&before), &with, 15001).expect("it compiles");
    insta::assert_snapshot!("with_the_suggestion", simulation);
}

/// A suggestion of ten thousand destinations carries a warning, and is policies that `kubectl apply` accepts.
#[test]
fn a_large_suggestion_carries_a_warning() {
    let table = new_table(20_000);
    let app = identity("shop/app");
    for number in 0..10_000 {
        let name = format!("n{number}.example.com");
        let observation = connection("deny sni-not-allowed - -", "192.0.2.1:443", Some(&name), None);
        table.record(&app, "p", day(0), vec![observation]);
    }
    for number in 0..2_000 {
        let observation =
            connection("deny sni-not-allowed - -", "192.0.2.1:443", Some(&format!("<{number}>")), None);
        table.record(&app, "p", day(0), vec![observation]);
    }
    let filter = FlowQuery { limit: PageLimit::MAX, ..FlowQuery::default() };
    let mut flows = table.list_page(&filter).flows;
    flows.extend(table.list_page(&FlowQuery { after: 10_000, ..filter }).flows);
    let suggestion = Suggestion::for_identity(&app, &flows);
    let warning = "10000 destinations: the workload may crawl, scan, or send data out in names; 10000 are below \
                   example.com";
    assert_eq!(suggestion.size_warning().as_deref(), Some(warning));
    let yaml = suggestion.to_yaml();
    assert!(yaml.contains(&format!("# MANY: {warning}.\n")) && !yaml.contains('*'));
    assert_eq!(yaml.lines().filter(|line| line.starts_with("# Not suggested: ")).count(), 101);
    assert!(yaml.contains("# Not suggested: 1900 others\n"));
    assert!(yaml.split("\n---\n").all(|policy| policy.len() < 200_000));
    let enforced = compiled(&yaml);
    let problems: Vec<_> = enforced.diagnostics().filter(|problem| problem.object.is_some()).collect();
    assert_eq!(problems, Vec::<&egress_compile::manifest::Diagnostic>::new());
    let simulation = Simulation::run(&flows, None, &enforced, 15001).expect("it compiles");
    assert_eq!(simulation.changes.len(), 10_000);
    let text = simulation.to_string();
    assert!(
        text.contains("… and 9800 more changes: `-o json` lists all of them\n12000 flows evaluated"),
        "{text}"
    );
    assert!(
        text.lines().count() < 610
            && Suggestion::for_identity(&app, &audited_flows()).size_warning().is_none()
    );
}

#[test]
fn a_simulation_lists_changed_verdicts() {
    let flows = audited_flows();
    // The same manifests in audit mode change nothing.
    let same = compiled(&format!("{}---{ENFORCED}", ACCOUNT.replace("MODE", "audit")));
    let simulation = Simulation::run(&flows, None, &same, 15001).expect("it compiles");
    assert!(!simulation.has_losses() && simulation.changes.is_empty(), "{simulation}");
    // A rule that needs the first bytes, which these flows do not record.
    let names = ENFORCED.replace("5432, protocol: tcp", "6379, protocol: https");
    let simulation = Simulation::run(&flows, None, &compiled(&names), 15001).expect("it compiles");
    assert!(simulation.has_losses());
    insta::assert_snapshot!(simulation);
}

/// Each path counts its own requests, and not those of the whole flow.
#[test]
fn a_simulation_counts_the_requests_of_each_path() {
    let (table, app) = (new_table(100), identity("shop/app"));
    for path in ["/v1", "/v2", "/v1", "/v1"] {
        let observation = request("allow audit - - host-not-allowed", "192.0.2.2:80", "b.org", path);
        table.record(&app, "p", day(0), vec![observation]);
    }
    let flows = table.list_page(&FlowQuery::default()).flows;
    let simulation = Simulation::run(&flows, None, &compiled(ENFORCED), 15001).expect("it compiles");
    let counts: Vec<_> = simulation
        .changes
        .iter()
        .map(|change| (change.request.as_ref().map(|request| request.path.as_str()), change.count))
        .collect();
    assert_eq!(counts, [(Some("/v1"), 3), (Some("/v2"), 1)]);
}
