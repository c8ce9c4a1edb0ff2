//! Each view, and what holds for the whole page.

use anyhow::{Result, ensure};
use egress_tests::browser::{ENTER_KEY, TAB_KEY};
use egress_tests::envoy::Envoy;
use egress_tests::repository_root;
use serde_json::json;

use super::{WEB, open, open_when};

const INVALID_MANIFESTS: &str = "apiVersion: policy.openservicemesh.io/v1alpha1
kind: Egress
metadata: {name: wrong, namespace: curl}
spec:
  sources: [{kind: ServiceAccount, name: curl, namespace: curl}]
  hosts: ['not a host', api.partner.net]
  ports: [{number: 443, protocol: https}]
---
apiVersion: policy.openservicemesh.io/v1alpha1
kind: Egress
metadata: {name: nobody, namespace: curl}
spec:
  sources: [{kind: ServiceAccount, name: nobody, namespace: curl}]
  hosts: [api.partner.net]
  ports: [{number: 443, protocol: https}]
";

/// Without flags every view is shown, nothing can be written, and the page says what is off.
#[test]
fn each_view_opens() -> Result<()> {
    open(&[("web.yaml", WEB), ("wrong.yaml", INVALID_MANIFESTS)], &[], |console| {
        let browser = &console.browser;
        browser.go(&console.url().replace("console/", ""))?;
        console.wait_for_view("mesh")?;
        for (fact, expected) in [
            ("mode", "enforce"),
            ("health", "good"),
            ("objects", "available"),
            ("version", env!("CARGO_PKG_VERSION")),
            ("policies", "3"),
            ("identities", "2"),
            ("proxies", "1"),
            ("streams-refused", "0"),
            ("rejected", "0"),
            ("flows", "off"),
        ] {
            browser.wait(fact, &format!("#fact-{fact}"), expected)?;
        }
        browser.wait("the problem", "#problems", "Egress curl/wrong spec.hosts[0]: `not a host`")?;
        browser.wait("its place", "#problems", "wrong.yaml:6")?;
        browser.wait("how many are wrong", "#facts", "1 is not accepted")?;
        console.picture("console.png")?;
        browser.prefer("dark")?;
        console.picture("console-dark.png")?;
        browser.prefer("light")?;

        console.visit("proxies")?;
        for expected in ["curl/curl", "up to date", "listener", "extension", "cluster", "sotw"] {
            browser.wait("the proxy", "#proxy-rows", expected).or_else(|error| {
                // The whole suite runs with both protocols.
                if expected == "sotw" {
                    browser.wait("the proxy", "#proxy-rows", "delta")
                } else {
                    Err(error)
                }
            })?;
        }
        browser.wait("how many", "#proxy-count", "1 connected, 0 not up to date")?;

        console.visit("policies")?;
        for expected in [
            "Egress curl/web",
            "Programmed 1/1",
            "Accepted False",
            "spec.hosts[0]",
            "MeshConfig osm-system/osm-mesh-config",
        ] {
            browser.wait("the policies", "#policy-rows", expected)?;
        }
        console.picture("console-policies.png")?;
        browser.fill("#policy-text", "nobody")?;
        browser.wait("one policy", "#policy-count", "1")?;
        browser.wait("that nobody has it", "#policy-rows", "no proxy of its sources is connected")?;
        browser.fill("#policy-text", "")?;

        console.visit("flows")?;
        browser.wait("that it is off", "#flows-off", "osm-egress serve --flow-log")?;

        console.visit("ask")?;
        browser.fill("#identity", "curl/curl")?;
        browser.fill("#to", "https://example.net")?;
        browser.click("#evaluate")?;
        browser.wait("the verdict", "#verdict", "DENIED")?;
        browser.wait("a near miss", "#hints", "list `example.net` in Egress curl/web too")?;
        browser.fill("#to", "https://www.example.net")?;
        browser.press("#to", ENTER_KEY)?;
        browser.wait("the verdict", "#verdict", "ALLOWED")?;
        browser.wait("the rule", "#rule", "curl/web spec.ports[1]")?;
        browser.click("#more summary")?;
        browser.click("#noSni")?;
        browser.click("#evaluate")?;
        browser.wait("the reason", "#reason", "sni-absent")?;
        browser.click("#noSni")?;
        browser.fill("#to", "http://httpbin.org/get")?;
        browser.fill("#headers", "Upgrade: websocket\nConnection: upgrade")?;
        browser.click("#evaluate")?;
        browser.wait("the reason", "#reason", "upgrade-refused")?;
        browser.fill("#to", "https://a.org:99999")?;
        browser.click("#evaluate")?;
        browser.wait("a mistake", "#mistake", "is not HOST:PORT")?;
        console.expect_messages(|line| line.contains("400"))?;
        for hidden in ["#switching", "#writing", "#applying", "#playground"] {
            ensure!(!console.is_visible(hidden)?, "{hidden} can be seen");
        }
        console.expect_no_errors()
    })
}

/// The console shows a policy that Envoy refuses, with Envoy's words.
#[test]
fn a_refusal_of_envoy_is_shown() -> Result<()> {
    let module = tempfile::NamedTempFile::new()?;
    // A module without anything in it.
    std::fs::write(module.path(), b"\0asm\x01\0\0\0")?;
    let file = module.path().to_string_lossy();
    open_when(
        &[("web.yaml", WEB)],
        &["--wasm", &file],
        |pod, config| Envoy::launch(pod, config, 1),
        |console| {
            let browser = &console.browser;
            console.load("proxies")?;
            browser.wait("how many", "#proxy-count", "1 connected, 1 not up to date")?;
            browser.wait("that it is late", "#proxy-rows", "NOT up to date")?;
            browser.wait("what it says", "#proxy-rows .bad", "")?;
            browser.wait("Envoy's words", "#proxy-rows", "Wasm")?;
            console.picture("console-refused.png")?;
            console.visit("policies")?;
            browser.wait("what became of the policy", "#policy-rows", "Programmed 0/1 Rejected")?;
            browser.wait("the words", "#policy-rows", "refused it")?;
            console.load("ask?identity=curl/curl&to=https://httpbin.org")?;
            browser.wait("the verdict", "#verdict", "ALLOWED")?;
            browser.wait("who has it", "#having", "0 of 1 have acknowledged this document")?;
            browser.wait("why not", "#having", "refused extension: ")?;
            console.expect_no_errors()
        },
    )
}

/// The playground opens with the manifests and the connection.
#[test]
fn the_playground_is_linked() -> Result<()> {
    let folder = repository_root().join("target/playground");
    let folder = folder.to_string_lossy();
    open(&[("web.yaml", WEB)], &["--playground", &folder], |console| {
        let browser = &console.browser;
        console.load("ask?identity=curl/curl&to=https://example.net&address=203.0.113.20")?;
        browser.wait("the verdict", "#verdict", "DENIED")?;
        browser.wait("the link", "#open-playground", "Try changes in the playground")?;
        let link = browser.script("return document.querySelector('#open-playground').href", &json!([]))?;
        browser.go(link.as_str().unwrap_or_default())?;
        browser.wait("the playground", "html[data-ready=yes]", "")?;
        ensure!(browser.value("#identity")? == "curl/curl" && browser.value("#to")? == "https://example.net");
        ensure!(browser.value("#manifests")?.contains("name: web"), "{}", browser.value("#manifests")?);
        browser.wait("the same verdict", "#verdict", "DENIED")?;
        browser.wait("the same reason", "#reason", "sni-not-allowed")?;
        console.expect_no_errors()
    })
}

#[test]
fn the_console_works_by_keyboard_on_a_narrow_screen() -> Result<()> {
    open(&[("web.yaml", WEB)], &["--flow-log"], |console| {
        let browser = &console.browser;
        browser.resize(380, 800)?;
        for view in ["mesh", "proxies", "policies", "flows", "ask"] {
            console.load(view)?;
            let wide = "const width = document.documentElement.clientWidth; \
                if (document.documentElement.scrollWidth <= width) return []; \
                return [...document.querySelectorAll('body *')].filter((one) => !one.closest('.scroll') \
                && one.getBoundingClientRect().right > width).map((one) => `${one.localName}#${one.id}.${one.className}`)";
            ensure!(
                browser.script(wide, &json!([]))? == json!([]),
                "{view} is wider than the screen: {}",
                browser.script(wide, &json!([]))?
            );
            // Every field has a name for those who do not see it.
            let unnamed = "return [...document.querySelectorAll('input, select, textarea, button')].filter((field) => \
                !field.closest('[hidden]') && !(field.labels?.length || field.ariaLabel || field.innerText)).map((field) => field.id)";
            ensure!(browser.script(unnamed, &json!([]))? == json!([]), "{view}");
        }
        browser.script("document.querySelector('nav a[href=\"#ask\"]').focus()", &json!([]))?;
        for next in ["identity", "to", "address"] {
            browser.keys(&[TAB_KEY])?;
            ensure!(browser.focus()? == next, "{} instead of {next}", browser.focus()?);
        }
        browser.press("#identity", "curl/curl")?;
        browser.press("#to", "https://httpbin.org")?;
        browser.keys(&[ENTER_KEY])?;
        browser.wait("the verdict", "#verdict", "ALLOWED")?;
        console.picture("console-narrow.png")?;
        browser.script("document.querySelector('nav a[href=\"#flows\"]').focus()", &json!([]))?;
        browser.keys(&[ENTER_KEY])?;
        console.wait_for_view("flows")?;
        console.expect_no_errors()
    })
}

/// The size of all files together, compressed.
#[test]
fn the_console_is_small() -> Result<()> {
    open(&[("web.yaml", WEB)], &["--flow-log"], |console| {
        console.load("mesh")?;
        let script = "const all = [...performance.getEntriesByType('navigation'), ...performance.getEntriesByType('resource')]; \
            return [all.length, all.reduce((sum, entry) => sum + entry.transferSize, 0), \
            Math.round(performance.getEntriesByName('first-contentful-paint')[0]?.startTime ?? -1)]";
        let message = console.browser.script(script, &json!([]))?;
        println!("fetched {} files, {} bytes; first view after {} ms", message[0], message[1], message[2]);
        ensure!(message[0].as_u64() >= Some(5) && message[1].as_u64() < Some(100_000), "{message}");
        console.expect_no_errors()
    })
}
