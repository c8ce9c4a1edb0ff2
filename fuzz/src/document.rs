//! The policy document and its JSON.

use std::net::SocketAddr;

use egress_policy::{Document, ConnectionOutcome, StartOutcome, ConnectionStart, Plugin, PluginConfig, Policy, json};
use serde_json::Value;

/// The text of a document.
pub fn document(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    any_json(text);
    let ours = json::from_str::<Document>(text);
    let theirs = serde_json::from_str::<Document>(text);
    match (ours, theirs) {
        (Ok(ours), Ok(theirs)) => {
            assert_eq!(ours, theirs);
            survives_writing(&ours);
            survives_the_plugin(text, &ours);
            compiles(ours);
        }
        (Ok(_), Err(error)) => panic!("read what serde_json does not: {error}"),
        // serde_json reads lists for objects too, and objects for the names of variants.
        (Err(_), Ok(theirs)) => survives_writing(&theirs),
        (Err(_), Err(_)) => {}
    }
}

/// Whatever the text says, both readers take it for JSON, or none.
fn any_json(text: &str) {
    let ours = json::from_str::<json::Raw<'_>>(text);
    let theirs = serde_json::from_str::<Value>(text);
    match (ours, theirs) {
        (Ok(ours), Ok(_)) => assert_eq!(ours.get(), trimmed(text)),
        (Ok(_), Err(error)) => panic!("taken for JSON, where serde_json says: {error}"),
        (Err(error), Ok(_)) => {
            let error = error.to_string();
            let on_purpose = ["not an integer", "too large", "too deep"];
            assert!(on_purpose.iter().any(|why| error.contains(why)), "{error}");
        }
        (Err(_), Err(_)) => {}
    }
}

/// Without the white space of JSON around it.
fn trimmed(text: &str) -> &str {
    text.trim_matches([' ', '\t', '\n', '\r'])
}

fn survives_writing(document: &Document) {
    for text in [serde_json::to_string(document), serde_json::to_string_pretty(document)] {
        let text = text.expect("a document has a JSON form");
        assert_eq!(&json::from_str::<Document>(&text).expect("what we write we read"), document);
    }
}

/// As the filter gets it: left as text first.
fn survives_the_plugin(text: &str, document: &Document) {
    let config = format!(r#"{{"plugin":"http","version":"v","policy":{text}}}"#);
    let config: PluginConfig<json::Raw<'_>> = json::from_str(&config).expect("a configuration");
    assert_eq!(config.plugin, Plugin::Http);
    assert_eq!(config.policy.get(), trimmed(text));
    assert_eq!(&json::from_str::<Document>(config.policy.get()).expect("a document"), document);
}

/// A document either compiles or says why not; and a policy answers.
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
            let opening = policy.decide_start(to, ConnectionStart::Tls { server_name: Some("a.org"), encrypted: false });
            // What port and address alone forbid, bytes do not allow.
            if let ConnectionOutcome::Decided(decision) = &connection
                && !decision.is_allowed()
            {
                assert!(!matches!(&opening, StartOutcome::Decided(decision) if decision.is_allowed()));
                assert!(!matches!(policy.decide_start(to, ConnectionStart::NotTls), StartOutcome::EachRequest));
            }
        }
    }
}
