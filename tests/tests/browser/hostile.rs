//! Hostile names in manifests: the page shows them as text.

use anyhow::{Result, ensure};
use serde_json::json;

use crate::page::Page;

const HOSTILE_HTML: &str =
    r#"<img src=x onerror=\"window.hit=1\"><script>window.hit=1</script>\u001b[31m\u202e&lt;"#;

#[test]
fn html_and_escapes_are_shown_as_text() -> Result<()> {
    let page = Page::open()?;
    let evil = HOSTILE_HTML.replace('\\', "");
    let manifests = format!(
        "apiVersion: policy.openservicemesh.io/v1alpha1\nkind: Egress\nmetadata: {{name: \"{HOSTILE_HTML}\", namespace: shop}}\n\
         spec:\n  sources: [{{kind: ServiceAccount, name: app, namespace: shop}}]\n  hosts: [a.org, \"{HOSTILE_HTML}\"]\n  \
         ports: [{{number: 443, protocol: \"{HOSTILE_HTML}\"}}]\n"
    );
    page.explain(&manifests, "https://a.org")?;
    page.wait("the problems", "#problems", "<img src=x onerror=")?;
    page.browser.fill("#sni", &evil)?;
    page.wait("the answer", "#answer", "<script>window.hit=1</script>")?;
    page.browser.click("#add")?;
    page.browser.click("#run")?;
    page.wait("the case", "#cases", "<img src=x")?;
    page.browser.click("#copy")?;
    page.browser.click("#compare")?;
    page.wait("the comparison", "#diff", "<img src=x")?;
    page.browser.fill("#to", &evil)?;
    page.wait("what is wrong with it", "#mistake", "<img src=x")?;
    let hit = page.browser.script(
        "return [window.hit ?? null, document.images.length, \
        document.querySelectorAll('body script').length]",
        &json!([]),
    )?;
    ensure!(hit == json!([null, 0, 0]), "{hit}");
    page.expect_no_errors()
}

/// 64 KB in each field, and a malformed fragment.
#[test]
fn long_and_malformed_input_is_handled() -> Result<()> {
    let page = Page::open()?;
    let fill = "for (const id of ['path', 'sni', 'headers', 'clientHello', 'identity', 'address']) { \
        const field = document.getElementById(id); field.value = 'x'.repeat(65536); \
        field.dispatchEvent(new Event('input', { bubbles: true })); }";
    page.browser.script(fill, &json!([]))?;
    page.wait("what is wrong", "#mistake", "`")?;
    page.expect_no_errors()?;
    page.load("#%%%")?;
    page.wait("what is wrong", "#failure", "was not read")?;
    // A link may hold anything; here, other types than the page writes.
    let fragment = page.browser.script("return btoa(arguments[0])", &json!([
        r#"{"manifests":7,"connection":{"to":{},"ech":"yes"},"cases":[null,{"expect":{},"connection":[]}],"changed":[]}"#
    ]))?;
    page.load(&format!("#{}", fragment.as_str().unwrap_or_default()))?;
    page.wait("the cases", "#cases", "Remove")?;
    page.browser.click("#run")?;
    page.wait("what is wrong with them", "#cases", "is not HOST:PORT")?;
    page.expect_no_errors()
}
