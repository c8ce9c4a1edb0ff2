//! Links: written by hand or by programs, opened with the back button, and on pages served at any path.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::time::Duration;

use crate::page::{MANIFESTS, Page};
use anyhow::{Context, Result, ensure};
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use egress_tests::repository_root;
use egress_tests::wait::wait_for;
use serde_json::{Value, json};

/// Encodes a link as docs/playground.md describes.
fn link(state: &Value) -> String {
    format!("#{}", URL_SAFE_NO_PAD.encode(state.to_string()))
}

#[test]
fn a_link_restores_the_page() -> Result<()> {
    let page = Page::open()?;
    page.explain(MANIFESTS, "https://bücher.example.com")?;
    page.verdict("ALLOWED", "rule")?;
    page.browser.click("#add")?;
    page.browser.fill("#changed", "a: ü")?;
    // The address follows the last change.
    wait_for("the address to follow", Duration::from_secs(5), || {
        let script = "return atob(location.hash.slice(1).replaceAll('-', '+').replaceAll('_', '/')).includes('a: \\u00c3\\u00bc')";
        page.browser.script(script, &json!([])).is_ok_and(|found| found == true)
    })?;
    let link = page.browser.script("return location.hash", &json!([]))?;
    page.load(link.as_str().unwrap_or_default())?;
    page.verdict("ALLOWED", "rule")?;
    ensure!(page.browser.value("#manifests")? == MANIFESTS);
    ensure!(page.browser.value("#to")? == "https://bücher.example.com");
    ensure!(page.browser.value("#changed")? == "a: ü");
    page.wait("the case", "#cases", "bücher.example.com")?;
    page.expect_no_errors()
}

/// The example of docs/playground.md and links of other programs open.
#[test]
fn links_of_other_programs_open() -> Result<()> {
    let text = fs::read_to_string(repository_root().join("docs/playground.md"))?;
    let example = text.split("<!-- state -->\n```json\n").nth(1).and_then(|rest| rest.split("```").next());
    let mut state: Value = serde_json::from_str(example.context("docs/playground.md has no example")?)?;
    let page = Page::open()?;
    page.load(&link(&state))?;
    page.verdict("DENIED", "route-not-allowed")?;
    for (field, value) in state["connection"].as_object().context("a connection")? {
        ensure!(Some(page.browser.value(&format!("#{field}"))?.as_str()) == value.as_str(), "{field}");
    }
    page.wait("the case", "#cases tbody tr:nth-child(1)", "http://api.partner.net/orders")?;
    page.browser.click("#compare")?;
    page.wait("the comparison", "#changes", "1 of 1 changes")?;
    // Missing fields are empty and unknown ones are skipped: links outlive versions of the page.
    state["later"] = json!({});
    state["connection"]["later"] = json!(1);
    for missing in ["cases", "changed", "connection", "manifests"] {
        state.as_object_mut().context("an object")?.remove(missing);
        page.load(&link(&state))?;
        let is_there = |field: &str| state.get(field).is_some_and(|value| *value != "");
        ensure!(page.browser.value("#manifests")?.is_empty() != is_there("manifests"));
        ensure!(page.browser.value("#changed")?.is_empty() != is_there("changed"));
    }
    // A link of an earlier version, which names the identity `source`.
    let state = json!({ "manifests": MANIFESTS, "connection": { "source": "shop/app", "to": "https://httpbin.org" } });
    page.load(&link(&state))?;
    page.verdict("ALLOWED", "rule")?;
    // The other alphabet, and padding.
    let state = json!({ "manifests": MANIFESTS, "connection": { "identity": "shop/app", "to": "https://httpbin.org" } });
    page.load(&format!("#{}", STANDARD.encode(format!("{state} "))))?;
    page.verdict("ALLOWED", "rule")?;
    page.expect_no_errors()
}

#[test]
fn the_back_button_restores_the_page() -> Result<()> {
    let page = Page::open()?;
    page.explain(MANIFESTS, "https://httpbin.org")?;
    page.verdict("ALLOWED", "rule")?;
    page.browser.choose("#example", "Addresses: a database")?;
    page.wait("the example", "#rule", "shop/database spec.ports[0]")?;
    page.browser.script("history.back()", &json!([]))?;
    page.wait("what was there", "#rule", "shop/web spec.ports[1]")?;
    ensure!(page.browser.value("#manifests")? == MANIFESTS);
    page.browser.script("history.forward()", &json!([]))?;
    page.wait("the example", "#rule", "shop/database spec.ports[0]")?;
    page.expect_no_errors()
}

#[test]
fn a_page_too_long_for_a_link_is_reported() -> Result<()> {
    let page = Page::open()?;
    let fill = "const field = document.querySelector('#manifests'); field.value = arguments[0]; \
        field.dispatchEvent(new Event('input', { bubbles: true }))";
    page.browser.script(fill, &json!(["# long\n".repeat(20_000)]))?;
    page.wait("that there is no link", "#shared", "too much text for a link")?;
    ensure!(
        page.browser
            .script("return [location.hash, document.querySelector('#share').disabled]", &json!([]))?
            == json!(["", true])
    );
    page.browser.script(fill, &json!([MANIFESTS]))?;
    page.wait("that there is one", "#share:not(:disabled)", "")?;
    let copied = "let copied; \
        Object.defineProperty(navigator, 'clipboard', { value: { writeText: async (text) => { copied = text; } } }); \
        document.querySelector('#share').click(); return copied === location.href && location.hash.length > 100";
    ensure!(page.browser.script(copied, &json!([]))? == true);
    page.wait("that it is copied", "#shared", "copied")?;
    page.expect_no_errors()
}

/// The content security policy of a page with a console beside it, which leaves frames out.
const CONTENT_POLICY: &str = "default-src 'none'; script-src 'self' 'wasm-unsafe-eval'; style-src 'self'; \
    connect-src 'self'; img-src 'self' data:; frame-ancestors 'none'";

/// A web server that serves the page below a path of its own.
#[test]
fn the_page_works_at_any_path_under_a_content_policy() -> Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let url = format!("http://{}/some/where/playground/", listener.local_addr()?);
    std::thread::spawn(move || listener.incoming().flatten().for_each(|stream| drop(serve(stream))));
    let page = Page::at(url)?;
    page.explain(MANIFESTS, "https://httpbin.org/get")?;
    page.verdict("ALLOWED", "rule")?;
    page.wait("the mark", "#editor .mark.allow[data-line='9']", "")?;
    page.browser.click("#add")?;
    page.browser.click("#run")?;
    page.wait("the case", "#tally", "1 case, 0 failed")?;
    page.browser.click("[data-download=envoy]")?;
    let address = page.browser.script("return location.pathname + location.hash.slice(0, 2)", &json!([]))?;
    ensure!(address == "/some/where/playground/#e", "{address}");
    page.expect_no_errors()
}

fn serve(mut stream: TcpStream) -> Result<()> {
    let mut lines = BufReader::new(stream.try_clone()?).lines();
    let first = lines.next().transpose()?.unwrap_or_default();
    while lines.next().transpose()?.is_some_and(|line| !line.is_empty()) {}
    let name = first.strip_prefix("GET /some/where/playground/").and_then(|rest| rest.split(' ').next());
    let name = name.map(|name| if name.is_empty() { "index.html" } else { name });
    let kind = match name.and_then(|name| name.rsplit_once('.')).map(|(_, end)| end) {
        Some("html") => "text/html; charset=utf-8",
        Some("css") => "text/css",
        Some("js") => "text/javascript",
        Some("svg") => "image/svg+xml",
        _ => "application/octet-stream",
    };
    let body = name.and_then(|name| fs::read(repository_root().join("target/playground").join(name)).ok());
    let status = if body.is_some() { "200 OK" } else { "404 Not Found" };
    let body = body.unwrap_or_default();
    write!(
        stream,
        "HTTP/1.1 {status}\r\ncontent-type: {kind}\r\ncontent-length: {}\r\ncontent-security-policy: {CONTENT_POLICY}\r\n\
         x-content-type-options: nosniff\r\nconnection: close\r\n\r\n",
        body.len()
    )?;
    Ok(stream.write_all(&body)?)
}
