//! The page, open in a browser.

use anyhow::{Result, ensure};
use egress_tests::browser::{Browser, Playground};
use serde_json::json;

pub(crate) const MANIFESTS: &str = r#"apiVersion: policy.openservicemesh.io/v1alpha1
kind: Egress
metadata: {name: web, namespace: shop}
spec:
  sources: [{kind: ServiceAccount, name: app, namespace: shop}]
  hosts: [httpbin.org, "*.example.com"]
  ports:
  - {number: 80, protocol: http}
  - {number: 443, protocol: https}
"#;

pub(crate) struct Page {
    pub(crate) browser: Browser,
    /// The address.
    pub(crate) url: String,
    _playground: Option<Playground>,
}

impl Page {
    /// Opens the page with an example in it.
    pub(crate) fn open() -> Result<Self> {
        let playground = Playground::serve()?;
        let url = playground.url.clone();
        Self::begin(url, Some(playground))
    }

    /// Opens the page at an address that another server serves.
    pub(crate) fn at(url: String) -> Result<Self> {
        Self::begin(url, None)
    }

    fn begin(url: String, playground: Option<Playground>) -> Result<Self> {
        let page = Self { browser: Browser::start(1280, 1000)?, url, _playground: playground };
        page.load("")?;
        Ok(page)
    }

    pub(crate) fn load(&self, fragment: &str) -> Result<()> {
        // A change of the fragment alone would not load the page.
        self.browser.go("about:blank")?;
        self.browser.go(&format!("{}{fragment}", self.url))?;
        self.wait("the page to be ready", "html[data-ready=yes]", "")
    }

    /// Types manifests and a connection of `shop/app`.
    pub(crate) fn explain(&self, manifests: &str, to: &str) -> Result<()> {
        self.browser.fill("#manifests", manifests)?;
        self.browser.fill("#identity", "shop/app")?;
        self.browser.fill("#to", to)
    }

    /// Waits until the first match contains a text.
    pub(crate) fn wait(&self, what: &str, selector: &str, text: &str) -> Result<()> {
        self.browser.wait(what, selector, text)
    }

    /// Waits for a verdict with a reason.
    pub(crate) fn verdict(&self, verdict: &str, reason: &str) -> Result<()> {
        self.wait("the reason", "#reason", reason)?;
        self.wait("the verdict", "#verdict", verdict)
    }

    /// Requires that the browser console is empty and that nothing was loaded from other hosts.
    pub(crate) fn expect_no_errors(&self) -> Result<()> {
        let console = self.browser.console()?;
        ensure!(console.is_empty(), "the console says {console:#?}");
        ensure!(self.browser.text("#failure")?.is_empty(), "{}", self.browser.text("#failure")?);
        let names = "return performance.getEntriesByType('resource').map((entry) => entry.name)";
        let names = self.browser.script(names, &json!([]))?;
        for name in names.as_array().into_iter().flatten() {
            ensure!(name.as_str().unwrap_or_default().starts_with(&self.url), "{name} was loaded");
        }
        Ok(())
    }

    /// Saves a picture for the documentation.
    pub(crate) fn picture(&self, name: &str) -> Result<()> {
        self.browser.picture(name)
    }
}
