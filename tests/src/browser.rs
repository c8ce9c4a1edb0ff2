//! A real Chromium, driven over WebDriver (W3C) by its own chromedriver.

use std::io::{BufRead, BufReader};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use base64::Engine;
use serde_json::{Value, json};

use crate::client::{self, Outcome};
use crate::repository_root;
use crate::wait::wait_for;

/// The longest time of a WebDriver command. Some start a browser.
const COMMAND_TIMEOUT: Duration = Duration::from_secs(60);
/// The JSON field of an element's id in WebDriver.
const ELEMENT_ID_FIELD: &str = "element-6066-11e4-a52e-4f735466cecf";
/// The control key.
pub const CONTROL_KEY: &str = "\u{e009}";
/// The tab key.
pub const TAB_KEY: &str = "\u{e004}";
/// The enter key.
pub const ENTER_KEY: &str = "\u{e007}";
/// Chromium's flags: no background network traffic, nothing kept.
const FLAGS: [&str; 9] = [
    "--headless=new",
    // Root cannot have a sandbox.
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
];

/// A child process that ends with this one, and its first output.
#[derive(Debug)]
struct Program {
    child: Child,
    /// Kept open, because a program that cannot write ends.
    _stdout: BufReader<ChildStdout>,
}

impl Program {
    /// Starts the program and reads lines until `find` returns a value.
    fn start<T>(program: &Path, arguments: &[&str], find: impl Fn(&str) -> Option<T>) -> Result<(Self, T)> {
        let mut child = Command::new("setpriv")
            .args(["--pdeathsig", "TERM", "--"])
            .arg(program)
            .args(arguments)
            .current_dir(repository_root())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("cannot run {}", program.display()))?;
        let stdout = child.stdout.take().context("no output")?;
        let mut this = Self { child, _stdout: BufReader::new(stdout) };
        loop {
            let mut line = String::new();
            if this._stdout.read_line(&mut line)? == 0 {
                bail!("{} ended before it was ready", program.display());
            }
            if let Some(found) = find(&line) {
                return Ok((this, found));
            }
        }
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// `cargo xtask playground --serve`.
#[derive(Debug)]
pub struct Playground {
    _server: Program,
    /// The address of the page.
    pub url: String,
}

impl Playground {
    /// Serves the page that was built.
    ///
    /// # Errors
    /// Fails if nothing was built.
    pub fn serve() -> Result<Self> {
        let xtask = std::env::var_os("XTASK_BIN")
            .context("XTASK_BIN is not set: run this by `cargo xtask`, or name the program `xtask`")?;
        let arguments = ["playground", "--serve", "--no-build", "--listen", "127.0.0.1:0"];
        let url = |line: &str| line.starts_with("http://").then(|| line.trim().to_owned());
        let (server, url) = Program::start(Path::new(&xtask), &arguments, url)?;
        Ok(Self { _server: server, url })
    }
}

/// A browser; it ends when this is dropped.
#[derive(Debug)]
pub struct Browser {
    driver: SocketAddr,
    session: String,
    _program: Program,
    _profile: tempfile::TempDir,
}

impl Browser {
    /// Starts a browser with a window of this size in pixels.
    ///
    /// # Errors
    /// Fails if there is none.
    pub fn start(width: u32, height: u32) -> Result<Self> {
        let port = |line: &str| {
            let (_, rest) = line.split_once("started successfully on port ")?;
            rest.trim().trim_end_matches('.').parse::<u16>().ok()
        };
        let (program, port) = Program::start(Path::new("chromedriver"), &["--port=0"], port)
            .context("install Debian's chromium and chromium-driver")?;
        let profile = tempfile::tempdir()?;
        let mut flags: Vec<String> = FLAGS.iter().map(|&flag| flag.to_owned()).collect();
        flags.push(format!("--window-size={width},{height}"));
        flags.push(format!("--user-data-dir={}", profile.path().display()));
        let wanted = json!({"capabilities": {"alwaysMatch": {
            "browserName": "chrome",
            "goog:chromeOptions": {"args": flags},
            "goog:loggingPrefs": {"browser": "ALL"},
        }}});
        let driver = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let session = command(driver, "POST", "/session", &wanted)?;
        let session = session["sessionId"].as_str().context("no session")?.to_owned();
        Ok(Self { driver, session, _program: program, _profile: profile })
    }

    fn post(&self, path: &str, body: &Value) -> Result<Value> {
        command(self.driver, "POST", &format!("/session/{}{path}", self.session), body)
    }

    fn get(&self, path: &str) -> Result<Value> {
        command(self.driver, "GET", &format!("/session/{}{path}", self.session), &Value::Null)
    }

    /// Loads a page.
    ///
    /// # Errors
    /// Fails if the browser refuses.
    pub fn go(&self, url: &str) -> Result<()> {
        self.post("/url", &json!({ "url": url })).map(|_| ())
    }

    /// Runs a script in the page. `arguments[…]` holds the arguments; a promise is awaited.
    ///
    /// # Errors
    /// Fails if the script throws.
    pub fn script(&self, script: &str, arguments: &Value) -> Result<Value> {
        self.post("/execute/sync", &json!({ "script": script, "args": arguments }))
    }

    fn find(&self, selector: &str) -> Result<String> {
        let found = self.post("/element", &json!({ "using": "css selector", "value": selector }))?;
        Ok(found[ELEMENT_ID_FIELD].as_str().with_context(|| format!("no {selector}"))?.to_owned())
    }

    /// Clicks an element that is visible.
    ///
    /// # Errors
    /// Fails if it cannot be clicked.
    pub fn click(&self, selector: &str) -> Result<()> {
        let element = self.find(selector)?;
        self.post(&format!("/element/{element}/click"), &json!({})).map(|_| ())
    }

    /// Types at the end of a field.
    ///
    /// # Errors
    /// Fails if nothing can be typed there.
    pub fn press(&self, selector: &str, keys: &str) -> Result<()> {
        let element = self.find(selector)?;
        self.post(&format!("/element/{element}/value"), &json!({ "text": keys })).map(|_| ())
    }

    /// Replaces the text of a field.
    ///
    /// # Errors
    /// Fails if nothing can be typed there.
    pub fn fill(&self, selector: &str, text: &str) -> Result<()> {
        let element = self.find(selector)?;
        self.post(&format!("/element/{element}/clear"), &json!({}))?;
        if text.is_empty() {
            return Ok(());
        }
        self.post(&format!("/element/{element}/value"), &json!({ "text": text })).map(|_| ())
    }

    /// Chooses an option by its text.
    ///
    /// # Errors
    /// Fails if there is none.
    pub fn choose(&self, selector: &str, option: &str) -> Result<()> {
        // WebDriver chooses an option by clicking it.
        let script = "const all = [...document.querySelector(arguments[0]).options]; \
            return all.find((one) => one.text === arguments[1]) ?? null";
        let found = self.script(script, &json!([selector, option]))?;
        let element =
            found[ELEMENT_ID_FIELD].as_str().with_context(|| format!("{selector} has no `{option}`"))?;
        self.post(&format!("/element/{element}/click"), &json!({})).map(|_| ())
    }

    /// The visible text of the first match; empty if there is none.
    ///
    /// # Errors
    /// Fails if the browser does not answer.
    pub fn text(&self, selector: &str) -> Result<String> {
        let script = "return document.querySelector(arguments[0])?.innerText ?? ''";
        Ok(self.script(script, &json!([selector]))?.as_str().unwrap_or_default().to_owned())
    }

    /// Waits until the first match contains a text.
    ///
    /// # Errors
    /// Fails if it does not in time; with its text and the console's messages.
    pub fn wait(&self, what: &str, selector: &str, text: &str) -> Result<()> {
        let exists = || self.script("return !!document.querySelector(arguments[0])", &json!([selector]));
        let found = wait_for(what, Duration::from_secs(10), || {
            exists().is_ok_and(|exists| exists == true)
                && self.text(selector).is_ok_and(|found| found.contains(text))
        });
        found.map(|_| ()).with_context(|| {
            let failure = self.text("#failure").unwrap_or_default();
            let found = self.text(selector).unwrap_or_default();
            format!("`{text}` in {selector}: `{found}` {failure} {:?}", self.console())
        })
    }

    /// Saves a picture for the documentation, with `UPDATE_SCREENSHOTS=1`.
    ///
    /// # Errors
    /// Fails if it cannot be taken.
    pub fn picture(&self, name: &str) -> Result<()> {
        if std::env::var_os("UPDATE_SCREENSHOTS").is_none() {
            return Ok(());
        }
        let folder = repository_root().join("docs/images");
        std::fs::create_dir_all(&folder)?;
        Ok(std::fs::write(folder.join(name), self.screenshot()?)?)
    }

    /// The value of a field.
    ///
    /// # Errors
    /// Fails if the browser does not answer.
    pub fn value(&self, selector: &str) -> Result<String> {
        let script = "return document.querySelector(arguments[0]).value";
        Ok(self.script(script, &json!([selector]))?.as_str().unwrap_or_default().to_owned())
    }

    /// The id of the focused element.
    ///
    /// # Errors
    /// Fails if the browser does not answer.
    pub fn focus(&self) -> Result<String> {
        let id = self.script("return document.activeElement.id", &json!([]))?;
        Ok(id.as_str().unwrap_or_default().to_owned())
    }

    /// Presses keys in the focused element.
    ///
    /// # Errors
    /// Fails if the browser refuses.
    pub fn keys(&self, keys: &[&str]) -> Result<()> {
        let down = keys.iter().map(|key| json!({"type": "keyDown", "value": key}));
        let up = keys.iter().rev().map(|key| json!({"type": "keyUp", "value": key}));
        let actions: Vec<Value> = down.chain(up).collect();
        self.post("/actions", &json!({"actions": [{"type": "key", "id": "keys", "actions": actions}]}))
            .map(|_| ())
    }

    /// Sets the preferred colour scheme, `light` or `dark`.
    ///
    /// # Errors
    /// Fails if the browser refuses.
    pub fn prefer(&self, scheme: &str) -> Result<()> {
        let features = json!({"features": [{"name": "prefers-color-scheme", "value": scheme}]});
        let body = json!({"cmd": "Emulation.setEmulatedMedia", "params": features});
        self.post("/goog/cdp/execute", &body).map(|_| ())
    }

    /// Changes the window's size.
    ///
    /// # Errors
    /// Fails if the browser refuses.
    pub fn resize(&self, width: u32, height: u32) -> Result<()> {
        let metrics = json!({"width": width, "height": height, "deviceScaleFactor": 1, "mobile": false});
        let body = json!({"cmd": "Emulation.setDeviceMetricsOverride", "params": metrics});
        self.post("/goog/cdp/execute", &body).map(|_| ())
    }

    /// Takes a screenshot, as PNG.
    ///
    /// # Errors
    /// Fails if the browser refuses.
    pub fn screenshot(&self) -> Result<Vec<u8>> {
        let text = self.get("/screenshot")?;
        Ok(base64::engine::general_purpose::STANDARD.decode(text.as_str().unwrap_or_default())?)
    }

    /// The console messages since the last call.
    ///
    /// # Errors
    /// Fails if the browser refuses.
    pub fn console(&self) -> Result<Vec<String>> {
        let lines = self.post("/se/log", &json!({ "type": "browser" }))?;
        let lines = lines.as_array().into_iter().flatten();
        Ok(lines.map(|line| format!("{} {}", line["level"], line["message"])).collect())
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // Chromedriver ends the browser with its session, and would leave it behind when killed.
        let _ = command(self.driver, "DELETE", &format!("/session/{}", self.session), &Value::Null);
    }
}

fn command(driver: SocketAddr, method: &str, path: &str, body: &Value) -> Result<Value> {
    let mut stream = TcpStream::connect(driver).context("chromedriver is gone")?;
    stream.set_read_timeout(Some(COMMAND_TIMEOUT))?;
    let body = if body.is_null() { String::new() } else { body.to_string() };
    let (host, length) = (driver.to_string(), body.len().to_string());
    let headers =
        [("host", host.as_str()), ("content-type", "application/json"), ("content-length", &length)];
    let mut request = client::request(method, path, &headers);
    request.extend_from_slice(body.as_bytes());
    match client::http_on(&mut stream, &request) {
        Outcome::Http(answer) => {
            let reply: Value = serde_json::from_slice(&answer.body)?;
            ensure!(answer.status == 200, "{method} {path} {body:.200}: {}", reply["value"]["message"]);
            Ok(reply["value"].clone())
        }
        outcome => bail!("{method} {path}: {outcome:?}"),
    }
}
