//! Rows 14 to 18: the form of a connection's first bytes.

use std::io::{ErrorKind, Read, Write};
use std::time::{Duration, Instant};

use super::by;
use crate::bypass::Row;
use crate::bypass::check::Expect::{Closed, Reaches, Refused, Rejected};
use crate::bypass::check::{Check, Expect};
use crate::bypass::observed_mesh::{ControlPlaneFlags, at};
use crate::bypass::send::{bytes, cut_off, get, http_bytes, http_segments, segments};
use crate::client::{self, Outcome};
use crate::hello::{self, ALERT, HANDSHAKE, Hello, record};
use crate::network::{ELSEWHERE, EXAMPLE, HTTPBIN};

pub(crate) fn rows() -> Vec<Row> {
    vec![in_segments(), in_records(), malformed(), slow(), one_read()]
}

/// Creates a check that sends bytes to the TLS port of a forbidden address, so only a name can lead anywhere.
fn raw(what: &str, sent: Vec<u8>, expect: Expect) -> Check {
    bytes(what, ELSEWHERE, 443, sent, expect)
}

/// Creates the same check with the bytes in parts.
fn split(what: &str, parts: Vec<Vec<u8>>, expect: Expect) -> Check {
    segments(what, ELSEWHERE, 443, parts, expect)
}

/// Creates the same check with parts that end too early.
fn cut(what: &str, parts: Vec<Vec<u8>>, expect: Expect) -> Check {
    cut_off(what, ELSEWHERE, 443, parts, expect)
}

fn parts(bytes: &[u8], size: usize) -> Vec<Vec<u8>> {
    bytes.chunks(size).map(<[u8]>::to_vec).collect()
}

/// The bytes up to and including the name.
fn up_to_the_name(name: &str) -> Vec<u8> {
    let mut bytes = Hello::named(name).bytes();
    let end =
        bytes.windows(name.len()).position(|window| window == name.as_bytes()).unwrap_or(0) + name.len();
    bytes.truncate(end);
    bytes
}

fn in_segments() -> Row {
    let (good, bad) = (Hello::named("httpbin.org").bytes(), Hello::named("evil.example").bytes());
    Row::new(
        14,
        "A ClientHello in many TCP segments",
        "The filter waits for the whole hello, and never decides by a part",
        by::FIRST_BYTES,
    )
    .checks([
        split("a ClientHello for `httpbin.org`, byte by byte,", parts(&good, 1), Reaches(HTTPBIN)),
        split("one for `evil.example`, byte by byte,", parts(&bad, 1), Closed("sni-not-allowed")),
        split("one for `httpbin.org` in segments of 5", parts(&good, 5), Reaches(HTTPBIN)),
        split("one for `evil.example` in segments of 5", parts(&bad, 5), Closed("sni-not-allowed")),
        cut(
            "one for `httpbin.org` without its last byte",
            vec![good[..good.len() - 1].to_vec()],
            Closed("tls-malformed"),
        ),
        cut(
            "one that ends with the name `evil.example`",
            vec![up_to_the_name("evil.example")],
            Closed("tls-malformed"),
        ),
    ])
}

fn in_records() -> Row {
    let good = Hello::named("httpbin.org");
    let bad = Hello::named("evil.example");
    let message = good.message();
    let (first, second) = message.split_at(50);
    let between =
        |record: Vec<u8>| [self::record(HANDSHAKE, first), record, self::record(HANDSHAKE, second)].concat();
    let malformed = || Closed("tls-malformed");
    Row::new(
        15,
        "A ClientHello in many TLS records (RFC 8446 §5.1)",
        "The filter joins its parts; other bytes between them make it malformed, and never \"not TLS\"",
        by::FIRST_BYTES,
    )
    .checks([
        raw("a ClientHello for `httpbin.org` in records of 1 byte", good.records(1), Reaches(HTTPBIN)),
        raw("one for `evil.example` in records of 1 byte", bad.records(1), Closed("sni-not-allowed")),
        raw("one for `httpbin.org` in two records", good.records(100), Reaches(HTTPBIN)),
        split(
            "one for `evil.example` in records of 3 bytes and segments of 7",
            parts(&bad.records(3), 7),
            Closed("sni-not-allowed"),
        ),
        raw("an alert between two records", between(record(ALERT, &[1, 0])), malformed()),
        raw("an empty record between two", between(record(HANDSHAKE, &[])), malformed()),
        raw("application data between two records", between(record(23, b"x")), malformed()),
        raw("plaintext after the first record", between(b"GET / HTTP/1.1\r\n".to_vec()), malformed()),
    ])
}

fn malformed() -> Row {
    let good = || Hello::named("httpbin.org");
    let broken =
        |what: &str, bytes: Vec<u8>| self::bytes(what, ELSEWHERE, 443, bytes, Closed("tls-malformed"));
    let with = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut bytes = good().bytes();
        change(&mut bytes);
        bytes
    };
    let padded = |length: usize| Hello::named("httpbin.org").extension(21, &vec![0; length]);
    Row::new(
        16,
        "A malformed or oversize ClientHello, to make the filter take the connection for another protocol",
        "Refused as malformed or oversize; it is never taken for plaintext, nor for TLS without a name",
        by::FIRST_BYTES,
    )
    .checks([
        broken(
            "a name that is longer than its list",
            with(&|bytes| {
                let at = bytes.windows(11).position(|w| w == b"httpbin.org").unwrap_or(2);
                bytes[at - 1] += 1;
            }),
        ),
        broken(
            "extensions that run past the end",
            with(&|bytes| {
                let at = bytes.len()
                    - good().extensions.iter().flatten().map(|(_, data)| data.len() + 4).sum::<usize>();
                bytes[at - 1] += 1;
            }),
        ),
        broken("a session id of 33 bytes", Hello { session: vec![0; 33], ..good() }.bytes()),
        broken("no cipher suite", Hello { suites: vec![], ..good() }.bytes()),
        broken("no compression method", Hello { compressions: vec![], ..good() }.bytes()),
        broken("version 2.0 inside", Hello { version: 0x0200, ..good() }.bytes()),
        broken("an empty first record", [record(HANDSHAKE, &[]), good().bytes()].concat()),
        broken("a record of 16385 bytes", [&[22, 3, 1, 0x40, 1][..], &good().message()].concat()),
        broken("a ServerHello", record(HANDSHAKE, &hello::message(2, &[3; 40]))),
    ])
    .checks([
        raw(
            "a ClientHello of more than 16 KiB in records",
            padded(17_000).records(16_000),
            Closed("tls-oversize"),
        ),
        raw(
            "a ClientHello that says it has 16 MiB",
            record(HANDSHAKE, &[1, 0xff, 0xff, 0xff, 3, 3]),
            Closed("tls-oversize"),
        ),
        raw("a ClientHello of 16000 bytes", padded(15_700).bytes(), Reaches(HTTPBIN)),
    ])
    .checks([
        bytes("`GET /get` for `httpbin.org`", HTTPBIN, 443, get("httpbin.org"), Closed("tls-required")),
        bytes(
            "an SSL 2.0 hello",
            HTTPBIN,
            443,
            [&[0x80, 0x2e, 1, 3, 1, 0, 5, 0, 0, 0, 0x20][..], &[1; 37]].concat(),
            Closed("tls-required"),
        ),
        bytes("an alert", HTTPBIN, 443, record(ALERT, &[2, 40]), Closed("tls-required")),
        bytes(
            "a malformed ClientHello on the port for HTTP",
            HTTPBIN,
            80,
            Hello { suites: vec![], ..good() }.bytes(),
            Closed("tls-malformed"),
        ),
        bytes(
            "a ClientHello for `httpbin.org` on the port for HTTP",
            HTTPBIN,
            80,
            good().bytes(),
            Closed("no-rule"),
        ),
    ])
}

fn slow() -> Row {
    let waits = |what: &str, port: u16, bytes: Vec<u8>| {
        Check::one(
            format!("{what}, then silence, to {}, with a limit of 300 ms", at(HTTPBIN, port)),
            Closed("first-bytes-timeout"),
            move |observed| {
                let start = Instant::now();
                let outcome = observed.workload().run(|| client::exchange(at(HTTPBIN, port), &bytes))?;
                // The filter's timeout must end it, not another one.
                Ok(if start.elapsed() < Duration::from_secs(2) { outcome } else { Outcome::Silence })
            },
        )
        .on(ControlPlaneFlags::ShortTimeout)
    };
    Row::new(
        17,
        "First bytes that come too late, to make the filter give up and allow the connection",
        "Refused after the timeout. Missing bytes allow nothing",
        by::FIRST_BYTES,
    )
    .checks([
        waits("nothing", 443, vec![]),
        waits("the first byte of a ClientHello", 443, vec![22]),
        waits("a ClientHello up to its name `httpbin.org`", 443, up_to_the_name("httpbin.org")),
        waits("nothing", 80, vec![]),
    ])
    .check(
        Check::one(
            format!(
                "a ClientHello for `httpbin.org`, one byte every 20 ms, to {}, with a limit of 300 ms",
                at(HTTPBIN, 443)
            ),
            Closed("first-bytes-timeout"),
            |observed| observed.workload().run(|| trickle(&Hello::named("httpbin.org").bytes())),
        )
        .on(ControlPlaneFlags::ShortTimeout),
    )
    .check(
        raw("a whole ClientHello", Hello::named("httpbin.org").bytes(), Reaches(HTTPBIN))
            .on(ControlPlaneFlags::ShortTimeout),
    )
    .check(
        Check::one(
            format!("nothing for 1 s, then `hello`, to {}, where port and address decide", at(EXAMPLE, 9000)),
            Reaches(EXAMPLE),
            |observed| {
                observed.workload().run(|| {
                    // The elapsed time is under test: there is no condition to wait for. A second is over
                    // three times the timeout.
                    let Ok(mut stream) = client::connect(at(EXAMPLE, 9000)) else { return Outcome::Closed };
                    std::thread::sleep(Duration::from_secs(1));
                    let mut answer = [0; 5];
                    match stream.write_all(b"hello").and_then(|()| stream.read_exact(&mut answer)) {
                        Ok(()) => Outcome::Bytes(answer.to_vec()),
                        Err(_) => Outcome::Closed,
                    }
                })
            },
        )
        .on(ControlPlaneFlags::ShortTimeout),
    )
}

/// Sends a byte every 20 ms until the connection ends.
fn trickle(bytes: &[u8]) -> Outcome {
    let mut stream = match client::connect(at(HTTPBIN, 443)) {
        Ok(stream) => stream,
        Err(outcome) => return outcome,
    };
    if stream.set_read_timeout(Some(Duration::from_millis(20))).is_err() {
        return Outcome::Silence;
    }
    for byte in bytes {
        if stream.write_all(&[*byte]).is_err() {
            return Outcome::Closed;
        }
        match stream.read(&mut [0; 64]) {
            Ok(0) => return Outcome::Closed,
            Ok(_) => return Outcome::Bytes(vec![*byte]),
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
            Err(_) => return Outcome::Closed,
        }
    }
    Outcome::Silence
}

fn one_read() -> Row {
    let after = |first: usize, bytes: Vec<u8>| vec![bytes[..first].to_vec(), bytes[first..].to_vec()];
    let not_tls = [vec![22], get("httpbin.org")].concat();
    Row::new(
        18,
        "A first segment that is too short to identify the protocol (`GE`, then `T /`)",
        "The first byte distinguishes TLS from other protocols, and the rest is read to its end. A rule \
         for TCP to another address on the port allows nothing",
        by::FIRST_BYTES,
    )
    .checks([443, 8443].map(|port| {
        let parts = after(2, get("httpbin.org"));
        segments("`GE`, then the rest of a request,", ELSEWHERE, port, parts, Closed("tls-required"))
    }))
    .checks([
        http_segments(
            "`GE`, then the rest of one for `evil.example`,",
            HTTPBIN,
            80,
            after(2, get("evil.example")),
            Refused("host-not-allowed"),
        ),
        http_segments(
            "one for `evil.example`, byte by byte,",
            HTTPBIN,
            80,
            parts(&get("evil.example"), 1),
            Refused("host-not-allowed"),
        ),
        http_segments(
            "one for `httpbin.org`, byte by byte,",
            ELSEWHERE,
            80,
            parts(&get("httpbin.org"), 1),
            Reaches(HTTPBIN),
        ),
        http_segments("the byte 22, then a request,", HTTPBIN, 80, after(1, not_tls), Rejected(400)),
        http_bytes(
            "bytes that are no protocol",
            HTTPBIN,
            80,
            b"\x00\x01\x02\x03\r\n\r\n".to_vec(),
            Rejected(400),
        ),
    ])
}
