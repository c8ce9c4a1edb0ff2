//! What Envoy's own log says of a connection or request: a JSON line on its standard output.

use std::net::SocketAddr;

use serde::Deserialize;

use super::Observation;

#[derive(Debug, Deserialize)]
struct Line {
    kind: Kind,
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
enum Kind {
    Connection,
    Request,
}

/// Reads a line; `None`: it is something else, or nothing was decided.
#[must_use]
pub fn read(line: &str) -> Option<Observation> {
    let Line { kind, dialled, decision, name, server_name, authority, method, path, upgrade, refused } =
        serde_json::from_str(line.trim()).ok()?;
    match kind {
        Kind::Connection => {
            Observation::connection(&decision?, dialled, name.as_deref(), server_name.as_deref())
        }
        Kind::Request => Observation::request(
            decision.as_deref(),
            dialled,
            &authority.unwrap_or_default(),
            (&method.unwrap_or_default(), &path.unwrap_or_default(), upgrade.as_deref()),
            refused.as_deref(),
        ),
    }
}
