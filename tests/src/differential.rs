//! Random inputs of a workload: requests, ClientHellos and other first bytes, for policies of every kind on
//! ports of their own. Each input goes to Envoy and to `osm-egress explain`.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr};

use egress_compile::explain::probe::ProbeArgs;

use crate::hello::{ECH, ESNI, Hello, SERVER_NAME};
use crate::network::{ELSEWHERE, EXAMPLE, HTTPBIN};

/// The address block of the test's origins, which answer for every address in it.
pub const ORIGIN_BLOCK: &str = "198.18.0.0/15";
/// The block whose addresses the rules list.
const LISTED_BLOCK: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 0);
const UNLISTED_BLOCK: Ipv4Addr = Ipv4Addr::new(198, 19, 0, 0);

/// The policies, for `curl/curl`.
pub const POLICIES: &str = r#"
apiVersion: policy.openservicemesh.io/v1alpha1
kind: Egress
metadata: {name: names, namespace: curl}
spec:
  sources: [{kind: ServiceAccount, name: curl, namespace: curl}]
  hosts: [httpbin.org, "*.example.com"]
  ports: [{number: 80, protocol: http}, {number: 9100, protocol: https}]
---
apiVersion: policy.openservicemesh.io/v1alpha1
kind: Egress
metadata: {name: no-ech, namespace: curl, annotations: {openservicemesh.io/egress-ech: refuse}}
spec:
  sources: [{kind: ServiceAccount, name: curl, namespace: curl}]
  hosts: [httpbin.org, "*.example.com"]
  ports: [{number: 9101, protocol: https}]
---
apiVersion: policy.openservicemesh.io/v1alpha1
kind: Egress
metadata: {name: both, namespace: curl}
spec:
  sources: [{kind: ServiceAccount, name: curl, namespace: curl}]
  hosts: [httpbin.org, "*.example.com"]
  ipAddresses: [198.18.0.0/16]
  ports: [{number: 80, protocol: http}, {number: 9102, protocol: https}]
---
apiVersion: policy.openservicemesh.io/v1alpha1
kind: Egress
metadata: {name: addresses, namespace: curl}
spec:
  sources: [{kind: ServiceAccount, name: curl, namespace: curl}]
  ipAddresses: [198.18.0.0/16]
  ports: [{number: 9103, protocol: https}, {number: 9104, protocol: tcp}, {number: 9105, protocol: tcp}]
---
apiVersion: policy.openservicemesh.io/v1alpha1
kind: Egress
metadata: {name: anything, namespace: curl}
spec:
  sources: [{kind: ServiceAccount, name: curl, namespace: curl}]
  ports: [{number: 9107, protocol: https}]
---
apiVersion: policy.openservicemesh.io/v1alpha1
kind: Egress
metadata: {name: mixed, namespace: curl}
spec:
  sources: [{kind: ServiceAccount, name: curl, namespace: curl}]
  hosts: [httpbin.org]
  ports: [{number: 9105, protocol: https}]
---
apiVersion: specs.smi-spec.io/v1alpha4
kind: HTTPRouteGroup
metadata: {name: public, namespace: curl}
spec:
  matches:
  - {name: public, pathRegex: "/public(/.*)?", methods: [GET, POST]}
  - {name: tenant, pathRegex: "/[a-z]+", headers: [{x-tenant: "good(-.*)?"}]}
---
apiVersion: policy.openservicemesh.io/v1alpha1
kind: Egress
metadata: {name: routes, namespace: curl}
spec:
  sources: [{kind: ServiceAccount, name: curl, namespace: curl}]
  hosts: [httpbin.org, www.example.com]
  ports: [{number: 8080, protocol: http}]
  matches: [{apiGroup: specs.smi-spec.io/v1alpha4, kind: HTTPRouteGroup, name: public}]
"#;

/// Names that only a wildcard covers; the name server resolves them.
pub const WILDCARD_NAMES: [&str; 3] = ["www.example.com", "a.example.com", "a.b.example.com"];

/// A deterministic generator of random numbers.
#[derive(Debug, Clone)]
pub struct Random(u64);

impl Random {
    /// Creates the generator of a seed.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    fn next(&mut self) -> u64 {
        // splitmix64.
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, limit: usize) -> usize {
        usize::try_from(self.next() % limit as u64).unwrap_or_default()
    }

    fn once_in(&mut self, times: usize) -> bool {
        self.below(times) == 0
    }

    fn pick<'a, T: ?Sized>(&mut self, of: &[&'a T]) -> &'a T {
        of[self.below(of.len())]
    }
}

/// A request.
#[derive(Debug, Clone)]
pub struct Request {
    /// The original destination's address.
    pub address: IpAddr,
    /// The original destination's port.
    pub port: u16,
    /// The method.
    pub method: String,
    /// The path as a client writes it, with characters that clients never send.
    pub path: String,
    /// The `Host` header.
    pub host: String,
    /// The other headers.
    pub headers: Vec<(String, String)>,
}

/// The first bytes of a connection.
#[derive(Debug, Clone)]
pub struct Bytes {
    /// The original destination's address, unique within a batch.
    pub address: IpAddr,
    /// The original destination's port.
    pub port: u16,
    /// The bytes to send, by segment, before the sending half is closed.
    pub segments: Vec<Vec<u8>>,
    /// The same input as arguments of `osm-egress explain`, if it can be expressed without the bytes.
    pub args: Option<ProbeArgs>,
}

/// An input.
#[derive(Debug, Clone)]
pub enum Input {
    /// A request, on a connection that other inputs share.
    Request(Request),
    /// A connection of its own.
    Bytes(Bytes),
}

impl Input {
    /// Returns true if Envoy 1.39 decides this input differently from 1.40, which `explain` describes: a path
    /// with a segment like `..;x`, and the method QUERY.
    #[must_use]
    pub fn differs_before_1_40(&self) -> bool {
        matches!(self, Self::Request(request) if request.path.contains(".;") || request.method == "QUERY")
    }

    /// Generates the next input.
    pub fn next(random: &mut Random, index: usize) -> Self {
        if random.once_in(3) { Self::Bytes(bytes(random, index)) } else { Self::Request(request(random)) }
    }
}

fn request(random: &mut Random) -> Request {
    let port = [80, 80, 8080, 8080, 8080][random.below(5)];
    let address = match random.below(6) {
        0 => HTTPBIN,
        1 => ELSEWHERE,
        2 => numbered(LISTED_BLOCK, 7),
        3 => numbered(UNLISTED_BLOCK, 7),
        _ => EXAMPLE,
    };
    let plain = ["GET", "GET", "GET", "GET", "POST", "PUT", "DELETE", "HEAD", "OPTIONS", "PATCH", "TRACE"];
    let odd = [
        "FOO", "M-SEARCH", "BREW", "get", "QUERY", "PROPFIND", "PURGE", "LINK", "MKCOL", "ACL", "SOURCE", "G",
    ];
    let method = if random.once_in(12) { random.pick(&odd) } else { random.pick(&plain) };
    let method = method.to_owned();
    Request {
        address,
        port,
        method,
        path: path(random),
        host: host(random, port, address),
        headers: headers(random),
    }
}

fn path(random: &mut Random) -> String {
    const PIECES: [&str; 59] = [
        "public",
        "public",
        "public",
        "private",
        "a",
        "Z9",
        "..",
        "..",
        ".",
        "...",
        "%2e",
        "%2E%2e",
        ".%2e",
        "..;",
        "..;x=1",
        ".;x",
        ";x",
        "%2e%2e;",
        "%2f",
        "%2F",
        "%5c",
        "%5C",
        "\\",
        "%00",
        "%70ublic",
        "%50",
        "%7e",
        "~",
        "_",
        "%5f",
        "é",
        "%c3%a9",
        "%ff",
        "%3f",
        "%23",
        "%25",
        "%252e%252e",
        "%252f",
        "%zz",
        "%",
        "%4",
        "%%30",
        "\"",
        "<",
        ">",
        "{",
        "}",
        "|",
        "^",
        "`",
        "*+,:=@&'()!$",
        "[",
        "]",
        "%0a",
        "%0d",
        "%7f",
        "%20",
        "%3b",
        "%41%2d%2E",
    ];
    let mut path = String::new();
    if random.once_in(3) {
        path.push_str("/public");
    }
    for _ in 0..=random.below(5) {
        if random.below(5) > 0 || path.is_empty() {
            path.push('/');
        }
        if random.below(6) > 0 {
            path.push_str(random.pick(&PIECES));
        }
    }
    match random.below(14) {
        0 => path.push_str("?x=1&y=/../z%2f%00\\"),
        1 => path.push('?'),
        2 => path.push_str("#top"),
        3 => path.push_str("?é=("),
        _ => {}
    }
    path
}

/// Generates an allowed name, a forbidden one or none, in some spelling.
fn name(random: &mut Random) -> String {
    let mut name = match random.below(10) {
        0..4 => "httpbin.org".to_owned(),
        4..7 => random.pick(&WILDCARD_NAMES).to_owned(),
        7 => random
            .pick(&["example.com", "evil.example", "xhttpbin.org", "httpbin.org.evil.example", "localhost"])
            .to_owned(),
        8 => random
            .pick(&[
                "203.0.113.10",
                "127.1",
                "2130706433",
                "0x7f.1",
                "198.18.0.7",
                "-a.org",
                "a-.org",
                "a..org",
                ".httpbin.org",
                "*.example.com",
                "a_b.example.org",
                "bücher.example.com",
                "httpbin.org\u{0}",
                "",
                ".",
                "..",
                "::1",
                "[::1]",
            ])
            .to_owned(),
        _ => "www.example.com".to_owned(),
    };
    if random.once_in(4) {
        name = name
            .chars()
            .map(|letter| if random.once_in(3) { letter.to_ascii_uppercase() } else { letter })
            .collect();
    }
    match random.below(12) {
        0 | 1 => name.push('.'),
        2 => name.push_str(".."),
        _ => {}
    }
    name
}

fn host(random: &mut Random, port: u16, address: IpAddr) -> String {
    let mut host = if random.once_in(25) { address.to_string() } else { name(random) };
    // No part of a header.
    host.retain(|letter| letter != '\0');
    let end = match random.below(16) {
        0..3 => format!(":{port}"),
        3 => ":".to_owned(),
        4 => random.pick(&[":81", ":0", ":080", ":99999", ":+80", ":80:80", ":8080"]).to_owned(),
        5 => random.pick(&["/", "\\", "@a", " a", ",a", "%61", "#", "?"]).to_owned(),
        _ => String::new(),
    };
    host + &end
}

fn headers(random: &mut Random) -> Vec<(String, String)> {
    let mut headers = Vec::new();
    let mut add = |name: &str, value: &str| headers.push((name.to_owned(), value.to_owned()));
    if random.once_in(4) {
        add("x-tenant", random.pick(&["good", "good-1", "evil", "", "good,evil", "Good"]));
    }
    if random.once_in(8) {
        add(
            random.pick(&["X-Tenant", "x_tenant", "x-envoy-retry-on", "x-egress-cluster"]),
            random.pick(&["good", "evil"]),
        );
    }
    if random.once_in(10) {
        add("upgrade", random.pick(&["websocket", "WebSocket", "h2c", "TLS/1.2", "x"]));
        if random.below(3) > 0 {
            add(
                "connection",
                random.pick(&[
                    "upgrade",
                    "Upgrade",
                    "keep-alive, Upgrade",
                    "Upgrade, HTTP2-Settings",
                    "close",
                ]),
            );
        }
    }
    if random.once_in(12) {
        add("content-type", "text/plain");
    }
    headers
}

fn numbered(block: Ipv4Addr, number: usize) -> IpAddr {
    let number = u32::try_from(number % 0x1_0000).unwrap_or_default();
    IpAddr::V4(Ipv4Addr::from_bits(block.to_bits() | number))
}

fn bytes(random: &mut Random, index: usize) -> Bytes {
    const PORTS: [u16; 9] = [9100, 9100, 9101, 9102, 9102, 9103, 9104, 9105, 9107];
    let port = if random.once_in(30) { 9106 } else { PORTS[random.below(PORTS.len())] };
    let address = numbered(if random.once_in(3) { UNLISTED_BLOCK } else { LISTED_BLOCK }, index);
    let mut args = None;
    let bytes = match random.below(10) {
        0 => random
            .pick(&[
                &b"GET / HTTP/1.1\r\nHost: httpbin.org\r\n\r\n"[..],
                b"SSH-2.0-x\r\n",
                b"\x16",
                b"\x16\x03",
                b"\x16\x03\x01\x00",
                b"\x16\x02\x01\x00\x05",
                b"\x15\x03\x01\x00\x02\x01\x00",
                b"\x16\x03\x01\x00\x00",
                b"\x16\x03\x01\xff\xff\x01",
                b"\x80\x2e\x01\x03\x01",
                b"x",
                b"\0\0\0\0",
            ])
            .to_vec(),
        1..4 => {
            let name = name(random);
            let ech = random.once_in(3);
            let mut hello =
                if name.is_empty() { Hello::nameless() } else { Hello::with_names(&[name.as_bytes()]) };
            if ech {
                hello = hello.encrypted();
            }
            args = Some(ProbeArgs { sni: Some(name), ech, ..ProbeArgs::default() });
            hello.bytes()
        }
        _ => {
            let hello = hello(random);
            let mut bytes = match random.below(4) {
                0 => hello.records([1, 3, 50, 100, 500][random.below(5)]),
                _ => hello.bytes(),
            };
            if random.once_in(8) {
                bytes.truncate(random.below(bytes.len()).max(1));
            }
            for _ in 0..if random.once_in(5) { random.below(3) } else { 0 } {
                let at = random.below(bytes.len());
                bytes[at] = random.pick(&[&0, &1, &3, &22, &0xff, &b'.', &b'a']).to_owned();
            }
            bytes
        }
    };
    let size = match random.below(5) {
        0 => 1 + random.below(bytes.len()),
        _ => bytes.len(),
    };
    Bytes {
        address,
        port,
        segments: bytes.chunks(size.max(bytes.len().div_ceil(6))).map(<[u8]>::to_vec).collect(),
        args,
    }
}

fn hello(random: &mut Random) -> Hello {
    let mut hello = match random.below(12) {
        0 => Hello::nameless(),
        1 => Hello::ancient(),
        2 => Hello::with_names(&[b"httpbin.org", b"evil.example"]),
        3 => Hello::with_names(&[]),
        4 => Hello::with_names(&[b"\xff.org"]),
        _ => Hello::with_names(&[name(random).as_bytes()]),
    };
    if random.once_in(4) {
        hello = hello.greased();
    }
    if random.once_in(3) {
        hello = hello.encrypted();
    }
    match random.below(24) {
        0 => hello = hello.extension(ESNI, &[0; 64]),
        1 => hello = hello.extension(0xfe0a, &[]),
        2 => hello = hello.extension(ECH, &[]),
        3 => hello = hello.extension(SERVER_NAME, &[]),
        4 => hello = hello.extension(16, &[0, 3, 2, b'h', b'2']),
        5 => hello = hello.extension(16, &[0, 0]),
        6 => hello = hello.extension(21, &[0; 900]),
        7 => hello.session = vec![0; 33],
        8 => hello.suites = vec![],
        9 => hello.compressions = vec![],
        10 => hello.version = *random.pick(&[&0x0300, &0x0301, &0x0303, &0x0304, &0x0200, &0x0403]),
        _ => {}
    }
    hello
}

impl fmt::Display for Input {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Request(Request { address, port, method, path, host, headers }) => {
                write!(f, "{address}:{port} {method} {path:?} Host: {host:?} {headers:?}")
            }
            Self::Bytes(Bytes { address, port, segments, args }) => {
                let bytes = segments.concat();
                let text: String = bytes.iter().take(400).map(|byte| format!("{byte:02x}")).collect();
                write!(f, "{address}:{port} {text} in {} segments", segments.len())?;
                match args {
                    Some(args) => write!(f, ", --sni {:?}, ech: {}", args.sni, args.ech),
                    None => Ok(()),
                }
            }
        }
    }
}
