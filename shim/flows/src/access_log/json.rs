//! Lines of Envoy's JSON access log, as the proxy writes them to its standard output.

use std::net::SocketAddr;

use serde::Deserialize;

use crate::Observation;

#[derive(Debug, Deserialize)]
struct LogLine {
    kind: LineKind,
    dialled: SocketAddr,
    decision: Option<String>,
    name: Option<String>,
    server_name: Option<String>,
    authority: Option<String>,
    method: Option<String>,
    path: Option<String>,
    upgrade: Option<String>,
    refused: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum LineKind {
    Connection,
    Request,
}

/// Reads a line. Returns `None` if it is no access log line, or holds no decision.
#[must_use]
pub fn read_line(line: &str) -> Option<Observation> {
    let LogLine { kind, dialled, decision, name, server_name, authority, method, path, upgrade, refused } =
        serde_json::from_str(line.trim()).ok()?;
    match kind {
        LineKind::Connection => {
            Observation::from_connection(&decision?, dialled, name.as_deref(), server_name.as_deref())
        }
        LineKind::Request => Observation::from_request(
            decision.as_deref(),
            dialled,
            &authority.unwrap_or_default(),
            (&method.unwrap_or_default(), &path.unwrap_or_default(), upgrade.as_deref()),
            refused.as_deref(),
        ),
    }
}
