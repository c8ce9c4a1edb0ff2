//! `docs/explain.md`: each command in it prints what it says there. `UPDATE_DOCS=1` writes it anew.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

const BINARY: &str = env!("CARGO_BIN_EXE_osm-egress");

fn page() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/explain.md")
}

/// The text between the first fence of this kind and its end.
fn block<'t>(text: &'t str, kind: &str) -> Option<&'t str> {
    let start = text.find(&format!("\n```{kind}\n"))? + kind.len() + 5;
    let length = text[start..].find("\n```\n")?;
    Some(&text[start..=start + length])
}

/// A folder with the manifests of the page.
fn folder() -> tempfile::TempDir {
    let text = std::fs::read_to_string(page()).expect("the page");
    let folder = tempfile::tempdir().expect("a folder");
    let manifests = folder.path().join("manifests");
    std::fs::create_dir(&manifests).expect("made");
    std::fs::write(manifests.join("shop.yaml"), block(&text, "yaml").expect("manifests")).expect("written");
    let expected = block(&text, "yml").expect("cases");
    std::fs::write(folder.path().join("expected.yaml"), expected).expect("written");
    folder
}

fn shell(folder: &Path, line: &str) -> Output {
    let path = Path::new(BINARY).parent().expect("a folder").display().to_string();
    let all = format!("{path}:{}", std::env::var("PATH").unwrap_or_default());
    Command::new("sh").args(["-c", line]).env("PATH", all).current_dir(folder).output().expect("runs")
}

#[test]
fn each_example_prints_its_documented_output() {
    let text = std::fs::read_to_string(page()).expect("the page");
    let folder = folder();
    let mut page_now = String::new();
    let version = regex_lite::Regex::new("document [0-9a-f]{16}").expect("a pattern");
    let (mut inside, mut commands) = (false, 0);
    for line in text.lines() {
        match line {
            "```console" => inside = true,
            "```" => inside = false,
            _ => {}
        }
        let command = line.strip_prefix("$ ").filter(|_| inside);
        // Inside, everything but commands is what they print.
        if inside && command.is_none() && line != "```console" {
            continue;
        }
        page_now.push_str(line);
        page_now.push('\n');
        if let Some(command) = command {
            let output = shell(folder.path(), command);
            assert!(output.stderr.is_empty(), "{command}: {}", String::from_utf8_lossy(&output.stderr));
            let printed = String::from_utf8(output.stdout).expect("text");
            // Which one it is means nothing to a reader.
            let printed = version.replace_all(&printed, "document 5d41402abc4b2a76");
            assert!(!printed.contains("\n```"), "{command}: it prints a fence");
            page_now.push_str(&printed);
            commands += 1;
        }
    }
    assert!(commands >= 5, "{commands} commands");
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(page(), &page_now).expect("written");
    } else {
        assert_eq!(text, page_now, "docs/explain.md is out of date: run this test with UPDATE_DOCS=1");
    }
}

fn run(folder: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(BINARY);
    // Neither the machine's nor a pod's cluster.
    command.env_remove("KUBECONFIG").env_remove("KUBERNETES_SERVICE_HOST").env("HOME", folder);
    command.arg("explain").args(arguments).current_dir(folder).output().expect("runs")
}

#[test]
fn exit_codes() {
    let folder = folder();
    std::fs::write(folder.path().join("document.json"), "{}").expect("written");
    let base = ["--config-dir", "manifests", "--source", "shop/app"];
    for (arguments, code, message) in [
        (&["--to", "https://httpbin.org"][..], 0, ""),
        (&["--to", "https://a.org"], 3, ""),
        (&["--to", "tcp://198.51.100.1:5432"], 0, ""),
        (&["--to", "tcp://db.org:5432", "--address", "203.0.113.1"], 3, ""),
        (&["--to", "http://api.partner.net/orders/1"], 0, ""),
        (&["--to", "http://api.partner.net/orders/1", "--header", "upgrade: websocket"], 0, ""),
        (
            &[
                "--to",
                "http://api.partner.net/orders/1",
                "--header",
                "connection: upgrade",
                "--header",
                "upgrade: websocket",
            ],
            3,
            "",
        ),
        (&["--to", "ws://api.partner.net/orders/1"], 3, ""),
        (&["--to", "tcp://203.0.113.1:443", "--sni", "httpbin.org"], 0, ""),
        (&["--to", "tcp://203.0.113.1:443", "--sni", "httpbin.org", "--ech"], 0, ""),
        (&["--to", "https://httpbin.org", "--ech", "--encrypted-hello", "refuse"], 3, ""),
        (&["--to", "https://httpbin.org", "--sni", "httpbin.org."], 0, ""),
        (&["--to", "https://httpbin.org", "--sni", "httpbin.org.."], 3, ""),
        (&["--to", "http://api.partner.net/%6Frders/1"], 0, ""),
        (&["--to", "http://api.partner.net/orders/1%00"], 3, ""),
        (&["--to", "http://api.partner.net/orders/1", "--method", "FOO"], 3, ""),
        (&["--to", "tcp://203.0.113.1:443", "--client-hello-hex", "16 03 01"], 3, ""),
        (&["--to-ext-port", "443", "--to-ext-host", "httpbin.org", "--app-protocol", "https"], 0, ""),
        (&["--to-ext-port", "443"], 1, "--to-ext-host"),
        (&["--to", "ftp://a.org"], 1, "`ftp` is not a supported scheme"),
        (&["--to", "https://a.org", "--method", "PUT"], 1, "`--method` and `--header` apply only to http://"),
        (&["--to", "https://a.org", "--admin", "127.0.0.1:1"], 1, "cannot reach a control plane"),
        (&[], 2, "--to"),
        (&["--to", "https://a.org", "--pod", "a/b"], 2, "--pod"),
        (&["--to", "https://a.org", "--address", "1.2.3.4", "--resolve"], 2, "--resolve"),
    ] {
        let output = run(folder.path(), &[&base[..], arguments].concat());
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {stderr}");
        assert!(
            stderr.contains(message) && (code == 1 || code == 2) != stderr.is_empty(),
            "{arguments:?}: {stderr}"
        );
    }
    for (arguments, message) in [
        (&["--to", "https://a.org", "--config-dir", "manifests"][..], "pass `--identity"),
        (&["--to", "https://a.org"], "pass `--identity"),
        (&["--to", "https://a.org", "--source", "a/b"], "there is no folder and no cluster"),
        (&["--to", "https://a.org", "--source", "a/b", "--config-dir", "none"], "name a folder that exists"),
        (&["--to", "https://a.org", "--document", "document.json"], "no policy document"),
        (&["--to", "https://a.org", "--document", "none.json"], "cannot read the document"),
    ] {
        let output = run(folder.path(), arguments);
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{arguments:?}: {stderr}");
        assert!(stderr.contains(message), "{arguments:?}: {stderr}");
    }
}

fn test(folder: &Path, arguments: &[&str]) -> (Option<i32>, String, String) {
    let mut command = Command::new(BINARY);
    command.arg("test").args(["--config-dir", "manifests"]).args(arguments).current_dir(folder);
    let output = command.output().expect("runs");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code(), text(&output.stdout), text(&output.stderr))
}

#[test]
fn expected_verdicts() {
    let folder = folder();
    let write = |text: &str| std::fs::write(folder.path().join("cases.yaml"), text).expect("written");
    let case = "- {name: a, source: shop/app, to: 'https://httpbin.org', expect: allow";
    for (text, code, message) in [
        (format!("{case}}}\n"), 0, "1 case, 0 failed"),
        (format!("{case}, reason: rule, policy: shop/web, rule: 'spec.ports[0]'}}\n"), 0, "ok    a"),
        (format!("{case}, policy: shop/other}}\n"), 1, "FAIL  a  cases.yaml:1"),
        (format!("{case}, reason: audit}}\n"), 1, "actual   allow rule by shop/web spec.ports[0]"),
        (format!("\n{case}, reason: oops}}\n"), 1, "cases.yaml:2: `oops` is not a reason code"),
        (format!("{case}, want: x}}\n"), 1, "cases.yaml:1: unknown field `want`"),
        ("- {name: a, source: shop/app, to: 'x', expect: allow}\n".to_owned(), 1, "has no port"),
        ("- {name: a, to: 'https://a.org', expect: deny}\n".to_owned(), 1, "`identity: NAMESPACE"),
        ("a: [\n".to_owned(), 1, "cases.yaml:"),
        ("a: b\n".to_owned(), 1, "not a list of test cases"),
        ("[]\n".to_owned(), 1, "has no test cases"),
    ] {
        write(&text);
        let (found, stdout, stderr) = test(folder.path(), &["cases.yaml"]);
        assert_eq!(found, Some(code), "{text}: {stdout}{stderr}");
        assert!(stdout.contains(message) || stderr.contains(message), "{text}: {stdout}{stderr}");
    }
    let (code, stdout, _) =
        test(folder.path(), &["expected.yaml", "--junit", "report.xml", "--output", "json"]);
    let results: serde_json::Value = serde_json::from_str(&stdout).expect("JSON");
    assert_eq!((code, results["cases"].as_array().map(Vec::len)), (Some(1), Some(4)));
    assert_eq!(results["cases"][3]["actual"], "deny no-rule");
    assert_eq!(results["cases"][3]["report"]["reason"], "no-rule");
    let report = std::fs::read_to_string(folder.path().join("report.xml")).expect("a report");
    assert!(report.contains("<testsuite name=\"osm-egress\" tests=\"4\" failures=\"1\">"), "{report}");
    assert!(report.contains("expected allow, actual deny no-rule"), "{report}");
}
