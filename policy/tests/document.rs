//! Policy documents as text: anything but a whole document of a known format grants nothing, with a reason.

#[allow(dead_code, reason = "these tests make documents, and ask nothing of the model")]
mod generate;
#[allow(dead_code, reason = "these tests make documents, and ask nothing of the model")]
mod naive;

use egress_policy::{Document, DocumentError, Plugin, PluginConfig, Policy};
use proptest::prelude::*;
use serde_json::{Value, json};

use self::generate::{in_mesh, rules};
use self::naive::document;

/// A document of the first format, with the fields that it began with. Every release must read it, or refuse it by its
/// format.
const V1: &str = include_str!("documents/v1.json");

/// A document with every kind of object and word.
const WHOLE: &str = r#"{"apiVersion":"egress-policy/v1","identity":{"namespace":"ns","serviceAccount":"sa"},"version":"v","mode":"enforce","rules":[
{"policy":"a/b","name":"n","port":80,"protocol":"http","hosts":["a.org"],"addresses":["10.0.0.0/8"],"routes":[{"name":"g/m","path":"/x","methods":["GET"],"headers":[{"name":"x-a","value":"1"}]}],"upgrades":["websocket"],"cluster":"a.org:80"},
{"policy":"a/b","name":"n","port":443,"protocol":"https","hosts":["*.a.org"],"encryptedHello":"allow-outer"}],
"inMesh":[{"service":"ns/s","addresses":["10.0.0.1"],"ports":[80],"allowed":true}]}"#;

fn refusal(text: &str) -> String {
    Document::from_json(text).map(|_| ()).expect_err(text).to_string()
}

#[test]
fn a_whole_document_is_read() {
    let document = Document::from_json(WHOLE).expect("valid");
    assert_eq!(document.rules.len(), 2);
    assert!(Policy::new(document).is_ok());
}

#[test]
fn text_that_is_not_json_is_refused() {
    for (name, text, reason) in [
        ("nothing", String::new(), "EOF while parsing a value"),
        ("white space", " \n".to_owned(), "EOF while parsing a value"),
        ("a byte order mark", format!("\u{feff}{WHOLE}"), "expected value at line 1 column 1"),
        ("an end that is missing", WHOLE[..WHOLE.len() - 1].to_owned(), "EOF while parsing an object"),
        ("a trailing byte", format!("{WHOLE}x"), "trailing characters"),
        ("a second document", format!("{WHOLE}{WHOLE}"), "trailing characters"),
        ("a comma before the end", WHOLE.replace("[80]", "[80,]"), "trailing comma"),
        ("a comment", WHOLE.replace("[80]", "/* */[80]"), "expected value"),
        ("a name without quotes", WHOLE.replace("\"mode\"", "mode"), "key must be a string"),
        ("single quotes", WHOLE.replace("\"enforce\"", "'enforce'"), "expected value"),
        ("a control character", WHOLE.replace("a/b", "a\u{1}b"), "control character"),
        ("a line break in a string", WHOLE.replace("a/b", "a\nb"), "control character"),
        ("an unknown escape", WHOLE.replace("a/b", r"a\xb"), "invalid escape"),
        ("half an escape", WHOLE.replace("a/b", r"a\u12"), "invalid escape"),
        ("a lone leading surrogate", WHOLE.replace("a/b", r"\ud800"), "unexpected end of hex escape"),
        ("a lone trailing surrogate", WHOLE.replace("a/b", r"\udc00"), "lone"),
        ("surrogates in the wrong order", WHOLE.replace("a/b", r"\ud800\u0041"), "lone"),
        ("another space", WHOLE.replace("[80]", "\u{a0}[80]"), "expected value"),
        ("NaN", WHOLE.replace("[80]", "[NaN]"), "expected value"),
        ("infinity", WHOLE.replace("[80]", "[Infinity]"), "expected value"),
        ("a plus sign", WHOLE.replace("[80]", "[+80]"), "expected value"),
        ("a leading zero", WHOLE.replace("[80]", "[080]"), "invalid number"),
        ("hexadecimal", WHOLE.replace("[80]", "[1x50]"), "expected `,` or `]`"),
    ] {
        let found = refusal(&text);
        assert!(found.contains(reason), "{name}: {found}");
    }
}

#[test]
fn numbers_that_are_no_ports_are_refused() {
    for number in [
        "0",
        "-0",
        "-1",
        "65536",
        "80.0",
        "8e1",
        "1e400",
        "-1e400",
        "18446744073709551616",
        "80.5",
        "\"80\"",
        "true",
        "null",
        "[80]",
        &"9".repeat(400),
    ] {
        for text in [
            WHOLE.replace("\"port\":80,", &format!("\"port\":{number},")),
            WHOLE.replace("\"ports\":[80]", &format!("\"ports\":[{number}]")),
        ] {
            assert_ne!(text, WHOLE);
            assert!(refusal(&text).contains(" at line "), "{number}");
        }
    }
}

/// Derived deserialization takes both, and no control plane writes them.
#[test]
fn a_list_is_no_object_and_an_object_is_no_word() {
    for (object, list) in [
        (r#"{"namespace":"ns","serviceAccount":"sa"}"#, r#"["ns","sa"]"#),
        (r#"{"name":"x-a","value":"1"}"#, r#"["x-a","1"]"#),
        (
            r#"{"name":"g/m","path":"/x","methods":["GET"],"headers":[{"name":"x-a","value":"1"}]}"#,
            r#"["g/m","/x",["GET"],[]]"#,
        ),
        (
            r#"{"service":"ns/s","addresses":["10.0.0.1"],"ports":[80],"allowed":true}"#,
            r#"["ns/s",["10.0.0.1"],[80],true]"#,
        ),
    ] {
        let text = WHOLE.replace(object, list);
        assert_ne!(text, WHOLE);
        assert!(refusal(&text).contains("invalid type: sequence, expected an object"), "{list}");
    }
    let rule = r#"[["a/b","n",80,"tcp",null,null,null,[],"refuse",null]]"#;
    let value = |rules: &str| WHOLE.replacen("\"rules\":[", &format!("\"rules\":{rules},\"x\":["), 1);
    assert!(refusal(&value(rule)).contains("expected an object"));
    let whole = r#"["egress-policy/v1",{"namespace":"ns","serviceAccount":"sa"},"v","enforce",[]]"#;
    assert!(refusal(whole).contains("expected an object"));
    for (word, object) in [
        ("\"egress-policy/v1\"", r#"{"egress-policy/v1":null}"#),
        ("\"enforce\"", r#"{"enforce":null}"#),
        ("\"http\"", r#"{"http":null}"#),
        ("\"websocket\"", r#"{"websocket":null}"#),
        ("\"allow-outer\"", r#"{"allow-outer":null}"#),
    ] {
        let text = WHOLE.replace(word, object);
        assert_ne!(text, WHOLE);
        assert!(
            refusal(&text).contains("invalid type: map, expected a string"),
            "{object}: {}",
            refusal(&text)
        );
    }
}

#[test]
fn a_field_that_is_there_twice_is_refused() {
    for field in [
        "\"mode\":\"enforce\"",
        "\"rules\":[]",
        "\"namespace\":\"ns\"",
        "\"port\":80",
        "\"hosts\":[\"a.org\"]",
        "\"addresses\":[\"10.0.0.0/8\"]",
        "\"path\":\"/x\"",
        "\"value\":\"1\"",
        "\"allowed\":true",
        "\"cluster\":\"a.org:80\"",
    ] {
        // Before the first field of that name.
        let name = field.split(':').next().expect("a name");
        let text = WHOLE.replacen(name, &format!("{field},{name}"), 1);
        assert!(refusal(&text).contains("duplicate field"), "{field}: {}", refusal(&text));
    }
}

#[test]
fn nesting_without_end_is_refused_and_not_followed() {
    for open in ["[", "{\"a\":"] {
        let deep = open.repeat(1_000_000);
        for text in [
            deep.clone(),
            WHOLE.replacen("\"rules\":[", &format!("\"rules\":[{deep}"), 1),
            WHOLE.replacen("\"rules\":", &format!("\"x\":{deep},\"rules\":"), 1),
            WHOLE.replacen("[\"a.org\"]", &deep, 1),
        ] {
            assert!(!refusal(&text).is_empty());
            assert!(
                PluginConfig::from_json(&format!(r#"{{"plugin":"http","version":"v","policy":{text}"#))
                    .is_err()
            );
        }
    }
}

#[test]
fn an_unknown_value_or_field_is_refused_at_its_place() {
    let whole: Value = serde_json::from_str(WHOLE).expect("JSON");
    for (pointer, bad) in [
        ("/x", json!(1)),
        ("/identity/x", json!(1)),
        ("/identity/namespace", json!("")),
        ("/identity/namespace", json!("a.b")),
        ("/mode", json!("allow")),
        ("/mode", json!("Enforce")),
        ("/mode", json!(null)),
        ("/version", json!(1)),
        ("/rules", json!(null)),
        ("/rules", json!({})),
        ("/rules/0", json!(null)),
        ("/rules/0/x", json!(1)),
        ("/rules/0/port", json!(0)),
        ("/rules/0/port", json!(65536)),
        ("/rules/0/protocol", json!("HTTP")),
        ("/rules/0/hosts", json!("a.org")),
        ("/rules/0/hosts/0", json!("A.org")),
        ("/rules/0/hosts/0", json!("*")),
        ("/rules/0/hosts/0", json!("10.0.0.1")),
        ("/rules/0/addresses", json!(["10.0.0.1/8"])),
        ("/rules/0/addresses", json!(["10.0.0.1"])),
        ("/rules/0/routes/0/x", json!(1)),
        ("/rules/0/routes/0/headers/0/x", json!(1)),
        ("/rules/0/routes/0/headers", json!(null)),
        ("/rules/0/upgrades", json!(["h2c"])),
        ("/rules/0/upgrades", json!(null)),
        ("/rules/1/encryptedHello", json!("allow")),
        ("/inMesh", json!(null)),
        ("/inMesh/0/x", json!(1)),
        ("/inMesh/0/allowed", json!("true")),
        ("/inMesh/0/addresses/0", json!("10.0.0.0/8")),
    ] {
        let mut document = whole.clone();
        let (parent, key) = pointer.rsplit_once('/').expect("a pointer");
        let parent = document.pointer_mut(parent).expect("there");
        match parent.as_array_mut() {
            Some(list) => list[key.parse::<usize>().expect("a number")] = bad.clone(),
            None => parent[key] = bad.clone(),
        }
        let reason = refusal(&document.to_string());
        assert!(reason.contains(" at line 1 column "), "{pointer} = {bad}: {reason}");
    }
    for field in ["apiVersion", "identity", "version", "mode", "rules"] {
        let mut document = whole.clone();
        document.as_object_mut().expect("an object").remove(field);
        let reason = refusal(&document.to_string());
        assert!(reason.contains(&format!("missing field `{field}`")), "{reason}");
    }
}

/// An absent list is any, an empty one none, and `null` is absent.
#[test]
fn absent_and_empty_lists_stay_apart() {
    let rule = |hosts: &str| {
        let text = WHOLE.replacen("[\"a.org\"]", hosts, 1);
        Document::from_json(&text).expect("valid").rules[0].hosts.as_deref().map(<[_]>::len)
    };
    assert_eq!((rule("null"), rule("[]"), rule("[\"a.org\"]")), (None, Some(0), Some(1)));
}

#[test]
fn errors_have_line_and_column() {
    assert!(refusal("{\n  \"apiVersion\": x}").ends_with("expected value at line 2 column 17"));
    let error = refusal(r#"{"apiVersion":"egress-policy/v1","x":1}"#);
    assert!(error.starts_with("unknown field `x`, expected one of `apiVersion`"), "{error}");
    assert!(error.ends_with("at line 1 column 36"), "{error}");
}

/// The control plane or the module of an earlier release: documents that use no newer field are read by both.
#[test]
fn the_first_format_is_read() {
    let document = Document::from_json(V1).expect("every release reads it");
    assert_eq!(document.rules.len(), 3);
    // Written again it has no field that the earlier module does not know.
    let written = serde_json::to_value(&document).expect("JSON");
    assert_eq!(written, serde_json::from_str::<Value>(V1).expect("JSON"));
    assert!(Policy::new(document).is_ok());
}

/// The control plane of a later release: the format is the reason, and not the first field that is not known.
#[test]
fn a_later_format_is_refused_by_its_name() {
    for (text, format) in [
        (V1.replace("egress-policy/v1", "egress-policy/v2"), "egress-policy/v2"),
        (
            r#"{"requestedName": true, "rules": {"a.org": []}, "apiVersion": "egress-policy/v3"}"#.to_owned(),
            "egress-policy/v3",
        ),
        (format!(r#"{{"apiVersion":"{}"}}"#, "v".repeat(1000)), &*"v".repeat(64)),
    ] {
        let error = Document::from_json(&text).expect_err("another format");
        assert!(matches!(error, DocumentError::Format(_)), "{error}");
        let expected = format!(
            "the policy document has the format `{format}`, and this release reads `egress-policy/v1`: use the filter module and the control plane of one release"
        );
        assert_eq!(error.to_string(), expected);
    }
    // A newer field in the known format could restrict: without it, the rule would allow more.
    let newer = V1.replacen("\"port\": 80", "\"port\": 80, \"onlyOnMondays\": true", 1);
    assert!(refusal(&newer).contains("unknown field `onlyOnMondays`"));
}

#[test]
fn the_policy_in_a_plugin_configuration_stays_text() {
    let text = r#"{"plugin": "http", "version": "v", "policy": {"b" : [1, "}"]} , "httpDenyStatus":404}"#;
    let config = PluginConfig::from_json(text).expect("valid");
    assert_eq!((config.plugin, config.http_deny_status, config.listener_port), (Plugin::Http, 404, 15001));
    assert_eq!(config.policy.get(), r#"{"b" : [1, "}"]}"#);
    for (name, bad) in [
        ("a list", r#"["http","v",15001,403,5000,"",{}]"#.to_owned()),
        ("an unknown field", text.replace("\"version\"", "\"x\":1,\"version\"")),
        ("a plugin that is not known", text.replace("\"http\"", "\"tcp\"")),
        ("a plugin that is an object", text.replace("\"http\"", r#"{"http":null}"#)),
        ("two policies", text.replace("\"version\"", "\"policy\":{},\"version\"")),
        ("no policy", text.replace("\"policy\"", "\"nonce\"")),
        ("a policy without an end", text.replace("\"}\"]}", "\"}\"]")),
        ("a port that is too large", text.replace("\"version\"", "\"listenerPort\":65536,\"version\"")),
        ("a trailing byte", format!("{text}x")),
    ] {
        assert!(PluginConfig::from_json(&bad).is_err(), "{name}");
    }
}

proptest! {
    /// By the filter, which leaves the policy as text first, and by others.
    #[test]
    fn a_written_document_is_read_back(rules in rules(), in_mesh in in_mesh(), is_pretty in any::<bool>()) {
        let document: Document =
            serde_json::from_value(document("enforce", &rules, &in_mesh)).expect("a document");
        let write = if is_pretty { serde_json::to_string_pretty } else { serde_json::to_string };
        let text = write(&document).expect("writes");
        prop_assert_eq!(&Document::from_json(&text).expect("reads"), &document);
        let config = format!(r#"{{"plugin":"network","version":"v","policy":{text}}}"#);
        let config = PluginConfig::from_json(&config).expect("a configuration");
        prop_assert_eq!(config.policy.get(), &text);
        prop_assert_eq!(&Document::from_json(config.policy.get()).expect("reads"), &document);
    }

    /// Damage either makes a text unreadable, or another document that the text says in full.
    #[test]
    fn damaged_text_contains_all_that_is_read(
        rules in rules(),
        in_mesh in in_mesh(),
        at in any::<prop::sample::Index>(),
        with in "[\\[\\]{}\",:0-9a-z\\\\ -]?",
    ) {
        let text = document("enforce", &rules, &in_mesh).to_string();
        let mut letters: Vec<char> = text.chars().collect();
        let at = at.index(letters.len());
        letters.splice(at..=at, with.chars());
        let damaged: String = letters.into_iter().collect();
        if let Ok(document) = Document::from_json(&damaged) {
            let value: Value = serde_json::from_str(&damaged).expect("JSON");
            let written = serde_json::to_value(&document).expect("JSON");
            prop_assert!(contains(&value, &written), "{damaged} was read as {written}");
            prop_assert!(Policy::new(document).is_ok() || damaged.contains("path") || damaged.contains("value"));
        }
    }
}

/// Returns whether a text has all that was read from it: defaults need not be written, and absence may be `null`.
fn contains(text: &Value, read: &Value) -> bool {
    match (text, read) {
        (Value::Object(text), Value::Object(read)) => {
            read.iter().all(|(name, value)| text.get(name).is_some_and(|text| contains(text, value)))
                && text.iter().all(|(name, value)| {
                    read.contains_key(name)
                        || value.is_null()
                        || value == "refuse"
                        || value.as_array().is_some_and(Vec::is_empty)
                })
        }
        (Value::Array(text), Value::Array(read)) => {
            text.len() == read.len() && text.iter().zip(read).all(|(text, read)| contains(text, read))
        }
        (Value::String(text), Value::String(read)) => {
            // An IPv4-mapped IPv6 address is an IPv4 address.
            let address = |text: &str| text.parse::<std::net::IpAddr>().map(|address| address.to_canonical());
            text == read || address(text).is_ok() && address(text) == address(read)
        }
        (text, read) => text == read,
    }
}
