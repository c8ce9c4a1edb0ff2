//! Rows 1 to 4 and 36: an allowed name at an address that is not its own.

use std::net::IpAddr;

use super::by;
use crate::bypass::check::Expect::{Closed, Reaches, Refused};
use crate::bypass::curl::curl;
use crate::bypass::observed_mesh::{FAMILIES, at};
use crate::bypass::send::{bytes, host, http2 as streams, http2_in_tls, tls};
use crate::bypass::{Row, http2};
use crate::hello::Hello;
use crate::network::{ELSEWHERE, ELSEWHERE6, EXAMPLE, HTTPBIN};

pub(crate) fn rows() -> Vec<Row> {
    vec![forged_sni(), forged_host(), another_answer(), fronting(), coalescing()]
}

/// Formats an address as in a URL.
fn literal(address: IpAddr) -> String {
    match address {
        IpAddr::V4(v4) => v4.to_string(),
        IpAddr::V6(v6) => format!("[{v6}]"),
    }
}

/// Every name of both families, with its own address and a forbidden one.
fn forgeries() -> impl Iterator<Item = (&'static str, IpAddr, IpAddr)> {
    FAMILIES.into_iter().flat_map(|family| {
        [family.exact, family.below_wildcard].map(|(name, address)| (name, address, family.elsewhere))
    })
}

fn forged_sni() -> Row {
    Row::new(
        1,
        "An allowed name in SNI, on a connection to a forbidden address",
        "The name chooses the address: the sidecar resolves it, and the original destination is never \
         reached",
        by::RESOLVER,
    )
    .checks(forgeries().flat_map(|(name, address, elsewhere)| {
        let hello = Hello::named(name).bytes();
        let resolve = format!("--resolve {name}:443:{}", literal(elsewhere));
        [
            bytes(format!("a ClientHello for `{name}`"), elsewhere, 443, hello, Reaches(address)),
            tls(elsewhere, 443, name, name, Reaches(address)),
            curl(format!("--insecure {resolve} https://{name}/get"), Reaches(address)),
        ]
    }))
    // The families also cross: the name has no address of the dialled family.
    .check(tls(ELSEWHERE6, 443, "httpbin.org", "httpbin.org", Reaches(HTTPBIN)))
    .checks([ELSEWHERE, ELSEWHERE6].map(|elsewhere| {
        let hello = Hello::named("evil.example").bytes();
        bytes("a ClientHello for `evil.example`", elsewhere, 443, hello, Closed("sni-not-allowed"))
    }))
}

fn forged_host() -> Row {
    Row::new(
        2,
        "An allowed name in `Host`, on a connection to a forbidden address",
        "The same, for each request",
        by::RESOLVER,
    )
    .checks(forgeries().flat_map(|(name, address, elsewhere)| {
        let url = format!("http://{}/get", literal(elsewhere));
        [
            host(elsewhere, 80, name, Reaches(address)),
            curl(format!("--header 'Host: {name}' {url}"), Reaches(address)),
        ]
    }))
    .check(host(ELSEWHERE6, 80, "httpbin.org", Reaches(HTTPBIN)))
    .check(streams(
        "HTTP/2 for `httpbin.org`",
        at(ELSEWHERE, 80),
        vec![http2::get("httpbin.org", "/get")],
        vec![Reaches(HTTPBIN)],
    ))
    .checks(
        [ELSEWHERE, ELSEWHERE6]
            .map(|elsewhere| host(elsewhere, 80, "evil.example", Refused("host-not-allowed"))),
    )
}

fn another_answer() -> Row {
    Row::new(
        3,
        "The workload's resolver and the sidecar's disagree (rotating answers, split DNS), so that a \
         comparison of addresses would refuse what is allowed",
        "The original destination is not compared with the name: an allowed name works with any, and leads \
         to the address that the sidecar resolves",
        by::RESOLVER,
    )
    .check(bytes(
        "a ClientHello for `rotating.example`, which the workload found elsewhere,",
        EXAMPLE,
        443,
        Hello::named("rotating.example").bytes(),
        Reaches(HTTPBIN),
    ))
    .check(host(EXAMPLE, 80, "rotating.example", Reaches(HTTPBIN)))
    .check(host(ELSEWHERE, 80, "rotating.example", Reaches(HTTPBIN)))
}

fn fronting() -> Row {
    Row::new(
        4,
        "Domain fronting: an allowed name in SNI, another one in `Host` inside the TLS session",
        "The session reaches the servers of the allowed name and no others; they decide about the inner \
         name. In plaintext the inner name is the only one, and the filter decides by it",
        by::FIRST_BYTES,
    )
    .check(tls(ELSEWHERE, 443, "httpbin.org", "evil.example", Reaches(HTTPBIN)))
    .check(host(HTTPBIN, 80, "evil.example", Refused("host-not-allowed")))
    .out_of_reach(
        "the name inside TLS",
        "it is encrypted, and without the keys a sidecar sees only SNI",
        "allow only names whose servers belong to one tenant; for shared edges allow the addresses of your \
         own gateway that terminates TLS and decides about requests",
    )
}

fn coalescing() -> Row {
    Row::new(
        36,
        "HTTP/2 coalescing: requests for other names on a connection that an allowed name opened",
        "In plaintext every stream is decided on its own; inside TLS all streams stay with the servers of \
         the allowed name",
        by::REQUEST,
    )
    .check(streams(
        "HTTP/2 streams for `httpbin.org`, `evil.example`, `www.example.com`, `httpbin.org`",
        at(HTTPBIN, 80),
        ["httpbin.org", "evil.example", "www.example.com", "httpbin.org"]
            .map(|name| http2::get(name, "/get"))
            .into(),
        vec![Reaches(HTTPBIN), Refused("host-not-allowed"), Reaches(EXAMPLE), Reaches(HTTPBIN)],
    ))
    .check(http2_in_tls(
        "TLS for `httpbin.org` with HTTP/2 streams for `httpbin.org` and `evil.example` inside",
        at(ELSEWHERE, 443),
        "httpbin.org",
        vec![http2::get("httpbin.org", "/get"), http2::get("evil.example", "/get")],
        vec![Reaches(HTTPBIN)],
    ))
    .out_of_reach("the names of streams inside TLS", "they are encrypted", "as for row 4")
}
