//! A refusal turned into a policy, by clicking.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use egress_tests::client::Outcome;
use egress_tests::network::{EXAMPLE, HTTPBIN};
use egress_tests::wait::wait_for;
use egress_tests::workload;
use serde_json::json;

use super::{WEB, open};

const TOKEN: &str = "the-token-of-the-console";

#[test]
fn a_refusal_becomes_a_policy() -> Result<()> {
    let token = tempfile::NamedTempFile::new()?;
    std::fs::write(token.path(), format!("{TOKEN}\n"))?;
    let file = token.path().to_string_lossy();
    let flags = ["--flow-log", "--console-write", "--console-token-file", &file];
    open(&[("web.yaml", WEB)], &flags, |console| {
        let browser = &console.browser;
        let allowed =
            || workload::get_tls(console.pod, SocketAddr::new(EXAMPLE, 443), Some("www.example.com"));
        ensure!(allowed()? == Outcome::Closed, "it was not refused");
        workload::get_tls(console.pod, SocketAddr::new(HTTPBIN, 443), Some("httpbin.org"))?;
        workload::get(console.pod, SocketAddr::new(HTTPBIN, 80), "httpbin.org", "/get?secret=1")?;
        workload::get(console.pod, SocketAddr::new(EXAMPLE, 80), "www.example.com", "/get?secret=1")?;

        console.load("flows")?;
        browser.wait("the refused connection", "#flow-rows", "https://www.example.com:443")?;
        browser.wait("the allowed request", "#flow-rows", "http://httpbin.org:80")?;
        wait_for("four flows", Duration::from_secs(10), || {
            console.count("tr.flow").is_ok_and(|all| all == 4)
        })?;
        console.picture("console-flows.png")?;
        browser.prefer("dark")?;
        console.picture("console-flows-dark.png")?;
        browser.prefer("light")?;
        let text = browser.text("body")?;
        ensure!(!text.contains("secret"), "{text}");
        browser.choose("#flow-verdict", "deny")?;
        wait_for("two flows", Duration::from_secs(10), || {
            console.count("tr.flow").is_ok_and(|all| all == 2)
        })?;
        browser.fill("#flow-text", "sni-not-allowed")?;
        wait_for("one flow", Duration::from_secs(10), || console.count("tr.flow").is_ok_and(|all| all == 1))?;
        browser.fill("#flow-identity", "nobody")?;
        browser.wait("no flow", "#flow-rows", "No flows yet")?;
        browser.fill("#flow-identity", "curl/curl")?;
        browser.wait("the flow", "#flow-rows", "www.example.com")?;
        browser.wait("why", "#flow-rows", "sni-not-allowed")?;

        browser.click("#flow-rows button")?;
        console.wait_for_view("ask")?;
        browser.wait("the verdict", "#verdict", "DENIED")?;
        browser.wait("the reason", "#reason", "sni-not-allowed")?;
        browser.wait("what was seen", "#seen", "Seen as deny sni-not-allowed, 1 time")?;
        browser.wait("what a rule lacks", "#answer", "does not list `www.example.com`")?;
        browser.wait("who has it", "#having", "1 of 1 have acknowledged this document")?;
        ensure!(browser.value("#address")? == EXAMPLE.to_string());
        // This destination, not the other refused one.
        browser.wait("what is suggested", "#suggested-for", "curl/curl to www.example.com:443")?;
        browser.wait("the other", "#suggested-others", "1 other destination was refused")?;
        let suggested = browser.value("#suggested")?;
        ensure!(suggested.contains("- www.example.com #") && !suggested.contains("secret"), "{suggested}");
        ensure!(suggested.contains("number: 443") && !suggested.contains("number: 80"), "{suggested}");
        console.picture("console-explain.png")?;
        browser.click("#copy")?;
        browser.wait("that it is copied", "#suggest-said", "copied")?;

        // No token, a wrong one, and the right one.
        let apply = || -> Result<()> {
            browser.click("#apply")?;
            browser.click("#apply-yes")
        };
        apply()?;
        browser.wait("what is missing", "#apply-said", "fill in the token")?;
        ensure!(browser.focus()? == "token");
        browser.fill("#token", "not-the-token-of-the-console")?;
        apply()?;
        browser.wait("that it is wrong", "#apply-said", "the token is not the console's")?;
        console.expect_messages(|line| line.contains("401"))?;
        ensure!(browser.value("#token")?.is_empty(), "a wrong token is kept");
        browser.fill("#token", TOKEN)?;
        browser.fill("#suggested", "kind: Egress")?;
        apply()?;
        browser.wait("what is wrong", "#apply-said", "`apiVersion` or `kind` is missing")?;
        console.expect_messages(|line| line.contains("422"))?;
        let write_down = |text: &str| {
            browser.script("document.querySelector('#suggested').value = arguments[0]", &json!([text]))
        };
        // More than what is explained.
        for (more, expected) in [
            (suggested.replace("- www.example.com #", "- '*.example.com' #"), "allows `*.example.com`"),
            (suggested.replace("number: 443", "number: 8443"), "allows port 8443"),
        ] {
            write_down(&more)?;
            apply()?;
            browser.wait("what is too much", "#apply-said", expected)?;
            browser.wait("what was asked", "#apply-said", "only www.example.com:443 was asked about")?;
            console.expect_messages(|line| line.contains("422"))?;
        }
        write_down(&suggested)?;
        // The page shows the change and asks first. An edit cancels the question, and so does "No".
        let files = || std::fs::read_dir(console.manifests).map(Iterator::count);
        let before = files()?;
        browser.click("#apply")?;
        ensure!(browser.focus()? == "apply-no");
        ensure!(browser.text("#confirm-text")?.trim() == suggested.trim());
        browser.wait("for what", "#confirm-for", "www.example.com:443")?;
        browser.click("#apply-no")?;
        ensure!(!console.is_visible("#confirming")?);
        browser.click("#apply")?;
        browser.fill("#suggested", "another text")?;
        ensure!(!console.is_visible("#confirming")?, "another text is to be confirmed");
        write_down(&suggested)?;
        ensure!(files()? == before, "something was written");
        apply()?;
        browser.wait("what was written", "#apply-said", "written: Egress curl/curl-")?;
        let written = browser.text("#apply-said")?;
        let file = written.rsplit(", ").next().unwrap_or_default().to_owned();
        ensure!(std::path::Path::new(&file).starts_with(console.manifests), "{file}");
        ensure!(std::fs::read_to_string(&file)? == suggested, "{file}");
        wait_for("it to be allowed", Duration::from_secs(10), || {
            allowed().is_ok_and(|outcome| matches!(outcome, Outcome::Http(answer) if answer.status == 200))
        })?;
        browser.click("#evaluate")?;
        browser.wait("the verdict", "#verdict", "ALLOWED")?;
        browser.wait("who has it", "#having", "1 of 1 have acknowledged this document")?;
        // An existing file is never overwritten.
        console.load("ask?identity=curl/curl&to=http://www.example.com/get&address=203.0.113.20")?;
        browser.wait("a suggestion", "#suggested-for", "curl/curl to www.example.com:80")?;
        ensure!(browser.value("#token")? == TOKEN, "the tab forgot the token");
        write_down(&suggested)?;
        apply()?;
        browser.wait("that it is there", "#apply-said", "already exists and was not changed")?;
        console.expect_messages(|line| line.contains("409"))?;
        // A destination without attempts has no suggestion and no button.
        console.load("ask?identity=curl/curl&to=https://openservicemesh.io")?;
        browser.wait("a suggestion", "#suggested-for", "curl/curl to openservicemesh.io:443")?;
        ensure!(browser.value("#suggested")?.contains("Nothing to suggest"));
        ensure!(!console.is_visible("#apply")?, "nothing can be made a policy");
        let log = console.control_plane.log();
        for expected in ["the console created policies", "a write by the console was refused", "203.0.113.2:"]
        {
            ensure!(log.contains(expected), "{log}");
        }
        ensure!(!log.contains(TOKEN), "{log}");
        console.expect_no_errors()
    })
}

/// Switches global egress on and off in the file of the MeshConfig, with the token from the log.
#[test]
fn the_switch_changes_global_egress() -> Result<()> {
    open(&[], &["--console-write"], |console| {
        let browser = &console.browser;
        let file = console.manifests.join("meshconfig.yaml");
        let before = std::fs::read_to_string(&file)?;
        let open = || {
            workload::get_tls(console.pod, SocketAddr::new(EXAMPLE, 443), None)
                .is_ok_and(|outcome| matches!(outcome, Outcome::Http(_)))
        };
        ensure!(!open(), "it is open to begin with");
        console.load("mesh")?;
        browser.wait("the mode", "#fact-mode", "enforce")?;
        let log = console.control_plane.log();
        let token = log.split_once("token=\"").and_then(|(_, rest)| rest.split_once('"'));
        let (token, _) = token.context("the log has no token")?;
        browser.fill("#token", token)?;
        for on in [true, false] {
            browser.wait(
                "the switch",
                "#switch",
                if on { "Switch global egress on" } else { "Switch global egress off" },
            )?;
            browser.click("#switch")?;
            ensure!(browser.focus()? == "switch-no");
            browser.click("#switch-no")?;
            ensure!(std::fs::read_to_string(&file)?.contains(&format!("enableEgress: {}", !on)));
            browser.click("#switch")?;
            browser.click("#switch-yes")?;
            browser.wait("what was written", "#switch-said", "written: ")?;
            browser.wait("the mode", "#fact-mode", if on { "passthrough" } else { "enforce" })?;
            wait_for("the sidecar to follow", Duration::from_secs(10), || open() == on)?;
        }
        ensure!(std::fs::read_to_string(&file)? == before);

        // Another user switches it while the page asks: the confirmed value counts.
        browser.click("#switch")?;
        browser.wait("the question", "#switch-yes", "Yes, switch it on")?;
        std::fs::write(&file, before.replace("enableEgress: false", "enableEgress: true"))?;
        browser.wait("the mode", "#fact-mode", "passthrough")?;
        browser.click("#switch-yes")?;
        let switched = "the console switched global egress";
        wait_for("the write", Duration::from_secs(10), || {
            console.control_plane.log().matches(switched).count() == 3
        })?;
        ensure!(
            std::fs::read_to_string(&file)?.contains("enableEgress: true"),
            "{}",
            console.control_plane.log()
        );
        console.expect_no_errors()
    })
}
