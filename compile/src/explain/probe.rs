//! What a workload does, from the words of a command line.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::net::IpAddr;

use egress_policy::explain::{FirstBytes, Traffic};
use egress_policy::{Headers, Host, HostError, ReasonCode, Request};
use url::Url;

use super::http_request;

/// What was asked.
#[derive(Debug, Clone, Default)]
pub struct Words {
    /// `SCHEME://HOST:PORT/PATH`, or `HOST:PORT`.
    pub to: String,
    /// The method of a request.
    pub method: Option<String>,
    /// Its headers, as `NAME: VALUE`.
    pub headers: Vec<String>,
    /// The server name in the ClientHello; an empty one for none.
    pub sni: Option<String>,
    /// Whether the ClientHello carries an encrypted one.
    pub ech: bool,
    /// The first bytes, in hexadecimal.
    pub client_hello: Option<String>,
}

/// What a workload does.
#[derive(Debug, Clone)]
pub struct Call {
    /// The same in one line.
    pub text: String,
    /// The name that it asks name servers for; `None` where it dials an address.
    pub name: Option<Host>,
    /// The address that it dials, where that is all that it knows.
    pub address: Option<IpAddr>,
    /// The port that it dials.
    pub port: u16,
    /// What there is to know besides.
    pub notes: Vec<String>,
    sends: Sends,
}

#[derive(Debug, Clone)]
enum Sends {
    Tls {
        server_name: Option<String>,
        encrypted: bool,
    },
    Http(Http),
    /// A request that Envoy's own parser refuses.
    Rejected {
        authority: String,
        method: String,
        path: String,
        reason: ReasonCode,
    },
    Bytes(FirstBytes),
    Other,
    Silence,
}

#[derive(Debug, Clone)]
struct Http {
    authority: String,
    method: String,
    path: String,
    upgrade: Option<String>,
    headers: BTreeMap<String, Vec<String>>,
}

/// Why the words make no sense.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CallError {
    /// An unknown scheme.
    #[error(
        "`{0}` is not a scheme that is known: use http, https, ws, wss, tcp or tcp-server-first, or HOST:PORT"
    )]
    Scheme(String),
    /// Nothing that can be dialled.
    #[error("`{0}` is not HOST:PORT or SCHEME://HOST:PORT/PATH: {1}")]
    Form(String, String),
    /// A port is needed.
    #[error("`{0}` says no port: write it as HOST:PORT, or as a URL with `https://` or `http://`")]
    Port(String),
    /// The host is none.
    #[error("`{0}`: {1}")]
    Host(String, #[source] HostError),
    /// A header has no colon.
    #[error("`{0}` is not a header: write it as `NAME: VALUE`")]
    Header(String),
    /// Bytes that are none.
    #[error("`{0}` is not bytes in hexadecimal")]
    Hex(String),
    /// Two flags contradict each other.
    #[error("{0}")]
    Contradiction(&'static str),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Scheme {
    Http,
    Https,
    Tcp,
    ServerFirst,
}

impl Words {
    /// Reads them.
    ///
    /// # Errors
    /// When they make no sense.
    pub fn read(&self) -> Result<Call, CallError> {
        let mut notes = Vec::new();
        let (scheme, websocket, rest) = match self.to.split_once("://") {
            Some((scheme, rest)) => {
                let (scheme, websocket) = match scheme.to_ascii_lowercase().as_str() {
                    "http" => (Scheme::Http, false),
                    "https" => (Scheme::Https, false),
                    "ws" => (Scheme::Http, true),
                    "wss" => (Scheme::Https, true),
                    "tcp" => (Scheme::Tcp, false),
                    "tcp-server-first" => (Scheme::ServerFirst, false),
                    other => return Err(CallError::Scheme(other.to_owned())),
                };
                (Some(scheme), websocket, rest)
            }
            None => (None, false, self.to.as_str()),
        };
        let base = if scheme == Some(Scheme::Https) { "https" } else { "http" };
        let form = |error: url::ParseError| CallError::Form(self.to.clone(), error.to_string());
        let url = Url::parse(&format!("{base}://{rest}")).map_err(form)?;
        let has_port = says_port(rest);
        let port = match (scheme, url.port_or_known_default()) {
            (Some(Scheme::Http | Scheme::Https), Some(port)) if port > 0 => port,
            (_, Some(port)) if has_port && port > 0 => port,
            (_, _) => return Err(CallError::Port(self.to.clone())),
        };
        let scheme = scheme.unwrap_or_else(|| {
            let (scheme, name) = match port {
                443 => (Scheme::Https, "https"),
                80 => (Scheme::Http, "http"),
                _ => (Scheme::Tcp, "tcp"),
            };
            notes.push(format!("taken as {name}:// by its port: write the scheme to say something else"));
            scheme
        });
        let (name, address) = match url.host() {
            Some(url::Host::Domain(domain)) => {
                let name = Host::canonical(domain).map_err(|e| CallError::Host(self.to.clone(), e))?;
                (Some(name), None)
            }
            Some(url::Host::Ipv4(v4)) => (None, Some(IpAddr::V4(v4))),
            Some(url::Host::Ipv6(v6)) => (None, Some(IpAddr::V6(v6).to_canonical())),
            None => return Err(CallError::Form(self.to.clone(), "there is no host".to_owned())),
        };
        let host = match (&name, address) {
            (Some(name), _) => name.to_string(),
            (None, Some(IpAddr::V6(v6))) => format!("[{v6}]"),
            (None, address) => address.map(|address| address.to_string()).unwrap_or_default(),
        };
        let sends = self.sends(scheme, websocket, (&url, rest), (&host, port), name.as_ref(), &mut notes)?;
        let text = describe(&sends, &host, port);
        Ok(Call { text, name, address, port, notes, sends })
    }

    fn sends(
        &self,
        scheme: Scheme,
        websocket: bool,
        (url, rest): (&Url, &str),
        (host, port): (&str, u16),
        name: Option<&Host>,
        notes: &mut Vec<String>,
    ) -> Result<Sends, CallError> {
        let is_request =
            scheme == Scheme::Http && self.client_hello.is_none() && self.sni.is_none() && !self.ech;
        if !is_request && (self.method.is_some() || !self.headers.is_empty()) {
            return Err(CallError::Contradiction(
                "`--method` and `--header` are for http://: inside TLS, and in other bytes, nobody looks for them",
            ));
        }
        if let Some(text) = &self.client_hello {
            if self.sni.is_some() || self.ech {
                return Err(CallError::Contradiction(
                    "`--client-hello-hex` says everything: leave `--sni` and `--ech` out",
                ));
            }
            return Ok(Sends::Bytes(FirstBytes::read(&hex(text)?)));
        }
        if self.sni.is_some() || self.ech || scheme == Scheme::Https {
            let server_name = match &self.sni {
                Some(sni) => Some(sni.clone()).filter(|sni| !sni.is_empty()),
                // A client names no address.
                None => name.map(Host::to_string),
            };
            if url.path() != "/" || url.query().is_some() {
                notes.push("the path is inside TLS, where nobody sees it".to_owned());
            }
            return Ok(Sends::Tls { server_name, encrypted: self.ech });
        }
        match scheme {
            Scheme::Http => self.request(websocket, &target(rest), (host, port), notes),
            Scheme::ServerFirst => Ok(Sends::Silence),
            Scheme::Tcp | Scheme::Https => Ok(Sends::Other),
        }
    }

    fn request(
        &self,
        websocket: bool,
        target: &str,
        (host, port): (&str, u16),
        notes: &mut Vec<String>,
    ) -> Result<Sends, CallError> {
        let mut headers: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for header in &self.headers {
            let (name, value) = header
                .split_once(':')
                .filter(|(name, _)| !name.trim().is_empty())
                .ok_or_else(|| CallError::Header(header.clone()))?;
            let (name, value) = (name.trim().to_ascii_lowercase(), value.trim());
            if name.starts_with("x-envoy-") {
                notes.push(format!("the sidecar removes `{name}` from what workloads send"));
                continue;
            }
            headers.entry(name).or_default().push(value.to_owned());
        }
        if websocket {
            for (name, value) in [("upgrade", "websocket"), ("connection", "Upgrade")] {
                headers.entry(name.to_owned()).or_insert_with(|| vec![value.to_owned()]);
            }
        }
        let upgrade = upgrade(&mut headers, notes);
        let authority = headers.remove("host").map(|values| values.join(",")).unwrap_or_else(|| match port {
            80 => host.to_owned(),
            port => format!("{host}:{port}"),
        });
        let method = self.method.clone().unwrap_or_else(|| "GET".to_owned());
        let target = http_request::sent(target);
        let refusal = http_request::refusal(&method, &authority, headers.contains_key("content-type"));
        let path = match refusal.map_or_else(|| http_request::normalized(&target), Err) {
            Ok(path) => path,
            Err((reason, why)) => {
                notes.push(format!("Envoy itself answers 400 (`{reason}`): {why}"));
                return Ok(Sends::Rejected { authority, method, path: target, reason });
            }
        };
        if upgrade.as_ref().is_some_and(|asked| !asked.eq_ignore_ascii_case("websocket")) {
            let reason = ReasonCode::UpgradeRefused;
            notes.push(format!("Envoy itself refuses it (`{reason}`): no rule can allow this upgrade"));
            return Ok(Sends::Rejected { authority, method, path, reason });
        }
        if target.split('/').any(|segment| segment.starts_with(".;") || segment.starts_with("..;")) {
            notes.push(
                "Envoy 1.40 takes `..;x` for `..` before the path is matched; 1.39 does not, and no pattern matches"
                    .to_owned(),
            );
        }
        Ok(Sends::Http(Http { authority, method, path, upgrade, headers }))
    }
}

impl Call {
    /// Passes what it sends to `ask`.
    pub fn with_traffic<T>(&self, ask: impl FnOnce(Traffic<'_>) -> T) -> T {
        match &self.sends {
            Sends::Tls { server_name, encrypted } => {
                ask(Traffic::Tls { server_name: server_name.as_deref(), encrypted: *encrypted })
            }
            Sends::Http(Http { authority, method, path, upgrade, headers }) => {
                let authority = Some(authority.as_str()).filter(|text| !text.is_empty());
                let headers = Map(headers);
                let upgrade = upgrade.as_deref();
                ask(Traffic::Http(&Request { authority, method, path, upgrade, headers: &headers }))
            }
            Sends::Bytes(bytes) => ask(bytes.traffic()),
            Sends::Rejected { reason, .. } => ask(Traffic::Rejected(*reason)),
            Sends::Other => ask(Traffic::Other),
            Sends::Silence => ask(Traffic::Silence),
        }
    }

    /// Whether it is one request, so that it is decided in the internal listener.
    #[must_use]
    pub fn is_request(&self) -> bool {
        matches!(self.sends, Sends::Http(_) | Sends::Rejected { .. })
    }

    /// The name that a policy sees.
    #[must_use]
    pub fn visible_name(&self) -> Option<&str> {
        match &self.sends {
            Sends::Tls { server_name, .. } => server_name.as_deref(),
            Sends::Http(Http { authority, .. }) | Sends::Rejected { authority, .. } => Some(authority),
            Sends::Bytes(FirstBytes::Tls { server_name, .. }) => server_name.as_deref(),
            Sends::Bytes(_) | Sends::Other | Sends::Silence => None,
        }
    }
}

struct Map<'a>(&'a BTreeMap<String, Vec<String>>);

impl Headers for Map<'_> {
    fn values(&self, name: &str) -> Vec<Cow<'_, str>> {
        self.0.get(name).into_iter().flatten().map(|value| Cow::Borrowed(value.as_str())).collect()
    }
}

fn describe(sends: &Sends, host: &str, port: u16) -> String {
    let tls = |name: Option<&str>, encrypted: bool| {
        let name = name.map_or("no server name".to_owned(), |name| format!("server name `{name}`"));
        let encrypted = if encrypted { ", an encrypted ClientHello" } else { "" };
        format!("{host}:{port}, TLS, {name}{encrypted}")
    };
    match sends {
        Sends::Tls { server_name, encrypted } => tls(server_name.as_deref(), *encrypted),
        Sends::Bytes(FirstBytes::Tls { server_name, encrypted }) => tls(server_name.as_deref(), *encrypted),
        Sends::Bytes(FirstBytes::BrokenTls(error)) => format!("{host}:{port}, {error}"),
        Sends::Bytes(FirstBytes::NotTls) => format!("{host}:{port}, bytes that are not TLS"),
        Sends::Http(Http { authority, method, path, upgrade, .. }) => {
            let upgrade = upgrade.as_ref().map(|asked| format!(", upgrade `{asked}`")).unwrap_or_default();
            format!("{host}:{port}, HTTP, `{method} {path}` for `{authority}`{upgrade}")
        }
        Sends::Rejected { authority, method, path, .. } => {
            format!("{host}:{port}, HTTP, `{method} {path}` for `{authority}`")
        }
        Sends::Other => format!("{host}:{port}, TCP, neither TLS nor HTTP"),
        Sends::Silence => format!("{host}:{port}, TCP, the server speaks first"),
    }
}

/// What the connection is asked to become, as the sidecar leaves it: without offers that nobody has to take, and none
/// where `Connection` does not name it (RFC 9110 §7.8).
fn upgrade(headers: &mut BTreeMap<String, Vec<String>>, notes: &mut Vec<String>) -> Option<String> {
    let asked = headers.remove("upgrade")?.join(",");
    let connection = headers.get("connection").map(|values| values.join(",")).unwrap_or_default();
    if !connection.split(',').any(|token| token.trim().eq_ignore_ascii_case("upgrade")) {
        notes.push("the sidecar ignores `upgrade` without `connection: upgrade`".to_owned());
        return None;
    }
    let is_ignored = |token: &&str| {
        token.eq_ignore_ascii_case("h2c")
            || token.get(..4).is_some_and(|start| start.eq_ignore_ascii_case("tls/"))
    };
    let (ignored, kept): (Vec<&str>, Vec<&str>) = asked.split(',').map(str::trim).partition(is_ignored);
    if !ignored.is_empty() {
        notes.push(format!("the sidecar ignores the offer to upgrade to {}", ignored.join(", ")));
    }
    if kept.is_empty() {
        return None;
    }
    let kept = kept.join(",");
    headers.insert("upgrade".to_owned(), vec![kept.clone()]);
    Some(kept)
}

/// Whether an authority says its port.
fn says_port(rest: &str) -> bool {
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    let host_and_port = authority.rsplit('@').next().unwrap_or_default();
    let behind = host_and_port.rsplit(']').next().unwrap_or_default();
    behind.rsplit_once(':').is_some_and(|(_, port)| !port.is_empty())
}

/// What follows the authority, as a client sends it: fragments stay with the client.
fn target(rest: &str) -> String {
    let behind = rest.find(['/', '\\', '?', '#']).and_then(|at| rest.get(at..)).unwrap_or_default();
    let sent = behind.split('#').next().unwrap_or_default();
    match sent.strip_prefix('\\') {
        Some(path) => format!("/{path}"),
        None if sent.starts_with('/') => sent.to_owned(),
        None => format!("/{sent}"),
    }
}

fn hex(text: &str) -> Result<Vec<u8>, CallError> {
    let wrong = || CallError::Hex(text.chars().take(40).collect());
    let digits: Vec<u8> = text
        .chars()
        .filter(|c| !c.is_ascii_whitespace() && *c != ':')
        .map(|c| c.to_digit(16).and_then(|digit| u8::try_from(digit).ok()).ok_or_else(wrong))
        .collect::<Result<_, _>>()?;
    if digits.is_empty() || !digits.len().is_multiple_of(2) {
        return Err(wrong());
    }
    Ok(digits.chunks_exact(2).map(|pair| pair[0] * 16 + pair[1]).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(to: &str) -> Result<Call, CallError> {
        Words { to: to.to_owned(), ..Words::default() }.read()
    }

    #[test]
    fn what_is_dialled() {
        for (to, expected) in [
            ("https://httpbin.org", "httpbin.org:443, TLS, server name `httpbin.org`"),
            ("https://HTTPBIN.org:8443/x", "httpbin.org:8443, TLS, server name `httpbin.org`"),
            ("https://bücher.example", "xn--bcher-kva.example:443, TLS, server name `xn--bcher-kva.example`"),
            ("https://10.0.0.1", "10.0.0.1:443, TLS, no server name"),
            ("http://httpbin.org", "httpbin.org:80, HTTP, `GET /` for `httpbin.org`"),
            (
                "http://httpbin.org:8080/a//b/../c?d",
                "httpbin.org:8080, HTTP, `GET /a/c?d` for `httpbin.org:8080`",
            ),
            ("http://[2001:db8::1]/", "[2001:db8::1]:80, HTTP, `GET /` for `[2001:db8::1]`"),
            ("ws://a.org/chat", "a.org:80, HTTP, `GET /chat` for `a.org`, upgrade `websocket`"),
            ("tcp://db.example:80", "db.example:80, TCP, neither TLS nor HTTP"),
            ("tcp-server-first://10.1.2.3:25", "10.1.2.3:25, TCP, the server speaks first"),
            ("httpbin.org:443", "httpbin.org:443, TLS, server name `httpbin.org`"),
            ("httpbin.org:80", "httpbin.org:80, HTTP, `GET /` for `httpbin.org`"),
            ("[::ffff:10.0.0.1]:22", "10.0.0.1:22, TCP, neither TLS nor HTTP"),
        ] {
            assert_eq!(read(to).map(|call| call.text).as_deref(), Ok(expected), "{to}");
        }
    }

    #[test]
    fn what_makes_no_sense() {
        for (to, expected) in [
            ("ftp://a.org", "`ftp` is not a scheme"),
            ("tcp://a.org", "`tcp://a.org` says no port"),
            ("a.org", "`a.org` says no port"),
            ("http://a.org:0", "says no port"),
            ("https://", "is not HOST:PORT"),
            ("https://a..b", "label"),
            ("https://a.org:99999", "is not HOST:PORT"),
        ] {
            let error = read(to).expect_err(to).to_string();
            assert!(error.contains(expected), "{to}: {error}");
        }
    }

    #[test]
    fn what_flags_change() {
        let words = |to: &str| Words { to: to.to_owned(), ..Words::default() };
        let sni = Words { sni: Some("b.org".to_owned()), ..words("tcp://a.org:443") };
        assert_eq!(sni.read().expect("sense").text, "a.org:443, TLS, server name `b.org`");
        let none = Words { sni: Some(String::new()), ech: true, ..words("https://a.org") };
        let text = none.read().expect("sense").text;
        assert_eq!(text, "a.org:443, TLS, no server name, an encrypted ClientHello");
        let header = |header: &str| Words { headers: vec![header.to_owned()], ..words("http://a.org") };
        assert_eq!(header("Host: b.org").read().expect("sense").text, "a.org:80, HTTP, `GET /` for `b.org`");
        assert_eq!(header("none").read().expect_err("no sense"), CallError::Header("none".to_owned()));
        assert_eq!(header("X-Envoy-Retry-On: 5xx").read().expect("sense").notes.len(), 1);
        assert_eq!(read("http://a.org/a/..;x/b").expect("sense").notes.len(), 1);
        assert_eq!(read("http://a.org/a/b..;x/b;..").expect("sense").notes.len(), 0);
        for (headers, expected) in [
            (&["Upgrade: websocket"][..], ""),
            (&["Connection: Upgrade", "Upgrade: TLS/1.2"], ""),
            (&["Connection: Upgrade", "Upgrade: tls/1.0, H2C"], ""),
            (&["Connection: keep-alive, Upgrade", "Upgrade: TLS/1.2, websocket"], ", upgrade `websocket`"),
            // Envoy refuses it before anybody looks at it.
            (&["Connection: upgrade", "Upgrade: spdy/3"], ""),
        ] {
            let headers = headers.iter().map(|header| (*header).to_owned()).collect();
            let call = Words { headers, ..words("http://a.org") }.read().expect("sense");
            assert_eq!(call.text, format!("a.org:80, HTTP, `GET /` for `a.org`{expected}"));
        }
        let bytes = |text: &str| Words { client_hello: Some(text.to_owned()), ..words("tcp://a.org:443") };
        assert_eq!(bytes("47 45:54").read().expect("sense").text, "a.org:443, bytes that are not TLS");
        assert!(bytes("1603010005").read().expect("sense").text.contains("malformed"));
        assert_eq!(bytes("xy").read().expect_err("no sense"), CallError::Hex("xy".to_owned()));
        let method = Words { method: Some("PUT".to_owned()), ..words("https://a.org") };
        assert!(matches!(method.read(), Err(CallError::Contradiction(_))));
    }
}
