//! Rows 24 to 28: addresses in disguise, and names that resolve to forbidden addresses.

use std::net::{IpAddr, SocketAddr};

use super::by;
use crate::bypass::check::Check;
use crate::bypass::check::Expect::{Closed, Reaches, Refused, Rejected};
use crate::bypass::observed_mesh::{self, PRIVATE, at};
use crate::bypass::send::{bytes, get, host, http_bytes};
use crate::bypass::{Row, rebinding};
use crate::client;
use crate::hello::Hello;
use crate::network::{ELSEWHERE, EXAMPLE, HTTPBIN};

pub(crate) fn rows() -> Vec<Row> {
    vec![embedded(), literals(), numbers(), scripts(), astray()]
}

fn embedded() -> Row {
    let mapped = |to: IpAddr, port: u16| match to {
        IpAddr::V4(v4) => SocketAddr::from((v4.to_ipv6_mapped(), port)),
        IpAddr::V6(_) => at(to, port),
    };
    let dial = |to: IpAddr, port, expect| {
        let to = mapped(to, port);
        Check::one(format!("`hello` to {to}"), expect, move |observed| {
            observed.workload().run(|| client::exchange(to, b"hello"))
        })
    };
    Row::new(
        24,
        "IPv4 inside IPv6: `::ffff:a.b.c.d`, SIIT, NAT64, 6to4, Teredo",
        "A mapped address as original destination is compared as its IPv4 address; the others are IPv6 \
         addresses, which are in no IPv4 block. A name leads to an address behind NAT64 if it may lead to \
         the embedded one, and a wildcard name never to a tunnel",
        by::CONNECTION,
    )
    .check(dial(EXAMPLE, 9000, Reaches(EXAMPLE)))
    .check(dial(ELSEWHERE, 9000, Closed("no-rule")))
    .check(host(HTTPBIN, 80, "[::ffff:203.0.113.10]", Refused("host-not-allowed")))
    .checks(
        ["[64:ff9b::cb00:710a]", "[2002:cb00:710a::]"]
            .map(|text| host(HTTPBIN, 80, text, Refused("host-not-allowed"))),
    )
    .checks(led_astray().filter(|(name, _)| embeds(name)).map(by_host))
}

fn literals() -> Row {
    Row::new(
        25,
        "IPv6 literals in unusual forms: zones, two brackets, a name in brackets",
        "An authority is either an address or a name; anything else is malformed",
        by::PARSER,
    )
    .checks(
        ["[::1]", "[::1]:80", "[2001:db8::1]"]
            .map(|text| host(HTTPBIN, 80, text, Refused("host-not-allowed"))),
    )
    .checks(
        [
            "[httpbin.org]",
            "[[::1]]",
            "[fe80::1%25eth0]",
            "[::1]httpbin.org",
            "[::1",
            "::1",
            "[]",
            "[203.0.113.10]",
        ]
        .map(|text| host(HTTPBIN, 80, text, Refused("authority-malformed"))),
    )
}

fn numbers() -> Row {
    Row::new(
        26,
        "IPv4 in octal, hexadecimal, with fewer parts or as one number",
        "Only four decimal numbers are an address; any other form that a parser might accept is malformed",
        by::REQUEST,
    )
    .checks(
        [
            "0177.0.0.1",
            "0x7f.0.0.1",
            "0x7f000001",
            "2130706433",
            "017700000001",
            "127.1",
            "127.0.1",
            "127.0.0.01",
            "198.51.100.066",
            "198.51.100.66.",
            "3325256770",
            "1.2.3.4.5",
            "256.1.1.1",
            "0",
        ]
        .map(|text| host(HTTPBIN, 80, text, Refused("authority-malformed"))),
    )
    .checks(
        ["127.0.0.1", "198.51.100.66", "203.0.113.10"]
            .map(|text| host(HTTPBIN, 80, text, Refused("host-not-allowed"))),
    )
}

fn scripts() -> Row {
    let sni = |what: &str, name: &[u8], expect| {
        bytes(what, ELSEWHERE, 443, Hello::with_names(&[name]).bytes(), expect)
    };
    Row::new(
        27,
        "Names in other scripts, look-alikes, underscores",
        "Names are compared as A-labels (punycode): the control plane converts a policy's names, and on \
         the wire only A-labels are names",
        "control plane, then the filter",
    )
    .check(host(ELSEWHERE, 80, "xn--bcher-kva.example", Reaches(HTTPBIN)))
    .check(host(ELSEWHERE, 80, "XN--BCHER-KVA.example", Reaches(HTTPBIN)))
    .check(sni("SNI `xn--bcher-kva.example`", b"xn--bcher-kva.example", Reaches(HTTPBIN)))
    .check(sni("SNI `bücher.example` in UTF-8", "bücher.example".as_bytes(), Closed("tls-malformed")))
    .checks(
        ["bücher.example", "httpbin\u{3002}org", "httpb\u{0456}n.org", "\u{ff48}ttpbin.org"]
            .map(|text| host(ELSEWHERE, 80, text, Rejected(400))),
    )
    .check(host(ELSEWHERE, 80, "xn--httpbn-55a.org", Refused("host-not-allowed")))
    .check(host(ELSEWHERE, 80, "_service.example.com", Reaches(EXAMPLE)))
}

fn astray() -> Row {
    Row::new(
        28,
        "An allowed name whose owner resolves it to loopback, metadata, the pod or a private network (DNS \
         rebinding)",
        "Such answers are dropped: no name leads to loopback, link-local, unspecified, multicast or \
         broadcast addresses, or to those of `--never-resolve-to`, and no name that only a wildcard covers \
         to a private network",
        by::RESOLVER,
    )
    .checks(led_astray().filter(|(name, _)| !embeds(name)).flat_map(|name| [by_host(name), by_sni(name)]))
    .checks(["mixed.inside.example", "mixed.wild.example"].map(|name| {
        let what = format!("`Host: {name}` (a forbidden address and {EXAMPLE})");
        http_bytes(what, HTTPBIN, 80, get(name), Reaches(EXAMPLE))
    }))
    .check(http_bytes(
        format!("`Host: private.example`, an exact name ({PRIVATE}),"),
        HTTPBIN,
        80,
        get("private.example"),
        Reaches(PRIVATE),
    ))
    .checks(rebinding::checks())
}

/// The names of the policies that resolve to forbidden addresses only.
fn led_astray() -> impl Iterator<Item = (&'static str, &'static str)> {
    observed_mesh::names().filter(|(name, addresses)| {
        let astray = name.ends_with(".inside.example") || name.ends_with(".wild.example");
        astray && !name.starts_with("moving.") && !addresses.contains(' ')
    })
}

/// Returns true if a name resolves to an IPv4 address embedded in an IPv6 one.
fn embeds(name: &str) -> bool {
    ["mapped.", "nat64", "siit.", "sixtofour.", "teredo."].iter().any(|first| name.starts_with(first))
}

fn by_host((name, address): (&'static str, &'static str)) -> Check {
    let what = format!("`Host: {name}` ({address})");
    http_bytes(what, HTTPBIN, 80, get(name), Refused("address-forbidden"))
}

fn by_sni((name, address): (&'static str, &'static str)) -> Check {
    let what = format!("a ClientHello for `{name}` ({address})");
    bytes(what, HTTPBIN, 443, Hello::named(name).bytes(), Closed("name-unresolved"))
}
