//! The rendered Envoy configuration: it equals the output of `osm-egress compile`, and Envoy accepts it.

use std::fs;
use std::process::{Command, Stdio};

use crate::page::{MANIFESTS, Page};
use anyhow::{Context, Result, ensure};
use egress_tests::control_plane;
use egress_tests::envoy;
use serde_json::json;

const SETTINGS: &str = "---
apiVersion: policy.openservicemesh.io/v1alpha1
kind: UpstreamTrafficSetting
metadata: {name: few, namespace: shop}
spec: {host: few, connectionSettings: {tcp: {maxConnections: 3}}}
---
apiVersion: policy.openservicemesh.io/v1alpha1
kind: Egress
metadata: {name: few, namespace: shop}
spec:
  sources: [{kind: ServiceAccount, name: app, namespace: shop}]
  hosts: [api.partner.net, \"*.partner.net\"]
  ports: [{number: 8443, protocol: https}]
  matches: [{apiGroup: policy.openservicemesh.io/v1alpha1, kind: UpstreamTrafficSetting, name: few}]
";

fn mode(mode: &str) -> String {
    format!(
        "---\napiVersion: v1\nkind: Namespace\nmetadata:\n  name: shop\n  annotations: \
         {{openservicemesh.io/egress-mode: {mode}}}\n"
    )
}

impl Page {
    /// The whole text, with every space.
    fn content(&self, selector: &str) -> Result<String> {
        let script = "return document.querySelector(arguments[0]).textContent";
        Ok(self.browser.script(script, &json!([selector]))?.as_str().unwrap_or_default().to_owned())
    }
}

/// The output of the command line.
fn compiled(manifests: &str, arguments: &[&str]) -> Result<String> {
    let folder = tempfile::tempdir()?;
    fs::write(folder.path().join("manifests.yaml"), manifests)?;
    let output =
        Command::new(control_plane::binary()?).arg("compile").arg(folder.path()).args(arguments).output()?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8(output.stdout)?)
}

fn accepts(configuration: &str) -> Result<()> {
    let folder = tempfile::tempdir()?;
    fs::write(folder.path().join("envoy.yaml"), configuration)?;
    let output = Command::new(envoy::binary()?)
        .current_dir(folder.path())
        .args(["-c", "envoy.yaml", "--mode", "validate", "--disable-hot-restart"])
        .stdin(Stdio::null())
        .output()?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}

#[test]
fn the_rendered_configuration_equals_the_command_lines() -> Result<()> {
    let page = Page::open()?;
    let module = control_plane::module()?.to_string_lossy().into_owned();
    let version = envoy::version()?;
    let version = version.rsplit_once('.').context("a version has three parts")?.0;
    for mode in ["enforce", "audit", "passthrough"].map(mode) {
        let manifests = format!("{MANIFESTS}{mode}{SETTINGS}");
        page.explain(&manifests, "https://httpbin.org")?;
        page.wait(
            "the mode",
            "#document",
            mode.trim_end().replace('}', "").rsplit(' ').next().unwrap_or_default(),
        )?;
        for other in ["1.39", "1.40"] {
            page.browser.choose("#version", other)?;
            let expected =
                compiled(&manifests, &["--identity", "shop/app", "-o", "envoy", "--envoy-version", other])?;
            ensure!(page.content("#envoy")? == expected, "{other}: {}", page.content("#envoy")?);
        }
        ensure!(page.content("#document")? == compiled(&manifests, &["--identity", "shop/app"])?);
        page.browser.choose("#version", version)?;
        page.browser.fill("#module", &module)?;
        page.wait("the module", "#envoy", &module)?;
        accepts(&page.content("#envoy")?).context(mode)?;
        page.browser.fill("#module", "target/egress_filter.wasm")?;
        page.wait("the module", "#envoy", "filename: target/egress_filter.wasm")?;
    }
    page.expect_no_errors()
}

#[test]
fn the_identity_is_named_and_the_file_downloads() -> Result<()> {
    let page = Page::open()?;
    let two = MANIFESTS
        .replace("namespace: shop}]", "namespace: shop}, {kind: ServiceAccount, name: b, namespace: shop}]");
    page.explain(&two, "https://httpbin.org")?;
    page.wait("the other identity", "#whose", "shop/b")?;
    page.browser.choose("#whose", "shop/b")?;
    page.wait("its document", "#document", "\"serviceAccount\": \"b\"")?;
    page.wait("its configuration", "#envoy", "with the policy of shop/b")?;
    // The identity of the form has a policy too, even if no object names it.
    page.browser.fill("#identity", "shop/nobody")?;
    page.wait("who asks", "#whose", "shop/nobody")?;
    page.browser.choose("#whose", "shop/nobody")?;
    page.wait("no rules", "#envoy", "\"rules\": []")?;
    page.browser.fill("#identity", "Shop/")?;
    page.browser.fill("#manifests", "")?;
    page.wait("what is wrong", "#no-identity", "`Shop/`")?;
    page.browser.fill("#identity", "")?;
    page.wait("what is missing", "#no-identity", "name no identity")?;

    page.explain(MANIFESTS, "https://httpbin.org")?;
    page.wait("a configuration", "#envoy", "with the policy of shop/app")?;
    // The policy is scrolled into view.
    let scroll = "const text = document.querySelector('#envoy'); \
        const line = text.textContent.split('\\n').findIndex((line) => line.includes('egress-policy/v1')); \
        text.scrollTop = (line - 8) * text.scrollHeight / text.textContent.split('\\n').length; \
        document.querySelector('#config-title').scrollIntoView()";
    page.browser.script(scroll, &json!([]))?;
    page.picture("playground-envoy.png")?;
    let taken = "const taken = []; \
        Object.defineProperty(navigator, 'clipboard', { value: { writeText: async (text) => { taken.push(text); } }, configurable: true }); \
        const made = URL.createObjectURL; \
        return new Promise(async (done) => { \
            URL.createObjectURL = (blob) => { blob.text().then((text) => taken.push(text)); return '#'; }; \
            for (const what of ['document', 'envoy']) for (const how of ['copy', 'download']) { \
                const many = taken.length; \
                document.querySelector(`[data-${how}=${what}]`).click(); \
                while (taken.length === many) await new Promise((next) => setTimeout(next, 1)); \
            } \
            URL.createObjectURL = made; \
            done(taken); })";
    let taken = page.browser.script(taken, &json!([]))?;
    let (document, envoy) = (page.content("#document")?, page.content("#envoy")?);
    ensure!(taken == json!([document, document, envoy, envoy]), "{taken:.400}");
    page.expect_no_errors()
}
