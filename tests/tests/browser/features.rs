//! Each feature by clicking and typing.

use anyhow::{Context, Result, ensure};
use serde_json::json;

use crate::page::{MANIFESTS, Page};

const MARK_SELECTOR: &str = "#editor .mark";

impl Page {
    /// Waits until this line, and no other, has a mark of this kind.
    fn wait_for_marks(&self, line: u32, kind: &str) -> Result<()> {
        self.wait("the mark", &format!("{MARK_SELECTOR}.{kind}[data-line='{line}']"), "")
    }
}

#[test]
fn the_deciding_line_is_marked() -> Result<()> {
    let page = Page::open()?;
    page.explain(MANIFESTS, "https://httpbin.org/get")?;
    page.verdict("ALLOWED", "rule")?;
    page.wait_for_marks(9, "allow")?;
    ensure!(page.browser.text("#rule")? == "shop/web spec.ports[1]");
    page.wait("the other rule", "#others", "80")?;
    page.picture("playground.png")?;
    page.browser.prefer("dark")?;
    page.picture("playground-dark.png")?;
    page.browser.prefer("light")?;

    page.browser.fill("#to", "https://example.com")?;
    page.verdict("DENIED", "sni-not-allowed")?;
    // No rule decided, so none is marked.
    ensure!(
        page.browser
            .script("return document.querySelector(arguments[0])", &json!([MARK_SELECTOR]))?
            .is_null()
    );
    page.wait("why not", "#others", "`*.example.com` is for the names below it")?;
    page.wait("what was meant", "#answer", "list `example.com` in Egress shop/web too")?;
    // The place is a button that leads there.
    page.browser.click("#others button.place")?;
    let line = "const field = document.querySelector('#manifests'); \
        return field.value.slice(0, field.selectionStart).split('\\n').length";
    ensure!(page.browser.script(line, &json!([]))? == 9);
    ensure!(page.browser.focus()? == "manifests");
    page.expect_no_errors()
}

#[test]
fn every_field_of_the_form_counts() -> Result<()> {
    let page = Page::open()?;
    page.explain(MANIFESTS, "203.0.113.10:443")?;
    page.browser.fill("#sni", "www.example.com")?;
    page.verdict("ALLOWED", "rule")?;
    page.wait("where it goes", "#answer", "www.example.com:443, resolved by the sidecar")?;
    // Its visible name chooses the address.
    page.browser.click("#ech")?;
    page.wait("the encrypted hello", "#answer", "an encrypted ClientHello")?;
    page.verdict("ALLOWED", "rule")?;
    page.browser.fill("#sni", "")?;
    page.browser.click("#noSni")?;
    page.verdict("DENIED", "ech-refused")?;
    page.browser.click("#ech")?;
    page.verdict("DENIED", "sni-absent")?;
    page.browser.click("#noSni")?;
    page.browser.fill("#clientHello", "47 45 54 20")?;
    page.verdict("DENIED", "tls-required")?;
    page.browser.fill("#clientHello", "1603010005")?;
    page.verdict("DENIED", "tls-malformed")?;
    page.browser.fill("#clientHello", "")?;

    page.browser.choose("#example", "Routes: path, method, headers")?;
    page.verdict("DENIED", "route-not-allowed")?;
    page.wait_for_marks(9, "deny")?;
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
    page.browser.fill("#identity", "")?;
    page.wait("a mistake", "#mistake", "enter the identity")?;
    page.expect_no_errors()
}

/// The page shows each lint while a manifest is typed.
#[test]
fn problems_and_lints_are_marked() -> Result<()> {
    let page = Page::open()?;
    page.browser.choose("#example", "What lints say")?;
    page.wait("a lint", "#problems", "everything that this port allows")?;
    page.picture("playground-lints.png")?;
    let policy = |spec: &str| {
        format!(
            "apiVersion: policy.openservicemesh.io/v1alpha1\nkind: Egress\nmetadata: {{name: web, namespace: shop}}\nspec:\n  \
             sources: [{{kind: ServiceAccount, name: app, namespace: shop}}]\n{spec}"
        )
    };
    let tcp = "  ipAddresses: [BLOCK]\n  ports: [{number: 22, protocol: tcp}]\n";
    let https = "  hosts: [HOSTS]\n  ports: [{number: 443, protocol: https}]\n";
    let mesh = "---\napiVersion: config.openservicemesh.io/v1alpha2\nkind: MeshConfig\n\
        metadata: {name: osm-mesh-config, namespace: osm-system}\nspec:\n  traffic:\n    \
        outboundIPRangeExclusionList: [10.96.0.10/32]\n";
    let shadowed = format!(
        "{}---\n{}",
        policy(&tcp.replace("BLOCK", "10.0.0.0/8")),
        policy(&tcp.replace("BLOCK", "10.1.0.0/16")).replace("name: web", "name: more")
    );
    for (manifests, line, message) in [
        (shadowed, Some(15), "Egress shop/web spec.ports[0] already allows everything that this port allows"),
        (policy(&https.replace("HOSTS", "'*.a.org'")), Some(6), "but nothing allows"),
        (policy("  ports: [{number: 22, protocol: tcp}]\n"), Some(6), "this allows any address on port 22"),
        (
            policy("  ports: [{number: 443, protocol: https}]\n"),
            Some(6),
            "this allows any name over TLS on port 443",
        ),
        (
            policy(&https.replace("HOSTS", "'*.github.io'")),
            Some(6),
            "anyone can register a name below `github.io`",
        ),
        (
            policy(&https.replace("HOSTS", "203.0.113.7")),
            Some(6),
            "`203.0.113.7` is an address, not a host name",
        ),
        (
            policy(&https.replace("HOSTS", "a.org")),
            None,
            "no rule allows DNS over TCP (port 53) for `shop/app`",
        ),
    ] {
        page.explain(&manifests, "https://a.org")?;
        page.wait("a lint", "#problems", message)?;
        let lines = "return [...document.querySelectorAll('#problems li')].find((item) => item.innerText.includes(arguments[0]))\
            .querySelector('button')?.innerText ?? null";
        let found = page.browser.script(lines, &json!([message]))?;
        ensure!(found == json!(line.map(|line| format!("line {line}"))), "{message}: {found}");
    }
    let with_exclusion = format!("{}{mesh}", policy(&https.replace("HOSTS", "a.org")));
    page.browser.fill("#manifests", &with_exclusion)?;
    page.wait("nothing to say", "#problems", "none")?;
    let manifests = MANIFESTS.replace("httpbin.org", "'*.github.io'");
    page.explain(&manifests, "https://a.github.io")?;
    page.wait("the counts", "#summary", "1 policy, 1 identity, 0 errors, 1 warning")?;
    page.browser.fill("#manifests", "a: [")?;
    page.wait("the place", "#problems", "this is not YAML")?;
    page.wait("that the answer has a gap", "#unreadable", "this is not YAML")?;
    page.expect_no_errors()
}

#[test]
fn cases_and_changes_are_shown() -> Result<()> {
    let page = Page::open()?;
    page.explain(MANIFESTS, "https://httpbin.org")?;
    page.verdict("ALLOWED", "rule")?;
    page.browser.click("#add")?;
    page.browser.fill("#to", "https://openservicemesh.io")?;
    page.verdict("DENIED", "sni-not-allowed")?;
    page.browser.click("#add")?;
    page.browser.choose("[aria-label='expected of case 2']", "allow")?;
    page.browser.click("#run")?;
    page.wait("the count", "#tally", "2 cases, 1 failed")?;
    page.wait("one", "#cases tbody tr:nth-child(1)", "passed: allow rule by shop/web spec.ports[1]")?;
    page.wait("the other", "#cases tbody tr:nth-child(2)", "FAILED: deny sni-not-allowed")?;

    page.browser.click("#copy")?;
    ensure!(page.browser.value("#changed")? == MANIFESTS);
    page.browser.click("#compare")?;
    page.wait("the comparison", "#changes", "0 of 2 change")?;
    page.browser.fill("#changed", &MANIFESTS.replace("httpbin.org", "openservicemesh.io"))?;
    page.browser.click("#compare")?;
    page.wait("the comparison", "#changes", "2 of 2 change")?;
    page.wait("what it was", "#diff tbody tr:nth-child(1)", "allow rule by shop/web spec.ports[1]")?;
    // The list may have mistakes of its own.
    page.browser.fill("#changed", &MANIFESTS.replace("443", "0"))?;
    page.browser.click("#compare")?;
    page.wait("what is wrong", "#changed-problems", "`0` is not a port")?;
    page.browser.click("#changed-problems button.place")?;
    ensure!(page.browser.focus()? == "changed");
    page.wait("what was run", "#tally", "2 cases, 1 failed")?;
    page.browser.fill("#changed", &MANIFESTS.replace("httpbin.org", "openservicemesh.io"))?;
    page.browser.click("#compare")?;
    page.wait("the comparison", "#changes", "2 of 2 change")?;
    page.browser.script("document.querySelector('#cases-title').scrollIntoView()", &json!([]))?;
    page.picture("playground-cases.png")?;

    page.browser.click("[aria-label='show case 1']")?;
    page.verdict("ALLOWED", "rule")?;
    ensure!(page.browser.value("#to")? == "https://httpbin.org");
    // `osm-egress test` reads the saved file.
    let saved = "return new Promise((done) => { URL.createObjectURL = (blob) => { done(blob.text()); return '#'; }; \
        document.querySelector('#save').click(); })";
    let saved = page.browser.script(saved, &json!([]))?;
    let cases = egress_compile::explain::test_case::TestCase::parse(
        "cases",
        saved.as_str().context("text")?.as_bytes(),
    )?;
    ensure!(cases.len() == 2);
    page.browser.click("[aria-label='remove case 1']")?;
    page.browser.click("[aria-label='remove case 1']")?;
    page.wait("no case", "#no-cases", "No test case yet")?;
    page.expect_no_errors()
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
    page.browser.fill("#identity", "shop/app")?;
    page.browser.fill("#to", "tcp://203.0.113.1:22")?;
    page.verdict("ALLOWED", "audit")?;
    page.wait("the policy", "#summary", "1 policy, 1 identity, 0 errors")?;
    // Dropped on the text.
    let drop = "const data = new DataTransfer(); data.items.add(new File([arguments[0]], 'a.yaml')); \
        document.querySelector('#manifests').dispatchEvent(new DragEvent('drop', { dataTransfer: data, bubbles: true, cancelable: true }))";
    page.browser.script(drop, &json!([MANIFESTS.replace("web", "dropped")]))?;
    page.browser.fill("#to", "https://httpbin.org")?;
    page.wait("what was dropped", "#rule", "shop/dropped")?;
    page.expect_no_errors()
}
