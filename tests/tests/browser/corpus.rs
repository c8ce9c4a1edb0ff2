//! The shared corpus in the browser's module: its results equal those of the command line.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::page::Page;
use anyhow::{Context, Result, ensure};
use egress_tests::control_plane;
use egress_tests::corpus;
use serde_json::{Value, json};

/// The fields of the page's form for a case.
fn connection(case: &corpus::Case) -> Value {
    let to = case.to;
    let mut form = json!({ "identity": "curl/curl", "to": format!("tcp://{to}") });
    let mut headers: Vec<String> =
        case.headers.iter().map(|(name, value)| format!("{name}: {value}")).collect();
    match (&case.tls, case.request(), case.bytes.as_deref()) {
        (Some(name), _, _) if name.is_empty() => form["noSni"] = json!(true),
        (Some(name), _, _) => form["sni"] = json!(name),
        (None, Some(http), _) => {
            form["to"] = json!(format!("http://{to}"));
            form["path"] = json!(http.path);
            form["method"] = json!(http.method);
            headers.push(format!("host: {}", http.authority));
        }
        (None, None, None | Some("")) => form["to"] = json!(format!("tcp-server-first://{to}")),
        (None, None, Some(bytes)) => {
            let hex: String = bytes.bytes().map(|byte| format!("{byte:02x} ")).collect();
            form["clientHello"] = json!(hex);
        }
    }
    if case.request().is_some() {
        form["headers"] = json!(headers.join("\n"));
    }
    form
}

/// The JSON output of the command line for a folder with this one file.
fn native(folder: &Path, command: &str, arguments: &[String]) -> Result<Value> {
    let output = Command::new(control_plane::binary()?)
        .args([command, "--output", "json", "--config-dir"])
        .arg(folder)
        .args(arguments)
        .output()?;
    let text = String::from_utf8(output.stdout)?.replace(&format!("{}/", folder.display()), "");
    serde_json::from_str(&text).with_context(|| String::from_utf8_lossy(&output.stderr).into_owned())
}

#[test]
fn the_browser_decides_the_corpus_like_the_command_line() -> Result<()> {
    let page = Page::open()?;
    let folder = tempfile::tempdir()?;
    for corpus in corpus::load_all()? {
        fs::write(folder.path().join("manifests.yaml"), &corpus.manifests)?;
        let requested: Vec<Value> = corpus.cases.iter().map(connection).collect();
        // Every other case expects the actual verdict.
        let rows = corpus.cases.iter().zip(&requested).enumerate().map(|(index, (case, connection))| {
            let is_so = case.expect.starts_with("allow") == (index % 2 == 0);
            json!({ "name": case.name, "expect": if is_so { "allow" } else { "deny" }, "connection": connection })
        });
        let rows: Vec<Value> = rows.collect();
        // The page's own module, with the page's own glue.
        let script = "const engine = await import('/egress_playground.js'); \
            const [manifests, asked, rows] = [arguments[0], arguments[1], JSON.stringify(arguments[2])]; \
            return [asked.map((one) => engine.explain(manifests, JSON.stringify(one))), \
                engine.run_cases(manifests, rows), engine.export_cases(rows)];";
        let script = format!("return (async (...arguments) => {{ {script} }})(...arguments)");
        let reply = page.browser.script(&script, &json!([corpus.manifests, requested, rows]))?;
        for (index, case) in corpus.cases.iter().enumerate() {
            let name = format!("{}: {}", corpus.name, case.name);
            let text = reply[0][index].as_str().with_context(|| format!("{name}: no answer"))?;
            let reply: Value = serde_json::from_str(text)?;
            assert_eq!(corpus::format_report(&reply["report"]), case.expect, "{name}: {reply:#}");
            let mut arguments = corpus::explain_arguments(case);
            arguments.push("--identity=curl/curl".to_owned());
            let native = native(folder.path(), "explain", &arguments)?;
            assert_eq!(reply["report"], native, "{name}");
        }
        // The table of cases, and `osm-egress test` on the file that it is saved as.
        let file = tempfile::NamedTempFile::new()?;
        fs::write(file.path(), reply[2].as_str().context("no file")?)?;
        let native = native(folder.path(), "test", &[file.path().to_string_lossy().into_owned()])?;
        let table: Vec<Value> = serde_json::from_str(reply[1].as_str().context("no table")?)?;
        for (index, row) in table.iter().enumerate() {
            for part in ["passed", "expected", "actual"] {
                assert_eq!(
                    row[part], native["cases"][index][part],
                    "{}: {}",
                    corpus.name, corpus.cases[index].name
                );
            }
        }
        ensure!(native["cases"].as_array().map(Vec::len) == Some(table.len()), "{native:#}");
    }
    page.expect_no_errors()
}
