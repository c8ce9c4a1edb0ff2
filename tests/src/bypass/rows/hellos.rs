//! The first bytes of a connection: rows 14 to 23.

use std::io::{ErrorKind, Read, Write};
use std::time::Duration;

use super::by;
use crate::bypass::Row;
use crate::bypass::check::{Check, Expect};
use crate::bypass::scene::{Stage, at};
use crate::bypass::send::{bytes, cut_off, http_bytes, joined, segments};
use crate::client::{self, Outcome};
use crate::hello::{self, ALERT, ESNI, HANDSHAKE, Hello, SERVER_NAME, record};
use crate::mesh::{ELSEWHERE, EXAMPLE, HTTPBIN};

pub(crate) fn rows() -> Vec<Row> {
    vec![
        in_segments(),
        in_records(),
        malformed(),
        slow(),
        one_read(),
        grease(),
        encrypted(),
        esni(),
        odd_names(),
        second_hello(),
    ]
}

/// A hello on the port for TLS, dialled to somebody else: only the name can lead anywhere.
fn tls(what: &str, hello: &Hello, expect: Expect) -> Check {
    bytes(what, ELSEWHERE, 443, hello.bytes(), expect)
}

fn parts(bytes: &[u8], size: usize) -> Vec<Vec<u8>> {
    bytes.chunks(size).map(<[u8]>::to_vec).collect()
}

/// The bytes up to and with the name.
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
        "The filter waits for all of it; there is no verdict on a part",
        by::FIRST_BYTES,
    )
    .checks([
        segments(
            "a ClientHello for `httpbin.org`, byte by byte,",
            ELSEWHERE,
            443,
            parts(&good, 1),
            Expect::Reaches(HTTPBIN),
        ),
        segments(
            "one for `evil.example`, byte by byte,",
            ELSEWHERE,
            443,
            parts(&bad, 1),
            Expect::Closed("sni-not-allowed"),
        ),
        segments(
            "one for `httpbin.org` in segments of 5",
            ELSEWHERE,
            443,
            parts(&good, 5),
            Expect::Reaches(HTTPBIN),
        ),
        segments(
            "one for `evil.example` in segments of 5",
            ELSEWHERE,
            443,
            parts(&bad, 5),
            Expect::Closed("sni-not-allowed"),
        ),
        cut_off(
            "one for `httpbin.org` without its last byte",
            ELSEWHERE,
            443,
            vec![good[..good.len() - 1].to_vec()],
            Expect::Closed("tls-malformed"),
        ),
        cut_off(
            "one that ends with the name `evil.example`",
            ELSEWHERE,
            443,
            vec![up_to_the_name("evil.example")],
            Expect::Closed("tls-malformed"),
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
    let malformed = || Expect::Closed("tls-malformed");
    Row::new(
        15,
        "A ClientHello in many TLS records (RFC 8446 §5.1)",
        "Its parts are put together; anything between them is malformed, and never \"not TLS\"",
        by::FIRST_BYTES,
    )
    .checks([
        bytes(
            "a ClientHello for `httpbin.org` in records of 1 byte",
            ELSEWHERE,
            443,
            good.records(1),
            Expect::Reaches(HTTPBIN),
        ),
        bytes(
            "one for `evil.example` in records of 1 byte",
            ELSEWHERE,
            443,
            bad.records(1),
            Expect::Closed("sni-not-allowed"),
        ),
        bytes(
            "one for `httpbin.org` in two records",
            ELSEWHERE,
            443,
            good.records(100),
            Expect::Reaches(HTTPBIN),
        ),
        segments(
            "one for `evil.example` in records of 3 bytes and segments of 7",
            ELSEWHERE,
            443,
            parts(&bad.records(3), 7),
            Expect::Closed("sni-not-allowed"),
        ),
        bytes("an alert between two records", ELSEWHERE, 443, between(record(ALERT, &[1, 0])), malformed()),
        bytes("an empty record between two", ELSEWHERE, 443, between(record(HANDSHAKE, &[])), malformed()),
        bytes("application data between two records", ELSEWHERE, 443, between(record(23, b"x")), malformed()),
        bytes(
            "plaintext after the first record",
            ELSEWHERE,
            443,
            between(b"GET / HTTP/1.1\r\n".to_vec()),
            malformed(),
        ),
    ])
}

fn malformed() -> Row {
    let good = || Hello::named("httpbin.org");
    let broken = |what: &str, bytes: Vec<u8>| {
        self::bytes(what, ELSEWHERE, 443, bytes, Expect::Closed("tls-malformed"))
    };
    let with = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut bytes = good().bytes();
        change(&mut bytes);
        bytes
    };
    let padded = |length: usize| Hello::named("httpbin.org").extension(21, &vec![0; length]);
    let get = || joined(&["GET /get HTTP/1.1", "Host: httpbin.org"]);
    Row::new(
        16,
        "A malformed or oversize ClientHello, so that the filter takes the connection for something else",
        "Refused for what it is; it is never taken for plaintext, nor for TLS without a name",
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
        bytes(
            "a ClientHello of more than 16 KiB in records",
            ELSEWHERE,
            443,
            padded(17_000).records(16_000),
            Expect::Closed("tls-oversize"),
        ),
        bytes(
            "a ClientHello that says it has 16 MiB",
            ELSEWHERE,
            443,
            record(HANDSHAKE, &[1, 0xff, 0xff, 0xff, 3, 3]),
            Expect::Closed("tls-oversize"),
        ),
        bytes(
            "a ClientHello of 16000 bytes",
            ELSEWHERE,
            443,
            padded(15_700).bytes(),
            Expect::Reaches(HTTPBIN),
        ),
    ])
    .checks([
        bytes("`GET /get` for `httpbin.org`", HTTPBIN, 443, get(), Expect::Closed("tls-required")),
        bytes(
            "an SSL 2.0 hello",
            HTTPBIN,
            443,
            [&[0x80, 0x2e, 1, 3, 1, 0, 5, 0, 0, 0, 0x20][..], &[1; 37]].concat(),
            Expect::Closed("tls-required"),
        ),
        bytes("an alert", HTTPBIN, 443, record(ALERT, &[2, 40]), Expect::Closed("tls-required")),
        bytes(
            "a malformed ClientHello on the port for HTTP",
            HTTPBIN,
            80,
            Hello { suites: vec![], ..good() }.bytes(),
            Expect::Closed("tls-malformed"),
        ),
        bytes(
            "a ClientHello for `httpbin.org` on the port for HTTP",
            HTTPBIN,
            80,
            good().bytes(),
            Expect::Closed("no-rule"),
        ),
    ])
}

fn slow() -> Row {
    let waits = |what: &str, port: u16, bytes: Vec<u8>| {
        Check::one(
            format!("{what}, then silence, to {}, with a limit of 300 ms", at(HTTPBIN, port)),
            Expect::Closed("first-bytes-timeout"),
            move |scene| scene.pod.workload().run(|| client::exchange(at(HTTPBIN, port), &bytes)),
        )
        .on(Stage::Impatient)
    };
    Row::new(
        17,
        "First bytes that come too late, so that the filter gives up and lets the connection through",
        "Refused when the time is over. What did not come names nothing, and allows nothing",
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
            Expect::Closed("first-bytes-timeout"),
            |scene| scene.pod.workload().run(|| trickle(&Hello::named("httpbin.org").bytes())),
        )
        .on(Stage::Impatient),
    )
    .check(
        bytes(
            "a whole ClientHello",
            ELSEWHERE,
            443,
            Hello::named("httpbin.org").bytes(),
            Expect::Reaches(HTTPBIN),
        )
        .on(Stage::Impatient),
    )
    .check(
        Check::one(
            format!("nothing for 1 s, then `hello`, to {}, where port and address decide", at(EXAMPLE, 9000)),
            Expect::Reaches(EXAMPLE),
            |scene| {
                scene.pod.workload().run(|| {
                    // Nothing is waited for between the two: the time is what is tried.
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
        .on(Stage::Impatient),
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
    let request = |host: &str| joined(&["GET /get HTTP/1.1", &format!("Host: {host}"), "Connection: close"]);
    Row::new(
        18,
        "A first segment that is too short to say what the connection is (`GE`, then `T /`)",
        "The first byte tells TLS from anything else, and what follows is read to its end. A rule for TCP elsewhere on the port is no way out",
        by::FIRST_BYTES,
    )
    .checks([
        segments("`GE`, then the rest of a request for `httpbin.org`,", ELSEWHERE, 443, vec![b"GE".to_vec(), b"T /get HTTP/1.1\r\nHost: httpbin.org\r\n\r\n".to_vec()], Expect::Closed("tls-required")),
        segments("the same", ELSEWHERE, 8443, vec![b"GE".to_vec(), b"T /get HTTP/1.1\r\nHost: httpbin.org\r\n\r\n".to_vec()], Expect::Closed("tls-required")),
        segments("a request for `evil.example`, byte by byte,", HTTPBIN, 80, parts(&request("evil.example"), 1), Expect::Refused("host-not-allowed")),
        segments("a request for `httpbin.org`, byte by byte,", ELSEWHERE, 80, parts(&request("httpbin.org"), 1), Expect::Reaches(HTTPBIN)),
        segments("the byte 22, then no TLS,", HTTPBIN, 80, vec![vec![22], b"GET /get HTTP/1.1\r\nHost: httpbin.org\r\n\r\n".to_vec()], Expect::Rejected(400)),
        http_bytes("bytes that are no protocol", HTTPBIN, 80, b"\x00\x01\x02\x03\r\n\r\n".to_vec(), Expect::Rejected(400)),
    ])
}

fn grease() -> Row {
    Row::new(
        19,
        "Extensions, cipher suites and versions that mean nothing (GREASE, RFC 8701)",
        "They are ignored, and the name counts; an extension that is there twice is malformed",
        by::FIRST_BYTES,
    )
    .checks([
        tls(
            "GREASE everywhere and `httpbin.org`",
            &Hello::named("httpbin.org").greased(),
            Expect::Reaches(HTTPBIN),
        ),
        tls(
            "GREASE everywhere and `evil.example`",
            &Hello::named("evil.example").greased(),
            Expect::Closed("sni-not-allowed"),
        ),
        tls("GREASE and no name", &Hello::nameless().greased(), Expect::Closed("sni-absent")),
        tls(
            "one GREASE extension twice",
            &Hello::named("httpbin.org").greased().extension(0x1a1a, &[]),
            Expect::Closed("tls-malformed"),
        ),
    ])
}

fn encrypted() -> Row {
    let refused = || Expect::Closed("ech-refused");
    let outer = |hello: &Hello, what: &str, expect| bytes(what, ELSEWHERE, 8443, hello.bytes(), expect);
    Row::new(
        20,
        "An encrypted ClientHello (RFC 9849): the name that can be seen is not the destination",
        "Refused where rules name hosts, unless the policy says that the outer name counts. It is counted in any case. What only pretends to be encrypted (GREASE) looks the same",
        by::FIRST_BYTES,
    )
    .checks([
        tls("an encrypted hello, the outer name `httpbin.org`,", &Hello::named("httpbin.org").encrypted(), refused()),
        tls("one with the outer name `evil.example`", &Hello::named("evil.example").encrypted(), refused()),
        tls("one without an outer name", &Hello::nameless().encrypted(), refused()),
        tls("one with GREASE", &Hello::named("httpbin.org").greased().encrypted(), refused()),
        tls("the extension, empty,", &Hello::named("httpbin.org").extension(hello::ECH, &[]), refused()),
    ])
    .checks([
        outer(&Hello::named("outer.example").encrypted(), "with `egress-ech: allow-outer`, the outer name `outer.example`,", Expect::Reaches(EXAMPLE)),
        outer(&Hello::named("evil.example").encrypted(), "with it, the outer name `evil.example`,", Expect::Closed("sni-not-allowed")),
        outer(&Hello::named("httpbin.org").encrypted(), "the outer name `httpbin.org`, of another policy on this port without it,", refused()),
        outer(&Hello::nameless().encrypted(), "with it, no outer name,", Expect::Closed("sni-absent")),
    ])
    .check(Check::question("the counter `egress_encrypted_hellos_total` in Envoy's statistics", "allow and deny are counted", |scene| {
        let text = scene.envoy.admin("/stats/prometheus")?;
        let counted = |verdict: &str| {
            text.lines().any(|line| line.starts_with(&format!("egress_encrypted_hellos_total{{verdict=\"{verdict}\"")))
        };
        let (allow, deny) = (counted("allow"), counted("deny"));
        Ok(if allow && deny { "allow and deny are counted".to_owned() } else { format!("allow: {allow}, deny: {deny}") })
    }))
    .out_of_reach(
        "the inner name, where `allow-outer` is chosen",
        "that is what the encryption is for",
        "choose `allow-outer` only for outer names behind which everything may be reached; take `ech` out of the HTTPS records that your resolver answers, so that clients do not encrypt",
    )
}

fn esni() -> Row {
    Row::new(
        21,
        "The draft of encrypted SNI (extension 0xffce), and later drafts of ECH",
        "Refused as an encrypted ClientHello",
        by::FIRST_BYTES,
    )
    .check(tls(
        "ESNI and `httpbin.org`",
        &Hello::named("httpbin.org").extension(ESNI, &[0; 64]),
        Expect::Closed("ech-refused"),
    ))
    .check(tls(
        "ESNI and no name",
        &Hello::nameless().extension(ESNI, &[0; 64]),
        Expect::Closed("ech-refused"),
    ))
    .checks([0xfe08, 0xfe09, 0xfe0a, 0xfe0b, 0xfe0c].map(|kind| {
        tls(
            &format!("extension 0x{kind:x} and `httpbin.org`"),
            &Hello::named("httpbin.org").extension(kind, &[0; 64]),
            Expect::Closed("ech-refused"),
        )
    }))
}

fn odd_names() -> Row {
    let odd =
        |what: &str, names: &[&[u8]]| tls(what, &Hello::with_names(names), Expect::Closed("tls-malformed"));
    Row::new(
        22,
        "No name in SNI, an address, a trailing dot, or several names",
        "A name is one host name as RFC 6066 §3 has it, in any case; anything else is malformed. Without a name only rules for addresses allow",
        by::FIRST_BYTES,
    )
    .checks([
        tls("no SNI", &Hello::nameless(), Expect::Closed("sni-absent")),
        tls("no extensions at all", &Hello::ancient(), Expect::Closed("sni-absent")),
        tls("SNI `HTTPBIN.org`", &Hello::named("HTTPBIN.org"), Expect::Reaches(HTTPBIN)),
    ])
    .checks([
        odd("SNI `203.0.113.10`", &[b"203.0.113.10"]),
        odd("SNI `2130706433`", &[b"2130706433"]),
        odd("SNI `::1`", &[b"::1"]),
        odd("SNI `httpbin.org.`", &[b"httpbin.org."]),
        odd("SNI `httpbin.org:443`", &[b"httpbin.org:443"]),
        odd("SNI `*.example.com`", &[b"*.example.com"]),
        odd("an empty name", &[b""]),
        odd("`httpbin.org` and `evil.example` in one list", &[b"httpbin.org", b"evil.example"]),
        odd("`evil.example` and `httpbin.org` in one list", &[b"evil.example", b"httpbin.org"]),
        odd("`httpbin.org`, a zero byte, and more", &[b"httpbin.org\0.evil.example"]),
        tls("two SNI extensions", &Hello::named("httpbin.org").extension(SERVER_NAME, &hello::server_names(&[b"evil.example"])), Expect::Closed("tls-malformed")),
        tls("an empty list of names", &Hello::with_names(&[]), Expect::Closed("tls-malformed")),
        tls("a name of an unknown type", &Hello::nameless().extension(SERVER_NAME, &hello::vector16(&[&[1][..], &hello::vector16(b"httpbin.org")].concat())), Expect::Closed("tls-malformed")),
    ])
    .check(bytes("no SNI", EXAMPLE, 9100, Hello::nameless().bytes(), Expect::Reaches(EXAMPLE)))
    .check(bytes("no SNI", ELSEWHERE, 9100, Hello::nameless().bytes(), Expect::Closed("no-rule")))
}

fn second_hello() -> Row {
    Row::new(
        23,
        "Another name later in the connection: in the hello after a HelloRetryRequest, in a renegotiation, or in a resumed session",
        "The first ClientHello decides where the connection goes, and it stays there",
        by::FIRST_BYTES,
    )
    .check(bytes(
        "a ClientHello for `httpbin.org` and at once one for `evil.example`",
        ELSEWHERE,
        443,
        [Hello::named("httpbin.org").bytes(), Hello::named("evil.example").bytes()].concat(),
        Expect::Reaches(HTTPBIN),
    ))
    .check(bytes(
        "a ClientHello for `evil.example` and at once one for `httpbin.org`",
        ELSEWHERE,
        443,
        [Hello::named("evil.example").bytes(), Hello::named("httpbin.org").bytes()].concat(),
        Expect::Closed("sni-not-allowed"),
    ))
    .out_of_reach(
        "what the server does with a later name",
        "RFC 8446 §4.1.2 forbids the change in a second hello, and it is the server that enforces it; renegotiation is encrypted",
        "as for row 4: what matters is that the servers of an allowed name are one tenant's",
    )
}
