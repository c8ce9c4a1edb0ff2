//! Hostile names of workloads and manifests: the console shows them as text.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use egress_tests::client;
use egress_tests::hello::Hello;
use egress_tests::log_entries;
use egress_tests::network::{CONTROL_PLANE, EXAMPLE, HTTPBIN};
use egress_tests::wait::wait_for;
use egress_tests::workload;
use egress_tests::xds::XdsClient;
use serde_json::json;

use super::{WEB, open};

const HOSTILE_HTML: &str = "<img src=x onerror=window.hit=1><script>window.hit=1</script>";
const ESCAPES: &str = "\u{1b}[31m\u{202e}&lt;\r\n";

#[test]
fn html_and_escapes_are_shown_as_text() -> Result<()> {
    let wrong = format!(
        "apiVersion: policy.openservicemesh.io/v1alpha1\nkind: Egress\nmetadata: {{name: wrong, namespace: curl}}\n\
         spec:\n  sources: [{{kind: ServiceAccount, name: curl, namespace: curl}}]\n  hosts: [a.org, \"{HOSTILE_HTML}\"]\n  \
         ports: [{{number: 443, protocol: \"{HOSTILE_HTML}\"}}]\n"
    );
    open(&[("web.yaml", WEB), ("<b>wrong.yaml", &wrong)], &["--flow-log"], |console| {
        let browser = &console.browser;
        let to = |ip, port| SocketAddr::new(ip, port);
        // Through a real sidecar, if it lets them through.
        let name = format!("{HOSTILE_HTML}{ESCAPES}");
        let long = "x".repeat(64 << 10);
        console.pod.workload().run(|| {
            for name in [HOSTILE_HTML, &name, &long] {
                let _ = client::exchange(to(EXAMPLE, 443), &Hello::with_names(&[name.as_bytes()]).bytes());
            }
            let path = format!("/%22%3E{}", HOSTILE_HTML.replace(' ', "/"));
            for (method, path, host) in [
                ("GET", &*path, "httpbin.org"),
                ("GET", "/", HOSTILE_HTML),
                ("<b>GET</b>", "/", "x.org"),
                ("GET", &long, "y.org"),
            ] {
                let request = client::request(method, path, &[("host", host), ("connection", "close")]);
                let _ = client::http(to(HTTPBIN, 80), &request);
            }
        })?;
        workload::get(console.pod, to(HTTPBIN, 80), "httpbin.org", "/get")?;
        // From a client that sends any text.
        let node = format!("{HOSTILE_HTML}{ESCAPES}.curl.curl");
        let proxy = XdsClient { node: &node, ..XdsClient::default() };
        let refused = |name: &str| {
            log_entries::connection(to(EXAMPLE, 443), b"deny sni-not-allowed - -", Some(name.as_bytes()))
        };
        let entries = vec![log_entries::connections([&name, HOSTILE_HTML, &long].map(refused).to_vec())];
        proxy
            .send_log_entries(console.netns, to(CONTROL_PLANE, 15128), entries)?
            .context("it was not listened to")?;

        console.load("flows")?;
        browser.wait("the path", "#flow-rows", "onerror=window.hit=1")?;
        browser.wait("the server name", "#flow-rows", "https://<img src=x onerror=window.hit=1>")?;
        // Control characters and bidirectional marks are escaped.
        let rows = browser.text("#flow-rows")?;
        ensure!(
            !rows.contains(['\u{1b}', '\u{202e}']) && rows.contains("\\u{1b}[31m\\u{202e}&lt;"),
            "{rows}"
        );
        wait_for("five flows", Duration::from_secs(10), || {
            console.count("tr.flow").is_ok_and(|all| all >= 5)
        })
        .context(rows)?;
        let all = console.count("tr.flow")?;
        // Each is explained by clicking.
        for index in 0..all {
            console.visit("flows")?;
            wait_for("the flows", Duration::from_secs(10), || {
                console.count("tr.flow").is_ok_and(|now| now >= all)
            })?;
            browser.script("document.querySelector('#answer').replaceChildren()", &json!([]))?;
            browser.script(
                "document.querySelectorAll('tr.flow button')[arguments[0]].click()",
                &json!([index]),
            )?;
            console.wait_for_view("ask")?;
            browser.wait("an answer", "#answer #verdict", "")?;
        }
        for (view, list) in [("mesh", "#problems"), ("policies", "#policy-rows")] {
            console.visit(view)?;
            browser.wait("the problem", list, "<script>window.hit=1</script>")?;
            browser.wait("its file", list, "<b>wrong.yaml")?;
        }
        console.visit("ask")?;
        browser.fill("#identity", "curl/curl")?;
        browser.fill("#to", &format!("https://{HOSTILE_HTML}"))?;
        browser.click("#evaluate")?;
        browser.wait("what is wrong", "#mistake", "<img src=x")?;
        console.load(&format!("ask?identity={HOSTILE_HTML}&to={HOSTILE_HTML}&nothing={HOSTILE_HTML}"))?;
        browser.wait("what is wrong", "#mistake", "<img src=x")?;
        console.expect_messages(|line| line.contains("400 (Bad Request)"))?;
        let hit = browser.script(
            "return [window.hit ?? null, document.images.length, document.querySelectorAll('body script').length]",
            &json!([]),
        )?;
        ensure!(hit == json!([null, 0, 0]), "{hit}");
        console.expect_no_errors()
    })
}
