//! The status as text, for people.

use std::fmt::{Result, Write};

use crate::{ProxyStatus, Status};

/// Formats a status for people.
#[must_use]
pub fn describe(status: &Status) -> String {
    let mut out = String::new();
    // Writing to a string cannot fail.
    let _ = write(status, &mut out);
    out
}

fn write(status: &Status, out: &mut String) -> Result {
    writeln!(out, "mesh mode: {}", or_dash(&status.mesh_mode))?;
    if let Some(error) = &status.source_unavailable {
        writeln!(out, "source: {error}; the last good state is in force")?;
    }
    out.push_str("\nOBJECTS\n");
    for object in &status.objects {
        let accepted = if object.accepted { "accepted" } else { "NOT ACCEPTED" };
        let name = &object.object;
        let (kind, namespace) = (or_dash(&name.kind), or_dash(&name.namespace));
        writeln!(out, "  {kind} {namespace}/{}: {accepted}", or_dash(&name.name))?;
    }
    out.push_str("\nIDENTITIES\n");
    for (identity, document) in &status.identities {
        let (mode, version) = (or_dash(&document.mode), or_dash(&document.document));
        writeln!(out, "  {identity}: {mode}, {} rules, document {version}", document.rules)?;
    }
    out.push_str("\nPROXIES\n");
    for proxy in &status.proxies {
        write_proxy(proxy, out)?;
    }
    if !status.flow_log && !status.proxies.is_empty() {
        out.push_str(
            "  whether connections reach them is unknown: run `serve --flow-log` to make proxies report their decisions\n",
        );
    }
    if !status.diagnostics.is_empty() {
        out.push_str("\nPROBLEMS\n");
        for problem in &status.diagnostics {
            let place = match (&problem.file, problem.line) {
                (Some(file), Some(line)) => format!("{file}:{line}: "),
                (Some(file), None) => format!("{file}: "),
                (None, _) => String::new(),
            };
            writeln!(out, "  {place}{}: {}", or_dash(&problem.severity), or_dash(&problem.message))?;
        }
    }
    Ok(())
}

fn write_proxy(ProxyStatus { proxy, warnings }: &ProxyStatus, out: &mut String) -> Result {
    let state = if proxy.document_acknowledged.as_ref() == Some(&proxy.document_sent) {
        "up to date"
    } else {
        "NOT UP TO DATE"
    };
    let (node, identity, envoy) = (or_dash(&proxy.node), or_dash(&proxy.identity), or_dash(&proxy.envoy));
    let acknowledged = proxy.document_acknowledged.as_deref().unwrap_or("-");
    writeln!(out, "  {node} ({identity}, Envoy {envoy}): {state}, document {acknowledged}")?;
    for (kind, status) in &proxy.types {
        if let Some(rejection) = &status.rejected {
            writeln!(out, "    rejected {kind}: {}", rejection.error)?;
        }
    }
    if let Some(held_back) = &proxy.held_back {
        writeln!(out, "    document {} is not in force: {held_back}", held_back.document)?;
    }
    for warning in warnings {
        writeln!(out, "    WARNING: {warning}")?;
    }
    Ok(())
}

/// The text, or a dash if it is empty.
fn or_dash(text: &str) -> &str {
    if text.is_empty() { "-" } else { text }
}

#[cfg(test)]
mod tests {
    use egress_core::proxies::Proxy;

    use super::*;

    #[test]
    fn warnings_are_listed_under_their_proxy() {
        let with = |flow_log: bool, proxies: Vec<ProxyStatus>| {
            describe(&Status { flow_log, proxies, ..Status::default() })
        };
        let proxy = Proxy {
            node: "n".to_owned(),
            identity: "a/b".to_owned(),
            document_sent: "1".to_owned(),
            document_acknowledged: Some("1".to_owned()),
            ..Proxy::default()
        };
        let proxy = ProxyStatus { proxy, warnings: vec!["look here".to_owned()] };
        let text = with(true, vec![proxy.clone()]);
        assert!(text.contains(": up to date, document 1\n    WARNING: look here\n"), "{text}");
        assert!(!text.contains("is unknown"), "{text}");
        let text = with(false, vec![proxy]);
        assert!(text.contains("whether connections reach them is unknown: run `serve --flow-log`"), "{text}");
        assert!(!with(false, vec![]).contains("is unknown"));
    }
}
