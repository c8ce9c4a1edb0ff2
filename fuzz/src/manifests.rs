//! From manifests to documents that the engine reads.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use egress_compile::budget::{
    MAX_CLUSTERS, MAX_DIAGNOSTICS, MAX_DOCUMENT_BYTES, MAX_ENTRIES, MAX_ROUTES, MAX_RULES,
};
use egress_compile::manifest::{Cause, Kind, parse_value};
use egress_compile::store::{Change, FileUpdate, Store};
use egress_compile::{
    CompileOptions, Compiled, ENCRYPTED_HELLO_ANNOTATION, MODE_ANNOTATION, MODE_DELEGATION_ANNOTATION,
    POLICY_NAMESPACES_ANNOTATION, UPGRADES_ANNOTATION, compile,
};
use egress_policy::{Document, Identity, Mode, Policy};
use serde_json::{Value, json};

use super::input::Input;

/// The separator of the files of an input.
const SEPARATOR: u8 = 0;
/// The prefix of an input that is choices of which objects are made; any other is the text of files.
const MADE: u8 = 1;

/// The same for objects so large that some are over a budget.
const LARGE: u8 = 2;
/// A time-out far above the time to compile objects of any size, without optimisation and beside other processes.
const SLOWEST: Duration = Duration::from_secs(20);

/// The most documents of an input that are checked rule by rule.
const MAX_HEAVY: usize = 8;

/// Reads an input: the text of files, or choices.
pub fn manifests(data: &[u8]) {
    match data.split_first() {
        Some((&MADE, choices)) => made(&mut Input::new(choices)),
        Some((&LARGE, choices)) => large(&mut Input::new(choices)),
        _ => {
            let files = data.split(|byte| *byte == SEPARATOR).take(4);
            check(&files.enumerate().map(|(number, bytes)| read(number, bytes)).collect::<Vec<_>>());
        }
    }
}

fn read(number: usize, bytes: &[u8]) -> FileUpdate {
    let update = FileUpdate::read(format!("{number}.yaml").into(), bytes);
    if let Change::Unreadable(problems) = &update.change {
        assert!(!problems.is_empty(), "unreadable without a reason");
    }
    update
}

/// Compiles files in more than one way.
fn check(files: &[FileUpdate]) -> Compiled {
    let mut store = Store::default();
    for update in files {
        store.apply(update.clone());
        assert!(!store.apply(update.clone()), "the same again is news");
    }
    let mut turned = Store::default();
    for update in files.iter().rev() {
        turned.apply(update.clone());
    }
    assert!(store == turned, "the order in which files are read matters");

    let options = CompileOptions::default();
    let start = Instant::now();
    let compiled = compile(&store, &options, None);
    assert!(start.elapsed() < SLOWEST, "compiling takes {:?}", start.elapsed());
    let again = compile(&turned, &options, Some(&compiled));
    assert_eq!(compiled.statuses, again.statuses);
    assert_eq!(compiled.notes, again.notes);
    assert!(compiled.documents.keys().eq(again.documents.keys()));
    for problem in compiled.diagnostics().cloned().chain(store.diagnostics()) {
        assert!(!problem.to_string().is_empty());
    }
    for (object, condition) in &compiled.statuses {
        assert_eq!(object, &condition.object);
        assert!(store.index().objects.contains_key(object));
        // Of three severities, with a line for those that are not kept, and one of its size.
        assert!(
            condition.diagnostics.len() <= 3 * (MAX_DIAGNOSTICS + 1) + 10,
            "{object} has too many problems"
        );
        keeps_budgets(condition, &compiled);
    }
    let stranger = Identity::new("nobody", "knows").expect("an identity");
    let unnamed = compiled.document(&stranger);
    let mut heavy = 0;
    for (identity, document) in compiled.documents.iter().chain([(&stranger, &unnamed)]) {
        assert_eq!(identity, &document.identity);
        assert!(document.rules.is_sorted());
        assert!(document.mode != Mode::Passthrough || document.rules.is_empty());
        assert_eq!(document, &again.document(identity));
        if let Some(other) = again.documents.get(identity) {
            assert!(Arc::ptr_eq(document, other), "an unchanged document is made anew");
        }
        let clusters = compiled.clusters(identity);
        assert_eq!(clusters, again.clusters(identity));
        for cluster in document.rules.iter().filter_map(|rule| rule.cluster.as_ref()) {
            assert_eq!(clusters.iter().filter(|c| c.name == *cluster).count(), 1, "cluster {cluster}");
        }
        // One object may make a thousand documents of the same rules.
        if heavy < MAX_HEAVY {
            heavy += 1;
            within_budgets(document, clusters.len());
            reaches_the_filter(document);
        }
    }
    compiled
}

/// Checks that a document keeps the budgets of an identity.
fn within_budgets(document: &Document, clusters: usize) {
    assert!(document.rules.len() <= MAX_RULES);
    assert!(clusters <= MAX_CLUSTERS);
    let length = |items: Option<usize>| items.unwrap_or_default();
    let (mut entries, mut routes) = (0, 0);
    for rule in &document.rules {
        let hosts = length(rule.hosts.as_ref().map(|hosts| hosts.len()));
        entries += hosts.max(1) * (1 + 2 * length(rule.addresses.as_ref().map(|blocks| blocks.len())));
        routes += length(rule.routes.as_ref().map(|routes| routes.len()));
    }
    assert!(entries <= MAX_ENTRIES, "{entries} entries");
    assert!(routes <= MAX_ROUTES, "{routes} routes");
    let bare = Document { in_mesh: [].into(), ..document.clone() };
    let bytes = serde_json::to_vec(&bare).expect("a document has a JSON form").len();
    // The frame around the rules has some 300 bytes and the identity's names.
    assert!(bytes <= MAX_DOCUMENT_BYTES + 1024, "{bytes} bytes");
}

/// Checks that an object over a budget is reported, and grants nothing to identities that it does not name.
fn keeps_budgets(condition: &egress_compile::ObjectStatus, compiled: &Compiled) {
    let size = condition.diagnostics.iter().find(|p| matches!(p.cause, Cause::Size | Cause::SharedBudget));
    if let Some(problem) = size {
        assert!(!condition.accepted && problem.advice.is_some());
    }
    if condition.object.kind != Kind::Egress {
        return;
    }
    let name = format!("{}/{}", condition.object.namespace, condition.object.name);
    for (identity, document) in &compiled.documents {
        let granted = document.rules.iter().any(|rule| rule.policy == name);
        assert!(!granted || condition.sources.contains(identity), "{name} grants {identity} something");
    }
}

/// Checks that the filter reads and compiles a document.
fn reaches_the_filter(document: &Document) {
    let text = serde_json::to_string(document).expect("a document has a JSON form");
    let read = Document::from_json(&text).expect("the filter reads it");
    assert_eq!(&read, document);
    Policy::new(read).expect("the filter compiles it");
}

/// Compiles objects of choices; then one more policy, which must take nothing away.
fn made(input: &mut Input<'_>) {
    let mut files = [String::new(), String::new()];
    for number in 0..1 + input.below(6) {
        let object = object(input, number);
        let file = &mut files[input.below(2)];
        file.push_str("---\n");
        file.push_str(&object.to_string());
        file.push('\n');
    }
    let mut updates = vec![read(0, files[0].as_bytes()), read(1, files[1].as_bytes())];
    let before = check(&updates);
    let mut more = egress(input);
    more["metadata"] = json!({"name": "one-more", "namespace": "n"});
    updates.push(read(2, more.to_string().as_bytes()));
    let after = check(&updates);
    for (identity, document) in &before.documents {
        let other = after.document(identity);
        assert_eq!(document.mode, other.mode);
        let kept = document.rules.iter().all(|rule| other.rules.contains(rule));
        assert!(kept, "one more policy takes a rule away");
    }
    // And what is new comes from it.
    for (identity, document) in &after.documents {
        let other = before.document(identity);
        let own = |policy: &str| policy == "n/one-more";
        assert!(document.rules.iter().all(|rule| own(&rule.policy) || other.rules.contains(rule)));
    }
}

/// Chooses a number: mostly a small one, sometimes one over every budget.
fn amount(input: &mut Input<'_>, most: usize) -> usize {
    match input.below(4) {
        0 => 1,
        1 => 1 + input.below(20),
        _ => usize::from(input.number()) * most / usize::from(u16::MAX),
    }
}

/// Compiles large objects; then a newer one, which must take nothing away.
fn large(input: &mut Input<'_>) {
    let mut updates: Vec<FileUpdate> =
        (0..1 + input.below(4)).map(|n| large_object(input, n, "2024")).collect();
    updates.push(large_group(input));
    let settings = json!({
        "apiVersion": "policy.openservicemesh.io/v1alpha1", "kind": "UpstreamTrafficSetting",
        "metadata": {"name": "s", "namespace": "n"}, "spec": {"host": "x"},
    });
    updates.push(given("s", settings));
    let before = check(&updates);
    updates.push(large_object(input, 0, "2025").renamed());
    let after = check(&updates);
    for (identity, document) in before.documents.iter().take(MAX_HEAVY) {
        let rules: BTreeSet<_> = after.document(identity).rules.iter().map(Arc::as_ref).cloned().collect();
        let kept = document.rules.iter().all(|rule| rules.contains(rule.as_ref()));
        assert!(kept, "a newer object takes a rule away");
    }
}

trait Renamed {
    fn renamed(self) -> Self;
}

impl Renamed for FileUpdate {
    /// Makes the same object with a name that comes before all others: its age decides.
    fn renamed(mut self) -> Self {
        self.file = "newer".into();
        if let Change::Read(parsed) = &mut self.change {
            for object in &mut parsed.objects {
                let mut other = egress_compile::manifest::Object::clone(object);
                other.reference.name = "a-newer".to_owned();
                other.file = "newer".into();
                *object = Arc::new(other);
            }
        }
        self
    }
}

fn given(file: &str, object: Value) -> FileUpdate {
    let file: Arc<str> = file.into();
    let change = match parse_value(&file, object) {
        Ok(parsed) => Change::Read(parsed),
        Err(problems) => Change::Void(problems),
    };
    FileUpdate { file, change }
}

fn large_object(input: &mut Input<'_>, number: usize, year: &str) -> FileUpdate {
    let source = |n: usize| json!({"kind": "ServiceAccount", "name": format!("s{n}"), "namespace": "n"});
    let sources: Vec<Value> =
        (0..if input.one_in_four() { amount(input, 1100) } else { 1 + input.below(3) }).map(source).collect();
    let protocol = input.pick(&["http", "https", "tcp"]);
    let ports: Vec<Value> =
        (0..amount(input, 4200)).map(|n| json!({"number": n + 1, "protocol": protocol})).collect();
    let label = "x".repeat(1 + input.below(60));
    let is_bad = input.below(16) == 15;
    let host = |n: usize| format!("{}{label}.h{n}.org", if is_bad { "!" } else { "" });
    let hosts: Vec<String> = (0..amount(input, 20_000)).map(host).collect();
    let blocks: Vec<String> = match input.one_in_four() {
        true => {
            (0..amount(input, 10_100)).map(|n| format!("10.{}.{}.0/24", n / 250 % 250, n % 250)).collect()
        }
        false => vec![],
    };
    let group = json!({"apiGroup": "specs.smi-spec.io/v1alpha4", "kind": "HTTPRouteGroup", "name": "g"});
    let settings = json!({"apiGroup": "policy.openservicemesh.io/v1alpha1", "kind": "UpstreamTrafficSetting", "name": "s"});
    let matches = match input.below(4) {
        0 => json!([group]),
        1 => json!([settings]),
        2 => Value::Array(vec![group; amount(input, 110)]),
        _ => json!([]),
    };
    given(
        &format!("p{number}"),
        json!({
            "apiVersion": "policy.openservicemesh.io/v1alpha1", "kind": "Egress",
            "metadata": {
                "name": format!("p{number}"), "namespace": "n",
                "creationTimestamp": format!("{year}-01-0{}T00:00:00Z", 1 + input.below(9)),
            },
            "spec": {"sources": sources, "hosts": hosts, "ipAddresses": blocks, "ports": ports, "matches": matches},
        }),
    )
}

fn large_group(input: &mut Input<'_>) -> FileUpdate {
    let pattern = match input.below(4) {
        0 => "/a".to_owned(),
        1 => "a?".repeat(amount(input, 2100)),
        2 => format!("[a-z]{{{}}}", amount(input, 1100)),
        _ => "(".to_owned(),
    };
    let headers: serde_json::Map<String, Value> =
        (0..if input.one_in_four() { amount(input, 70) } else { 0 })
            .map(|n| (format!("x-{n}"), json!("a")))
            .collect();
    let one = |n: usize| json!({"name": format!("m{n}"), "pathRegex": pattern, "headers": headers});
    let matches: Vec<Value> = (0..amount(input, 1100)).map(one).collect();
    let group = json!({
        "apiVersion": "specs.smi-spec.io/v1alpha4", "kind": "HTTPRouteGroup",
        "metadata": {"name": "g", "namespace": "n"}, "spec": {"matches": matches},
    });
    given("g", group)
}

/// Chooses a text of a list, or sometimes any text.
fn text(input: &mut Input<'_>, of: &[&str]) -> String {
    match input.byte() {
        255 => String::from_utf8_lossy(input.bytes()).into_owned(),
        choice => of[usize::from(choice) % of.len()].to_owned(),
    }
}

fn texts(input: &mut Input<'_>, of: &[&str]) -> Value {
    match input.below(5) {
        4 => Value::Null,
        length => (0..length).map(|_| text(input, of)).collect(),
    }
}

const NAMES: &[&str] = &["a", "b", "n", "app", "x-1", "A", ""];
const NAMESPACES: &[&str] = &["n", "n", "osm-system", "other", "a.b"];
const HOSTS: &[&str] = &[
    "a.org",
    "A.org.",
    "*.a.org",
    "bücher.example",
    "b.org",
    "xn--bcher-kva.example",
    "*",
    "a.org:80",
    "10.0.0.1",
    "a*.org",
    "https://a.org/",
    "",
];
const BLOCKS: &[&str] = &[
    "10.0.0.0/8",
    "10.1.2.3/8",
    "1.1.1.1/32",
    "2001:db8::/32",
    "::ffff:1.2.3.4/128",
    "999.1.1.1/32",
    "10.0.0.1",
    "/",
];
const PATTERNS: &[&str] =
    &["/get", ".*", "/a|/b", "(?i)/x", "", "(", "a)|(b", "\\p{Greek}", "(a{1000}){1000}", "[[:alpha:]]+"];

fn egress(input: &mut Input<'_>) -> Value {
    let sources: Vec<Value> = (0..input.below(3))
        .map(|_| {
            json!({
                "kind": text(input, &["ServiceAccount", "ServiceAccount", "Deployment"]),
                "name": text(input, NAMES),
                "namespace": text(input, NAMESPACES),
            })
        })
        .collect();
    let ports: Vec<Value> = (0..input.below(4))
        .map(|_| {
            json!({
                "number": input.pick(&[80, 443, 1, 65535, 0, 65536, -1]),
                "protocol": text(input, &["http", "https", "tcp", "TCP-server-first", "HTTP", "htttp", "udp"]),
            })
        })
        .collect();
    let matches: Vec<Value> = (0..input.below(3))
        .map(|_| {
            let (group, kind) = input.pick(&[
                ("specs.smi-spec.io/v1alpha4", "HTTPRouteGroup"),
                ("specs.smi-spec.io/v1alpha4", "HTTPRouteGroup"),
                ("policy.openservicemesh.io/v1alpha1", "UpstreamTrafficSetting"),
                ("policy.openservicemesh.io/v1alpha1", "HTTPRouteGroup"),
                ("apps/v1", "Deployment"),
            ]);
            json!({"apiGroup": group, "kind": kind, "name": text(input, NAMES)})
        })
        .collect();
    json!({
        "apiVersion": "policy.openservicemesh.io/v1alpha1", "kind": "Egress",
        "spec": {
            "sources": sources, "ports": ports, "matches": matches,
            "hosts": texts(input, HOSTS), "ipAddresses": texts(input, BLOCKS),
        },
    })
}

fn route_group(input: &mut Input<'_>) -> Value {
    let matches: Vec<Value> = (0..input.below(4))
        .map(|_| {
            let header = json!({text(input, &["x-a", "host", "X-A", ":path", ""]): text(input, PATTERNS)});
            json!({
                "name": text(input, NAMES),
                "pathRegex": text(input, PATTERNS),
                "methods": texts(input, &["GET", "get", "*", "POST", "FOO", ""]),
                "headers": if input.one_in_four() { json!([header.clone(), header]) } else { header },
            })
        })
        .collect();
    json!({"apiVersion": "specs.smi-spec.io/v1alpha4", "kind": "HTTPRouteGroup", "spec": {"matches": matches}})
}

/// Makes labels of pods, or of a selector.
fn labels(input: &mut Input<'_>) -> Value {
    input.pick(&["", "a", "b"]).chars().map(|label| ("app".to_owned(), json!(label.to_string()))).collect()
}

fn numbers(input: &mut Input<'_>) -> Value {
    let protocols = [json!("TCP"), json!("UDP"), Value::Null];
    (0..input.below(3))
        .map(|_| {
            let protocol = protocols[input.below(3)].clone();
            json!({"port": input.pick(&[80, 443, 8080, 0, 70_000]), "protocol": protocol})
        })
        .collect()
}

const ADDRESSES: &[&str] = &["10.96.0.1", "10.96.0.2", "fd00::1", "::ffff:10.96.0.1", "None", "", "x"];

/// Makes an object of Kubernetes itself, or of the mesh's access rules.
fn of_the_mesh(input: &mut Input<'_>) -> Value {
    match input.below(7) {
        0 | 1 => {
            let spec = json!({
                "clusterIP": text(input, ADDRESSES),
                "clusterIPs": texts(input, ADDRESSES),
                "ports": numbers(input),
                "selector": labels(input),
            });
            json!({"apiVersion": "v1", "kind": "Service", "spec": spec})
        }
        2 => {
            let subset = json!({"addresses": [{"ip": text(input, ADDRESSES)}], "ports": numbers(input)});
            json!({"apiVersion": "v1", "kind": "Endpoints", "subsets": [subset]})
        }
        3 => {
            let endpoint = json!({"addresses": [text(input, ADDRESSES)]});
            json!({
                "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
                "endpoints": [endpoint], "ports": numbers(input),
            })
        }
        4 => json!({"apiVersion": "v1", "kind": "Pod", "spec": {"serviceAccountName": text(input, NAMES)}}),
        5 => {
            let template = json!({
                "metadata": {"labels": labels(input)}, "spec": {"serviceAccountName": text(input, NAMES)},
            });
            json!({"apiVersion": "apps/v1", "kind": "Deployment", "spec": {"template": template}})
        }
        _ => {
            let mut account =
                || json!({"kind": "ServiceAccount", "name": text(input, NAMES), "namespace": "n"});
            let (mut destination, source) = (account(), account());
            if input.one_in_four() {
                destination["port"] = json!(input.pick(&[80, 443, 0]));
            }
            let rules =
                if input.one_in_four() { json!([]) } else { json!([{"kind": "TCPRoute", "name": "x"}]) };
            json!({
                "apiVersion": "access.smi-spec.io/v1alpha3", "kind": "TrafficTarget",
                "spec": {"destination": destination, "sources": [source], "rules": rules},
            })
        }
    }
}

fn object(input: &mut Input<'_>, number: usize) -> Value {
    const MODES: &[&str] = &["enforce", "audit", "passthrough", "Audit", ""];
    let mut object = match input.below(13) {
        0..=3 => egress(input),
        4 | 5 => route_group(input),
        6 => {
            let timeout = text(input, &["1s", "0", "5ms", "1", "-1s", "1h"]);
            let tcp = json!({"maxConnections": input.number(), "connectTimeout": timeout});
            let spec = json!({"host": text(input, HOSTS), "connectionSettings": {"tcp": tcp}});
            json!({
                "apiVersion": "policy.openservicemesh.io/v1alpha1",
                "kind": "UpstreamTrafficSetting",
                "spec": spec,
            })
        }
        7 => json!({"apiVersion": "v1", "kind": input.pick(&["Namespace", "ServiceAccount"])}),
        8 => {
            let traffic = json!({
                "enableEgress": input.pick(&[Some(true), Some(false), None]),
                "enablePermissiveTrafficPolicyMode": input.pick(&[Some(true), Some(false), None]),
                "outboundIPRangeExclusionList": texts(input, BLOCKS),
            });
            json!({
                "apiVersion": "config.openservicemesh.io/v1alpha2",
                "kind": "MeshConfig",
                "spec": {"traffic": traffic},
            })
        }
        9 => {
            let mut namespace = json!({"apiVersion": "v1", "kind": "Namespace"});
            namespace["metadata"] =
                json!({"name": "n", "labels": {"openservicemesh.io/monitored-by": "osm"}});
            let (annotation, values) = input.pick(&[
                (MODE_ANNOTATION, MODES),
                (MODE_DELEGATION_ANNOTATION, &["service-accounts", "none", "all"][..]),
                (POLICY_NAMESPACES_ANNOTATION, &["*", "n", "m, n", "N", ""][..]),
            ]);
            namespace["metadata"]["annotations"] = json!({annotation: text(input, values)});
            return namespace;
        }
        _ => of_the_mesh(input),
    };
    let kind = object["kind"].as_str().unwrap_or_default();
    let name = match kind {
        "MeshConfig" if !input.one_in_four() => "osm-mesh-config".to_owned(),
        "Egress" => format!("p{}", number % 4),
        _ => text(input, NAMES),
    };
    let namespace = if kind == "MeshConfig" { "osm-system".to_owned() } else { text(input, NAMESPACES) };
    let mut labels = labels(input);
    if kind == "EndpointSlice" {
        labels["kubernetes.io/service-name"] = json!(text(input, NAMES));
    }
    object["metadata"] = json!({"name": name, "namespace": namespace, "labels": labels});
    let annotation = match input.byte() % 16 {
        13 => Some((MODE_ANNOTATION, MODES)),
        14 => Some((UPGRADES_ANNOTATION, &["websocket", "WebSocket, websocket", "h2c", ""][..])),
        15 => Some((ENCRYPTED_HELLO_ANNOTATION, &["allow-outer", "refuse", "allow", ""][..])),
        _ => None,
    };
    if let Some((annotation, values)) = annotation {
        object["metadata"]["annotations"] = json!({annotation: text(input, values)});
    }
    object
}
