//! Envoy's access log: `docs/access-log.md`, field by field.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use egress_tests::access_log;
use egress_tests::client::{self, Outcome};
use egress_tests::envoy::Envoy;
use egress_tests::hello::Hello;
use egress_tests::manifests::ENFORCED_AND_AUDITED;
use egress_tests::netns::{Pod, ensure_capable};
use egress_tests::network::{ELSEWHERE, EXAMPLE, HTTPBIN, TestNetwork};
use egress_tests::repository_root;
use egress_tests::sidecar;
use egress_tests::standalone::Standalone;
use egress_tests::wait::wait_for;
use egress_tests::workload;
use serde_json::Value;

fn at(ip: std::net::IpAddr, port: u16) -> SocketAddr {
    SocketAddr::new(ip, port)
}

/// The documented fields of a kind of line.
fn documented_fields(kind: &str) -> Result<BTreeSet<String>> {
    let text = std::fs::read_to_string(repository_root().join("docs/access-log.md"))?;
    let fields = text.lines().filter_map(|line| {
        let mut cells = line.strip_prefix("| `")?.split(" | ");
        let name = cells.next()?.strip_suffix('`')?;
        let of = cells.next()?;
        (of == kind || of == "both").then(|| name.to_owned())
    });
    Ok(fields.collect())
}

fn keys(line: &Value) -> BTreeSet<String> {
    line.as_object().into_iter().flatten().map(|(key, _)| key.clone()).collect()
}

fn expect_documented(line: &Value) -> Result<()> {
    let expected = documented_fields(line["kind"].as_str().unwrap_or_default())?;
    ensure!(!expected.is_empty() && keys(line) == expected, "{line}\ndocumented are {expected:?}");
    Ok(())
}

#[test]
fn documented_examples_have_the_documented_fields() -> Result<()> {
    let text = std::fs::read_to_string(repository_root().join("docs/access-log.md"))?;
    let examples: Vec<Value> = text
        .split("```json\n")
        .skip(1)
        .filter_map(|rest| serde_json::from_str(rest.split("```").next()?).ok())
        .collect();
    ensure!(examples.len() == 2, "{} examples", examples.len());
    examples.iter().try_for_each(expect_documented)
}

#[test]
fn fields_are_as_documented() -> Result<()> {
    ensure_capable()?;
    let network = TestNetwork::new()?;
    network.write("web.yaml", ENFORCED_AND_AUDITED)?;
    let control_plane = network.control_plane(&[])?;
    for identity in ["curl/curl", "curl/watched"] {
        let audited = identity == "curl/watched";
        let pod = network.pod()?;
        let envoy = Envoy::start(&pod, &sidecar::bootstrap(identity, audited)?, 1)?;
        workload::get(&pod, at(HTTPBIN, 80), "httpbin.org", "/get?a=b")?;
        workload::get(&pod, at(EXAMPLE, 80), "www.example.com", "/get")?;
        workload::get_tls(&pod, at(HTTPBIN, 443), Some("httpbin.org"))?;
        workload::get_tls(&pod, at(EXAMPLE, 443), Some("www.example.com"))?;
        pod.workload().run(|| client::exchange(at(ELSEWHERE, 9000), b"ping"))?;
        // Two requests in two connections, and three connections besides.
        let lines = || envoy.access_log();
        wait_for("seven lines", Duration::from_secs(5), || lines().len() == 7)
            .with_context(|| format!("{:#?}", lines()))?;
        let status = control_plane.status()?;
        let version = &status["identities"][identity]["document"];
        for line in lines() {
            expect_documented(&line)?;
            ensure!(line["identity"] == identity, "{line}");
            ensure!(line["mode"] == if audited { "audit" } else { "enforce" }, "{line}");
            ensure!(line["policy_version"] == *version && version.is_string(), "{line} {status:#}");
            if line["verdict"].is_null() {
                ensure!(line["kind"] == "connection" && line["protocol"] == "http", "{line}");
            } else {
                ensure!(access_log::format_columns(&line) == line["decision"], "{line}");
            }
        }
        let refused = |reason| match audited {
            true => format!("allow audit - - {reason}"),
            false => format!("deny {reason} - -"),
        };
        for (protocol, decision, name) in [
            ("http", "allow rule curl/web spec.ports[0]".to_owned(), ("authority", "httpbin.org")),
            ("http", refused("host-not-allowed"), ("authority", "www.example.com")),
            ("https", "allow rule curl/web spec.ports[1]".to_owned(), ("name", "httpbin.org")),
            ("https", refused("sni-not-allowed"), ("server_name", "www.example.com")),
            ("tcp", refused("no-rule"), ("dialled", "198.51.100.66:9000")),
        ] {
            access_log::wait_for_line(&envoy, &decision, |line| {
                line["protocol"] == protocol
                    && access_log::format_columns(line) == decision
                    && line[name.0] == name.1
            })?;
        }
    }
    Ok(())
}

/// A configuration without control plane logs the same fields.
#[test]
fn standalone_logs_the_same() -> Result<()> {
    ensure_capable()?;
    let network = TestNetwork::new()?;
    let pod = network.pod()?;
    let envoy = Envoy::start(&pod, &Standalone::new()?.example()?, 1)?;
    workload::get(&pod, at(HTTPBIN, 80), "httpbin.org", "/get")?;
    wait_for("two lines", Duration::from_secs(5), || envoy.access_log().len() == 2)?;
    envoy.access_log().iter().try_for_each(expect_documented)?;
    access_log::wait_for_line(&envoy, "the request", |line| {
        line["identity"] == "default/default" && line["policy_version"] == "standalone"
    })?;
    Ok(())
}

/// The line of a connection that a policy change closed names the rule that had allowed it and the policy
/// version that closed it.
#[test]
fn a_revoked_connection_names_both_policies() -> Result<()> {
    ensure_capable()?;
    let network = TestNetwork::new()?;
    network.write("web.yaml", ENFORCED_AND_AUDITED)?;
    let control_plane = network.control_plane(&[])?;
    let pod = network.pod()?;
    let envoy = sidecar::start(&pod, false)?;
    let hello = Hello::named("httpbin.org").bytes();
    let mut stream = pod.workload().run(|| client::connect(at(HTTPBIN, 443)))?.map_err(unexpected)?;
    std::io::Write::write_all(&mut stream, &hello)?;
    std::io::Read::read(&mut stream, &mut [0; 1])?;
    network.write("web.yaml", &ENFORCED_AND_AUDITED.replace("httpbin.org", "other.example"))?;
    let line = access_log::wait_for_line(&envoy, "the revocation", |line| line["reason"] == "revoked")?;
    ensure!(line["decision"] == "deny revoked - -", "{line}");
    ensure!(access_log::format_columns(&line) == "deny revoked curl/web spec.ports[1]", "{line}");
    ensure!(
        line["policy_version"] == control_plane.status()?["identities"]["curl/curl"]["document"],
        "{line}"
    );
    Ok(())
}

fn unexpected(outcome: Outcome) -> anyhow::Error {
    anyhow::anyhow!("{outcome:?}")
}

/// Any bytes of a workload give one line each, and valid JSON.
#[test]
fn hostile_bytes_stay_in_one_line() -> Result<()> {
    ensure_capable()?;
    let network = TestNetwork::new()?;
    network.write("web.yaml", ENFORCED_AND_AUDITED)?;
    let _control_plane = network.control_plane(&[])?;
    for identity in ["curl/curl", "curl/watched"] {
        let pod = network.pod()?;
        let envoy = Envoy::start(&pod, &sidecar::bootstrap(identity, false)?, 1)?;
        let hostile: [&[u8]; 9] = [
            b"\x1b[31mred\x1b]0;title\x07",
            b"a\r\nx-egress-denied: rule\r\nx: y",
            b"a\n{\"kind\":\"request\",\"verdict\":\"allow\"}",
            b"<script>alert(1)</script>",
            b"quote\"comma,\\\"backslash\\",
            b"\xff\xfe\x80\xc3(\xe2\x82\xf0\x9f",
            "\u{202e}\u{2028}ünicode.example".as_bytes(),
            b"\0",
            &[b'a'; 64 << 10],
        ];
        let mut sent = 0;
        for bytes in hostile {
            for request in requests_with(bytes) {
                send(&pod, at(HTTPBIN, 80), &request)?;
                sent += 1;
            }
            for name in [bytes, &bytes[..bytes.len().min(250)]] {
                // A name of 64 KiB does not fit into its field, so the bytes are no ClientHello.
                let hello =
                    if name.len() > 60_000 { name.to_vec() } else { Hello::with_names(&[name]).bytes() };
                send(&pod, at(HTTPBIN, 443), &hello)?;
                sent += 1;
            }
        }
        // The next connection is well formed, and its line follows theirs.
        workload::get(&pod, at(HTTPBIN, 80), "httpbin.org", "/last")?;
        access_log::wait_for_line(&envoy, "a good request", |line| {
            line["path"] == "/last" && line["status"] == 200
        })?;
        let connections =
            |log: &str| log.lines().filter(|line| line.contains(r#""kind":"connection""#)).count();
        wait_for("a line of each connection", Duration::from_secs(5), || connections(&envoy.log()) > sent)
            .with_context(|| format!("{} of {sent}", connections(&envoy.log())))?;
        let text = envoy.log();
        let lines: Vec<&str> = text.lines().filter(|line| line.contains(r#""kind":"#)).collect();
        for line in &lines {
            let harmless = |c: char| !c.is_control() && c != '\u{fffd}';
            ensure!(line.chars().all(harmless), "not text: {line:?}");
            let value: Value = serde_json::from_str(line).with_context(|| format!("no JSON: {line:?}"))?;
            expect_documented(&value)?;
            // No hostile text forged a line.
            let made_up =
                value["kind"] == "request" && value["verdict"] == "allow" && value["dialled"].is_null();
            ensure!(!made_up, "{line}");
        }
        let count = |kind: &str| {
            let kind = format!(r#""kind":"{kind}""#);
            lines.iter().filter(|line| line.contains(&kind)).count()
        };
        ensure!(count("connection") == sent + 1, "{} lines of {} connections", count("connection"), sent + 1);
        ensure!(count("request") > 9, "Envoy read {} requests", count("request"));
    }
    Ok(())
}

/// Requests with these bytes as authority, path, method, header value and upgrade.
fn requests_with(bytes: &[u8]) -> [Vec<u8>; 5] {
    let put = |before: &str, after: &str| [before.as_bytes(), bytes, after.as_bytes()].concat();
    [
        put("GET / HTTP/1.1\r\nconnection: close\r\nhost: ", "\r\n\r\n"),
        put("GET /", " HTTP/1.1\r\nconnection: close\r\nhost: httpbin.org\r\n\r\n"),
        put("", " / HTTP/1.1\r\nconnection: close\r\nhost: httpbin.org\r\n\r\n"),
        put("GET / HTTP/1.1\r\nconnection: close\r\nhost: httpbin.org\r\nx-key: ", "\r\n\r\n"),
        put("GET / HTTP/1.1\r\nconnection: upgrade\r\nhost: httpbin.org\r\nupgrade: ", "\r\n\r\n"),
    ]
}

/// Sends bytes, closes the sending half and reads the answer.
fn send(pod: &Pod, to: SocketAddr, bytes: &[u8]) -> Result<Outcome> {
    pod.workload().run(|| client::exchange_in_parts(to, &[bytes], true))
}
