//! A name that is allowed, and an address that is not: rows 1 to 4 and 36.

use super::by;
use crate::bypass::Row;
use crate::bypass::check::Check;
use crate::bypass::check::Expect::{Closed, Reaches, Refused};
use crate::bypass::curl::curl;
use crate::bypass::http2;
use crate::bypass::scene::{FAMILIES, at};
use crate::bypass::send::{bytes, host, http2 as streams, http2_in_tls, tls};
use crate::hello::Hello;
use crate::mesh::{ELSEWHERE, EXAMPLE, HTTPBIN};

pub(crate) fn rows() -> Vec<Row> {
    vec![forged_sni(), forged_host(), another_answer(), fronting(), coalescing()]
}

fn forged_sni() -> Row {
    let forged = |name: &'static str, family_elsewhere, reached| -> [Check; 3] {
        let resolve = match family_elsewhere {
            std::net::IpAddr::V4(v4) => format!("--resolve {name}:443:{v4}"),
            std::net::IpAddr::V6(v6) => format!("--resolve {name}:443:[{v6}]"),
        };
        [
            bytes(
                format!("a ClientHello for `{name}`"),
                family_elsewhere,
                443,
                Hello::named(name).bytes(),
                Reaches(reached),
            ),
            tls(family_elsewhere, 443, name, name, Reaches(reached)),
            curl(format!("--insecure {resolve} https://{name}/get"), Reaches(reached)),
        ]
    };
    Row::new(
        1,
        "An allowed name in SNI, on a connection dialled to somebody else's address",
        "The name chooses the address: the sidecar resolves it itself, and the dialled address is never \
         reached",
        by::RESOLVER,
    )
    .checks(FAMILIES.iter().flat_map(|f| forged("httpbin.org", f.elsewhere, f.exact)))
    .checks(FAMILIES.iter().flat_map(|f| forged("www.example.com", f.elsewhere, f.below_wildcard)))
    .check(bytes(
        "a ClientHello for `evil.example`",
        ELSEWHERE,
        443,
        Hello::named("evil.example").bytes(),
        Closed("sni-not-allowed"),
    ))
}

fn forged_host() -> Row {
    let forged = |name: &'static str, elsewhere, reached| -> [Check; 2] {
        let url = match elsewhere {
            std::net::IpAddr::V4(v4) => format!("http://{v4}/get"),
            std::net::IpAddr::V6(v6) => format!("http://[{v6}]/get"),
        };
        [
            host(elsewhere, 80, name, Reaches(reached)),
            curl(format!("--header 'Host: {name}' {url}"), Reaches(reached)),
        ]
    };
    Row::new(
        2,
        "An allowed name in `Host`, on a connection dialled to somebody else's address",
        "The same, for each request",
        by::RESOLVER,
    )
    .checks(FAMILIES.iter().flat_map(|f| forged("httpbin.org", f.elsewhere, f.exact)))
    .checks(FAMILIES.iter().flat_map(|f| forged("www.example.com", f.elsewhere, f.below_wildcard)))
    .check(streams(
        "HTTP/2 for `httpbin.org`",
        at(ELSEWHERE, 80),
        vec![http2::get("httpbin.org", "/get")],
        vec![Reaches(HTTPBIN)],
    ))
    .check(host(ELSEWHERE, 80, "evil.example", Refused("host-not-allowed")))
}

fn another_answer() -> Row {
    Row::new(
        3,
        "The workload's resolver and the sidecar's disagree (rotating answers, split DNS), so that a \
         comparison of addresses would refuse what is allowed",
        "No address is compared with the name: what is allowed works whatever was dialled, and leads \
         where the sidecar's resolver says",
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
        "The session reaches the servers of the allowed name and no others; what they do with the inner \
         name is theirs to decide. In plaintext the inner name is the only one, and it is judged",
        by::FIRST_BYTES,
    )
    .check(tls(ELSEWHERE, 443, "httpbin.org", "evil.example", Reaches(HTTPBIN)))
    .check(host(HTTPBIN, 80, "evil.example", Refused("host-not-allowed")))
    .out_of_reach(
        "the name inside TLS",
        "it is encrypted, and a sidecar without the keys sees only SNI",
        "allow only names whose servers are one tenant's; on shared edges allow the addresses of a \
         gateway of your own that ends TLS and judges requests",
    )
}

fn coalescing() -> Row {
    Row::new(
        36,
        "HTTP/2 coalescing: requests for other names on a connection that an allowed name opened",
        "In plaintext every stream is judged for itself; inside TLS all streams stay with the servers \
         of the allowed name",
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
