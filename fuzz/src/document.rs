//! The policy document and its JSON.

use std::net::SocketAddr;

use egress_policy::{
    Cidr, ConnectionOutcome, ConnectionStart, Document, Plugin, PluginConfig, Policy, StartOutcome,
};
use serde_json::Value;

/// Reads the text of a document.
pub fn document(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    match (Document::from_json(text), serde_json::from_str::<Document>(text)) {
        (Ok(read), Ok(derived)) => {
            assert_eq!(read, derived);
            is_written_in(text, &read);
            survives_writing(&read);
            survives_the_plugin(text, &read);
            compiles(read);
        }
        (Ok(_), Err(error)) => panic!("read a document that serde refuses: {error}"),
        // Derived deserialization also takes a list for the outermost object.
        (Err(_), Ok(derived)) => {
            assert!(text.trim_start().starts_with('['), "refused a document that serde reads");
            survives_writing(&derived);
        }
        (Err(error), Err(_)) => assert!(!error.to_string().is_empty()),
    }
}

/// Everything that was read is in the text, in an object of the same fields.
fn is_written_in(text: &str, document: &Document) {
    let text: Value = serde_json::from_str(text).expect("JSON");
    let written = serde_json::to_value(document).expect("JSON");
    let length = |value: &Value, list: &str| value[list].as_array().map_or(0, Vec::len);
    for list in ["rules", "inMesh"] {
        assert_eq!(length(&text, list), length(&written, list), "{list}");
    }
    assert_eq!((&text["apiVersion"], &text["mode"]), (&written["apiVersion"], &written["mode"]));
    for (text, written) in
        text["rules"].as_array().into_iter().flatten().zip(written["rules"].as_array().into_iter().flatten())
    {
        assert!(text.is_object());
        for field in ["policy", "port", "protocol", "hosts", "addresses", "upgrades", "cluster"] {
            let is_default = written[field].is_null();
            let is_equal = spelled_alike(&text[field]) == spelled_alike(&written[field]);
            assert!(is_equal || is_default, "{field}: {text} was read as {written}");
            let is_empty = text[field].is_null() || text[field].as_array().is_some_and(Vec::is_empty);
            assert!(!is_default || is_empty, "{field} of {text} was dropped");
        }
    }
}

/// Returns a value with its addresses and blocks in canonical form, which documents may spell otherwise.
fn spelled_alike(value: &Value) -> Value {
    match value {
        Value::Array(items) => items.iter().map(spelled_alike).collect(),
        Value::String(text) => {
            Cidr::canonical(text).map_or_else(|_| value.clone(), |block| block.to_string().into())
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::Object(_) => value.clone(),
    }
}

/// Returns the text without the white space of JSON around it.
fn trimmed(text: &str) -> &str {
    text.trim_matches([' ', '\t', '\n', '\r'])
}

fn survives_writing(document: &Document) {
    for text in [serde_json::to_string(document), serde_json::to_string_pretty(document)] {
        let text = text.expect("a document has a JSON form");
        assert_eq!(&Document::from_json(&text).expect("a written document is read"), document);
    }
}

/// Reads it as the filter does: left as text first.
fn survives_the_plugin(text: &str, document: &Document) {
    let config = format!(r#"{{"plugin":"http","version":"v","policy":{text}}}"#);
    let config = PluginConfig::from_json(&config).expect("a configuration");
    assert_eq!(config.plugin, Plugin::Http);
    assert_eq!(config.policy.get(), trimmed(text));
    assert_eq!(&Document::from_json(config.policy.get()).expect("a document"), document);
}

/// Compiles a document, unless it has a pattern that does not compile, and decides.
fn compiles(document: Document) {
    let ports: Vec<u16> = document.rules.iter().map(|rule| rule.port.get()).chain([443]).collect();
    let (identity, version, mode) = (document.identity.clone(), document.version.clone(), document.mode);
    let policy = match Policy::new(document) {
        Ok(policy) => policy,
        Err(error) => {
            assert!(error.to_string().contains("route"), "{error}");
            return;
        }
    };
    assert_eq!((policy.identity(), policy.version(), policy.mode()), (&identity, version.as_str(), mode));
    for port in ports {
        for address in ["10.0.0.1", "2001:db8::1"] {
            let to = SocketAddr::new(address.parse().expect("an address"), port);
            let connection = policy.decide_connection(to);
            let start = policy
                .decide_start(to, ConnectionStart::Tls { server_name: Some("a.org"), encrypted: false });
            // First bytes do not allow what the original destination alone forbids.
            if let ConnectionOutcome::Decided(decision) = &connection
                && !decision.is_allowed()
            {
                assert!(!matches!(&start, StartOutcome::Decided(decision) if decision.is_allowed()));
                assert!(!matches!(
                    policy.decide_start(to, ConnectionStart::NotTls),
                    StartOutcome::EachRequest
                ));
            }
        }
    }
}
