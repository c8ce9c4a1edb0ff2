//! Checks that send bytes on a connection of the workload.

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::time::Duration;

use super::check::{Check, Expect};
use super::http2::{self, Fields};
use super::observed_mesh::at;
use crate::client::{self, Outcome};

/// Sends bytes on one connection and reads the first answer.
pub fn bytes(what: impl Into<String>, to: IpAddr, port: u16, bytes: Vec<u8>, expect: Expect) -> Check {
    let sends = format!("{} to {}", what.into(), at(to, port));
    Check::one(sends, expect, move |observed| {
        observed.workload().run(|| client::exchange(at(to, port), &bytes))
    })
}

/// Sends bytes in parts, each in a TCP segment of its own.
pub fn segments(
    what: impl Into<String>,
    to: IpAddr,
    port: u16,
    parts: Vec<Vec<u8>>,
    expect: Expect,
) -> Check {
    let sends = format!("{} to {}", what.into(), at(to, port));
    Check::one(sends, expect, move |observed| {
        let parts: Vec<&[u8]> = parts.iter().map(Vec::as_slice).collect();
        observed.workload().run(|| client::exchange_in_parts(at(to, port), &parts, false))
    })
}

/// Sends a plaintext request in parts, each in a TCP segment of its own, and reads the response.
pub fn http_segments(
    what: impl Into<String>,
    to: IpAddr,
    port: u16,
    parts: Vec<Vec<u8>>,
    expect: Expect,
) -> Check {
    let sends = format!("{} to {}", what.into(), at(to, port));
    Check::one(sends, expect, move |observed| {
        observed.workload().run(|| {
            let mut stream = match client::connect(at(to, port)) {
                Ok(stream) => stream,
                Err(outcome) => return outcome,
            };
            for part in &parts {
                if stream.write_all(part).is_err() {
                    return Outcome::Closed;
                }
                // There is no condition to wait for, because the proxy is silent. 2 ms make it likely that
                // the parts do not arrive as one segment.
                std::thread::sleep(Duration::from_millis(2));
            }
            client::http_on(&mut stream, b"")
        })
    })
}

/// Sends bytes in parts and closes the connection's sending half.
pub fn cut_off(what: impl Into<String>, to: IpAddr, port: u16, parts: Vec<Vec<u8>>, expect: Expect) -> Check {
    let sends = format!("{}, then the end, to {}", what.into(), at(to, port));
    Check::one(sends, expect, move |observed| {
        let parts: Vec<&[u8]> = parts.iter().map(Vec::as_slice).collect();
        observed.workload().run(|| client::exchange_in_parts(at(to, port), &parts, true))
    })
}

/// Sends one plaintext request, given as its lines, and reads the response.
pub fn http(to: IpAddr, port: u16, lines: &[&str], expect: Expect) -> Check {
    http_bytes(shown(lines), to, port, joined(lines), expect)
}

/// Sends one plaintext request as bytes that the table does not show.
pub fn http_bytes(what: impl Into<String>, to: IpAddr, port: u16, bytes: Vec<u8>, expect: Expect) -> Check {
    let sends = format!("{} to {}", what.into(), at(to, port));
    Check::one(sends, expect, move |observed| observed.workload().run(|| client::http(at(to, port), &bytes)))
}

/// Sends `GET /get` with this host.
pub fn host(to: IpAddr, port: u16, host: &str, expect: Expect) -> Check {
    http_bytes(format!("`Host: {}`", visible(host)), to, port, get(host), expect)
}

/// Sends several requests on one connection, one after the other.
pub fn one_by_one(what: &str, to: SocketAddr, requests: Vec<Vec<u8>>, expect: Vec<Expect>) -> Check {
    Check::each(format!("{what} to {to}"), expect, move |observed| {
        observed.workload().run(|| match client::connect(to) {
            Ok(mut stream) => requests.iter().map(|request| client::http_on(&mut stream, request)).collect(),
            Err(outcome) => vec![outcome],
        })
    })
}

/// Sends several requests on one connection, all at once.
pub fn pipelined(what: &str, to: SocketAddr, requests: Vec<Vec<u8>>, expect: Vec<Expect>) -> Check {
    Check::each(format!("{what} to {to}"), expect, move |observed| {
        let all = requests.concat();
        observed.workload().run(|| match client::connect(to) {
            Ok(stream) => {
                let mut stream = ByteWise(stream);
                let first = client::http_on(&mut stream, &all);
                let rest = requests.iter().skip(1).map(|_| client::http_on(&mut stream, b""));
                std::iter::once(first).chain(rest.collect::<Vec<_>>()).collect()
            }
            Err(outcome) => vec![outcome],
        })
    })
}

/// Opens a TLS session with a server name, and sends a request for a host inside it.
pub fn tls(to: IpAddr, port: u16, name: &'static str, inner: &'static str, expect: Expect) -> Check {
    let sends = format!("TLS for `{name}` with `Host: {inner}` inside to {}", at(to, port));
    Check::one(sends, expect, move |observed| {
        let request = get(inner);
        observed.workload().run(|| client::https(at(to, port), Some(name), &request))
    })
}

/// Sends HTTP/2 requests one after the other, each on its own stream.
pub fn http2(what: &str, to: SocketAddr, streams: Vec<Fields>, expect: Vec<Expect>) -> Check {
    Check::each(format!("{what} to {to}"), expect, move |observed| {
        observed.workload().run(|| match client::connect(to) {
            Ok(mut stream) => http2::send_each(&mut stream, &streams),
            Err(outcome) => vec![outcome],
        })
    })
}

/// Sends HTTP/2 requests inside a TLS session with a server name.
pub fn http2_in_tls(
    what: &str,
    to: SocketAddr,
    name: &'static str,
    streams: Vec<Fields>,
    expect: Vec<Expect>,
    // The access log has one line for any number of streams: the sidecar sees one connection.
) -> Check {
    Check::one(
        format!("{what} to {to}"),
        expect.first().cloned().unwrap_or(Expect::Dropped),
        move |observed| {
            observed.workload().run(|| {
                match client::connect(to).and_then(|stream| client::tls(stream, Some(name))) {
                    Ok(mut stream) => {
                        http2::send_each(&mut stream, &streams).pop().unwrap_or(Outcome::Closed)
                    }
                    Err(outcome) => outcome,
                }
            })
        },
    )
}

/// Reads one byte at a time, so that reading one response leaves the next one in the socket.
struct ByteWise(TcpStream);

impl Read for ByteWise {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let length = buffer.len().min(1);
        self.0.read(&mut buffer[..length])
    }
}

impl Write for ByteWise {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.0.flush()
    }
}

/// `GET /get` for a host, with `connection: close`.
#[must_use]
pub fn get(host: &str) -> Vec<u8> {
    joined(&["GET /get HTTP/1.1", &format!("Host: {host}"), "Connection: close"])
}

/// Joins the lines of a request, with their line ends.
#[must_use]
pub fn joined(lines: &[&str]) -> Vec<u8> {
    lines
        .iter()
        .flat_map(|line| [line.as_bytes(), b"\r\n"])
        .chain([&b"\r\n"[..]])
        .flatten()
        .copied()
        .collect()
}

/// Formats the lines for the documentation, without the one that only ends the connection.
fn shown(lines: &[&str]) -> String {
    let lines = lines.iter().filter(|line| **line != "Connection: close");
    lines.map(|line| format!("`{}`", visible(line))).collect::<Vec<_>>().join(" ")
}

/// Escapes control characters.
fn visible(text: &str) -> String {
    let escaped = |c: char| if c.is_control() { c.escape_default().to_string() } else { c.to_string() };
    text.chars().map(escaped).collect()
}
