//! The console of a real control plane with a real sidecar, in a real Chromium.

mod hostile;
mod views;
mod walkthrough;

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use egress_tests::browser::Browser;
use egress_tests::control_plane::ControlPlane;
use egress_tests::envoy::Envoy;
use egress_tests::netns::{Netns, Pod, ensure_capable};
use egress_tests::network::{CONTROL_PLANE, TestNetwork};
use egress_tests::sidecar;
use egress_tests::wait::wait_for;
use serde_json::json;

pub(crate) const WEB: &str = "apiVersion: policy.openservicemesh.io/v1alpha1
kind: Egress
metadata: {name: web, namespace: curl}
spec:
  sources: [{kind: ServiceAccount, name: curl, namespace: curl}]
  hosts: [httpbin.org, '*.example.net']
  ports: [{number: 80, protocol: http}, {number: 443, protocol: https}]
";

/// The console of a running control plane, open in a browser.
pub(crate) struct Console<'a> {
    pub(crate) browser: Browser,
    pub(crate) pod: &'a Pod,
    pub(crate) control_plane: &'a ControlPlane<'a>,
    pub(crate) manifests: &'a Path,
    pub(crate) netns: &'a Netns,
}

/// Opens the console of a control plane with these manifests and a sidecar of `curl/curl` that has its
/// policy.
pub(crate) fn open(
    manifests: &[(&str, &str)],
    flags: &[&str],
    test: impl FnOnce(&Console<'_>) -> Result<()> + Send,
) -> Result<()> {
    open_when(manifests, flags, |pod, config| Envoy::start(pod, config, 1), test)
}

/// Opens the console with a sidecar that `start` starts.
pub(crate) fn open_when(
    manifests: &[(&str, &str)],
    flags: &[&str],
    start: impl for<'p> FnOnce(&'p Pod, &str) -> Result<Envoy<'p>>,
    test: impl FnOnce(&Console<'_>) -> Result<()> + Send,
) -> Result<()> {
    ensure_capable()?;
    let network = TestNetwork::new()?;
    network.global_egress(false)?;
    for (name, text) in manifests {
        network.write(name, text)?;
    }
    let pod = network.pod()?;
    let control_plane = network.control_plane(flags)?;
    let _envoy = start(&pod, &sidecar::bootstrap("curl/curl", false)?)?;
    wait_for("the sidecar to take its policy or not", Duration::from_secs(20), || {
        control_plane.status().is_ok_and(|status| {
            let proxy = &status["proxies"][0];
            let has =
                proxy["documentSent"].is_string() && proxy["documentSent"] == proxy["documentAcknowledged"];
            has || proxy["types"]["extension"]["rejected"].is_object()
        })
    })?;
    let (pod, control_plane, manifests, netns) =
        (&pod, &control_plane, network.manifests.path(), &network.outside.netns);
    // The browser is where the control plane is, as one behind `kubectl port-forward` is.
    netns.run(|| {
        let console = Console { browser: Browser::start(1280, 900)?, pod, control_plane, manifests, netns };
        test(&console).with_context(|| control_plane.log())
    })?
}

impl Console<'_> {
    /// Loads the page at a view.
    pub(crate) fn load(&self, view: &str) -> Result<()> {
        // A change of the fragment alone would not load the page.
        self.browser.go("about:blank")?;
        self.browser.go(&format!("{}#{view}", self.url()))?;
        self.wait_for_view(view.split('?').next().unwrap_or_default())
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}/console/", SocketAddr::new(CONTROL_PLANE, 15129))
    }

    /// Goes to a view by its link.
    pub(crate) fn visit(&self, view: &str) -> Result<()> {
        self.browser.click(&format!("nav a[href='#{view}']"))?;
        self.wait_for_view(view)
    }

    pub(crate) fn wait_for_view(&self, view: &str) -> Result<()> {
        self.browser.wait("the view", &format!("html[data-ready={view}]"), "")?;
        let shown = self.browser.script(
            "return [...document.querySelectorAll('main > section:not([hidden])')].map((one) => one.id)[0]",
            &json!([]),
        )?;
        ensure!(shown == view, "{shown} is shown instead of {view}");
        Ok(())
    }

    /// Requires that the browser console is empty and that nothing was loaded from other hosts.
    pub(crate) fn expect_no_errors(&self) -> Result<()> {
        self.expect_messages(|_| false)?;
        ensure!(self.browser.text("#failure")?.is_empty(), "{}", self.browser.text("#failure")?);
        let names = "return performance.getEntriesByType('resource').map((entry) => entry.name)";
        let names = self.browser.script(names, &json!([]))?;
        let own = self.url().replace("console/", "");
        for name in names.as_array().into_iter().flatten() {
            ensure!(name.as_str().unwrap_or_default().starts_with(&own), "{name} was loaded");
        }
        Ok(())
    }

    /// Requires that the browser console has the expected messages only.
    pub(crate) fn expect_messages(&self, expected: impl Fn(&str) -> bool) -> Result<()> {
        let console = self.browser.console()?;
        let unexpected: Vec<&String> = console.iter().filter(|line| !expected(line)).collect();
        ensure!(unexpected.is_empty(), "the console says {unexpected:#?}");
        Ok(())
    }

    /// Saves a picture for the documentation, without the name of the temporary folder.
    pub(crate) fn picture(&self, name: &str) -> Result<()> {
        let script = "const all = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT); \
            while (all.nextNode()) all.currentNode.data = all.currentNode.data.replaceAll(arguments[0], 'manifests')";
        self.browser.script(script, &json!([self.manifests]))?;
        self.browser.picture(name)
    }

    /// Returns true if an element is visible.
    pub(crate) fn is_visible(&self, selector: &str) -> Result<bool> {
        let seen = self
            .browser
            .script("return document.querySelector(arguments[0]).checkVisibility()", &json!([selector]))?;
        Ok(seen == true)
    }

    /// The number of matches.
    pub(crate) fn count(&self, selector: &str) -> Result<u64> {
        let count = self
            .browser
            .script("return document.querySelectorAll(arguments[0]).length", &json!([selector]))?;
        count.as_u64().context("no number")
    }
}
