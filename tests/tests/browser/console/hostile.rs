//! What workloads and writers of manifests chose is shown, and is nothing but text.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Result, ensure};
use egress_tests::client;
use egress_tests::hello::Hello;
use egress_tests::mesh::{self, EXAMPLE, HTTPBIN};
use egress_tests::wait::wait_for;
use serde_json::json;

use super::{WEB, open};

const EVIL: &str = "<img src=x onerror=window.hit=1><script>window.hit=1</script>";
const ESCAPES: &str = "\u{1b}[31m\u{202e}&lt;";

#[test]
fn html_and_escapes_are_text() -> Result<()> {
    let wrong = format!(
        "apiVersion: policy.openservicemesh.io/v1alpha1\nkind: Egress\nmetadata: {{name: \"{EVIL}\", namespace: curl}}\n\
         spec:\n  sources: [{{kind: ServiceAccount, name: curl, namespace: curl}}]\n  hosts: [a.org, \"{EVIL}\"]\n  \
         ports: [{{number: 443, protocol: \"{EVIL}\"}}]\n"
    );
    open(&[("web.yaml", WEB), ("<b>wrong.yaml", &wrong)], &["--flow-log"], |console| {
        let browser = &console.browser;
        let to = |ip, port| SocketAddr::new(ip, port);
        let workload = console.pod.workload();
        let name = format!("{EVIL}{ESCAPES}\r\n");
        let long = "x".repeat(64 << 10);
        workload.run(|| {
            client::exchange(to(EXAMPLE, 443), &Hello::with_names(&[name.as_bytes()]).bytes());
            let path = format!("/%22%3E{}", EVIL.replace(' ', "/"));
            for (method, path, host) in [
                ("GET", &*path, "httpbin.org"),
                ("GET", "/", EVIL),
                ("<b>GET</b>", "/", "x.org"),
                ("GET", &long, "y.org"),
            ] {
                client::http(
                    to(HTTPBIN, 80),
                    &client::request(method, path, &[("host", host), ("connection", "close")]),
                );
            }
        })?;
        mesh::get(console.pod, to(HTTPBIN, 80), "httpbin.org", "/get")?;

        console.load("flows")?;
        browser.wait("the path", "#flow-rows", "onerror=window.hit=1")?;
        browser.wait("the server name", "#flow-rows", "https://<img src=x onerror=window.hit=1>")?;
        // Control characters are escaped, and what turns text around is.
        let rows = browser.text("#flow-rows")?;
        ensure!(!rows.contains(['\u{1b}', '\u{202e}']) && rows.contains("\\u{1b}[31m\\u{202e}"), "{rows}");
        // Each is explained by clicking.
        let all = console.count("tr.flow")?;
        ensure!(all >= 3, "{rows}");
        for index in 1..=all {
            console.visit("flows")?;
            wait_for("the flows", Duration::from_secs(10), || {
                console.count("tr.flow").is_ok_and(|now| now >= all)
            })?;
            browser.script(
                "document.querySelectorAll('tr.flow button')[arguments[0]].click()",
                &json!([index - 1]),
            )?;
            console.is_at("ask")?;
            browser.wait("an answer", "#answer", "")?;
            wait_for("an answer", Duration::from_secs(10), || {
                browser.text("#answer").is_ok_and(|text| !text.is_empty())
            })?;
        }
        for (view, list) in [("mesh", "#problems"), ("policies", "#policy-rows")] {
            console.visit(view)?;
            browser.wait("the problem", list, "<script>window.hit=1</script>")?;
        }
        console.visit("ask")?;
        browser.fill("#identity", "curl/curl")?;
        browser.fill("#to", &format!("https://{EVIL}"))?;
        browser.click("#evaluate")?;
        browser.wait("what is wrong", "#mistake", "<img src=x")?;
        console.says(|line| line.contains("400"))?;
        console.load(&format!("ask?identity={EVIL}&to={EVIL}&nothing={EVIL}"))?;
        browser.wait("what is wrong", "#mistake", "<img src=x")?;
        console.says(|line| line.contains("400"))?;
        let hit = browser.script(
            "return [window.hit ?? null, document.images.length, document.querySelectorAll('body script').length]",
            &json!([]),
        )?;
        ensure!(hit == json!([null, 0, 0]), "{hit}");
        console.is_well()
    })
}
