//! Rows 19 to 23: extensions of a ClientHello.

use super::by;
use crate::bypass::Row;
use crate::bypass::check::Check;
use crate::bypass::check::Expect::{self, Closed, Reaches};
use crate::bypass::send::bytes;
use crate::hello::{self, ESNI, Hello, SERVER_NAME};
use crate::network::{ELSEWHERE, EXAMPLE, HTTPBIN};

pub(crate) fn rows() -> Vec<Row> {
    vec![grease(), encrypted(), esni(), odd_names(), second_hello()]
}

/// Creates a check that sends a hello to the TLS port of a forbidden address, so only the name can lead
/// anywhere.
fn tls(what: &str, hello: &Hello, expect: Expect) -> Check {
    bytes(what, ELSEWHERE, 443, hello.bytes(), expect)
}

fn grease() -> Row {
    Row::new(
        19,
        "Extensions, cipher suites and versions without a meaning (GREASE, RFC 8701)",
        "They are ignored, and the name counts; a repeated extension is malformed",
        by::FIRST_BYTES,
    )
    .checks([
        tls("GREASE everywhere and `httpbin.org`", &Hello::named("httpbin.org").greased(), Reaches(HTTPBIN)),
        tls(
            "GREASE everywhere and `evil.example`",
            &Hello::named("evil.example").greased(),
            Closed("sni-not-allowed"),
        ),
        tls("GREASE and no name", &Hello::nameless().greased(), Closed("sni-absent")),
        tls(
            "one GREASE extension twice",
            &Hello::named("httpbin.org").greased().extension(0x1a1a, &[]),
            Closed("tls-malformed"),
        ),
    ])
}

fn encrypted() -> Row {
    let refused = || Closed("ech-refused");
    let outer = |hello: &Hello, what: &str, expect| bytes(what, ELSEWHERE, 8443, hello.bytes(), expect);
    Row::new(
        20,
        "An encrypted ClientHello (RFC 9849): the visible name is not the destination",
        "Decided by the outer name where that chooses the address: the inner name reaches only the servers \
         of the outer name. Refused where a rule uses the original destination, and where the policy or \
         the mesh says so. It is counted and logged in any case. GREASE of browsers looks the same",
        by::FIRST_BYTES,
    )
    .checks([
        tls(
            "an encrypted hello, the outer name `httpbin.org`,",
            &Hello::named("httpbin.org").encrypted(),
            Reaches(HTTPBIN),
        ),
        tls(
            "one with the outer name `evil.example`",
            &Hello::named("evil.example").encrypted(),
            Closed("sni-not-allowed"),
        ),
        tls("one without an outer name", &Hello::nameless().encrypted(), refused()),
        tls("one with GREASE", &Hello::named("httpbin.org").greased().encrypted(), Reaches(HTTPBIN)),
        tls(
            "the extension, empty,",
            &Hello::named("httpbin.org").extension(hello::ECH, &[]),
            Reaches(HTTPBIN),
        ),
    ])
    // Of the policies of this port one says `egress-ech: allow-outer`, for `outer.example`, and one `refuse`, for
    // `httpbin.org`.
    .checks([
        outer(
            &Hello::named("outer.example").encrypted(),
            "one with the outer name `outer.example`, allowed as such,",
            Reaches(EXAMPLE),
        ),
        outer(&Hello::named("outer.example"), "a plain one for `outer.example`", Reaches(EXAMPLE)),
        outer(
            &Hello::named("evil.example").encrypted(),
            "an encrypted one with the outer name `evil.example`",
            Closed("sni-not-allowed"),
        ),
        outer(
            &Hello::named("httpbin.org").encrypted(),
            "one with the outer name `httpbin.org`, allowed as a plain name,",
            refused(),
        ),
        outer(&Hello::named("httpbin.org"), "a plain one for `httpbin.org`", Reaches(HTTPBIN)),
        outer(&Hello::nameless().encrypted(), "one without an outer name", refused()),
    ])
    // The rule lists a block, and the workload chooses an address in it.
    .checks([
        bytes(
            "an encrypted one with the outer name `httpbin.org`, which a rule lists for a block",
            HTTPBIN,
            9110,
            Hello::named("httpbin.org").encrypted().bytes(),
            refused(),
        ),
        bytes(
            "a plain one for `httpbin.org`, which a rule lists for a block",
            HTTPBIN,
            9110,
            Hello::named("httpbin.org").bytes(),
            Reaches(HTTPBIN),
        ),
    ])
    .check(Check::question(
        "the counter `egress_encrypted_hellos_total` in Envoy's statistics",
        "allow and deny are counted",
        |observed| {
            let text = observed.mesh.envoy.admin("/stats/prometheus")?;
            let counted = |verdict: &str| {
                text.lines().any(|line| {
                    line.starts_with(&format!("egress_encrypted_hellos_total{{verdict=\"{verdict}\""))
                })
            };
            let (allow, deny) = (counted("allow"), counted("deny"));
            Ok(if allow && deny {
                "allow and deny are counted".to_owned()
            } else {
                format!(
                    "allow: {allow}, \
             deny: {deny}"
                )
            })
        },
    ))
    .out_of_reach(
        "the inner name of a hello whose outer name is allowed",
        "it is encrypted; the servers of the outer name decide about it, as in row 4",
        "list names whose servers belong to one tenant, or annotate with `egress-ech: refuse`; remove \
         `ech` from the HTTPS records of your resolver's answers, so that clients do not encrypt",
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
        Closed("ech-refused"),
    ))
    .check(tls("ESNI and no name", &Hello::nameless().extension(ESNI, &[0; 64]), Closed("ech-refused")))
    .checks([0xfe08, 0xfe09, 0xfe0a, 0xfe0b, 0xfe0c].map(|kind| {
        tls(
            &format!("extension 0x{kind:x} and `httpbin.org`"),
            &Hello::named("httpbin.org").extension(kind, &[0; 64]),
            Closed("ech-refused"),
        )
    }))
}

fn odd_names() -> Row {
    let odd = |what: &str, names: &[&[u8]]| tls(what, &Hello::with_names(names), Closed("tls-malformed"));
    Row::new(
        22,
        "No name in SNI, an address, a trailing dot, or several names",
        "A name is one host name as in RFC 6066 §3, in upper or lower case, with or without one trailing \
         dot, as browsers send it; anything else is malformed where rules list names. Without a name only \
         rules for addresses allow",
        by::FIRST_BYTES,
    )
    .checks([
        tls("no SNI", &Hello::nameless(), Closed("sni-absent")),
        tls("no extensions at all", &Hello::ancient(), Closed("sni-absent")),
        tls("SNI `HTTPBIN.org`", &Hello::named("HTTPBIN.org"), Reaches(HTTPBIN)),
        tls("SNI `httpbin.org.`", &Hello::named("httpbin.org."), Reaches(HTTPBIN)),
        tls("SNI `evil.example.`", &Hello::named("evil.example."), Closed("sni-not-allowed")),
    ])
    .checks([
        odd("SNI `203.0.113.10`", &[b"203.0.113.10"]),
        odd("SNI `2130706433`", &[b"2130706433"]),
        odd("SNI `::1`", &[b"::1"]),
        odd("SNI `httpbin.org..`", &[b"httpbin.org.."]),
        odd("SNI `.`", &[b"."]),
        odd("SNI `httpbin.org:443`", &[b"httpbin.org:443"]),
        odd("SNI `*.example.com`", &[b"*.example.com"]),
        odd("an empty name", &[b""]),
        odd("`httpbin.org` and `evil.example` in one list", &[b"httpbin.org", b"evil.example"]),
        odd("`evil.example` and `httpbin.org` in one list", &[b"evil.example", b"httpbin.org"]),
        odd("`httpbin.org`, a zero byte, and more", &[b"httpbin.org\0.evil.example"]),
        tls(
            "two SNI extensions",
            &Hello::named("httpbin.org").extension(SERVER_NAME, &hello::server_names(&[b"evil.example"])),
            Closed("tls-malformed"),
        ),
        tls("an empty list of names", &Hello::with_names(&[]), Closed("tls-malformed")),
        tls(
            "a name of an unknown type",
            &Hello::nameless().extension(
                SERVER_NAME,
                &hello::vector16(&[&[1][..], &hello::vector16(b"httpbin.org")].concat()),
            ),
            Closed("tls-malformed"),
        ),
    ])
    .check(bytes("no SNI", EXAMPLE, 9100, Hello::nameless().bytes(), Reaches(EXAMPLE)))
    .check(bytes("SNI `203.0.113.20`", EXAMPLE, 9100, Hello::named("203.0.113.20").bytes(), Reaches(EXAMPLE)))
    .check(bytes("SNI `a b..`", EXAMPLE, 9100, Hello::named("a b..").bytes(), Reaches(EXAMPLE)))
    .check(bytes("SNI `a b..`", ELSEWHERE, 9100, Hello::named("a b..").bytes(), Closed("no-rule")))
    .check(bytes("no SNI", ELSEWHERE, 9100, Hello::nameless().bytes(), Closed("no-rule")))
}

fn second_hello() -> Row {
    Row::new(
        23,
        "Another name later in the connection: in the hello after a HelloRetryRequest, in a \
         renegotiation, or in a resumed session",
        "The first ClientHello decides the destination for the whole connection",
        by::FIRST_BYTES,
    )
    .check(bytes(
        "a ClientHello for `httpbin.org` and at once one for `evil.example`",
        ELSEWHERE,
        443,
        [Hello::named("httpbin.org").bytes(), Hello::named("evil.example").bytes()].concat(),
        Reaches(HTTPBIN),
    ))
    .check(bytes(
        "a ClientHello for `evil.example` and at once one for `httpbin.org`",
        ELSEWHERE,
        443,
        [Hello::named("evil.example").bytes(), Hello::named("httpbin.org").bytes()].concat(),
        Closed("sni-not-allowed"),
    ))
    .out_of_reach(
        "the server's treatment of a later name",
        "RFC 8446 §4.1.2 forbids another name in a second hello, and the server enforces it; renegotiation \
         is encrypted",
        "as for row 4: the servers of an allowed name must belong to one tenant",
    )
}
