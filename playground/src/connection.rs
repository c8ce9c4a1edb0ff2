//! A connection from the form of the page.

use std::collections::BTreeMap;

use egress_compile::blocked_ranges::BlockedRanges;
use egress_compile::explain::policy_source::PolicySource;
use egress_compile::explain::probe::ProbeArgs;
use egress_compile::explain::probe_form::ProbeForm;
use egress_compile::explain::{ReportText, explain as answer};
use serde_json::{Value, json};

/// The default port of the outbound listener.
pub(crate) const LISTENER_PORT: u16 = 15001;

pub(crate) fn explain(source: &PolicySource, connection: &str) -> Result<Value, String> {
    let form: ProbeForm = serde_json::from_str(connection).map_err(|error| error.to_string())?;
    let report = answer(source, &form.to_request(LISTENER_PORT, BlockedRanges::default())?)
        .map_err(|error| error.to_string())?;
    Ok(json!(ReportText::from(report)))
}

/// Builds a case of `osm-egress test` from a form, without the expected verdict.
pub(crate) fn case_from_form(form: &ProbeForm) -> Result<serde_json::Map<String, Value>, String> {
    let ProbeArgs { to, method, headers, sni, ech, client_hello } = form.probe_args();
    let mut case = serde_json::Map::new();
    let mut put = |name: &str, value: Value| case.insert(name.to_owned(), value);
    put("identity", json!(form.identity.trim()));
    put("to", json!(to));
    let mut named: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for header in &headers {
        let (name, value) = header
            .split_once(':')
            .ok_or_else(|| format!("`{header}` is not a header: write `NAME: VALUE`"))?;
        named.entry(name.trim()).or_default().push(value.trim());
    }
    if !named.is_empty() {
        // Several headers of one name become a list.
        let value = |values: Vec<&str>| match values[..] {
            [value] => json!(value),
            _ => json!(values),
        };
        put("headers", named.into_iter().map(|(name, values)| (name.to_owned(), value(values))).collect());
    }
    for (name, value) in [("method", method), ("sni", sni), ("clientHelloHex", client_hello)] {
        if let Some(value) = value {
            put(name, json!(value));
        }
    }
    if ech {
        put("ech", json!(true));
    }
    if let Some(address) = form.parse_address()? {
        put("address", json!(address));
    }
    Ok(case)
}
