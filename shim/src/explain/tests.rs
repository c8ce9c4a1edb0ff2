use std::path::Path;

use super::probe::ProbeArgs;
use super::*;
use egress_compile::CompileOptions;
use egress_compile::blocked_ranges::BlockedRanges;
use egress_policy::ReasonCode;

use super::evidence::PolicySource;

const MANIFESTS: &str = r#"
apiVersion: policy.openservicemesh.io/v1alpha1
kind: Egress
metadata: {name: web, namespace: shop}
spec:
  sources: [{kind: ServiceAccount, name: app, namespace: shop}]
  hosts: [httpbin.org, "*.example.com"]
  ports: [{number: 80, protocol: http}, {number: 443, protocol: https}]
---
apiVersion: policy.openservicemesh.io/v1alpha1
kind: Egress
metadata: {name: api, namespace: shop}
spec:
  sources: [{kind: ServiceAccount, name: app, namespace: shop}]
  hosts: [api.partner.net]
  ports: [{number: 80, protocol: http}]
  matches: [{apiGroup: specs.smi-spec.io/v1alpha4, kind: HTTPRouteGroup, name: api}]
---
apiVersion: specs.smi-spec.io/v1alpha4
kind: HTTPRouteGroup
metadata: {name: api, namespace: shop}
spec:
  matches:
  - {name: read, pathRegex: /orders.*, methods: [GET]}
  - {name: write, pathRegex: /orders, methods: [POST], headers: [{x-key: "[0-9]+"}]}
---
apiVersion: policy.openservicemesh.io/v1alpha1
kind: Egress
metadata: {name: database, namespace: shop}
spec:
  sources: [{kind: ServiceAccount, name: app, namespace: shop}]
  ipAddresses: [198.51.100.0/24]
  ports: [{number: 5432, protocol: tcp}]
---
apiVersion: policy.openservicemesh.io/v1alpha1
kind: Egress
metadata: {name: broken, namespace: shop}
spec:
  sources: [{kind: ServiceAccount, name: app, namespace: shop}]
  ipAddresses: [300.0.0.0/8]
  ports: [{number: 22, protocol: tcp}]
---
apiVersion: v1
kind: Namespace
metadata: {name: watched, annotations: {openservicemesh.io/egress-mode: audit}}
---
apiVersion: v1
kind: Namespace
metadata: {name: free, annotations: {openservicemesh.io/egress-mode: passthrough}}
"#;

fn shop() -> (tempfile::TempDir, PolicySource) {
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::write(folder.path().join("shop.yaml"), MANIFESTS).expect("written");
    let evidence = evidence::folder(folder.path(), &CompileOptions::default()).expect("readable");
    (folder, evidence)
}

fn words(to: &str) -> ProbeArgs {
    ProbeArgs { to: to.to_owned(), ..ProbeArgs::default() }
}

fn explain_request(identity: &str, args: &ProbeArgs, addresses: &[&str]) -> ExplainRequest {
    let probe = args.parse().expect("sense");
    let given = addresses.iter().map(|address| address.parse().expect("an address"));
    ExplainRequest {
        identity: identity.parse().expect("an identity"),
        addresses: probe.address.into_iter().chain(given).collect(),
        probe,
        resolved: false,
        listener_port: 15001,
        blocked: BlockedRanges::default(),
    }
}

fn text(identity: &str, args: &ProbeArgs, addresses: &[&str]) -> String {
    let (folder, evidence) = shop();
    let report = explain(&evidence, &explain_request(identity, args, addresses)).expect("an answer");
    let version = report.document.clone();
    let text = report.text(false).to_string();
    text.replace(&folder.path().display().to_string(), "DIR").replace(&version, "VERSION")
}

#[test]
fn allowed_by_name() {
    insta::assert_snapshot!(text("shop/app", &words("https://httpbin.org/get"), &[]));
}

#[test]
fn allowed_by_a_wildcard_alone() {
    insta::assert_snapshot!(text("shop/app", &words("http://a.example.com"), &["10.0.0.1"]));
}

#[test]
fn the_apex_of_a_wildcard() {
    insta::assert_snapshot!(text("shop/app", &words("https://example.com"), &[]));
}

#[test]
fn another_port() {
    insta::assert_snapshot!(text("shop/app", &words("https://httpbin.org:8443"), &[]));
}

#[test]
fn a_route_that_does_not_match() {
    let args = ProbeArgs { method: Some("POST".to_owned()), ..words("http://api.partner.net/orders") };
    insta::assert_snapshot!(text("shop/app", &args, &[]));
}

#[test]
fn it_depends_on_the_address() {
    insta::assert_snapshot!(text("shop/app", &words("tcp://db.partner.net:5432"), &[]));
}

#[test]
fn a_policy_with_a_mistake() {
    insta::assert_snapshot!(text("shop/app", &words("tcp://10.0.0.1:22"), &[]));
}

#[test]
fn no_policy_at_all() {
    insta::assert_snapshot!(text("shop/other", &words("https://httpbin.org"), &[]));
}

#[test]
fn other_modes() {
    insta::assert_snapshot!(text("watched/app", &words("tcp://a.org:22"), &[]));
    insta::assert_snapshot!(text("free/app", &words("tcp://a.org:22"), &[]));
}

#[test]
fn not_intercepted() {
    insta::assert_snapshot!(text("free/app", &words("tcp://10.0.0.1:15001"), &[]));
}

/// Envoy refuses what the engine allows if it drops every address of a name.
#[test]
fn a_name_that_must_not_lead_there() {
    let (_folder, evidence) = shop();
    let mut explain_request =
        explain_request("shop/app", &words("http://httpbin.org"), &["127.0.0.1", "169.254.169.254"]);
    let allowed = explain(&evidence, &explain_request).expect("an answer");
    assert!(allowed.is_allowed() && allowed.notes.iter().any(|note| note.contains("address-forbidden")));
    explain_request.resolved = true;
    let refused = explain(&evidence, &explain_request).expect("an answer");
    assert_eq!((refused.is_allowed(), refused.reason), (false, Some(ReasonCode::AddressForbidden)));
    // Envoy drops a mapped address from an answer, wherever it would lead.
    explain_request.addresses = vec!["::ffff:203.0.113.10".parse().expect("an address")];
    let refused = explain(&evidence, &explain_request).expect("an answer");
    assert_eq!((refused.is_allowed(), refused.reason), (false, Some(ReasonCode::AddressForbidden)));
    explain_request.addresses.push("203.0.113.10".parse().expect("an address"));
    assert!(explain(&evidence, &explain_request).expect("an answer").is_allowed());
}

#[test]
fn as_json() {
    let (folder, evidence) = shop();
    let args = ProbeArgs { method: Some("POST".to_owned()), ..words("http://api.partner.net/orders") };
    let report = explain(&evidence, &explain_request("shop/app", &args, &[])).expect("an answer");
    let json = format!("{:#}", report.to_json());
    let json = json.replace(&folder.path().display().to_string(), "DIR").replace(&report.document, "VERSION");
    insta::assert_snapshot!(json);
}

/// A document alone answers too; it has no files.
#[test]
fn a_document() {
    let (folder, evidence) = shop();
    let document = evidence.document(&"shop/app".parse().expect("an identity")).expect("there");
    let path = folder.path().join("policy.json");
    std::fs::write(&path, serde_json::to_string(&*document).expect("JSON")).expect("written");
    let alone = evidence::file(&path).expect("a document");
    let explain_request = explain_request("shop/app", &words("https://httpbin.org"), &[]);
    let (one, other) = (
        explain(&evidence, &explain_request).expect("one"),
        explain(&alone, &explain_request).expect("other"),
    );
    assert_eq!((one.reason, one.policy, one.route), (other.reason, other.policy, other.route));
    assert_eq!(other.location, None);
    let wrong = self::explain_request("shop/other", &words("https://httpbin.org"), &[]);
    let error = explain(&alone, &wrong).expect_err("another's").to_string();
    assert_eq!(error, "the document belongs to shop/app, not to shop/other");
    std::fs::write(&path, "{}").expect("written");
    let error = format!("{:#}", evidence::file(&path).expect_err("none"));
    assert!(error.contains("no policy document"), "{error}");
    assert!(evidence::folder(Path::new("/nowhere"), &CompileOptions::default()).is_err());
}

/// Untrusted text reaches the terminal only without control characters, and never starts a line.
#[test]
fn hostile_words() {
    let sni = ProbeArgs { sni: Some("a\u{1b}[31m\nALLOWED.org".to_owned()), ..words("tcp://10.0.0.1:443") };
    let header = ProbeArgs {
        headers: vec![format!("x-key: \u{1b}]0;\n{}", "x".repeat(65536))],
        method: Some("POST\r\n".to_owned()),
        ..words("http://api.partner.net/orders")
    };
    for args in [sni, header] {
        let text = text("shop/app", &args, &["10.0.0.1"]);
        assert!(text.chars().all(|c| c == '\n' || !c.is_control()), "{text}");
        assert!(!text.contains("\nALLOWED.org") && text.len() < 10_000, "{text}");
    }
}
