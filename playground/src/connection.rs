//! A connection, as the page's form has it.

use std::collections::BTreeMap;

use egress_compile::blocked_ranges::BlockedRanges;
use egress_compile::explain::probe::Words;
use egress_compile::explain::policy_source::Evidence;
use egress_compile::explain::probe_form::Form;
use egress_compile::explain::{InWords, explain as answer};
use serde_json::{Value, json};

/// The port of the outbound listener, unless `serve` is told another.
pub(crate) const LISTENER_PORT: u16 = 15001;

pub(crate) fn explain(evidence: &Evidence, connection: &str) -> Result<Value, String> {
    let form: Form = serde_json::from_str(connection).map_err(|error| error.to_string())?;
    let report = answer(evidence, &form.ask(LISTENER_PORT, BlockedRanges::default())?)
        .map_err(|error| error.to_string())?;
    Ok(json!(InWords::from(report)))
}

/// The same as a case of `osm-egress test`, but for what is expected.
pub(crate) fn as_case(form: &Form) -> Result<serde_json::Map<String, Value>, String> {
    let Words { to, method, headers, sni, ech, client_hello } = form.words();
    let mut case = serde_json::Map::new();
    let mut put = |name: &str, value: Value| case.insert(name.to_owned(), value);
    put("source", json!(form.source.trim()));
    put("to", json!(to));
    let mut named: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for header in &headers {
        let (name, value) = header
            .split_once(':')
            .ok_or_else(|| format!("`{header}` is not a header: write `NAME: VALUE`"))?;
        named.entry(name.trim()).or_default().push(value.trim());
    }
    if !named.is_empty() {
        // Several of one name are a list.
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
    if let Some(address) = form.address()? {
        put("address", json!(address));
    }
    Ok(case)
}
