//! Rows 11 to 13 and 33: requests that ask for another protocol or choose their own route.

use super::by;
use crate::bypass::check::Expect::{Dropped, Reaches, Refused, Rejected};
use crate::bypass::observed_mesh::at;
use crate::bypass::send::{http, http_bytes, http2 as streams, joined, one_by_one};
use crate::bypass::{Row, http2, tunnel};
use crate::network::{ELSEWHERE, HTTPBIN};

pub(crate) fn rows() -> Vec<Row> {
    vec![connect(), h2c(), upgrades(), routing_headers()]
}

fn connect() -> Row {
    let refused = || Refused("connect-refused");
    Row::new(11, "CONNECT through an allowed host", "Refused for any target: nothing is opened", by::REQUEST)
        .checks([
            http(HTTPBIN, 80, &["CONNECT 198.51.100.66:443 HTTP/1.1", "Host: httpbin.org"], refused()),
            http(HTTPBIN, 80, &["CONNECT evil.example:443 HTTP/1.1", "Host: evil.example:443"], refused()),
            http(HTTPBIN, 80, &["CONNECT httpbin.org:80 HTTP/1.1", "Host: httpbin.org:80"], refused()),
        ])
        .check(streams(
            "HTTP/2 `:method: CONNECT`, `:authority: evil.example:443`",
            at(HTTPBIN, 80),
            vec![vec![(":method", "CONNECT"), (":authority", "evil.example:443")]],
            vec![refused()],
        ))
}

fn h2c() -> Row {
    let upgrade = |host: &str| {
        joined(&[
            "GET /get HTTP/1.1",
            &format!("Host: {host}"),
            "Connection: Upgrade, HTTP2-Settings",
            "Upgrade: h2c",
            "HTTP2-Settings: AAMAAABkAAQAAP__",
        ])
    };
    let then = || joined(&["GET /get HTTP/1.1", "Host: evil.example"]);
    Row::new(
        12,
        "`Upgrade: h2c`, to smuggle later requests past the filter",
        "The upgrade is never forwarded: the connection stays HTTP/1.1, and the next request is decided",
        by::PARSER,
    )
    .check(
        one_by_one(
            "`Upgrade: h2c` for `httpbin.org`, then a request for `evil.example`,",
            at(HTTPBIN, 80),
            vec![upgrade("httpbin.org"), then()],
            vec![Reaches(HTTPBIN), Refused("host-not-allowed")],
        )
        .origin_does_not_see("upgrade")
        .origin_does_not_see("http2-settings"),
    )
    .check(one_by_one(
        "`Upgrade: h2c` for `httpbin.org`, then the preface of HTTP/2,",
        at(HTTPBIN, 80),
        vec![upgrade("httpbin.org"), b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec()],
        vec![Reaches(HTTPBIN), Rejected(400)],
    ))
    .check(one_by_one(
        "`Upgrade: h2c` for `evil.example`",
        at(HTTPBIN, 80),
        vec![upgrade("evil.example")],
        vec![Refused("host-not-allowed")],
    ))
}

fn upgrades() -> Row {
    let request_row = |port, host: &str, protocol: &str, expect| {
        let request = joined(&[
            "GET /get HTTP/1.1",
            &format!("Host: {host}"),
            "Connection: Upgrade",
            &format!("Upgrade: {protocol}"),
            "Sec-WebSocket-Version: 13",
            "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
        ]);
        http_bytes(format!("`Upgrade: {protocol}` for `{host}`"), HTTPBIN, port, request, expect)
    };
    let refused = || Refused("upgrade-refused");
    Row::new(
        13,
        "An upgrade that makes the connection opaque",
        "A websocket opens only where a policy permits it, and to the host that was decided; an offer of \
         TLS or HTTP/2 is ignored, and any other upgrade is refused",
        by::REQUEST,
    )
    .checks([
        request_row(80, "httpbin.org", "websocket", refused()),
        request_row(80, "httpbin.org", "WebSocket", refused()),
        request_row(80, "httpbin.org", "TLS/1.2, websocket", refused()),
        request_row(80, "httpbin.org", "h2c, foo", refused()),
        request_row(80, "evil.example", "TLS/1.2", Refused("host-not-allowed")),
        request_row(80, "httpbin.org", "foo", refused()),
        request_row(8080, "httpbin.org", "foo", refused()),
        request_row(8080, "httpbin.org", "foo, websocket", refused()),
        request_row(8080, "evil.example", "websocket", Refused("host-not-allowed")),
    ])
    .checks(
        ["TLS/1.2", "tls/1.3, h2c"].map(|offer| {
            request_row(80, "httpbin.org", offer, Reaches(HTTPBIN)).origin_does_not_see("upgrade")
        }),
    )
    .check(request_row(8080, "httpbin.org", "websocket", Reaches(HTTPBIN)))
    .check(tunnel::websocket())
    .check(streams(
        "HTTP/2 `:method: CONNECT`, `:protocol: websocket` for `httpbin.org`",
        at(HTTPBIN, 80),
        vec![vec![
            (":method", "CONNECT"),
            (":protocol", "websocket"),
            (":scheme", "http"),
            (":authority", "httpbin.org"),
            (":path", "/"),
        ]],
        vec![Dropped],
    ))
    .out_of_reach(
        "the bytes inside a permitted websocket",
        "they have no structure to decide by",
        "permit upgrades only for hosts to which any data may go; a policy change that removes the \
         permission closes open websockets",
    )
}

fn routing_headers() -> Row {
    let request_row = |header: &str, expect| {
        http(ELSEWHERE, 80, &["GET /get HTTP/1.1", "Host: httpbin.org", header, "Connection: close"], expect)
    };
    Row::new(
        33,
        "Headers that tell a proxy its destination, such as `x-envoy-original-dst-host`",
        "They are removed before any filter reads them, and no cluster follows them",
        "the listener, before the filter",
    )
    .checks(
        [
            ("x-envoy-original-dst-host: 198.51.100.66:80", "x-envoy-original-dst-host"),
            ("x-envoy-original-path: /private", "x-envoy-original-path"),
            ("x-envoy-retry-on: 5xx", "x-envoy-retry-on"),
            ("x-envoy-upstream-rq-timeout-ms: 1", "x-envoy-upstream-rq-timeout-ms"),
            ("x-envoy-force-trace: true", "x-envoy-force-trace"),
            ("x-egress-cluster: egress-original-dst", "x-egress-cluster"),
            ("X-Egress-Cluster: passthrough-outbound", "x-egress-cluster"),
        ]
        .map(|(header, name)| request_row(header, Reaches(HTTPBIN)).origin_does_not_see(name)),
    )
    .check(
        streams(
            "HTTP/2 for `httpbin.org` with the first and the last of these",
            at(ELSEWHERE, 80),
            vec![
                [
                    http2::get("httpbin.org", "/get"),
                    vec![
                        ("x-envoy-original-dst-host", "198.51.100.66:80"),
                        ("x-egress-cluster", "passthrough-outbound"),
                    ],
                ]
                .concat(),
            ],
            vec![Reaches(HTTPBIN)],
        )
        .origin_does_not_see("x-envoy-original-dst-host")
        .origin_does_not_see("x-egress-cluster"),
    )
    .check(http(
        ELSEWHERE,
        80,
        &["GET /get HTTP/1.1", "Host: evil.example", "x-egress-cluster: egress-original-dst"],
        Refused("host-not-allowed"),
    ))
    .check(http(
        ELSEWHERE,
        80,
        &[
            "GET /get HTTP/1.1",
            "Host: evil.example",
            "x-forwarded-host: httpbin.org",
            "Forwarded: host=httpbin.org",
        ],
        Refused("host-not-allowed"),
    ))
}
