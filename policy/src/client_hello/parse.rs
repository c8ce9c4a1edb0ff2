//! The body of a ClientHello (RFC 8446 §4.1.2).

use super::{ClientHello, HANDSHAKE_HEADER, HelloError, Progress};
use crate::Host;

const SERVER_NAME: u16 = 0;
const ALPN: u16 = 16;
const ENCRYPTED_CLIENT_HELLO: u16 = 0xfe0d;
/// The extensions of encrypted hellos in the drafts: `esni`, and earlier numbers of ECH. No browser sends them as GREASE,
/// so with them the visible name does not count.
const DRAFTS: [u16; 6] = [0xffce, 0xfe08, 0xfe09, 0xfe0a, 0xfe0b, 0xfe0c];
/// The largest number of extensions: more than any client sends, and few enough to compare each with each.
const MAX_EXTENSIONS: usize = 256;

/// The longest part of a name that is kept where it is not a host name: more than a host name may have.
const MAX_SHOWN_NAME_LENGTH: usize = 256;

type Parsed<T> = Result<T, HelloError>;

/// Reads a complete handshake message.
pub(super) fn parse_hello(message: &[u8]) -> Progress {
    match parse_body(message.get(HANDSHAKE_HEADER..).unwrap_or_default()) {
        Ok(hello) => Progress::Hello(hello),
        Err(error) => Progress::Malformed(error),
    }
}

fn parse_body(body: &[u8]) -> Parsed<ClientHello> {
    let mut body = Cursor(body);
    if body.u16()? >> 8 != 3 {
        return Err(HelloError::Malformed("the version is not TLS"));
    }
    body.take(32)?;
    if body.vector8()?.len() > 32 {
        return Err(HelloError::Malformed("a session id of more than 32 bytes"));
    }
    let suites = body.vector16()?;
    if suites.is_empty() || suites.len() % 2 != 0 {
        return Err(HelloError::Malformed("the list of cipher suites"));
    }
    if body.vector8()?.is_empty() {
        return Err(HelloError::Malformed("no compression method"));
    }
    let mut hello = ClientHello { server_name: None, alpn: Vec::new(), encrypted: false };
    // Before TLS 1.3 a hello may end here.
    if body.0.is_empty() {
        return Ok(hello);
    }
    let mut extensions = Cursor(body.vector16()?);
    body.end()?;
    let mut seen = Vec::new();
    let mut draft = false;
    while !extensions.0.is_empty() {
        let kind = extensions.u16()?;
        let data = Cursor(extensions.vector16()?);
        // RFC 8446 §4.2: at most one of each type. GREASE (RFC 8701) keeps to that.
        if seen.contains(&kind) {
            return Err(HelloError::Malformed("an extension that is there twice"));
        }
        if seen.len() >= MAX_EXTENSIONS {
            return Err(HelloError::Malformed("more than 256 extensions"));
        }
        seen.push(kind);
        match kind {
            SERVER_NAME => hello.server_name = Some(parse_server_name(data)?),
            ALPN => hello.alpn = parse_alpn(data)?,
            ENCRYPTED_CLIENT_HELLO => hello.encrypted = true,
            kind if DRAFTS.contains(&kind) => draft = true,
            _ => {}
        }
    }
    if draft {
        hello.encrypted = true;
        hello.server_name = None;
    }
    Ok(hello)
}

/// Reads the server name by RFC 6066 §3: one `host_name`, ASCII, no literal address. It allows no trailing dot either, but Chromium, Node, Python
/// and OpenSSL send the one of `https://host./`, and servers take it.
fn parse_server_name(mut data: Cursor<'_>) -> Parsed<Box<str>> {
    const HOST_NAME: u8 = 0;
    let mut list = Cursor(data.vector16()?);
    data.end()?;
    if list.u8()? != HOST_NAME {
        return Err(HelloError::Malformed("a server name that is no host name"));
    }
    let name = list.vector16()?;
    if !list.0.is_empty() {
        return Err(HelloError::Malformed("more than one server name"));
    }
    if name.is_empty() {
        return Err(HelloError::Malformed("an empty server name"));
    }
    let host = std::str::from_utf8(name).ok().and_then(|name| Host::canonical(name).ok());
    Ok(host.map_or_else(|| printable_name(name), |host| host.as_str().into()))
}

/// Returns the text of a name that is not a host name, for the log: never one that [`Host::canonical`] reads. Rules that
/// list names refuse it as malformed.
fn printable_name(name: &[u8]) -> Box<str> {
    let shown = name.iter().take(MAX_SHOWN_NAME_LENGTH).map(|byte| match byte {
        byte if byte.is_ascii_graphic() => char::from(*byte),
        _ => '?',
    });
    shown.collect::<String>().into()
}

/// Reads the protocols by RFC 7301 §3.1: at least one protocol, none of them empty.
fn parse_alpn(mut data: Cursor<'_>) -> Parsed<Vec<Box<[u8]>>> {
    let mut list = Cursor(data.vector16()?);
    data.end()?;
    let mut protocols = Vec::new();
    while !list.0.is_empty() {
        match list.vector8()? {
            [] => return Err(HelloError::Malformed("an empty application protocol")),
            protocol => protocols.push(protocol.into()),
        }
    }
    if protocols.is_empty() {
        Err(HelloError::Malformed("an empty list of application protocols"))
    } else {
        Ok(protocols)
    }
}

/// The bytes that are left to read.
struct Cursor<'a>(&'a [u8]);

impl<'a> Cursor<'a> {
    fn take(&mut self, length: usize) -> Parsed<&'a [u8]> {
        let (taken, rest) = self
            .0
            .split_at_checked(length)
            .ok_or(HelloError::Malformed("a length that runs past the end"))?;
        self.0 = rest;
        Ok(taken)
    }

    fn u8(&mut self) -> Parsed<u8> {
        self.take(1).map(|bytes| bytes.iter().fold(0, |_, byte| *byte))
    }

    fn u16(&mut self) -> Parsed<u16> {
        self.take(2).map(|bytes| bytes.iter().fold(0, |number, byte| (number << 8) | u16::from(*byte)))
    }

    fn vector8(&mut self) -> Parsed<&'a [u8]> {
        let length = self.u8()?;
        self.take(length.into())
    }

    fn vector16(&mut self) -> Parsed<&'a [u8]> {
        let length = self.u16()?;
        self.take(length.into())
    }

    fn end(&self) -> Parsed<()> {
        if self.0.is_empty() { Ok(()) } else { Err(HelloError::Malformed("bytes after the end of a list")) }
    }
}
