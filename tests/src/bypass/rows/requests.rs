//! Rows 5 to 10 and 32: a request's statements about its destination.

use super::by;
use crate::bypass::Row;
use crate::bypass::check::Check;
use crate::bypass::check::Expect::{Dropped, Reaches, Refused, Rejected};
use crate::bypass::observed_mesh::at;
use crate::bypass::send::{host, http, http_bytes, http2 as streams, joined, one_by_one, pipelined};
use crate::network::{ELSEWHERE, EXAMPLE, HTTPBIN};

pub(crate) fn rows() -> Vec<Row> {
    vec![each_request(), spellings(), ports(), absolute(), hosts(), http2_authority(), patterns()]
}

/// `GET /get` for a host, on a connection that stays open.
fn keep(host: &str) -> Vec<u8> {
    joined(&["GET /get HTTP/1.1", &format!("Host: {host}")])
}

fn each_request() -> Row {
    let smuggled = joined(&["GET /get HTTP/1.1", "Host: evil.example"]);
    let length = format!("Content-Length: {}", smuggled.len());
    let post = [joined(&["POST /post HTTP/1.1", "Host: httpbin.org", &length]), smuggled].concat();
    Row::new(
        5,
        "Another host on a connection that is kept alive, or in a pipelined request",
        "Each request is decided on its own and goes to the address of its own name",
        by::REQUEST,
    )
    .check(one_by_one(
        "`Host:` `httpbin.org`, `evil.example`, `www.example.com`, `httpbin.org` on one connection",
        at(HTTPBIN, 80),
        ["httpbin.org", "evil.example", "www.example.com", "httpbin.org"].map(keep).into(),
        vec![Reaches(HTTPBIN), Refused("host-not-allowed"), Reaches(EXAMPLE), Reaches(HTTPBIN)],
    ))
    // Envoy itself allows two answers to wait, and ends the connection at a third.
    .check(pipelined(
        "`Host:` `httpbin.org`, `evil.example` at once",
        at(HTTPBIN, 80),
        ["httpbin.org", "evil.example"].map(keep).into(),
        vec![Reaches(HTTPBIN), Refused("host-not-allowed")],
    ))
    .check(pipelined(
        "`Host:` `evil.example`, `www.example.com` at once",
        at(HTTPBIN, 80),
        ["evil.example", "www.example.com"].map(keep).into(),
        vec![Refused("host-not-allowed"), Reaches(EXAMPLE)],
    ))
    .check(one_by_one(
        "a body that looks like a request for `evil.example`, then `httpbin.org`, on one connection",
        at(HTTPBIN, 80),
        vec![post, keep("httpbin.org")],
        vec![Reaches(HTTPBIN), Reaches(HTTPBIN)],
    ))
    // Two opinions on where a request ends.
    .checks(
        [
            (["Content-Length: 4", "Transfer-Encoding: chunked"], 400),
            (["Content-Length: 4", "Content-Length: 41"], 400),
            (["Content-Length: +4", "Accept: */*"], 400),
            (["Transfer-Encoding: chunked", "Transfer-Encoding: identity"], 501),
        ]
        .map(|([one, other], status)| {
            let lines = ["POST /post HTTP/1.1", "Host: httpbin.org", one, other];
            http(HTTPBIN, 80, &lines, Rejected(status))
        }),
    )
}

fn spellings() -> Row {
    let long = format!("{}example.com", "a.".repeat(125));
    Row::new(
        6,
        "Another spelling of the host: case, the port, a trailing dot, white space",
        "Names are normalised before matching: lower case, no trailing dot, no port. A name without a \
         normal form is malformed",
        by::PARSER,
    )
    .checks(
        ["HTTPBIN.ORG", "HttpBin.Org:80", "httpbin.org.", "httpbin.org.:80", " httpbin.org ", "httpbin.org:"]
            .map(|text| host(ELSEWHERE, 80, text, Reaches(HTTPBIN))),
    )
    .checks(
        ["EVIL.example", "evil.example.", "evil.example:80"]
            .map(|text| host(ELSEWHERE, 80, text, Refused("host-not-allowed"))),
    )
    .checks(
        [
            "httpbin.org..",
            ".httpbin.org",
            "httpbin..org",
            "-httpbin.org",
            "httpbin.org::",
            "httpbin.org:80:80",
            "httpbin.org:+80",
            "httpbin.org:99999",
            "evil.example@httpbin.org",
        ]
        .map(|text| host(HTTPBIN, 80, text, Refused("authority-malformed"))),
    )
    .check(http_bytes(
        "`Host:` with 261 characters below `example.com`",
        HTTPBIN,
        80,
        keep(&long),
        Refused("authority-malformed"),
    ))
    .checks(
        ["httpbin.org evil.example", "httpbin.org/", "httpbin.org\\evil.example"]
            .map(|text| host(HTTPBIN, 80, text, Rejected(400))),
    )
    .checks([
        http(HTTPBIN, 80, &["GET /get HTTP/1.1", "Host : httpbin.org"], Rejected(400)),
        http(HTTPBIN, 80, &["GET /get HTTP/1.1", "Host: httpbin.org", " evil.example"], Rejected(400)),
        http(HTTPBIN, 80, &["GET /get HTTP/1.1", "Host: httpbin.org\0.evil.example"], Rejected(400)),
    ])
}

fn ports() -> Row {
    Row::new(
        7,
        "A port in the host that differs from the original destination's",
        "Refused: the original destination's port counts, and the host must agree with it",
        by::REQUEST,
    )
    .checks(
        ["httpbin.org:8080", "httpbin.org:443", "httpbin.org:0", "www.example.com:81"]
            .map(|text| host(HTTPBIN, 80, text, Refused("authority-port-mismatch"))),
    )
    .check(http(
        HTTPBIN,
        80,
        &["GET http://httpbin.org:8080/get HTTP/1.1", "Host: httpbin.org"],
        Refused("authority-port-mismatch"),
    ))
    .checks(["httpbin.org:80", "httpbin.org:0080"].map(|text| host(ELSEWHERE, 80, text, Reaches(HTTPBIN))))
}

fn absolute() -> Row {
    let request_row = |target: &str, host: &str, expect| {
        http(
            ELSEWHERE,
            80,
            &[&format!("GET {target} HTTP/1.1"), &format!("Host: {host}"), "Connection: close"],
            expect,
        )
    };
    Row::new(
        8,
        "A request target with a host of its own, and another one in `Host`",
        "The target's host counts, and the origin receives no other",
        by::PARSER,
    )
    .check(request_row("http://evil.example/", "httpbin.org", Refused("host-not-allowed")))
    .check(
        request_row("http://httpbin.org/get", "evil.example", Reaches(HTTPBIN))
            .origin_receives("host: httpbin.org")
            .origin_does_not_see("evil.example"),
    )
    .check(
        request_row("http://HTTPBIN.ORG:80/get", "evil.example", Reaches(HTTPBIN))
            .origin_does_not_see("evil.example"),
    )
    .check(request_row("http://198.51.100.66/", "httpbin.org", Refused("host-not-allowed")))
    .check(request_row("http://httpbin.org@evil.example/", "httpbin.org", Refused("host-not-allowed")))
    .check(request_row("http://evil.example\\@httpbin.org/", "httpbin.org", Rejected(400)))
    .check(
        request_row("//evil.example/get", "httpbin.org", Reaches(HTTPBIN))
            .origin_receives("get httpbin.org/evil.example/get"),
    )
}

fn hosts() -> Row {
    let malformed = || Refused("authority-malformed");
    Row::new(
        9,
        "Two `Host` headers, none, or HTTP/1.0",
        "Two are joined to a list, which is no host; without one the request has no authority; HTTP/1.0 is \
         decided like HTTP/1.1",
        by::PARSER,
    )
    .checks([
        http(HTTPBIN, 80, &["GET /get HTTP/1.1", "Host: httpbin.org", "Host: evil.example"], malformed()),
        http(HTTPBIN, 80, &["GET /get HTTP/1.1", "Host: evil.example", "Host: httpbin.org"], malformed()),
        http(HTTPBIN, 80, &["GET /get HTTP/1.1", "Host: httpbin.org", "Host: httpbin.org"], malformed()),
        http(HTTPBIN, 80, &["GET /get HTTP/1.1", "Host: httpbin.org,evil.example"], malformed()),
        http(HTTPBIN, 80, &["GET /get HTTP/1.1", "Host: httpbin.org, evil.example"], Rejected(400)),
        http(HTTPBIN, 80, &["GET /get HTTP/1.1", "Accept: */*"], Rejected(400)),
        http(HTTPBIN, 80, &["GET /get HTTP/1.1", "Host:"], Refused("authority-absent")),
        http(HTTPBIN, 80, &["GET /get HTTP/1.0", "Host: httpbin.org"], Reaches(HTTPBIN)),
        http(HTTPBIN, 80, &["GET /get HTTP/1.0", "Host: evil.example"], Refused("host-not-allowed")),
        http(HTTPBIN, 80, &["GET /get HTTP/1.0", "Host: httpbin.org", "Host: evil.example"], malformed()),
        http(
            HTTPBIN,
            80,
            &["GET http://evil.example/get HTTP/1.0", "Host: httpbin.org"],
            Refused("host-not-allowed"),
        ),
        http(HTTPBIN, 80, &["GET /get HTTP/1.0"], Rejected(400)),
        http(HTTPBIN, 80, &["GET /get"], Rejected(400)),
    ])
}

fn http2_authority() -> Row {
    let get = |fields: &[(&'static str, &'static str)]| {
        let mut all = vec![(":method", "GET"), (":scheme", "http"), (":path", "/get")];
        all.extend_from_slice(fields);
        vec![all]
    };
    let to = at(ELSEWHERE, 80);
    Row::new(
        10,
        "HTTP/2 with `:authority` and another `Host`, with two of them or with none",
        "`:authority` counts, and `Host` is dropped; Envoy's parser refuses ambiguous requests",
        by::PARSER,
    )
    .check(
        streams(
            "`:authority: httpbin.org` and `host: evil.example`",
            to,
            get(&[(":authority", "httpbin.org"), ("host", "evil.example")]),
            vec![Reaches(HTTPBIN)],
        )
        .origin_does_not_see("evil.example"),
    )
    .check(streams(
        "`:authority: evil.example` and `host: httpbin.org`",
        to,
        get(&[(":authority", "evil.example"), ("host", "httpbin.org")]),
        vec![Refused("host-not-allowed")],
    ))
    .check(streams(
        "`host: evil.example` alone",
        to,
        get(&[("host", "evil.example")]),
        vec![Refused("host-not-allowed")],
    ))
    .check(streams("`host: httpbin.org` alone", to, get(&[("host", "httpbin.org")]), vec![Reaches(HTTPBIN)]))
    .check(streams(
        "`:authority` twice",
        to,
        get(&[(":authority", "httpbin.org"), (":authority", "evil.example")]),
        vec![Dropped],
    ))
    .check(streams(
        "`:authority: evil.example@httpbin.org`",
        to,
        get(&[(":authority", "evil.example@httpbin.org")]),
        vec![Dropped],
    ))
    .check(streams("neither", to, get(&[]), vec![Dropped]))
}

fn patterns() -> Row {
    let request_row = |path: &str, expect| {
        http(
            EXAMPLE,
            8080,
            &[&format!("GET {path} HTTP/1.1"), "Host: www.example.com", "Connection: close"],
            expect,
        )
    };
    let refused = || Refused("route-not-allowed");
    Row::new(
        32,
        "A path or a header that a pattern mistakes for another one: `%2f`, `//`, `..`, `..;`, `\\`, a \
         header twice",
        "Paths are normalised before matching, and the origin gets the matched path. A pattern matches the \
         whole path; it matches an encoded slash only if it has one, and never a path with a segment that \
         a server may read as `..` (with parameters, or encoded twice). Without a pattern the origin gets \
         the slash as it was sent. Each value of a repeated header must match, and all of them joined",
        by::PARSER,
    )
    .check(request_row("/public/a", Reaches(EXAMPLE)).origin_receives("get www.example.com/public/a\n"))
    .checks(
        [
            "/public/../private",
            "/public/./../private",
            "/public/%2e%2e/private",
            "/public/.%2E/private",
            "/public/..\\private",
            "/public/..;/private",
            "/public/..;x=1/private",
            "/public/%2e%2e;/private",
            "/public/.%2E;/private",
            "/public/%2e;x/private",
            "/public/%2e;/a",
            "/public/..%3b/private",
            "/public/..%253B/private",
            "/public/%252e%252e/private",
            "/public/%25252e%2e/private",
            "/public/..%252fprivate",
            "/public/..%20/private",
            "/public/..;",
            "/private?/public/a",
            "/x/public/a",
            "/PUBLIC/a",
            "/public",
        ]
        .map(|path| request_row(path, refused())),
    )
    .checks(
        [
            "/public/..%2fprivate",
            "/public%2fa",
            "/public/%2e%2e%2fprivate",
            "/public/..%5cprivate",
            "/public%5Ca",
            "/public/a%2F..%2f..%2fprivate",
            "/public/%2f..;%5cprivate",
        ]
        .map(|path| request_row(path, refused())),
    )
    .checks(
        ["/public/a%2fb", "/public/%2F%2fprivate", "/public/a%5Cb", "/public/%5c%2Fa?%2F"]
            .map(|path| request_row(path, Refused("encoded-slash"))),
    )
    .checks(
        ["/private#/public/a", "/public/%00a", "/public/..%00/a"]
            .map(|path| request_row(path, Rejected(400))),
    )
    .check(
        http(
            HTTPBIN,
            80,
            &["GET /a%2F..%5cb HTTP/1.1", "Host: httpbin.org", "Connection: close"],
            Reaches(HTTPBIN),
        )
        .origin_receives("get httpbin.org/a%2f..%5cb\n"),
    )
    .checks(
        ["/public/...;/a", "/public/a;..", "/public/.well-known;x/a", "/public/100%25/a"]
            .map(|path| request_row(path, Reaches(EXAMPLE))),
    )
    .check(
        request_row("/private/../public/a", Reaches(EXAMPLE))
            .origin_receives("get www.example.com/public/a\n"),
    )
    .check(request_row("//public///a", Reaches(EXAMPLE)).origin_receives("get www.example.com/public/a\n"))
    .check(
        request_row("/public/%61?x=/../../private", Reaches(EXAMPLE))
            .origin_receives("get www.example.com/public/a\n"),
    )
    .checks(headers())
}

/// Checks of a header that a pattern matches, sent in several fields with different values. A server may read
/// the first, the last or all of them.
fn headers() -> Vec<Check> {
    let request_row = |fields: &[&str], expect| {
        let lines = ["GET /get HTTP/1.1", "Host: tenant.example:8080", "Connection: close"];
        http(HTTPBIN, 8080, &[&lines, fields].concat(), expect)
    };
    let refused = || Refused("route-not-allowed");
    let stream = |what: &str, values: &[&'static str], expect| {
        let mut all = vec![
            (":method", "GET"),
            (":scheme", "http"),
            (":path", "/get"),
            (":authority", "tenant.example:8080"),
        ];
        all.extend(values.iter().map(|value| ("x-tenant", *value)));
        streams(what, at(HTTPBIN, 8080), vec![all], vec![expect])
    };
    vec![
        request_row(&["x-tenant: good"], Reaches(HTTPBIN)),
        request_row(&["x-tenant: good-1", "x-tenant: good-2"], Reaches(HTTPBIN)),
        request_row(&["x-tenant: good", "x_tenant: evil"], Reaches(HTTPBIN)),
        request_row(&["x-tenant: evil"], refused()),
        request_row(&["x-tenant: good", "x-tenant: evil"], refused()),
        request_row(&["x-tenant: evil", "x-tenant: good"], refused()),
        request_row(&["x-tenant: good-1", "x-tenant: good-2", "X-Tenant: evil"], refused()),
        request_row(&["x-tenant: good", "x-tenant: good"], refused()),
        request_row(&["x-tenant: good-1", "x-tenant: evil"], refused()),
        request_row(&["x-tenant: good-1", "x-tenant:"], refused()),
        request_row(&["x-tenant: good,evil"], refused()),
        request_row(&["x-tenant: good, good"], refused()),
        request_row(&["accept: good"], refused()),
        stream("HTTP/2 with `x-tenant: good`", &["good"], Reaches(HTTPBIN)),
        stream("HTTP/2 with `x-tenant: good` and `x-tenant: evil`", &["good", "evil"], refused()),
        stream("HTTP/2 with `x-tenant: evil` and `x-tenant: good`", &["evil", "good"], refused()),
    ]
}
