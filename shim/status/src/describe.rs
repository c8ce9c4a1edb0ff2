//! The status as text, for people.

use anyhow::{Context, Result};
use egress_core::proxies::HeldBack;

/// The same for people.
///
/// # Errors
/// When the text is not what `/status` gives.
pub fn describe(json: &str) -> Result<String> {
    let status: serde_json::Value = serde_json::from_str(json).context("the control plane sent no JSON")?;
    let list = |value: &'_ serde_json::Value| value.as_array().cloned().unwrap_or_default();
    let text = |value: &serde_json::Value, key: &str| value[key].as_str().unwrap_or("-").to_owned();
    let mut out = format!("mesh mode: {}\n", text(&status, "meshMode"));
    if let Some(error) = status["sourceUnavailable"].as_str() {
        out += &format!("source: {error}; the last good state is in force\n");
    }
    out += "\nOBJECTS\n";
    for object in list(&status["objects"]) {
        let accepted = if object["accepted"] == true { "accepted" } else { "NOT ACCEPTED" };
        out += &format!(
            "  {} {}/{}: {accepted}\n",
            text(&object["object"], "kind"),
            text(&object["object"], "namespace"),
            text(&object["object"], "name")
        );
    }
    out += "\nIDENTITIES\n";
    for (identity, document) in status["identities"].as_object().into_iter().flatten() {
        let (mode, version) = (text(document, "mode"), text(document, "document"));
        out += &format!("  {identity}: {mode}, {} rules, document {version}\n", document["rules"]);
    }
    out += "\nPROXIES\n";
    for proxy in list(&status["proxies"]) {
        let acknowledged = text(&proxy, "documentAcknowledged");
        let state =
            if acknowledged == text(&proxy, "documentSent") { "up to date" } else { "NOT UP TO DATE" };
        let (node, identity, envoy) = (text(&proxy, "node"), text(&proxy, "identity"), text(&proxy, "envoy"));
        out += &format!("  {node} ({identity}, Envoy {envoy}): {state}, document {acknowledged}\n");
        for (kind, status) in proxy["types"].as_object().into_iter().flatten() {
            if let Some(error) = status["rejected"]["error"].as_str() {
                out += &format!("    rejected {kind}: {error}\n");
            }
        }
        if let Ok(held_back) = serde_json::from_value::<HeldBack>(proxy["heldBack"].clone()) {
            out += &format!("    document {} is not in force: {held_back}\n", held_back.document);
        }
        for warning in list(&proxy["warnings"]) {
            out += &format!("    WARNING: {}\n", warning.as_str().unwrap_or_default());
        }
    }
    if status["flowLog"] == false && !list(&status["proxies"]).is_empty() {
        out += "  whether connections get to them is not known: `serve --flow-log` lets proxies tell of their decisions\n";
    }
    let problems = list(&status["problems"]);
    if !problems.is_empty() {
        out += "\nPROBLEMS\n";
        for problem in problems {
            let place = match (problem["file"].as_str(), problem["line"].as_u64()) {
                (Some(file), Some(line)) => format!("{file}:{line}: "),
                (Some(file), None) => format!("{file}: "),
                (None, _) => String::new(),
            };
            out += &format!("  {place}{}: {}\n", text(&problem, "severity"), text(&problem, "message"));
        }
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn warnings_in_words() {
        let with = |flow_log: bool, proxies: Vec<serde_json::Value>| {
            describe(&json!({ "flowLog": flow_log, "proxies": proxies }).to_string()).expect("a status")
        };
        let proxy = json!({ "node": "n", "identity": "a/b", "warnings": ["look here"] });
        let text = with(true, vec![proxy.clone()]);
        assert!(text.contains("up to date, document -\n    WARNING: look here\n"), "{text}");
        assert!(!text.contains("is not known"), "{text}");
        let text = with(false, vec![proxy]);
        assert!(text.contains("whether connections get to them is not known: `serve --flow-log`"), "{text}");
        assert!(!with(false, vec![]).contains("is not known"));
    }
}
