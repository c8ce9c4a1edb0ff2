//! What a workload chooses to send harms nobody who looks at it.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use egress_tests::client;
use egress_tests::hello::Hello;
use egress_tests::mesh::{self, CONTROL_PLANE, EXAMPLE, HTTPBIN, World};
use egress_tests::netns::ensure_capable;
use egress_tests::told;
use egress_tests::wait::wait_for;
use egress_tests::xds::Proxy;
use serde_json::Value;

use super::{ask, run, told as told_of};

const ACCOUNT: &str = "apiVersion: v1
kind: Namespace
metadata: {name: curl, annotations: {openservicemesh.io/egress-mode-delegation: service-accounts}}
---
apiVersion: v1
kind: ServiceAccount
metadata: {name: curl, namespace: curl, annotations: {openservicemesh.io/egress-mode: audit}}
";

/// Terminal escapes, HTML, ends of lines, comments and lists of YAML, letters that turn or hide others, what is no
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

/// As text, which is all that a protobuf string can be.
fn texts() -> Vec<String> {
    hostile().iter().map(|bytes| String::from_utf8_lossy(bytes).into_owned()).collect()
}

fn is_plain(text: &str) -> bool {
    text.chars().all(|c| c == '\n' || c == ' ' || c == '…' || c.is_ascii_graphic())
}

/// What people and programs are shown, however it came about. Some hosts are in no suggestion, and neither are
/// `others`.
fn shown(world: &World, others: &[&str]) -> Result<String> {
    let mut suggested = String::new();
    for words in [
        &["flows"][..],
        &["flows", "-o", "json"],
        &["suggest", "--identity", "curl/curl"],
        &["simulate", "-f", &world.manifests.path().to_string_lossy()],
        &["simulate", "-o", "json", "-f", &world.manifests.path().to_string_lossy()],
    ] {
        let said = ask(world, words)?;
        let text = said.out;
        ensure!(said.success || words[0] == "simulate", "{words:?}: {text}{}", said.err);
        ensure!(is_plain(&text) && is_plain(&said.err), "{words:?}: {text:?} {:?}", said.err);
        ensure!(text.len() < 1 << 20, "{words:?}: {} bytes", text.len());
        if words.contains(&"json") {
            let _: Value = serde_json::from_str(&text).with_context(|| format!("{words:?}: {text}"))?;
        }
        if words[0] == "suggest" {
            suggested = text;
        }
    }
    // It is valid, and allows what can be a name and nothing else.
    let folder = tempfile::tempdir()?;
    std::fs::write(folder.path().join("suggested.yaml"), &suggested)?;
    let said = run(world, &["check", &folder.path().to_string_lossy()])?;
    ensure!(said.success, "{}{}\n{suggested}", said.out, said.err);
    for host in ["evil.example", "www.evil.example", "live.org", "ab.org"].iter().chain(others) {
        for scheme in ["http", "https"] {
            let to = format!("{scheme}://{host}");
            let folder = folder.path().to_string_lossy();
            let words = ["explain", "--config-dir", &folder, "--identity", "curl/curl", "--to", &to];
            let said = run(world, &words)?;
            ensure!(said.out.contains("DENIED"), "{}{}\n{suggested}", said.out, said.err);
        }
    }
    Ok(suggested)
}

/// Every byte, through a real sidecar.
#[test]
fn through_a_sidecar() -> Result<()> {
    ensure_capable()?;
    let world = World::new()?;
    world.write("account.yaml", ACCOUNT)?;
    world.write("httpbin-80.yaml", &mesh::sample("httpbin-80.yaml")?)?;
    world.write("httpbin-443.yaml", &mesh::sample("httpbin-443.yaml")?)?;
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("flows.db");
    let flags = ["--flow-log", "--flow-db", &file.to_string_lossy()];
    let pod = world.pod()?;
    let shim = world.shim(&flags)?;
    let envoy = mesh::sidecar(&pod, false)?;
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
            // Whatever comes back.
            let _ = pod.workload().run(|| client::http(http, &request))?;
        }
        let hello = Hello::with_names(&[&bytes[..bytes.len().min(60_000)]]).bytes();
        let _ = pod.workload().run(|| client::exchange(https, &hello))?;
    }
    // What follows is told of all the same.
    mesh::get(&pod, http, "last.example", "/last")?;
    mesh::get_tls(&pod, https, Some("last.example"))?;
    let mut flows = Vec::new();
    wait_for("the last ones", Duration::from_secs(15), || {
        flows = told_of(&shim, "curl/curl").unwrap_or_default();
        flows.iter().filter(|flow| flow["name"] == "last.example").count() == 2
    })
    .with_context(|| format!("{flows:#?}\n{}", shim.log()))?;
    // Envoy refuses most of it by itself; some comes through.
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
    // JSON escapes those of ASCII; others, and marks of direction, are letters to it.
    ensure!(log.chars().all(|c| c == '\n' || c >= ' '), "control characters in Envoy's log");
    ensure!(is_plain(&shim.log()), "{:?}", shim.log());

    // `GET http://a.org` and the end of a line is a request for that host to Envoy, of HTTP/0.9.
    let suggested = shown(&world, &[])?;
    ensure!(suggested.contains("- last.example #"), "{suggested}");
    // The log itself says the same.
    let file = folder.path().join("envoy.log");
    std::fs::write(&file, envoy.log_bytes())?;
    let said = run(&world, &["suggest", "--identity", "curl/curl", "--log", &file.to_string_lossy()])?;
    ensure!(said.success && is_plain(&said.out) && said.out.contains("- last.example #"), "{}", said.out);

    let before = told_of(&shim, "curl/curl")?;
    shim.stop()?;
    let shim = world.shim(&flags)?;
    ensure!(told_of(&shim, "curl/curl")? == before, "{before:#?}");
    ensure!(shown(&world, &[])? == suggested, "{suggested}");
    Ok(())
}

/// What a sidecar that is not Envoy could tell.
#[test]
fn straight_into_the_control_plane() -> Result<()> {
    ensure_capable()?;
    let world = World::new()?;
    world.write("account.yaml", ACCOUNT)?;
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("flows.db");
    let flags = ["--flow-log", "--flow-db", &file.to_string_lossy()];
    let shim = world.shim(&flags)?;
    let xds = SocketAddr::new(CONTROL_PLANE, 15128);
    let (http, https) = (SocketAddr::new(HTTPBIN, 80), SocketAddr::new(HTTPBIN, 443));
    for (bytes, text) in hostile().iter().zip(texts()) {
        let audit = b"allow audit - - sni-not-allowed";
        let connections = vec![
            told::connection(https, audit, Some(bytes)),
            told::connection(https, bytes, Some(bytes)),
            told::connection(https, &[b"deny no-rule ", &bytes[..], b" ", bytes].concat(), None),
        ];
        let denied = b"deny host-not-allowed - -";
        let requests = vec![
            told::request(http, denied, &text, &text, &text),
            told::request(http, denied, "last.example", &format!("/{text}"), &text),
            told::request(http, &[b"deny ", &bytes[..]].concat(), "b.example", "/", ""),
        ];
        // A header of gRPC is the only place where the node's id could not be so.
        let node = format!("{}.curl.curl", text.chars().take(2_000).collect::<String>().replace('.', "-"));
        let proxy = Proxy { node: &node, ..Proxy::default() };
        let messages = vec![told::connections(connections), told::requests(requests)];
        proxy.tell(&world.outside.netns, xds, messages)?.with_context(|| format!("{text:.100}"))?;
    }
    ensure!(is_plain(&shim.log()), "{:?}", shim.log());
    let suggested = shown(&world, &["a.org"])?;
    ensure!(suggested.contains("- last.example #"), "{suggested}");
    let before = told_of(&shim, "curl/curl")?;
    ensure!(before.len() > 20, "{before:#?}");
    shim.stop()?;
    let shim = world.shim(&flags)?;
    ensure!(told_of(&shim, "curl/curl")? == before, "{before:#?}");
    Ok(())
}

/// What a user asks about may be what a workload chose.
#[test]
fn asked_about() -> Result<()> {
    ensure_capable()?;
    let world = World::new()?;
    world.write("httpbin-80.yaml", &mesh::sample("httpbin-80.yaml")?)?;
    world.write("httpbin-443.yaml", &mesh::sample("httpbin-443.yaml")?)?;
    let manifests = world.manifests.path().to_string_lossy();
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
                let said = run(&world, &[&common[..], words].concat())?;
                let said = said.out + &said.err;
                let is_safe = said.chars().all(|c| c == '\n' || !c.is_control() && !turns(c));
                ensure!(is_safe, "{words:?}: {said:?}");
            }
        }
    }
    Ok(())
}

/// Whether a character changes how others are shown, or cannot be seen.
fn turns(c: char) -> bool {
    matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}')
}
