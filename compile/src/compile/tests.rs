//! Tables: manifests in, documents and statuses out. The numbers CAT, VAL and K8S are OSM's own test
//! cases (reference §10.1).

mod budgets;
mod catalog;
mod extensions;
mod grants;
mod in_mesh;
mod invalid;
mod modes;
mod properties;

use egress_policy::{HostPattern, Mode, Protocol, Rule};

use super::*;
use crate::store::FileUpdate;

/// A store of one file.
fn store(text: &str) -> Store {
    let mut store = Store::default();
    store.apply(FileUpdate::read("a.yaml".into(), text.as_bytes()));
    let diagnostics: Vec<String> = store.diagnostics().map(|p| p.to_string()).collect();
    assert!(diagnostics.is_empty(), "{diagnostics:#?}\n{text}");
    store
}

fn compiled(text: &str) -> Compiled {
    compile(&store(text), &CompileOptions::default(), None)
}

fn identity(text: &str) -> Identity {
    text.parse().expect("an identity")
}

/// An Egress `n/{name}` for service account `n/app`, with the rest of its specification as written.
fn egress(name: &str, spec: &str) -> String {
    format!(
        "---\napiVersion: policy.openservicemesh.io/v1alpha1\nkind: Egress\n\
         metadata: {{name: {name}, namespace: n}}\n\
         spec: {{sources: [{{kind: ServiceAccount, name: app, namespace: n}}], {spec}}}\n"
    )
}

/// A route group `n/{name}`.
fn group(name: &str, matches: &str) -> String {
    format!(
        "---\napiVersion: specs.smi-spec.io/v1alpha4\nkind: HTTPRouteGroup\n\
         metadata: {{name: {name}, namespace: n}}\nspec: {{matches: [{matches}]}}\n"
    )
}

fn settings(name: &str) -> String {
    format!(
        "---\napiVersion: policy.openservicemesh.io/v1alpha1\nkind: UpstreamTrafficSetting\n\
         metadata: {{name: {name}, namespace: n}}\n\
         spec: {{host: foo.com, connectionSettings: {{tcp: {{maxConnections: 1, connectTimeout: 1s}}}}}}\n"
    )
}

fn by_group(name: &str) -> String {
    format!("{{apiGroup: specs.smi-spec.io/v1alpha4, kind: HTTPRouteGroup, name: {name}}}")
}

fn by_settings(name: &str) -> String {
    format!("{{apiGroup: policy.openservicemesh.io/v1alpha1, kind: UpstreamTrafficSetting, name: {name}}}")
}

/// The rules of `n/app`, each in a line: `policy protocol:port addresses hosts routes`.
fn rules(compiled: &Compiled) -> Vec<String> {
    compiled.document(&identity("n/app")).rules.iter().map(|rule| line(rule)).collect()
}

fn line(rule: &Rule) -> String {
    let Rule { policy, name: _, port, protocol, addresses, hosts, routes, cluster, .. } = rule;
    let list =
        |items: Option<Vec<String>>| items.map_or("any".to_owned(), |items| format!("[{}]", items.join(" ")));
    let addresses = list(addresses.as_ref().map(|a| a.iter().map(ToString::to_string).collect()));
    let hosts = list(hosts.as_ref().map(|h| h.iter().map(ToString::to_string).collect()));
    let routes = list(routes.as_ref().map(|routes| {
        routes
            .iter()
            .map(|r| {
                let headers: Vec<String> =
                    r.headers.iter().map(|h| format!("{}={}", h.name, h.value)).collect();
                format!(
                    "{}:{}:{}:{}",
                    r.name,
                    r.path.as_deref().unwrap_or("any"),
                    r.methods.as_ref().map_or("any".to_owned(), |m| m.join(",")),
                    headers.join(",")
                )
            })
            .collect()
    }));
    let cluster = cluster.as_ref().map_or(String::new(), |cluster| format!(" in {cluster}"));
    format!("{policy} {}:{port} {addresses} {hosts} {routes}{cluster}", protocol.as_str())
}

/// Returns all diagnostics about the objects of a text, in reading order.
fn diagnostics(compiled: &Compiled) -> String {
    let mut diagnostics: Vec<&Diagnostic> = compiled.statuses.values().flat_map(|c| &c.diagnostics).collect();
    diagnostics.sort_by(|a, b| a.cmp_reading_order(b));
    diagnostics.iter().map(|p| format!("{p}\n")).collect()
}

fn status<'c>(compiled: &'c Compiled, name: &str) -> &'c ObjectStatus {
    let found = compiled.statuses.iter().find(|(object, _)| object.to_string() == name);
    found.map(|(_, status)| status).unwrap_or_else(|| panic!("no status of {name}"))
}

#[test]
fn an_identity_without_policies_has_an_empty_document() {
    let compiled = compiled("");
    let document = compiled.document(&identity("n/app"));
    assert_eq!((document.mode, document.rules.len()), (Mode::Enforce, 0));
    assert_eq!(document.identity, identity("n/app"));
    // Equal content, equal version; other content, another version.
    assert_eq!(document.version, compiled.document(&identity("n/app")).version);
    assert_ne!(document.version, compiled.document(&identity("n/other")).version);
    assert_eq!(document.version.len(), 16);
}

#[test]
fn a_document_survives_its_wire_form() {
    let text = egress(
        "p",
        "hosts: [foo.com, '*.bar.com'], ipAddresses: [10.0.0.0/8], ports: [{number: 80, protocol: http}, {number: 443, protocol: https}]",
    );
    let document = compiled(&text).document(&identity("n/app"));
    let wire = serde_json::to_string(&*document).expect("JSON");
    assert_eq!(serde_json::from_str::<Document>(&wire).expect("a document"), *document);
    assert_eq!(document.rules[0].protocol, Protocol::Http);
    assert!(matches!(
        document.rules[0].hosts.as_deref(),
        Some([HostPattern::Exact(_), HostPattern::Below(_)])
    ));
}

#[test]
fn unchanged_documents_are_the_same_value() {
    let other = egress("q", "ports: [{number: 1, protocol: tcp}]").replace("name: app", "name: other");
    let before = compiled(&(egress("p", "ports: [{number: 22, protocol: tcp}]") + &other));
    let changed = other.replace("number: 1", "number: 2");
    let after = compile(
        &store(&(egress("p", "ports: [{number: 22, protocol: tcp}]") + &changed)),
        &CompileOptions::default(),
        Some(&before),
    );
    let same = |name: &str| Arc::ptr_eq(&before.document(&identity(name)), &after.document(&identity(name)));
    assert!(same("n/app"));
    assert!(!same("n/other"));
}

#[test]
fn ten_thousand_policies_compile() {
    let mut text = String::new();
    for i in 0..10_000 {
        let spec = format!("hosts: [h{i}.example.com], ports: [{{number: 443, protocol: https}}]");
        text.push_str(
            &egress(&format!("p{i}"), &spec).replace("name: app", &format!("name: app{}", i % 2000)),
        );
    }
    let store = store(&text);
    let compiled = compile(&store, &CompileOptions::default(), None);
    assert_eq!(compiled.documents.len(), 2000);
    assert!(compiled.documents.values().all(|document| document.rules.len() == 5));
    assert_eq!(compiled.statuses.len(), 10_000);
    let again = compile(&store, &CompileOptions::default(), Some(&compiled));
    assert!(compiled.documents.iter().all(|(id, document)| Arc::ptr_eq(document, &again.documents[id])));
}
