//! A connection, as the page's form has it.

use std::net::IpAddr;

use egress_compile::explain::call::Words;
use egress_compile::explain::evidence::Evidence;
use egress_compile::explain::{Ask, PlacedRuling, Report, explain as answer};
use serde::Deserialize;
use serde_json::{Value, json};

/// The port of the outbound listener, unless `serve` is told another.
pub(crate) const LISTENER_PORT: u16 = 15001;

/// What the form says; an empty field says nothing.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub(crate) struct Connection {
    source: String,
    to: String,
    /// Instead of the one in `to`.
    path: String,
    address: String,
    method: String,
    /// `NAME: VALUE`, one a line.
    headers: String,
    sni: String,
    /// There is no server name at all.
    no_sni: bool,
    ech: bool,
    client_hello: String,
}

pub(crate) fn explain(evidence: &Evidence, connection: &str) -> Result<Value, String> {
    let connection: Connection = serde_json::from_str(connection).map_err(|error| error.to_string())?;
    let ask = connection.ask()?;
    let report: Report = answer(evidence, &ask).map_err(|error| error.to_string())?;
    let in_words = |rule: &PlacedRuling| {
        let lacks: Vec<_> = rule.ruling.lacks.iter().map(ToString::to_string).collect();
        json!({ "lacks": lacks, "unrelated": rule.ruling.is_unrelated() })
    };
    let rules: Vec<Value> = report.rules.iter().map(in_words).collect();
    Ok(json!({ "report": report, "rules": rules }))
}

impl Connection {
    fn ask(&self) -> Result<Ask, String> {
        let call = self.words().read().map_err(|error| error.to_string())?;
        let identity = self.source.trim();
        if identity.is_empty() {
            return Err("say who connects: NAMESPACE/SERVICE-ACCOUNT".to_owned());
        }
        Ok(Ask {
            identity: identity.parse().map_err(|error| format!("`{identity}`: {error}"))?,
            addresses: self.address()?.or(call.address).into_iter().collect(),
            call,
            resolved: false,
            listener_port: LISTENER_PORT,
            never_resolve_to: Vec::new(),
        })
    }

    fn address(&self) -> Result<Option<IpAddr>, String> {
        let text = self.address.trim();
        let read = |text: &str| text.parse().map_err(|_| format!("`{text}` is not an IP address"));
        (!text.is_empty()).then(|| read(text)).transpose()
    }

    fn words(&self) -> Words {
        Words {
            to: self.to(),
            method: some(&self.method),
            headers: self.header_lines().map(str::to_owned).collect(),
            sni: if self.no_sni { Some(String::new()) } else { some(&self.sni) },
            ech: self.ech,
            client_hello: some(&self.client_hello),
        }
    }

    /// The target, with the path that the form has a field for.
    fn to(&self) -> String {
        let (to, path) = (self.to.trim(), self.path.trim());
        if path.is_empty() {
            return to.to_owned();
        }
        let authority = to.find("://").map_or(0, |at| at + 3);
        let (scheme, rest) = to.split_at(authority);
        let host = rest.split(['/', '?', '#']).next().unwrap_or_default();
        let slash = if path.starts_with('/') { "" } else { "/" };
        format!("{scheme}{host}{slash}{path}")
    }

    fn header_lines(&self) -> impl Iterator<Item = &str> {
        self.headers.lines().map(str::trim).filter(|line| !line.is_empty())
    }

    /// The same as a case of `osm-egress test`, but for what is expected.
    pub(crate) fn as_case(&self) -> Result<serde_json::Map<String, Value>, String> {
        let Words { to, method, headers, sni, ech, client_hello } = self.words();
        let mut case = serde_json::Map::new();
        let mut put = |name: &str, value: Value| case.insert(name.to_owned(), value);
        put("source", json!(self.source.trim()));
        put("to", json!(to));
        let mut named = serde_json::Map::new();
        for header in &headers {
            let (name, value) = header
                .split_once(':')
                .ok_or_else(|| format!("`{header}` is not a header: write `NAME: VALUE`"))?;
            named.insert(name.trim().to_owned(), json!(value.trim()));
        }
        if !named.is_empty() {
            put("headers", Value::Object(named));
        }
        for (name, value) in [("method", method), ("sni", sni), ("clientHelloHex", client_hello)] {
            if let Some(value) = value {
                put(name, json!(value));
            }
        }
        if ech {
            put("ech", json!(true));
        }
        if let Some(address) = self.address()? {
            put("address", json!(address));
        }
        Ok(case)
    }
}

fn some(text: &str) -> Option<String> {
    Some(text.trim()).filter(|text| !text.is_empty()).map(str::to_owned)
}
