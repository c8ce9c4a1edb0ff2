//! HTTP messages arrive unchanged, and Envoy's own refusals have a reason.

#![allow(clippy::wildcard_enum_match_arm, reason = "what a test does not expect fails it")]

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};
use egress_tests::access_log;
use egress_tests::client;
use egress_tests::envoy::Envoy;
use egress_tests::mesh::MeshOptions;
use egress_tests::netns::{Pod, PodForm};
use egress_tests::network::{ELSEWHERE, TestNetwork};
use egress_tests::raw_origin::{RawOrigin, head};
use egress_tests::standalone::Standalone;

/// The port of the [`RawOrigin`].
const PORT: u16 = 8087;

const POLICY: &str = "apiVersion: policy.openservicemesh.io/v1alpha1
kind: Egress
metadata: {name: web, namespace: curl}
spec:
  sources: [{kind: ServiceAccount, name: curl, namespace: curl}]
  hosts: [www.example.com]
  ports: [{number: 8087, protocol: http}]
---
apiVersion: policy.openservicemesh.io/v1alpha1
kind: Egress
metadata: {name: routed, namespace: curl}
spec:
  sources: [{kind: ServiceAccount, name: curl, namespace: curl}]
  hosts: [openservicemesh.io]
  ports: [{number: 8087, protocol: http}]
  matches: [{apiGroup: specs.smi-spec.io/v1alpha4, kind: HTTPRouteGroup, name: routes}]
---
apiVersion: specs.smi-spec.io/v1alpha4
kind: HTTPRouteGroup
metadata: {name: routes, namespace: curl}
spec:
  matches:
  - {name: public, pathRegex: /public/.*, methods: [GET]}
  - {name: queues, pathRegex: '/queues/%2F/.*', methods: [GET]}
";

/// An origin that answers with the request's head, odd headers, a trailer, and two informational responses
/// first.
fn mirror(_: usize, stream: &mut TcpStream) {
    while let Some(head) = head(stream) {
        let path = head.split(' ').nth(1).unwrap_or_default().to_owned();
        if head.to_ascii_lowercase().contains("transfer-encoding: chunked") {
            let mut body = Vec::new();
            let mut byte = [0; 1];
            while !body.ends_with(b"\r\n\r\n") && stream.read_exact(&mut byte).is_ok() {
                body.extend_from_slice(&byte);
            }
            let body = String::from_utf8_lossy(&body).into_owned();
            let text = format!("{head}{body}");
            let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{text}", text.len());
            if stream.write_all(answer.as_bytes()).is_err() {
                return;
            }
            continue;
        }
        let answer = match path.as_str() {
            "/large" => {
                let many: String = (0..300).map(|n| format!("X-Many-{n}: {}\r\n", "v".repeat(1000))).collect();
                format!("HTTP/1.1 200 OK\r\n{many}Content-Length: 0\r\n\r\n")
            }
            "/odd" => "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 200 Quite Fine\r\nServer: Ours/1\r\n\
                 X-Odd-CASE: Yes\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n2\r\nok\r\n0\r\nX-Sum: 7\r\n\r\n"
                .to_owned(),
            "/continue" => "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n".to_owned(),
            _ => format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{head}", head.len()),
        };
        if stream.write_all(answer.as_bytes()).is_err() {
            return;
        }
    }
}

fn in_both_forms(flags: &[&str], test: impl Fn(&Pod, &Envoy<'_>) -> Result<()>) -> Result<()> {
    let setting = MeshOptions { manifests: &[("web.yaml", POLICY)], flags, form: PodForm::supported() };
    let prepare = |network: &TestNetwork| RawOrigin::start(&network.outside.netns, PORT, mirror).map(drop);
    setting.run(prepare, |mesh| test(mesh.pod, mesh.envoy)).context("with a control plane")?;
    if !flags.is_empty() {
        return Ok(());
    }
    let network = TestNetwork::new()?;
    prepare(&network)?;
    let pod = network.outside.pod(PodForm::supported())?;
    network.write("web.yaml", POLICY)?;
    let standalone = Standalone::new()?;
    let envoy = Envoy::start(&pod, &standalone.compiled(network.manifests.path())?, 1)?;
    test(&pod, &envoy).context("without a control plane")
}

/// Sends bytes, and reads until the connection ends or stays silent for a while.
fn exchange(pod: &Pod, bytes: &[u8]) -> Result<String> {
    pod.workload().run(|| {
        let mut stream = client::connect(SocketAddr::new(ELSEWHERE, PORT)).map_err(|e| anyhow!("{e:?}"))?;
        stream.set_read_timeout(Some(Duration::from_millis(700)))?;
        // An early refusal may not read all bytes.
        let _ = stream.write_all(bytes);
        let mut answer = Vec::new();
        let mut buffer = vec![0; 64 << 10];
        while let Ok(length @ 1..) = stream.read(&mut buffer) {
            answer.extend_from_slice(&buffer[..length]);
        }
        Ok(String::from_utf8_lossy(&answer).into_owned())
    })?
}

fn get(path: &str, headers: &str) -> Vec<u8> {
    format!("GET {path} HTTP/1.1\r\nHost: www.example.com:{PORT}\r\n{headers}\r\n").into_bytes()
}

/// Header names, the reason phrase, `Server`, trailers and informational responses arrive as they were sent,
/// and nothing is added.
#[test]
fn messages_arrive_unchanged() -> Result<()> {
    in_both_forms(&[], |pod, _| {
        let sent = "X-My-Header: A\r\nSOAPAction: b\r\nX-Forwarded-For: 10.0.0.1\r\n";
        let seen = exchange(pod, &get("/", sent))?;
        for line in sent.lines() {
            ensure!(seen.contains(&format!("\r\n{line}\r\n")), "`{line}` is not in {seen}");
        }
        for added in ["x-forwarded-proto", "x-envoy", "x-request-id", "x-egress", "via:", "server:"] {
            ensure!(!seen.to_ascii_lowercase().contains(added), "`{added}` was added: {seen}");
        }
        let seen = exchange(pod, &get("/", "X-Forwarded-Proto: https\r\n"))?;
        ensure!(seen.contains("\r\nX-Forwarded-Proto: https\r\n"), "{seen}");
        ensure!(!seen.to_ascii_lowercase().contains("x-egress"), "{seen}");

        let odd = exchange(pod, &get("/odd", "TE: trailers\r\n"))?;
        for part in [
            "HTTP/1.1 200 Quite Fine\r\n",
            "\r\nServer: Ours/1\r\n",
            "\r\nX-Odd-CASE: Yes\r\n",
            // Envoy keeps the case of headers alone.
            "\r\nx-sum: 7\r\n",
        ] {
            ensure!(odd.contains(part), "{part:?} is not in {odd}");
        }
        ensure!(!odd.contains("x-envoy"), "{odd}");
        ensure!(odd.starts_with("HTTP/1.1 103 "), "{odd}");

        let upload = "Transfer-Encoding: chunked\r\nTrailer: X-Check\r\n\r\n2\r\nhi\r\n0\r\nX-Check: 9\r\n";
        let seen = exchange(
            pod,
            &[&b"POST / HTTP/1.1\r\nHost: www.example.com\r\n"[..], upload.as_bytes(), b"\r\n"].concat(),
        )?;
        ensure!(seen.contains("\r\nx-check: 9\r\n"), "{seen}");

        let continued = exchange(pod, &get("/continue", "Expect: 100-continue\r\n"))?;
        ensure!(continued.starts_with("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\n"), "{continued}");
        Ok(())
    })
}

/// Large and many headers pass in both directions.
#[test]
fn large_headers_pass() -> Result<()> {
    in_both_forms(&[], |pod, envoy| {
        let cookie = format!("Cookie: {}\r\n", "a".repeat(200_000));
        let seen = exchange(pod, &get("/", &cookie))?;
        ensure!(seen.contains(cookie.trim_end()), "{:.200}", seen);
        let many: String = (0..300).map(|n| format!("X-Many-{n}: v\r\n")).collect();
        let seen = exchange(pod, &get("/", &many))?;
        ensure!(seen.contains("X-Many-299: v"), "{:.200}", seen);
        let large = exchange(pod, &get("/large", ""))?;
        ensure!(
            large.starts_with("HTTP/1.1 200 OK\r\n") && large.contains("X-Many-299: v"),
            "{:.200}",
            large
        );

        let too_many: String = (0..11_000).map(|n| format!("a{n}: v\r\n")).collect();
        let seen = exchange(pod, &get("/", &too_many))?;
        ensure!(
            seen.starts_with("HTTP/1.1 431 ") && seen.contains("x-egress-denied: headers-too-large"),
            "{seen}"
        );
        access_log::wait_for_line(envoy, "the refusal", |line| line["refused"] == "headers-too-large")?;
        Ok(())
    })
}

/// HTTP/1.0 requests are served.
#[test]
fn http_1_0_is_served() -> Result<()> {
    in_both_forms(&[], |pod, _| {
        let answer = exchange(pod, b"GET /old HTTP/1.0\r\nHost: www.example.com\r\n\r\n")?;
        let (status, body) = answer.split_once("\r\n\r\n").context("an answer")?;
        ensure!(status.contains(" 200 OK\r\n") && body.starts_with("GET /old HTTP/1.1\r\n"), "{answer}");
        let answer = exchange(pod, b"GET /old HTTP/1.0\r\nHost: elsewhere.example\r\n\r\n")?;
        ensure!(answer.contains(" 403 ") && answer.contains("x-egress-denied: host-not-allowed"), "{answer}");
        let answer = exchange(pod, b"GET /old HTTP/1.0\r\n\r\n")?;
        ensure!(answer.contains("x-egress-denied: authority-absent"), "{answer}");
        Ok(())
    })
}

/// Requests that Envoy refuses before the plugin sees them have a reason, in the response and in the log.
#[test]
fn refusals_of_envoy_have_a_reason() -> Result<()> {
    let host = format!("Host: www.example.com:{PORT}\r\n");
    let cases: &[(&str, String, u16, &str)] = &[
        ("OPTIONS *", format!("OPTIONS * HTTP/1.1\r\n{host}\r\n"), 404, "path-refused"),
        ("%00", format!("GET /a%00b HTTP/1.1\r\n{host}\r\n"), 400, "path-refused"),
        ("a method", format!("FOO / HTTP/1.1\r\n{host}\r\n"), 400, "request-malformed"),
        ("another method", format!("M-SEARCH / HTTP/1.1\r\n{host}\r\n"), 400, "request-malformed"),
        ("no Host", "GET / HTTP/1.1\r\n\r\n".to_owned(), 400, "authority-absent"),
        (
            "two lengths",
            format!("POST / HTTP/1.1\r\n{host}Content-Length: 1\r\nContent-Length: 2\r\n\r\nab"),
            400,
            "request-malformed",
        ),
        (
            "length and chunked",
            format!(
                "POST / HTTP/1.1\r\n{host}Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
            ),
            400,
            "request-malformed",
        ),
        (
            "an unknown coding",
            format!("POST / HTTP/1.1\r\n{host}Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n"),
            501,
            "request-malformed",
        ),
        ("NUL in a header", format!("GET / HTTP/1.1\r\n{host}X-A: a\0b\r\n\r\n"), 400, "request-malformed"),
        (
            "a space before the colon",
            format!("GET / HTTP/1.1\r\n{host}X-A : b\r\n\r\n"),
            400,
            "request-malformed",
        ),
        ("no HTTP", "hello there\r\n\r\n".to_owned(), 400, "request-malformed"),
    ];
    in_both_forms(&[], |pod, envoy| {
        let mut wrong = Vec::new();
        for (what, bytes, status, reason) in cases {
            let answer = exchange(pod, bytes.as_bytes())?;
            let found = answer.contains(&format!("x-egress-denied: {reason}\r\n"))
                && answer.starts_with(&format!("HTTP/1.1 {status} "))
                && answer.contains(&format!("\r\n\r\negress denied: {reason}: "));
            if !found {
                wrong.push(format!("{what}: {answer:?}"));
            }
        }
        ensure!(wrong.is_empty(), "{}\n{}", wrong.join("\n"), envoy.log_tail(30));
        for reason in ["path-refused", "request-malformed", "authority-absent"] {
            access_log::wait_for_line(envoy, reason, |line| line["refused"] == reason)?;
        }
        Ok(())
    })
}

/// With the flag, requests with other methods are decided like any.
#[test]
fn custom_methods_are_decided_with_the_flag() -> Result<()> {
    in_both_forms(&["--allow-custom-methods"], |pod, _| {
        for method in ["FOO", "M-SEARCH", "PURGE"] {
            let request = format!("{method} /x HTTP/1.1\r\nHost: www.example.com\r\n\r\n");
            let seen = exchange(pod, request.as_bytes())?;
            ensure!(seen.contains(&format!("\r\n\r\n{method} /x HTTP/1.1\r\n")), "{seen}");
            let refused = exchange(pod, request.replace("www.example.com", "a.example").as_bytes())?;
            ensure!(refused.contains("x-egress-denied: host-not-allowed"), "{refused}");
            let refused = exchange(pod, request.replace("www.example.com", "openservicemesh.io").as_bytes())?;
            ensure!(refused.contains("x-egress-denied: route-not-allowed"), "{refused}");
        }
        Ok(())
    })
}

/// Encoded slashes pass unchanged where no path is matched; where one is, only if the expression has them.
#[test]
fn encoded_slashes_need_an_expression_that_has_them() -> Result<()> {
    in_both_forms(&[], |pod, envoy| {
        for (host, path, expected) in [
            ("www.example.com", "/@scope%2fname", Ok(())),
            ("www.example.com", "/api/queues/%2F/tasks", Ok(())),
            ("www.example.com", "/a%5Cb%5cc", Ok(())),
            ("www.example.com", "/a%252Fb", Ok(())),
            ("openservicemesh.io", "/queues/%2F/x", Ok(())),
            ("openservicemesh.io", "/queues/%2f/x", Ok(())),
            ("openservicemesh.io", "/public/x", Ok(())),
            ("openservicemesh.io", "/public/x?a=%2F", Ok(())),
            ("openservicemesh.io", "/public/a%2Fb", Err("encoded-slash")),
            ("openservicemesh.io", "/public/a%5cb", Err("encoded-slash")),
            ("openservicemesh.io", "/public/..%2fprivate", Err("route-not-allowed")),
            ("openservicemesh.io", "/queues/%2F/%5c", Err("encoded-slash")),
            ("openservicemesh.io", "/queues/%2F/..%2f..", Err("route-not-allowed")),
            ("openservicemesh.io", "/private%2f", Err("route-not-allowed")),
            ("openservicemesh.io", "/public/%00", Err("path-refused")),
        ] {
            let request = format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n");
            let answer = exchange(pod, request.as_bytes())?;
            match expected {
                Ok(()) => ensure!(
                    answer.contains(&format!("\r\n\r\nGET {path} HTTP/1.1\r\n")),
                    "{host}{path}: {answer}"
                ),
                Err(reason) => ensure!(
                    answer.contains(&format!("x-egress-denied: {reason}\r\n")),
                    "{host}{path}: {answer}"
                ),
            }
        }
        access_log::wait_for_line(envoy, "the refusal", |line| {
            line["refused"] == "encoded-slash" && line["path"] == "/public/a%2Fb"
        })?;
        Ok(())
    })
}

/// An optional offer to upgrade is removed, not refused.
#[test]
fn offers_of_tls_are_removed() -> Result<()> {
    in_both_forms(&[], |pod, _| {
        for (headers, ignored) in [
            ("Connection: Upgrade\r\nUpgrade: TLS/1.2\r\n", true),
            ("Connection: upgrade\r\nUpgrade: tls/1.0\r\n", true),
            ("Connection: Upgrade\r\nUpgrade: TLS/1.2, TLS/1.3\r\n", true),
            ("Connection: Upgrade\r\nUpgrade: h2c, TLS/1.2\r\n", true),
            (
                "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAoAAAAAIAAAAA\r\n",
                true,
            ),
            // Without `Connection` the header is no offer.
            ("Upgrade: websocket\r\n", true),
            ("Connection: Upgrade\r\nUpgrade: websocket\r\n", false),
            ("Connection: Upgrade\r\nUpgrade: TLS/1.2, websocket\r\n", false),
            ("Connection: Upgrade\r\nUpgrade: TLSX\r\n", false),
            ("Connection: Upgrade\r\nUpgrade: spdy/3\r\n", false),
        ] {
            let answer = exchange(pod, &get("/", headers))?;
            if ignored {
                ensure!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{headers}: {answer}");
                ensure!(!answer.to_ascii_lowercase().contains("upgrade:"), "{headers}: {answer}");
            } else {
                ensure!(answer.contains("x-egress-denied: upgrade-refused"), "{headers}: {answer}");
            }
        }
        let connect = exchange(
            pod,
            format!("CONNECT www.example.com:{PORT} HTTP/1.1\r\nHost: www.example.com:{PORT}\r\n\r\n")
                .as_bytes(),
        )?;
        ensure!(connect.contains("x-egress-denied: connect-refused"), "{connect}");
        Ok(())
    })
}
