//! A connection or request to explain, parsed from command-line arguments.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::net::IpAddr;

use data_encoding::HEXLOWER_PERMISSIVE;
use egress_policy::explain::{FirstBytes, Traffic};
use egress_policy::{Headers, Host, HostError, ReasonCode, Request};
use url::Url;

use super::http_request;

/// The arguments that describe a probe.
#[derive(Debug, Clone, Default)]
pub struct ProbeArgs {
    /// `SCHEME://HOST:PORT/PATH`, or `HOST:PORT`.
    pub to: String,
    /// The method of a request.
    pub method: Option<String>,
    /// The headers, as `NAME: VALUE`.
    pub headers: Vec<String>,
    /// The server name in the ClientHello; empty for none.
    pub sni: Option<String>,
    /// True if the ClientHello carries an encrypted one.
    pub ech: bool,
    /// The first bytes, in hexadecimal.
    pub client_hello: Option<String>,
}

/// A connection or request of a workload.
#[derive(Debug, Clone)]
pub struct Probe {
    /// The probe in one line.
    pub text: String,
    /// The host name that the workload resolves; `None` if it dials an address.
    pub name: Option<Host>,
    /// The address that it dials, if it knows no name.
    pub address: Option<IpAddr>,
    /// The port that it dials.
    pub port: u16,
    /// Notes for the report.
    pub notes: Vec<String>,
    payload: Payload,
}

#[derive(Debug, Clone)]
enum Payload {
    Tls {
        server_name: Option<String>,
        encrypted: bool,
    },
    Http(Http),
    /// A request that Envoy itself rejects.
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

/// The error for arguments that describe no probe.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProbeError {
    /// The scheme is unknown.
    #[error(
        "`{0}` is not a supported scheme: use http, https, ws, wss, tcp or tcp-server-first, or HOST:PORT"
    )]
    Scheme(String),
    /// The target cannot be dialled.
    #[error("`{0}` is not HOST:PORT or SCHEME://HOST:PORT/PATH: {1}")]
    Form(String, String),
    /// The port is missing.
    #[error("`{0}` has no port: write it as HOST:PORT, or as a URL with `https://` or `http://`")]
    Port(String),
    /// The host is invalid.
    #[error("`{0}`: {1}")]
    Host(String, #[source] HostError),
    /// A header has no colon.
    #[error("`{0}` is not a header: write it as `NAME: VALUE`")]
    Header(String),
    /// The first bytes are not hexadecimal.
    #[error("`{0}` is not hexadecimal")]
    Hex(String),
    /// Two arguments contradict each other.
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

impl ProbeArgs {
    /// Parses the arguments.
    ///
    /// ```
    /// use egress_compile::explain::probe::ProbeArgs;
    ///
    /// let args = ProbeArgs { to: "example.com:443".to_owned(), ..ProbeArgs::default() };
    /// let probe = args.parse().expect("a probe");
    /// assert_eq!(probe.text, "example.com:443, TLS, server name `example.com`");
    /// ```
    ///
    /// # Errors
    /// Fails if the arguments describe no probe.
    pub fn parse(&self) -> Result<Probe, ProbeError> {
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
                    other => return Err(ProbeError::Scheme(other.to_owned())),
                };
                (Some(scheme), websocket, rest)
            }
            None => (None, false, self.to.as_str()),
        };
        let base = if scheme == Some(Scheme::Https) { "https" } else { "http" };
        let form = |error: url::ParseError| ProbeError::Form(self.to.clone(), error.to_string());
        let url = Url::parse(&format!("{base}://{rest}")).map_err(form)?;
        let has_port = has_port_text(rest);
        let port = match (scheme, url.port_or_known_default()) {
            (Some(Scheme::Http | Scheme::Https), Some(port)) if port > 0 => port,
            (_, Some(port)) if has_port && port > 0 => port,
            (_, _) => return Err(ProbeError::Port(self.to.clone())),
        };
        let scheme = scheme.unwrap_or_else(|| {
            let (scheme, name) = match port {
                443 => (Scheme::Https, "https"),
                80 => (Scheme::Http, "http"),
                _ => (Scheme::Tcp, "tcp"),
            };
            notes.push(format!("treated as {name}:// because of its port; write a scheme to choose another"));
            scheme
        });
        let (name, address) = match url.host() {
            Some(url::Host::Domain(domain)) => {
                let name = Host::canonical(domain).map_err(|e| ProbeError::Host(self.to.clone(), e))?;
                (Some(name), None)
            }
            Some(url::Host::Ipv4(v4)) => (None, Some(IpAddr::V4(v4))),
            Some(url::Host::Ipv6(v6)) => (None, Some(IpAddr::V6(v6).to_canonical())),
            None => return Err(ProbeError::Form(self.to.clone(), "there is no host".to_owned())),
        };
        let host = match (&name, address) {
            (Some(name), _) => name.to_string(),
            (None, Some(IpAddr::V6(v6))) => format!("[{v6}]"),
            (None, address) => address.map(|address| address.to_string()).unwrap_or_default(),
        };
        let payload =
            self.build_payload(scheme, websocket, (&url, rest), (&host, port), name.as_ref(), &mut notes)?;
        let text = describe_payload(&payload, &host, port);
        Ok(Probe { text, name, address, port, notes, payload })
    }

    fn build_payload(
        &self,
        scheme: Scheme,
        websocket: bool,
        (url, rest): (&Url, &str),
        (host, port): (&str, u16),
        name: Option<&Host>,
        notes: &mut Vec<String>,
    ) -> Result<Payload, ProbeError> {
        let is_request =
            scheme == Scheme::Http && self.client_hello.is_none() && self.sni.is_none() && !self.ech;
        if !is_request && (self.method.is_some() || !self.headers.is_empty()) {
            return Err(ProbeError::Contradiction(
                "`--method` and `--header` apply only to http://: no policy sees requests inside TLS or in other protocols",
            ));
        }
        if let Some(text) = &self.client_hello {
            if self.sni.is_some() || self.ech {
                return Err(ProbeError::Contradiction(
                    "`--client-hello-hex` holds the whole ClientHello: leave out `--sni` and `--ech`",
                ));
            }
            return Ok(Payload::Bytes(FirstBytes::read(&decode_hex(text)?)));
        }
        if self.sni.is_some() || self.ech || scheme == Scheme::Https {
            let server_name = match &self.sni {
                Some(sni) => Some(sni.clone()).filter(|sni| !sni.is_empty()),
                // A client sends no server name for an address.
                None => name.map(Host::to_string),
            };
            if url.path() != "/" || url.query().is_some() {
                notes.push("the path is encrypted by TLS, so no policy sees it".to_owned());
            }
            return Ok(Payload::Tls { server_name, encrypted: self.ech });
        }
        match scheme {
            Scheme::Http => self.build_request(websocket, &request_target(rest), (host, port), notes),
            Scheme::ServerFirst => Ok(Payload::Silence),
            Scheme::Tcp | Scheme::Https => Ok(Payload::Other),
        }
    }

    fn build_request(
        &self,
        websocket: bool,
        target: &str,
        (host, port): (&str, u16),
        notes: &mut Vec<String>,
    ) -> Result<Payload, ProbeError> {
        let mut headers: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for header in &self.headers {
            let (name, value) = header
                .split_once(':')
                .filter(|(name, _)| !name.trim().is_empty())
                .ok_or_else(|| ProbeError::Header(header.clone()))?;
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
        let upgrade = extract_upgrade(&mut headers, notes);
        let authority = headers.remove("host").map(|values| values.join(",")).unwrap_or_else(|| match port {
            80 => host.to_owned(),
            port => format!("{host}:{port}"),
        });
        let method = self.method.clone().unwrap_or_else(|| "GET".to_owned());
        let target = http_request::encode_path(target);
        let refusal = http_request::reject_request(&method, &authority, headers.contains_key("content-type"));
        let path = match refusal.map_or_else(|| http_request::normalize_path(&target), Err) {
            Ok(path) => path,
            Err((reason, message)) => {
                notes.push(format!("Envoy itself responds with status 400 (`{reason}`): {message}"));
                return Ok(Payload::Rejected { authority, method, path: target, reason });
            }
        };
        if upgrade.as_ref().is_some_and(|requested| !requested.eq_ignore_ascii_case("websocket")) {
            let reason = ReasonCode::UpgradeRefused;
            notes.push(format!("Envoy itself refuses it (`{reason}`): no rule can allow this upgrade"));
            return Ok(Payload::Rejected { authority, method, path, reason });
        }
        if target.split('/').any(|segment| segment.starts_with(".;") || segment.starts_with("..;")) {
            notes.push(
                "Envoy 1.40 treats `..;x` as `..` before it matches the path; Envoy 1.39 does not, so no pattern matches"
                    .to_owned(),
            );
        }
        Ok(Payload::Http(Http { authority, method, path, upgrade, headers }))
    }
}

impl Probe {
    /// Passes the traffic of the probe to `evaluate`.
    pub fn with_traffic<T>(&self, evaluate: impl FnOnce(Traffic<'_>) -> T) -> T {
        match &self.payload {
            Payload::Tls { server_name, encrypted } => {
                evaluate(Traffic::Tls { server_name: server_name.as_deref(), encrypted: *encrypted })
            }
            Payload::Http(Http { authority, method, path, upgrade, headers }) => {
                let authority = Some(authority.as_str()).filter(|text| !text.is_empty());
                let headers = HeaderMap(headers);
                let upgrade = upgrade.as_deref();
                evaluate(Traffic::Http(&Request { authority, method, path, upgrade, headers: &headers }))
            }
            Payload::Bytes(bytes) => evaluate(bytes.traffic()),
            Payload::Rejected { reason, .. } => evaluate(Traffic::Rejected(*reason)),
            Payload::Other => evaluate(Traffic::Other),
            Payload::Silence => evaluate(Traffic::Silence),
        }
    }

    /// Returns true for a single HTTP request, which is decided in the internal listener.
    #[must_use]
    pub fn is_request(&self) -> bool {
        matches!(self.payload, Payload::Http(_) | Payload::Rejected { .. })
    }

    /// The host name that a policy sees.
    #[must_use]
    pub fn visible_name(&self) -> Option<&str> {
        match &self.payload {
            Payload::Tls { server_name, .. } => server_name.as_deref(),
            Payload::Http(Http { authority, .. }) | Payload::Rejected { authority, .. } => Some(authority),
            Payload::Bytes(FirstBytes::Tls { server_name, .. }) => server_name.as_deref(),
            Payload::Bytes(_) | Payload::Other | Payload::Silence => None,
        }
    }
}

struct HeaderMap<'a>(&'a BTreeMap<String, Vec<String>>);

impl Headers for HeaderMap<'_> {
    fn values(&self, name: &str) -> Vec<Cow<'_, str>> {
        self.0.get(name).into_iter().flatten().map(|value| Cow::Borrowed(value.as_str())).collect()
    }
}

fn describe_payload(payload: &Payload, host: &str, port: u16) -> String {
    let tls = |name: Option<&str>, encrypted: bool| {
        let name = name.map_or("no server name".to_owned(), |name| format!("server name `{name}`"));
        let encrypted = if encrypted { ", an encrypted ClientHello" } else { "" };
        format!("{host}:{port}, TLS, {name}{encrypted}")
    };
    match payload {
        Payload::Tls { server_name, encrypted } => tls(server_name.as_deref(), *encrypted),
        Payload::Bytes(FirstBytes::Tls { server_name, encrypted }) => tls(server_name.as_deref(), *encrypted),
        Payload::Bytes(FirstBytes::BrokenTls(error)) => format!("{host}:{port}, {error}"),
        Payload::Bytes(FirstBytes::NotTls) => format!("{host}:{port}, bytes that are not TLS"),
        Payload::Http(Http { authority, method, path, upgrade, .. }) => {
            let upgrade =
                upgrade.as_ref().map(|requested| format!(", upgrade `{requested}`")).unwrap_or_default();
            format!("{host}:{port}, HTTP, `{method} {path}` for `{authority}`{upgrade}")
        }
        Payload::Rejected { authority, method, path, .. } => {
            format!("{host}:{port}, HTTP, `{method} {path}` for `{authority}`")
        }
        Payload::Other => format!("{host}:{port}, TCP, neither TLS nor HTTP"),
        Payload::Silence => format!("{host}:{port}, TCP, the server speaks first"),
    }
}

/// Returns the upgrade that the request asks for, as the sidecar forwards it: without offers that a server may
/// ignore, and without one that `Connection` does not list (RFC 9110 §7.8).
fn extract_upgrade(headers: &mut BTreeMap<String, Vec<String>>, notes: &mut Vec<String>) -> Option<String> {
    let requested = headers.remove("upgrade")?.join(",");
    let connection = headers.get("connection").map(|values| values.join(",")).unwrap_or_default();
    if !connection.split(',').any(|token| token.trim().eq_ignore_ascii_case("upgrade")) {
        notes.push("the sidecar ignores `upgrade` without `connection: upgrade`".to_owned());
        return None;
    }
    let is_ignored = |token: &&str| {
        token.eq_ignore_ascii_case("h2c")
            || token.get(..4).is_some_and(|start| start.eq_ignore_ascii_case("tls/"))
    };
    let (ignored, kept): (Vec<&str>, Vec<&str>) = requested.split(',').map(str::trim).partition(is_ignored);
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

/// Returns true if the authority includes a port.
fn has_port_text(rest: &str) -> bool {
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    let host_and_port = authority.rsplit('@').next().unwrap_or_default();
    let behind = host_and_port.rsplit(']').next().unwrap_or_default();
    behind.rsplit_once(':').is_some_and(|(_, port)| !port.is_empty())
}

/// Returns the request target that a client sends: the text after the authority, without the fragment.
fn request_target(rest: &str) -> String {
    let behind = rest.find(['/', '\\', '?', '#']).and_then(|at| rest.get(at..)).unwrap_or_default();
    let sent = behind.split('#').next().unwrap_or_default();
    match sent.strip_prefix('\\') {
        Some(path) => format!("/{path}"),
        None if sent.starts_with('/') => sent.to_owned(),
        None => format!("/{sent}"),
    }
}

fn decode_hex(text: &str) -> Result<Vec<u8>, ProbeError> {
    let wrong = || ProbeError::Hex(text.chars().take(40).collect());
    let digits: Vec<u8> = text.bytes().filter(|b| !b.is_ascii_whitespace() && *b != b':').collect();
    if digits.is_empty() {
        return Err(wrong());
    }
    HEXLOWER_PERMISSIVE.decode(&digits).map_err(|_| wrong())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(to: &str) -> Result<Probe, ProbeError> {
        ProbeArgs { to: to.to_owned(), ..ProbeArgs::default() }.parse()
    }

    #[test]
    fn targets_are_parsed() {
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
            assert_eq!(read(to).map(|probe| probe.text).as_deref(), Ok(expected), "{to}");
        }
    }

    #[test]
    fn invalid_targets_are_refused() {
        for (to, expected) in [
            ("ftp://a.org", "`ftp` is not a supported scheme"),
            ("tcp://a.org", "`tcp://a.org` has no port"),
            ("a.org", "`a.org` has no port"),
            ("http://a.org:0", "has no port"),
            ("https://", "is not HOST:PORT"),
            ("https://a..b", "label"),
            ("https://a.org:99999", "is not HOST:PORT"),
        ] {
            let error = read(to).expect_err(to).to_string();
            assert!(error.contains(expected), "{to}: {error}");
        }
    }

    #[test]
    fn options_change_the_probe() {
        let args = |to: &str| ProbeArgs { to: to.to_owned(), ..ProbeArgs::default() };
        let sni = ProbeArgs { sni: Some("b.org".to_owned()), ..args("tcp://a.org:443") };
        assert_eq!(sni.parse().expect("sense").text, "a.org:443, TLS, server name `b.org`");
        let none = ProbeArgs { sni: Some(String::new()), ech: true, ..args("https://a.org") };
        let text = none.parse().expect("sense").text;
        assert_eq!(text, "a.org:443, TLS, no server name, an encrypted ClientHello");
        let header = |header: &str| ProbeArgs { headers: vec![header.to_owned()], ..args("http://a.org") };
        assert_eq!(header("Host: b.org").parse().expect("sense").text, "a.org:80, HTTP, `GET /` for `b.org`");
        assert_eq!(header("none").parse().expect_err("no sense"), ProbeError::Header("none".to_owned()));
        assert_eq!(header("X-Envoy-Retry-On: 5xx").parse().expect("sense").notes.len(), 1);
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
            let probe = ProbeArgs { headers, ..args("http://a.org") }.parse().expect("sense");
            assert_eq!(probe.text, format!("a.org:80, HTTP, `GET /` for `a.org`{expected}"));
        }
        let bytes = |text: &str| ProbeArgs { client_hello: Some(text.to_owned()), ..args("tcp://a.org:443") };
        assert_eq!(bytes("47 45:54").parse().expect("sense").text, "a.org:443, bytes that are not TLS");
        assert!(bytes("1603010005").parse().expect("sense").text.contains("malformed"));
        assert_eq!(bytes("xy").parse().expect_err("no sense"), ProbeError::Hex("xy".to_owned()));
        let method = ProbeArgs { method: Some("PUT".to_owned()), ..args("https://a.org") };
        assert!(matches!(method.parse(), Err(ProbeError::Contradiction(_))));
    }
}
