//! Hostile bytes of a workload, and everybody who looks at them.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use egress_tests::client;
use egress_tests::hello::Hello;
use egress_tests::log_entries;
use egress_tests::manifests::{self, audited_account};
use egress_tests::netns::ensure_capable;
use egress_tests::network::{CONTROL_PLANE, EXAMPLE, HTTPBIN, TestNetwork};
use egress_tests::sidecar;
use egress_tests::wait::wait_for;
use egress_tests::workload;
use egress_tests::xds::XdsClient;
use serde_json::Value;

use super::{fetch_flows, run, run_with_admin};

/// Terminal escapes, HTML, line ends, YAML comments and lists, letters that reverse or hide others, invalid
/// UTF-8, and 64 KB.
fn hostile() -> Vec<Vec<u8>> {
    [
        &b"\x1b]0;owned\x07\x1b[2J"[..],
        b"<script>alert(1)</script>",
        b"\"><img src=x onerror=alert(1)>",
        b"a.org\n- evil.example",
        b"a.org\r- evil.example",
        b"a.org # \"*.evil.example\"",
        b"'*.evil.example'",
        b"\"}\n{\"decision\":\"allow rule - -\"}",
        b"%{DECISION}%%REQ(:PATH)%",
        "\u{202e}gro.live\u{2066}".as_bytes(),
        "a\u{200b}b\u{feff}.org".as_bytes(),
        "\u{85}\u{2028}- evil.example".as_bytes(),
        b"\x00\x01\x7f\x80",
        b"\xff\xfe\xc3(\xed\xa0\x80",
    ]
    .into_iter()
    .map(<[u8]>::to_vec)
    .chain([b"x".repeat(64 << 10), b"\x1b[2J".repeat(10 << 10), b"a.".repeat(20 << 10)])
    .collect()
}

/// The same as text, which is all that a protobuf string can hold.
fn texts() -> Vec<String> {
    hostile().iter().map(|bytes| String::from_utf8_lossy(bytes).into_owned()).collect()
}

fn is_plain(text: &str) -> bool {
    text.chars().all(|c| c == '\n' || c == ' ' || c == '…' || c.is_ascii_graphic())
}

/// The output for people and programs, from any source. Hosts that are hostile, and `others`, are in no
/// suggestion.
fn collect_outputs(network: &TestNetwork, others: &[&str]) -> Result<String> {
    let mut suggested = String::new();
    for words in [
        &["flows"][..],
        &["flows", "-o", "json"],
        &["suggest", "--identity", "curl/curl"],
        &["simulate", "-f", &network.manifests.path().to_string_lossy()],
        &["simulate", "-o", "json", "-f", &network.manifests.path().to_string_lossy()],
    ] {
        let message = run_with_admin(network, words)?;
        let text = message.stdout;
        ensure!(message.success || words[0] == "simulate", "{words:?}: {text}{}", message.stderr);
        ensure!(is_plain(&text) && is_plain(&message.stderr), "{words:?}: {text:?} {:?}", message.stderr);
        ensure!(text.len() < 1 << 20, "{words:?}: {} bytes", text.len());
        if words.contains(&"json") {
            let _: Value = serde_json::from_str(&text).with_context(|| format!("{words:?}: {text}"))?;
        }
        if words[0] == "suggest" {
            suggested = text;
        }
    }
    // The suggestion is valid, and allows only hosts that can be names.
    let folder = tempfile::tempdir()?;
    std::fs::write(folder.path().join("suggested.yaml"), &suggested)?;
    let message = run(network, &["check", &folder.path().to_string_lossy()])?;
    ensure!(message.success, "{}{}\n{suggested}", message.stdout, message.stderr);
    for host in ["evil.example", "www.evil.example", "live.org", "ab.org"].iter().chain(others) {
        for scheme in ["http", "https"] {
            let to = format!("{scheme}://{host}");
            let folder = folder.path().to_string_lossy();
            let words = ["explain", "--config-dir", &folder, "--identity", "curl/curl", "--to", &to];
            let message = run(network, &words)?;
            ensure!(message.stdout.contains("DENIED"), "{}{}\n{suggested}", message.stdout, message.stderr);
        }
    }
    Ok(suggested)
}

/// Hostile bytes through a real sidecar are shown as plain text.
#[test]
fn hostile_bytes_through_a_sidecar_are_shown_as_text() -> Result<()> {
    ensure_capable()?;
    let network = TestNetwork::new()?;
    network.write("account.yaml", &audited_account("curl"))?;
    network.write("httpbin-80.yaml", &manifests::sample("httpbin-80.yaml")?)?;
    network.write("httpbin-443.yaml", &manifests::sample("httpbin-443.yaml")?)?;
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("flows.db");
    let flags = ["--flow-log", "--flow-db", &file.to_string_lossy()];
    let pod = network.pod()?;
    let control_plane = network.control_plane(&flags)?;
    let envoy = sidecar::start(&pod, false)?;
    let began = envoy.log_bytes().len();
    let (http, https) = (SocketAddr::new(EXAMPLE, 80), SocketAddr::new(EXAMPLE, 443));
    let end = b" HTTP/1.1\r\nhost: a.example\r\nconnection: close\r\n\r\n";
    for bytes in hostile() {
        let requests = [
            [&b"GET /"[..], &bytes, end].concat(),
            [&bytes[..], b" /", end].concat(),
            [&b"GET / HTTP/1.1\r\nconnection: close\r\nhost: "[..], &bytes, b"\r\n\r\n"].concat(),
            [&b"GET http://"[..], &bytes, b"/", end].concat(),
            [
                &b"GET / HTTP/1.1\r\nhost: a.example\r\nconnection: close\r\nuser-agent: "[..],
                &bytes,
                b"\r\n\r\n",
            ]
            .concat(),
            [
                &b"GET / HTTP/1.1\r\nhost: a.example\r\nconnection: upgrade\r\nupgrade: "[..],
                &bytes,
                b"\r\n\r\n",
            ]
            .concat(),
        ];
        for request in requests {
            // The response does not matter.
            let _ = pod.workload().run(|| client::http(http, &request))?;
        }
        let hello = Hello::with_names(&[&bytes[..bytes.len().min(60_000)]]).bytes();
        let _ = pod.workload().run(|| client::exchange(https, &hello))?;
    }
    // Later connections are reported all the same.
    workload::get(&pod, http, "last.example", "/last")?;
    workload::get_tls(&pod, https, Some("last.example"))?;
    let mut flows = Vec::new();
    wait_for("the last ones", Duration::from_secs(15), || {
        flows = fetch_flows(&control_plane, "curl/curl").unwrap_or_default();
        flows.iter().filter(|flow| flow["name"] == "last.example").count() == 2
    })
    .with_context(|| format!("{flows:#?}\n{}", control_plane.log()))?;
    // Envoy itself refuses most of it.
    let has = |text: &str| flows.iter().any(|flow| flow["requests"].to_string().contains(text));
    ensure!(has("%3Cscript%3E") && has("\"upgrade\":\"<script>") && has("a.org # "), "{flows:#?}");

    // Envoy's output: its own lines, and a JSON object for each connection and request.
    let log = String::from_utf8(envoy.log_bytes().split_off(began)).context("Envoy's log is no UTF-8")?;
    let mut objects = 0;
    for line in log.lines().filter(|line| !line.starts_with('[')) {
        let value: Value = serde_json::from_str(line).with_context(|| format!("no JSON: {line:?}"))?;
        ensure!(value.is_object(), "{line:?}");
        objects += 1;
    }
    ensure!(objects > hostile().len() * 4, "{objects} lines");
    // JSON escapes control characters of ASCII only, not bidirectional marks.
    ensure!(log.chars().all(|c| c == '\n' || c >= ' '), "control characters in Envoy's log");
    ensure!(is_plain(&control_plane.log()), "{:?}", control_plane.log());

    // `GET http://a.org` and the end of a line is a request for that host to Envoy, of HTTP/0.9.
    let suggested = collect_outputs(&network, &[])?;
    ensure!(suggested.contains("- last.example #"), "{suggested}");
    // The log gives the same result.
    let file = folder.path().join("envoy.log");
    std::fs::write(&file, envoy.log_bytes())?;
    let message = run(&network, &["suggest", "--identity", "curl/curl", "--log", &file.to_string_lossy()])?;
    ensure!(
        message.success && is_plain(&message.stdout) && message.stdout.contains("- last.example #"),
        "{}",
        message.stdout
    );

    let before = fetch_flows(&control_plane, "curl/curl")?;
    control_plane.stop()?;
    let control_plane = network.control_plane(&flags)?;
    ensure!(fetch_flows(&control_plane, "curl/curl")? == before, "{before:#?}");
    ensure!(collect_outputs(&network, &[])? == suggested, "{suggested}");
    Ok(())
}

/// Hostile reports of a client that is not Envoy are shown as plain text.
#[test]
fn hostile_reports_are_shown_as_text() -> Result<()> {
    ensure_capable()?;
    let network = TestNetwork::new()?;
    network.write("account.yaml", &audited_account("curl"))?;
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("flows.db");
    let flags = ["--flow-log", "--flow-db", &file.to_string_lossy()];
    let control_plane = network.control_plane(&flags)?;
    let xds = SocketAddr::new(CONTROL_PLANE, 15128);
    let (http, https) = (SocketAddr::new(HTTPBIN, 80), SocketAddr::new(HTTPBIN, 443));
    for (bytes, text) in hostile().iter().zip(texts()) {
        let audit = b"allow audit - - sni-not-allowed";
        let connections = vec![
            log_entries::connection(https, audit, Some(bytes)),
            log_entries::connection(https, bytes, Some(bytes)),
            log_entries::connection(https, &[b"deny no-rule ", &bytes[..], b" ", bytes].concat(), None),
        ];
        let denied = b"deny host-not-allowed - -";
        let requests = vec![
            log_entries::request(http, denied, &text, &text, &text),
            log_entries::request(http, denied, "last.example", &format!("/{text}"), &text),
            log_entries::request(http, &[b"deny ", &bytes[..]].concat(), "b.example", "/", ""),
        ];
        // Only in a gRPC header could the node's id not have these bytes.
        let node = format!("{}.curl.curl", text.chars().take(2_000).collect::<String>().replace('.', "-"));
        let proxy = XdsClient { node: &node, ..XdsClient::default() };
        let messages = vec![log_entries::connections(connections), log_entries::requests(requests)];
        proxy
            .send_log_entries(&network.outside.netns, xds, messages)?
            .with_context(|| format!("{text:.100}"))?;
    }
    ensure!(is_plain(&control_plane.log()), "{:?}", control_plane.log());
    let suggested = collect_outputs(&network, &["a.org"])?;
    ensure!(suggested.contains("- last.example #"), "{suggested}");
    let before = fetch_flows(&control_plane, "curl/curl")?;
    ensure!(before.len() > 20, "{before:#?}");
    control_plane.stop()?;
    let control_plane = network.control_plane(&flags)?;
    ensure!(fetch_flows(&control_plane, "curl/curl")? == before, "{before:#?}");
    Ok(())
}

/// Hostile names in a user's question are shown as plain text.
#[test]
fn hostile_names_in_questions_are_shown_as_text() -> Result<()> {
    ensure_capable()?;
    let network = TestNetwork::new()?;
    network.write("httpbin-80.yaml", &manifests::sample("httpbin-80.yaml")?)?;
    network.write("httpbin-443.yaml", &manifests::sample("httpbin-443.yaml")?)?;
    let manifests = network.manifests.path().to_string_lossy();
    for text in texts() {
        // No argument has a zero byte.
        let text = text.replace('\0', "");
        let header = format!("x-a: {text}");
        for words in [
            &["--to", &text][..],
            &["--to", &format!("http://{text}/")],
            &["--to", &format!("http://httpbin.org/{text}")],
            &["--to", "http://httpbin.org/", "--method", &text],
            &["--to", "http://httpbin.org/", "--header", &header],
            &["--to", "https://httpbin.org/", "--sni", &text],
            &["--to", "https://httpbin.org/", "--client-hello-hex", &text],
        ] {
            for output in ["text", "json"] {
                let common = ["explain", "--config-dir", &manifests, "--identity", "curl/curl", "-o", output];
                let message = run(&network, &[&common[..], words].concat())?;
                let message = message.stdout + &message.stderr;
                let is_safe = message.chars().all(|c| c == '\n' || !c.is_control() && !changes_display(c));
                ensure!(is_safe, "{words:?}: {message:?}");
            }
        }
    }
    Ok(())
}

/// Returns true if a character is invisible or changes the order of others.
fn changes_display(c: char) -> bool {
    matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}')
}
