//! The shared corpus in the browser's module.

use anyhow::{Context, Result};
use egress_tests::corpus;
use serde_json::{Value, json};

use crate::page::Page;

/// The form of a page, filled in for a case.
fn connection(case: &corpus::Case) -> Value {
    let to = case.to;
    let mut form = json!({ "source": "curl/curl", "to": format!("tcp://{to}") });
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

#[test]
fn the_same_as_everywhere() -> Result<()> {
    let page = Page::open()?;
    for corpus in corpus::all()? {
        // The page's own module, with the page's own glue.
        let script = "const engine = await import('/egress_playground.js'); \
            return arguments[1].map((one) => engine.explain(arguments[0], JSON.stringify(one)));";
        let script = format!("return (async (...arguments) => {{ {script} }})(...arguments)");
        let asked: Vec<Value> = corpus.cases.iter().map(connection).collect();
        let said = page.browser.script(&script, &json!([corpus.manifests, asked]))?;
        for (index, case) in corpus.cases.iter().enumerate() {
            let name = format!("{}: {}", corpus.name, case.name);
            let text = said[index].as_str().with_context(|| format!("{name}: no answer"))?;
            let said: Value = serde_json::from_str(text)?;
            assert_eq!(corpus::reported(&said["report"]), case.expect, "{name}: {said:#}");
        }
    }
    page.is_well()
}
