//! Accessibility: low vision, small screens, no mouse.

use crate::page::{MANIFESTS, Page};
use anyhow::{Result, ensure};
use egress_tests::browser::{CONTROL_KEY, ENTER_KEY, TAB_KEY};
use serde_json::json;

/// Finds text whose contrast to its background is below 4.5 to 1 (WCAG 1.4.3), and fields whose border is
/// below 3 to 1 (1.4.11).
const FIND_LOW_CONTRAST: &str = "
    const part = (c) => { c /= 255; return c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4; };
    const light = ([r, g, b]) => 0.2126 * part(r) + 0.7152 * part(g) + 0.0722 * part(b);
    const colour = (text) => text.match(/[0-9.]+/g).map(Number);
    const behind = (element) => {
        for (let at = element; at; at = at.parentElement) {
            const found = colour(getComputedStyle(at).backgroundColor);
            if (found.length < 4 || found[3] === 1) return found;
        }
        return colour(getComputedStyle(document.body).backgroundColor);
    };
    const ratio = (a, b) => { const [x, y] = [light(a), light(b)].sort((p, q) => q - p); return (x + 0.05) / (y + 0.05); };
    const faint = [];
    for (const element of document.querySelectorAll('body *')) {
        if (!element.checkVisibility() || element.disabled) continue;
        const has_text = [...element.childNodes].some((node) => node.nodeType === 3 && node.data.trim());
        const is_field = element.matches('input, textarea, select, button');
        const style = getComputedStyle(element);
        const what = `${element.tagName} ${element.id} ${element.className} `;
        if (has_text || is_field) {
            const found = ratio(colour(style.color), behind(element));
            if (found < 4.5) faint.push(what + found.toFixed(2));
        }
        if (is_field && style.borderTopWidth !== '0px' && !element.matches('[type=checkbox], [type=file]')) {
            const found = Math.max(ratio(colour(style.borderTopColor), behind(element.parentElement)),
                ratio(colour(style.backgroundColor), behind(element.parentElement)));
            if (found < 3) faint.push(what + 'edge ' + found.toFixed(2));
        }
    }
    return faint;";

/// Fills the page, so that every kind of element is visible.
fn fill_page(page: &Page) -> Result<()> {
    page.browser.choose("#example", "What lints say")?;
    page.browser.click("#add")?;
    page.browser.choose("[aria-label='expected of case 1']", "deny")?;
    page.browser.fill("#to", "https://openservicemesh.io")?;
    page.verdict("DENIED", "sni-not-allowed")?;
    page.browser.click("#add")?;
    page.browser.click("#copy")?;
    page.browser.click("#run")?;
    page.browser.click("#compare")?;
    page.wait("the comparison", "#changes", "0 of 2 change")
}

#[test]
fn light_and_dark_have_contrast() -> Result<()> {
    let page = Page::open()?;
    fill_page(&page)?;
    for scheme in ["light", "dark"] {
        page.browser.prefer(scheme)?;
        let faint = page.browser.script(FIND_LOW_CONTRAST, &json!([]))?;
        ensure!(faint == json!([]), "{scheme}: {faint:#}");
    }
    page.expect_no_errors()
}

/// Every field has an accessible name, and the answer is announced once.
#[test]
fn fields_have_names_and_answers_are_announced() -> Result<()> {
    let page = Page::open()?;
    fill_page(&page)?;
    let unnamed = "return [...document.querySelectorAll('input, select, textarea, button')]\
        .filter((field) => !(field.labels?.length || field.ariaLabel || field.innerText)).map((field) => field.id)";
    ensure!(page.browser.script(unnamed, &json!([]))? == json!([]));
    let twice = "const ids = [...document.querySelectorAll('[id]')].map((one) => one.id); \
        return ids.filter((id, at) => ids.indexOf(id) !== at)";
    ensure!(page.browser.script(twice, &json!([]))? == json!([]));
    let levels = "return [...document.querySelectorAll('h1, h2, h3')].map((head) => Number(head.tagName[1]))\
        .filter((level, at, all) => level > (all[at - 1] ?? 0) + 1)";
    ensure!(page.browser.script(levels, &json!([]))? == json!([]));
    page.wait("what is read aloud", "#said", "Denied: No rule of this port lists")?;
    page.browser.fill("#to", "https://me.github.io")?;
    page.wait("what is read aloud", "#said", "Allowed: A rule of an Egress policy")?;
    let live = "return [...document.querySelectorAll('[aria-live], [role=status], [role=alert]')]\
        .filter((one) => one.innerText.length > 200).map((one) => one.id)";
    ensure!(page.browser.script(live, &json!([]))? == json!([]), "too much is read aloud");
    page.expect_no_errors()
}

#[test]
fn the_page_fits_a_narrow_screen() -> Result<()> {
    let page = Page::open()?;
    let wide = "return [document.documentElement.scrollWidth, document.documentElement.clientWidth]";
    for width in [400, 320] {
        page.browser.resize(width, 800)?;
        fill_page(&page)?;
        let found = page.browser.script(wide, &json!([]))?;
        ensure!(found[0] == found[1], "{width}: the page is wider than the screen: {found}");
        // A table's cells have room for words.
        let thin =
            "return [...document.querySelectorAll('td')].filter((cell) => cell.clientWidth < 150).length";
        ensure!(page.browser.script(thin, &json!([]))? == 0, "{width}: columns of letters");
        page.browser.click("[aria-label='remove case 1']")?;
        page.browser.click("[aria-label='remove case 1']")?;
    }
    page.explain(MANIFESTS, "https://httpbin.org")?;
    page.verdict("ALLOWED", "rule")?;
    page.browser.resize(400, 800)?;
    page.browser
        .script("window.scrollTo(0, document.querySelector('#connection-title').offsetTop)", &json!([]))?;
    page.picture("playground-narrow.png")?;
    page.expect_no_errors()
}

#[test]
fn the_page_works_by_keyboard() -> Result<()> {
    let page = Page::open()?;
    page.explain(MANIFESTS, "https://httpbin.org")?;
    page.verdict("ALLOWED", "rule")?;
    page.browser
        .script("document.activeElement.blur(); document.querySelector('#share').focus()", &json!([]))?;
    let next = |expected: &str| -> Result<()> {
        page.browser.keys(&[TAB_KEY])?;
        let focus = page.browser.focus()?;
        ensure!(focus == expected, "{focus} instead of {expected}");
        let seen = page
            .browser
            .script("return getComputedStyle(document.activeElement).outlineStyle", &json!([]))?;
        ensure!(seen != "none", "{expected}: one does not see where one is");
        Ok(())
    };
    ["example", "upload", "manifests"].into_iter().try_for_each(next)?;
    // The problems' places come next.
    page.browser.script("document.querySelector('#identity').focus()", &json!([]))?;
    ["to", "address", "method", "path", "headers", "sni", "noSni", "ech", "clientHello", "evaluate"]
        .into_iter()
        .try_for_each(next)?;
    page.browser.script("document.querySelector('#answer').replaceChildren()", &json!([]))?;
    page.browser.keys(&[CONTROL_KEY, ENTER_KEY])?;
    page.verdict("ALLOWED", "rule")?;
    page.browser.script(
        "document.querySelector('#answer').replaceChildren(); document.querySelector('#to').focus()",
        &json!([]),
    )?;
    page.browser.keys(&[ENTER_KEY])?;
    page.verdict("ALLOWED", "rule")?;
    page.browser.script("document.querySelector('#expect').focus()", &json!([]))?;
    next("add")?;
    page.browser.keys(&[ENTER_KEY])?;
    page.wait("a case", "#cases", "https://httpbin.org")?;
    ["run", "save"].into_iter().try_for_each(next)?;
    // Expected, show, remove; removing keeps the focus at the next control.
    for _ in 0..3 {
        page.browser.keys(&[TAB_KEY])?;
    }
    page.browser.keys(&[ENTER_KEY])?;
    page.wait("no case", "#no-cases", "No test case yet")?;
    ensure!(page.browser.focus()? == "add", "{}", page.browser.focus()?);
    ["run", "save", "copy", "compare", "changed", "whose"].into_iter().try_for_each(next)?;
    // Copy and download, twice, and the choice of identity.
    for _ in 0..2 {
        page.browser.keys(&[TAB_KEY])?;
    }
    next("document")?;
    for _ in 0..2 {
        page.browser.keys(&[TAB_KEY])?;
    }
    ["version", "module", "envoy"].into_iter().try_for_each(next)?;
    page.expect_no_errors()
}

/// The size of all files together, compressed.
#[test]
fn the_page_is_small() -> Result<()> {
    let page = Page::open()?;
    let script = "const all = [...performance.getEntriesByType('navigation'), ...performance.getEntriesByType('resource')]; \
        return [all.length, all.reduce((sum, entry) => sum + entry.transferSize, 0), \
        Math.round(performance.getEntriesByName('first-contentful-paint')[0]?.startTime ?? -1), \
        Math.round(performance.getEntriesByName('answered')[0]?.startTime ?? -1)]";
    let message = page.browser.script(script, &json!([]))?;
    println!(
        "fetched {} files, {} bytes; first view after {} ms, first answer after {} ms",
        message[0], message[1], message[2], message[3]
    );
    ensure!(message[0].as_u64() >= Some(5) && message[1].as_u64() < Some(1_000_000), "{message}");
    page.expect_no_errors()
}
