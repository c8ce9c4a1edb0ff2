//! Each feature by clicking and typing.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use egress_tests::browser::{CONTROL, ENTER, TAB};
use egress_tests::wait::wait_for;
use serde_json::json;

use crate::page::{MANIFESTS, Page};

const MARK: &str = "#editor .mark";

impl Page {
    /// Waits until this line alone is marked so.
    fn marks(&self, line: u32, kind: &str) -> Result<()> {
        self.wait("the mark", &format!("{MARK}.{kind}[data-line='{line}']"), "")
    }
}

#[test]
fn a_verdict_and_the_line_that_decides() -> Result<()> {
    let page = Page::open()?;
    page.ask(MANIFESTS, "https://httpbin.org/get")?;
    page.verdict("ALLOWED", "rule")?;
    page.marks(9, "allow")?;
    ensure!(page.browser.text("#rule")? == "shop/web spec.ports[1]");
    page.wait("the other rule", "#others", "80")?;
    page.picture("playground.png")?;
    page.browser.prefer("dark")?;
    page.picture("playground-dark.png")?;
    page.browser.prefer("light")?;

    page.browser.fill("#to", "https://example.com")?;
    page.verdict("DENIED", "sni-not-allowed")?;
    // No rule decided, so none is marked.
    ensure!(page.browser.script("return document.querySelector(arguments[0])", &json!([MARK]))?.is_null());
    page.wait("why not", "#others", "`*.example.com` is for the names below it")?;
    page.wait("what was meant", "#answer", "list `example.com` in Egress shop/web too")?;
    // The place is a button that leads there.
    page.browser.click("#others button.place")?;
    let line = "const field = document.querySelector('#manifests'); \
        return field.value.slice(0, field.selectionStart).split('\\n').length";
    ensure!(page.browser.script(line, &json!([]))? == 9);
    ensure!(page.browser.focus()? == "manifests");
    page.is_well()
}

#[test]
fn every_field_of_the_form() -> Result<()> {
    let page = Page::open()?;
    page.ask(MANIFESTS, "203.0.113.10:443")?;
    page.browser.fill("#sni", "www.example.com")?;
    page.verdict("ALLOWED", "rule")?;
    page.wait("where it goes", "#answer", "www.example.com:443, as the sidecar resolves it")?;
    page.browser.click("#ech")?;
    page.verdict("DENIED", "ech-refused")?;
    page.browser.click("#ech")?;
    page.browser.fill("#sni", "")?;
    page.browser.click("#noSni")?;
    page.verdict("DENIED", "sni-absent")?;
    page.browser.click("#noSni")?;
    page.browser.fill("#clientHello", "47 45 54 20")?;
    page.verdict("DENIED", "tls-required")?;
    page.browser.fill("#clientHello", "1603010005")?;
    page.verdict("DENIED", "tls-malformed")?;
    page.browser.fill("#clientHello", "")?;

    page.browser.choose("#example", "Routes: path, method, headers")?;
    page.verdict("DENIED", "route-not-allowed")?;
    page.marks(9, "deny")?;
    page.browser.fill("#headers", "X-Key: 12")?;
    page.verdict("ALLOWED", "rule")?;
    page.browser.fill("#headers", "")?;
    page.browser.fill("#method", "GET")?;
    page.browser.fill("#path", "/orders/7")?;
    page.verdict("ALLOWED", "rule")?;
    page.browser.fill("#path", "/other")?;
    page.verdict("DENIED", "route-not-allowed")?;

    page.browser.choose("#example", "Addresses: a database")?;
    page.verdict("ALLOWED", "rule")?;
    page.browser.fill("#to", "tcp://db.partner.net:5432")?;
    page.verdict("DENIED", "no-rule")?;
    page.wait("where it would", "#answer", "198.51.100.0/24, by Egress shop/database")?;
    page.browser.fill("#address", "198.51.100.9")?;
    page.verdict("ALLOWED", "rule")?;
    page.browser.choose("#example", "Audit mode")?;
    page.verdict("ALLOWED", "audit")?;
    page.browser.choose("#example", "Global egress")?;
    page.verdict("ALLOWED", "passthrough")?;
    page.browser.fill("#to", "https://a.org:99999")?;
    page.wait("a mistake", "#mistake", "is not HOST:PORT")?;
    page.browser.fill("#to", "https://a.org")?;
    page.browser.fill("#source", "")?;
    page.wait("a mistake", "#mistake", "say who connects")?;
    page.is_well()
}

#[test]
fn problems_lints_and_the_document() -> Result<()> {
    let page = Page::open()?;
    page.browser.choose("#example", "What lints say")?;
    for said in [
        "`203.0.113.7` is an address, not a host name",
        "this allows any address on port 22",
        "everything that this port allows, Egress shop/first spec.ports[0] allows too",
    ] {
        page.wait("a lint", "#problems", said)?;
    }
    page.picture("playground-lints.png")?;
    let manifests = MANIFESTS.replace("httpbin.org", "'*.github.io'");
    page.ask(&manifests, "https://a.github.io")?;
    page.wait("a lint", "#problems", "anybody can get a name below `github.io`")?;
    page.wait("a lint", "#problems", "nothing allows that one itself")?;
    page.wait("the counts", "#summary", "1 policy, 1 identity, 0 errors, 1 warning")?;
    page.wait("the document", "#document", "\"*.github.io\"")?;
    let document: serde_json::Value = serde_json::from_str(&page.browser.text("#document")?)?;
    ensure!(document["identity"]["serviceAccount"] == "app", "{document:#}");
    ensure!(document["rules"].as_array().map(Vec::len) == Some(2), "{document:#}");
    let two = manifests
        .replace("namespace: shop}]", "namespace: shop}, {kind: ServiceAccount, name: b, namespace: shop}]");
    page.browser.fill("#manifests", &two)?;
    page.wait("the other identity", "#whose", "shop/b")?;
    page.browser.choose("#whose", "shop/b")?;
    page.wait("its document", "#document", "\"serviceAccount\": \"b\"")?;
    page.browser.fill("#manifests", "a: [")?;
    page.wait("the place", "#problems", "this is not YAML")?;
    page.is_well()
}

#[test]
fn cases_and_changes() -> Result<()> {
    let page = Page::open()?;
    page.ask(MANIFESTS, "https://httpbin.org")?;
    page.verdict("ALLOWED", "rule")?;
    page.browser.click("#add")?;
    page.browser.fill("#to", "https://openservicemesh.io")?;
    page.verdict("DENIED", "sni-not-allowed")?;
    page.browser.click("#add")?;
    page.browser.choose("[aria-label='expected of case 2']", "allow")?;
    page.browser.click("#run")?;
    page.wait("the count", "#tally", "2 cases, 1 not as expected")?;
    page.wait("one", "#cases tbody tr:nth-child(1)", "as expected: allow rule by shop/web spec.ports[1]")?;
    page.wait("the other", "#cases tbody tr:nth-child(2)", "WRONG: deny sni-not-allowed")?;

    page.browser.click("#copy")?;
    ensure!(page.browser.value("#changed")? == MANIFESTS);
    page.browser.click("#compare")?;
    page.wait("the comparison", "#changes", "0 of 2 change")?;
    page.browser.fill("#changed", &MANIFESTS.replace("httpbin.org", "openservicemesh.io"))?;
    page.browser.click("#compare")?;
    page.wait("the comparison", "#changes", "2 of 2 change")?;
    page.wait("what it was", "#diff tbody tr:nth-child(1)", "allow rule by shop/web spec.ports[1]")?;
    page.browser.script("document.querySelector('#cases-title').scrollIntoView()", &json!([]))?;
    page.picture("playground-cases.png")?;

    page.browser.click("[aria-label='show case 1']")?;
    page.verdict("ALLOWED", "rule")?;
    ensure!(page.browser.value("#to")? == "https://httpbin.org");
    // What is saved is what `osm-egress test` reads.
    let saved = "return new Promise((done) => { URL.createObjectURL = (blob) => { done(blob.text()); return '#'; }; \
        document.querySelector('#save').click(); })";
    let saved = page.browser.script(saved, &json!([]))?;
    let cases = egress_compile::explain::expected::Expected::parse(
        "cases",
        saved.as_str().context("text")?.as_bytes(),
    )?;
    ensure!(cases.len() == 2);
    page.browser.click("[aria-label='remove case 1']")?;
    page.browser.click("[aria-label='remove case 1']")?;
    page.wait("no case", "#no-cases", "No case yet")?;
    page.is_well()
}

#[test]
fn a_link_shows_the_same() -> Result<()> {
    let page = Page::open()?;
    page.ask(MANIFESTS, "https://bücher.example.com")?;
    page.verdict("ALLOWED", "rule")?;
    page.browser.click("#add")?;
    page.browser.fill("#changed", "a: ü")?;
    // What was typed last is the last that the address has.
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
    page.is_well()
}

#[test]
fn files_are_read() -> Result<()> {
    let page = Page::open()?;
    let folder = tempfile::tempdir()?;
    let (one, two) = (folder.path().join("one.yaml"), folder.path().join("two.json"));
    std::fs::write(&one, MANIFESTS)?;
    std::fs::write(
        &two,
        r#"{"apiVersion":"v1","kind":"Namespace","metadata":{"name":"shop","annotations":{"openservicemesh.io/egress-mode":"audit"}}}"#,
    )?;
    page.browser.press("#upload", &format!("{}\n{}", one.display(), two.display()))?;
    page.browser.fill("#source", "shop/app")?;
    page.browser.fill("#to", "tcp://203.0.113.1:22")?;
    page.verdict("ALLOWED", "audit")?;
    page.wait("the policy", "#summary", "1 policy, 1 identity, 0 errors")?;
    page.is_well()
}

#[test]
fn by_keyboard_on_a_narrow_screen() -> Result<()> {
    let page = Page::open()?;
    page.browser.resize(380, 800)?;
    let wide = "return document.documentElement.scrollWidth > document.documentElement.clientWidth";
    ensure!(page.browser.script(wide, &json!([]))? == false, "the page is wider than the screen");
    page.ask(MANIFESTS, "https://httpbin.org")?;
    page.verdict("ALLOWED", "rule")?;
    page.browser
        .script("window.scrollTo(0, document.querySelector('#connection-title').offsetTop)", &json!([]))?;
    page.picture("playground-narrow.png")?;
    // Every field has a name for those who do not see it.
    let unnamed = "return [...document.querySelectorAll('input, select, textarea, button')]\
        .filter((field) => !(field.labels?.length || field.ariaLabel || field.innerText)).map((field) => field.id)";
    ensure!(page.browser.script(unnamed, &json!([]))? == json!([]));
    page.browser.script("document.querySelector('#source').focus()", &json!([]))?;
    for next in
        ["to", "address", "method", "path", "headers", "sni", "noSni", "ech", "clientHello", "evaluate"]
    {
        page.browser.keys(&[TAB])?;
        ensure!(page.browser.focus()? == next, "{} instead of {next}", page.browser.focus()?);
    }
    page.browser.script("document.querySelector('#answer').replaceChildren()", &json!([]))?;
    page.browser.keys(&[CONTROL, ENTER])?;
    page.verdict("ALLOWED", "rule")?;
    page.browser.script(
        "document.querySelector('#answer').replaceChildren(); document.querySelector('#to').focus()",
        &json!([]),
    )?;
    page.browser.keys(&[ENTER])?;
    page.verdict("ALLOWED", "rule")?;
    page.is_well()
}

/// All files together, as they travel.
#[test]
fn the_page_is_light() -> Result<()> {
    let page = Page::open()?;
    let script = "const all = [...performance.getEntriesByType('navigation'), ...performance.getEntriesByType('resource')]; \
        return [all.length, all.reduce((sum, entry) => sum + entry.transferSize, 0), \
        Math.round(performance.getEntriesByName('first-contentful-paint')[0]?.startTime ?? -1)]";
    let said = page.browser.script(script, &json!([]))?;
    println!("fetched {} files, {} bytes; first view after {} ms", said[0], said[1], said[2]);
    ensure!(said[0].as_u64() >= Some(5) && said[1].as_u64() < Some(1_000_000), "{said}");
    page.is_well()
}
