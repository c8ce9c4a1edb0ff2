//! Answers of the admin interface, by client, host and credentials.

use std::net::SocketAddr;
use std::sync::atomic::AtomicBool;

use axum::body::{Body, to_bytes};
use axum::extract::ConnectInfo;
use axum::http::{HeaderMap, Request};
use axum::response::Response;
use egress_compile::blocked_ranges::BlockedRanges;
use egress_compile::store::{FileUpdate, Store};
use egress_compile::{CompileOptions, compile};
use tokio::sync::watch;
use tower::ServiceExt;

use super::*;
use crate::console::playground::Playground;
use crate::console::token::Token;
use crate::console::{WriteConfig, WriteTarget};
use egress_core::source::SourceState;
use egress_xds::identify::Identification;

const MANIFESTS: &str = "apiVersion: policy.openservicemesh.io/v1alpha1\nkind: Egress\n\
    metadata: {name: web, namespace: shop}\n\
    spec:\n  sources: [{kind: ServiceAccount, name: app, namespace: shop}]\n  hosts: [httpbin.org]\n  \
    ports: [{number: 443, protocol: https}]\n---\napiVersion: config.openservicemesh.io/v1alpha2\nkind: MeshConfig\n\
    metadata: {name: osm-mesh-config, namespace: osm-system}\nspec: {traffic: {enableEgress: false}}\n";
const NEW: &str = "apiVersion: policy.openservicemesh.io/v1alpha1\nkind: Egress\nmetadata: {name: new, namespace: shop}\n\
    spec:\n  sources: [{kind: ServiceAccount, name: app, namespace: shop}]\n  hosts: [a.org]\n  \
    ports: [{number: 443, protocol: https}]\n";

/// Headers that differ from those of the page; `None` removes one.
type Changed<'a> = &'a [(&'a str, Option<&'a str>)];

/// Admin interface of a control plane over a folder.
struct Admin {
    folder: tempfile::TempDir,
    routes: Router,
    token: String,
}

impl Admin {
    fn new(writes: bool) -> Self {
        Self::with(writes, None)
    }

    fn with(writes: bool, playground: Option<&std::path::Path>) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("all.yaml");
        std::fs::write(&path, MANIFESTS).expect("written");
        let mut store = Store::default();
        store.apply(FileUpdate::read(path.display().to_string().into(), MANIFESTS.as_bytes()));
        let options = CompileOptions::default();
        let compiled = compile(&store, &options, None);
        let source = SourceState { store: Arc::new(store), availability: Availability::Available };
        let shared = AdminState {
            source: watch::channel(source).1,
            compiled: watch::channel(Arc::new(compiled)).1,
            proxies: Arc::default(),
            serving: Arc::new(AtomicBool::new(true)),
            reviews: egress_kubernetes::webhook::ReviewCounters::default(),
            tls: None,
            identification: Arc::new(Identification::NodeId),
            flows: None,
            policies: egress_kubernetes::PolicyStatuses::default(),
            pools: crate::pools::Pools::default(),
        };
        let (token, text) = Token::generate().expect("random");
        let target = WriteTarget::Folder(folder.path().to_owned());
        let console = ConsoleConfig {
            options,
            from_cluster: false,
            listener_port: 15001,
            blocked: BlockedRanges::default(),
            names: vec!["Console.example".parse().expect("a name")],
            writes: writes.then_some(WriteConfig { token, target }),
            playground: playground.map(|folder| Playground::open(folder).expect("a playground")),
        };
        Self { folder, routes: routes(shared, console), token: text }
    }

    async fn send(&self, request: Request<Body>) -> (u16, HeaderMap, String) {
        let response: Response = self.routes.clone().oneshot(request).await.expect("an answer");
        let (parts, body) = response.into_parts();
        let body = to_bytes(body, 1 << 20).await.expect("a body");
        (parts.status.as_u16(), parts.headers, String::from_utf8(body.to_vec()).expect("text"))
    }

    async fn get(&self, path: &str, headers: &[(&str, &str)]) -> (u16, HeaderMap, String) {
        let mut request = Request::get(path);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        self.send(request.body(Body::empty()).expect("a request")).await
    }

    /// Sends a write as the page does, with these changes.
    async fn write(&self, path: &str, body: &str, changed: Changed<'_>, from: &str) -> (u16, String) {
        let bearer = format!("Bearer {}", self.token);
        let mut headers = vec![
            ("host", Some("127.0.0.1:15129")),
            ("origin", Some("http://127.0.0.1:15129")),
            ("sec-fetch-site", Some("same-origin")),
            ("content-type", Some("application/json")),
            ("authorization", Some(&bearer)),
        ];
        headers.retain(|(name, _)| !changed.iter().any(|(other, _)| other == name));
        headers.extend_from_slice(changed);
        let mut request = Request::post(path);
        for (name, value) in headers {
            if let Some(value) = value {
                request = request.header(name, value);
            }
        }
        let address: SocketAddr = from.parse().expect("an address");
        let peer = Peer { address, is_local: address.ip().is_loopback() };
        let request =
            request.extension(ConnectInfo(peer)).body(Body::from(body.to_owned())).expect("a request");
        let (status, _, text) = self.send(request).await;
        (status, text)
    }

    fn text(&self, file: &str) -> String {
        std::fs::read_to_string(self.folder.path().join(file)).unwrap_or_default()
    }
}

const HERE: [(&str, &str); 1] = [("host", "127.0.0.1:15129")];
const SWITCH: &str = "/console/global-egress";
const ON: &str = r#"{"enabled": true}"#;

fn new_policy() -> String {
    policy_for("shop/app", "https://a.org", NEW)
}

/// Request body for a policy, with the destination of a query.
fn policy_for(identity: &str, to: &str, yaml: &str) -> String {
    serde_json::json!({ "question": { "identity": identity, "to": to }, "yaml": yaml }).to_string()
}

#[tokio::test]
async fn every_answer_has_strict_security_headers() {
    let admin = Admin::new(false);
    for path in [
        "/console/",
        "/console/console.js",
        "/console/style.css",
        "/console/icon.svg",
        "/console/settings",
        "/console/nothing",
        "/console/..%2f..%2fetc%2fpasswd",
        "/nothing",
        "/status",
        "/flows",
        "/explain",
        "/suggest?identity=shop/app",
        "/",
        "/console",
        "/metrics",
        "/healthz",
    ] {
        let (status, headers, _) = admin.get(path, &HERE).await;
        let header =
            |name: &str| headers.get(name).map(|value| value.to_str().expect("text")).unwrap_or_default();
        let policy = header("content-security-policy");
        for part in [
            "default-src 'none'",
            "script-src 'self'",
            "style-src 'self'",
            "connect-src 'self'",
            "img-src 'self' data:",
            "frame-ancestors 'none'",
            "base-uri 'none'",
            "form-action 'none'",
        ] {
            assert!(policy.split("; ").any(|found| found == part), "{path} {status}: {policy}");
        }
        assert_eq!(header("x-content-type-options"), "nosniff", "{path}");
        assert_eq!(header("referrer-policy"), "no-referrer", "{path}");
        assert_eq!(header("cross-origin-resource-policy"), "same-origin", "{path}");
        assert!(headers.get("access-control-allow-origin").is_none(), "{path}");
        let cached = header("cache-control");
        assert!(
            cached == "no-store" || (cached == "no-cache" && headers.contains_key("etag")),
            "{path}: {cached}"
        );
    }
    let (status, headers, _) = admin.get("/", &HERE).await;
    assert_eq!((status, headers["location"].to_str().expect("text")), (307, "/console/"));
    // A file that the browser has is not sent again.
    let (status, headers, text) = admin.get("/console/", &HERE).await;
    assert!(status == 200 && text.contains("<!doctype html>"), "{text}");
    let tag = headers["etag"].to_str().expect("text").to_owned();
    for known in [&tag, &format!("W/{tag}"), &format!("\"other\", {tag}"), "*"] {
        let (status, _, text) = admin.get("/console/", &[HERE[0], ("if-none-match", known)]).await;
        assert_eq!((status, text.as_str()), (304, ""), "{known}");
    }
    let (status, ..) = admin.get("/console/", &[HERE[0], ("if-none-match", "\"other\"")]).await;
    assert_eq!(status, 200);
}

/// Foreign host names and pages of other sites are refused; probes are not.
#[tokio::test]
async fn pages_of_other_sites_are_refused() {
    let admin = Admin::new(false);
    let guarded =
        ["/console/", "/status", "/flows", "/explain?identity=shop/app&to=a.org:1", "/suggest?identity=a/b"];
    for path in guarded {
        for host in [
            "attacker.example",
            "attacker.example:15129",
            "127.0.0.1.attacker.example",
            "attacker.example@127.0.0.1",
            "localhost.attacker.example",
        ] {
            let (status, _, text) = admin.get(path, &[("host", host)]).await;
            assert!(
                status == 403 && text.contains("is not a name of this control plane"),
                "{path} {host}: {text}"
            );
        }
        assert_eq!(admin.get(path, &[]).await.0, 403, "{path}: without a host");
        let twice = [HERE[0], ("host", "attacker.example")];
        assert_eq!(admin.get(path, &twice).await.0, 403, "{path}: two hosts");
        for (name, value) in [
            ("origin", "https://attacker.example"),
            ("origin", "null"),
            ("origin", "http://127.0.0.1:1"),
            ("sec-fetch-site", "cross-site"),
            ("sec-fetch-site", "same-site"),
        ] {
            let (status, _, text) = admin.get(path, &[HERE[0], (name, value)]).await;
            assert!(status == 403 && text.contains("another site"), "{path} {name} {value}: {text}");
        }
        for host in [
            "127.0.0.1:15129",
            "10.1.2.3:15129",
            "[::1]:15129",
            "localhost:8080",
            "LOCALHOST",
            "console.example:443",
        ] {
            assert_ne!(admin.get(path, &[("host", host)]).await.0, 403, "{path} {host}");
        }
    }
    // A link in another site's page, which a person follows.
    let link = [HERE[0], ("sec-fetch-site", "cross-site"), ("sec-fetch-mode", "navigate")];
    assert_eq!(admin.get("/console/", &link).await.0, 200);
    for path in ["/healthz", "/readyz", "/servingz", "/metrics"] {
        for headers in [&[("host", "osm-egress.osm-system.svc:15129")][..], &[]] {
            assert_eq!(admin.get(path, headers).await.0, 200, "{path}");
        }
    }
}

#[tokio::test]
async fn queries_are_answered() {
    let admin = Admin::new(false);
    let fetch = async |question: &str| {
        let (status, _, text) = admin.get(&format!("/explain?{question}"), &HERE).await;
        (status, serde_json::from_str::<serde_json::Value>(&text).unwrap_or_else(|_| text.into()))
    };
    let (status, answer) = fetch("identity=shop/app&to=https://httpbin.org").await;
    assert_eq!((status, &answer["report"]["verdict"]), (200, &"allow".into()));
    assert_eq!(answer["report"]["proxies"]["proxies"], serde_json::json!([]));
    let (_, answer) = fetch("identity=shop/app&to=https://httpbin.com").await;
    assert_eq!(answer["report"]["reason"], "sni-not-allowed");
    assert!(
        answer["rules"][0]["mismatches"][0].as_str().is_some_and(|lack| lack.contains("does not list")),
        "{answer:#}"
    );
    let (_, answer) = fetch("identity=shop/app&to=https://203.0.113.1&sni=%3Cscript%3E%0A%1b&headers=").await;
    assert_eq!(answer["report"]["verdict"], "deny");
    for (question, expected) in [
        ("", "HOST:PORT"),
        ("to=a.org:443", "enter the identity"),
        ("to=a.org:443&identity=app", "`app`"),
        ("to=a.org:443&identity=shop/app&address=x", "is not an IP address"),
        ("to=a.org:443&identity=shop/app&nothing=x", "unknown field"),
    ] {
        let (status, answer) = fetch(question).await;
        assert!(status == 400 && answer.to_string().contains(expected), "{question}: {answer}");
    }
    let (status, _, text) = admin.get("/suggest?identity=shop/app", &HERE).await;
    assert!(status == 409 && text.contains("serve --flow-log"), "{text}");
    let (status, _, text) = admin.get("/console/suggestion?identity=shop/app&to=https://a.org", &HERE).await;
    assert!(status == 409 && text.contains("serve --flow-log"), "{text}");
    let (_, _, text) = admin.get("/console/manifests?identity=shop/app", &HERE).await;
    assert!(text.contains("kind: Egress") && text.contains("enableEgress: false"), "{text}");
    let (_, _, text) = admin.get("/console/manifests?identity=shop/other", &HERE).await;
    assert!(!text.contains("kind: Egress"), "{text}");
    let (_, _, text) = admin.get("/console/settings", &HERE).await;
    assert!(text.contains(r#""writes":false"#), "{text}");
}

/// Only files that existed at the start, with known extensions.
#[tokio::test]
async fn the_playground_serves_only_its_files() {
    let folder = tempfile::tempdir().expect("a folder");
    let write = |name: &str| std::fs::write(folder.path().join(name), name).expect("written");
    assert!(
        Playground::open(folder.path()).is_err_and(|error| error.to_string().contains("has no index.html"))
    );
    assert!(Playground::open(&folder.path().join("none")).is_err());
    std::fs::create_dir(folder.path().join("sub")).expect("a folder");
    for name in ["index.html", "page.js", "module.wasm.gz", "notes.txt", ".hidden.js", "sub/page.js"] {
        write(name);
    }
    std::os::unix::fs::symlink("/etc/passwd", folder.path().join("linked.js")).expect("a link");
    let admin = Admin::with(false, Some(folder.path()));
    write("later.js");
    for (path, expected) in [
        ("/playground/", "index.html"),
        ("/playground/page.js", "page.js"),
        ("/playground/module.wasm.gz", "module.wasm.gz"),
    ] {
        let (status, headers, text) = admin.get(path, &HERE).await;
        assert_eq!((status, text.as_str()), (200, expected), "{path}");
        let policy = headers["content-security-policy"].to_str().expect("text");
        assert!(
            policy.contains("script-src 'self' 'wasm-unsafe-eval'")
                && policy.contains("frame-ancestors 'none'")
        );
        assert_eq!(headers["x-content-type-options"], "nosniff");
        assert_eq!(headers["cache-control"], "no-cache");
    }
    for path in [
        "notes.txt",
        ".hidden.js",
        "sub/page.js",
        "sub%2fpage.js",
        "linked.js",
        "later.js",
        "..%2fall.yaml",
        "%2fetc%2fpasswd",
        "../console/console.js",
        "nothing",
    ] {
        let (status, ..) = admin.get(&format!("/playground/{path}"), &HERE).await;
        assert_eq!(status, 404, "{path}");
    }
    assert_eq!(admin.get("/playground/", &[("host", "attacker.example")]).await.0, 403);
    assert_eq!(Admin::new(false).get("/playground/", &HERE).await.0, 404);
}

#[tokio::test]
async fn nothing_is_written_unless_writing_is_enabled() {
    let admin = Admin::new(false);
    for (path, body) in [(SWITCH, ON.to_owned()), ("/console/policies", new_policy())] {
        let (status, text) = admin.write(path, &body, &[], "127.0.0.1:4000").await;
        assert!(status == 403 && text.contains("--console-write"), "{status} {text}");
    }
    assert_eq!(admin.text("all.yaml"), MANIFESTS);
    assert_eq!(std::fs::read_dir(admin.folder.path()).expect("a folder").count(), 1);
}

#[tokio::test]
async fn a_write_needs_origin_address_and_token() {
    let admin = Admin::new(true);
    let wrong = format!("Bearer {}x", admin.token);
    let basic = format!("Basic {}", admin.token);
    let cases: [(Changed<'_>, &str, u16, &str); 13] = [
        (&[("authorization", None)], "127.0.0.1:1", 401, "writes need the console's token"),
        (&[("authorization", Some(&basic))], "127.0.0.1:1", 401, "writes need the console's token"),
        (&[("authorization", Some("Bearer "))], "127.0.0.1:1", 401, "the token is not the console's"),
        (&[("authorization", Some(&wrong))], "127.0.0.1:1", 401, "the token is not the console's"),
        (&[], "192.0.2.7:1", 403, "own machine or pod"),
        (&[], "[2001:db8::1]:1", 403, "own machine or pod"),
        (&[("host", Some("attacker.example"))], "127.0.0.1:1", 403, "is not a name of this control plane"),
        (&[("origin", Some("http://attacker.example"))], "127.0.0.1:1", 403, "another site"),
        (&[("origin", Some("http://127.0.0.1:8080"))], "127.0.0.1:1", 403, "another site"),
        (&[("origin", Some("null"))], "127.0.0.1:1", 403, "another site"),
        (&[("sec-fetch-site", Some("same-site"))], "127.0.0.1:1", 403, "another site"),
        (
            &[("sec-fetch-site", Some("cross-site")), ("sec-fetch-mode", Some("navigate"))],
            "127.0.0.1:1",
            403,
            "another site",
        ),
        (&[("content-type", Some("text/plain"))], "127.0.0.1:1", 415, "Content-Type"),
    ];
    for (changed, from, expected, message) in cases {
        for (path, body) in [(SWITCH, ON.to_owned()), ("/console/policies", new_policy())] {
            let (status, text) = admin.write(path, &body, changed, from).await;
            assert!(status == expected && text.contains(message), "{changed:?} {from}: {status} {text}");
            assert!(!text.contains(&admin.token), "{text}");
        }
    }
    let long = format!("{{\"enabled\": true, \"x\": \"{}\"}}", "x".repeat(300 << 10));
    assert_eq!(admin.write(SWITCH, &long, &[], "127.0.0.1:1").await.0, 413);
    assert_eq!(admin.write(SWITCH, "{}", &[], "127.0.0.1:1").await.0, 422);
    assert_eq!(admin.get(SWITCH, &HERE).await.0, 403, "who connected is not known");
    assert_eq!(admin.text("all.yaml"), MANIFESTS);
    assert_eq!(std::fs::read_dir(admin.folder.path()).expect("a folder").count(), 1);
}

#[tokio::test]
async fn confirmed_writes_change_the_folder() {
    let admin = Admin::new(true);
    let (status, text) = admin.write(SWITCH, ON, &[], "127.0.0.1:1").await;
    assert!(status == 200 && text.contains("all.yaml:12"), "{status} {text}");
    assert_eq!(admin.text("all.yaml"), MANIFESTS.replace("enableEgress: false", "enableEgress: true"));
    // A program sends no origin.
    let program = [("origin", None), ("sec-fetch-site", None)];
    let (status, text) = admin.write("/console/policies", &new_policy(), &program, "[::1]:1").await;
    assert!(status == 200 && text.contains("Egress shop/new"), "{status} {text}");
    assert_eq!(admin.text("shop-new.yaml"), NEW);
    let (status, text) = admin.write("/console/policies", &new_policy(), &[], "127.0.0.1:1").await;
    assert!(status == 409 && text.contains("already exists"), "{status} {text}");
    let other = policy_for("shop/other", "https://a.org", NEW);
    let (status, text) = admin.write("/console/policies", &other, &[], "127.0.0.1:1").await;
    assert!(status == 422 && text.contains("other identities than shop/other"), "{status} {text}");
    // More than the query's destination, and no query at all.
    let fresh = NEW.replace("name: new", "name: more");
    for (to, text, expected) in [
        ("https://b.org", fresh.clone(), "allows `a.org`, but only b.org:443 was asked about"),
        ("https://a.org:8443", fresh.clone(), "allows port 443"),
        ("https://a.org", fresh.replace("[a.org]", "[a.org, b.org]"), "allows `b.org`"),
        ("https://a.org", fresh.replace("  hosts: [a.org]\n", ""), "allows any destination"),
        ("", fresh.clone(), "is not HOST:PORT"),
    ] {
        let body = policy_for("shop/app", to, &text);
        let (status, message) = admin.write("/console/policies", &body, &[], "127.0.0.1:1").await;
        assert!(status == 422 && message.contains(expected), "{to}: {status} {message}");
    }
    let unasked = serde_json::json!({ "identity": "shop/app", "yaml": fresh }).to_string();
    assert_eq!(admin.write("/console/policies", &unasked, &[], "127.0.0.1:1").await.0, 422);
    assert_eq!(std::fs::read_dir(admin.folder.path()).expect("a folder").count(), 2);
}
