use std::collections::BTreeSet;
use std::path::Path;

use egress_compile::manifest::spec::{
    ConnectionSettings, Egress, ExternalAuthorization, HttpMatch, HttpRouteGroup, HttpSettings, MatchRef,
    PortSpec, Source, Subject, TargetRule, TcpSettings, Traffic, TrafficTarget, UpstreamTrafficSetting,
};
use egress_policy::Cidr;
use regex_lite::Regex;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::*;

/// Run with `UPDATE=1` to write them.
#[test]
fn the_rendered_copies_are_current() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy/crds");
    for (name, definition) in all() {
        let path = folder.join(name);
        let text = format_yaml(&definition);
        if std::env::var_os("UPDATE").is_some() {
            std::fs::create_dir_all(&folder).expect("a folder");
            std::fs::write(&path, &text).expect("a file");
        }
        let found = std::fs::read_to_string(&path).unwrap_or_default();
        assert!(found == text, "{} is not current: run this test with UPDATE=1", path.display());
    }
}

/// This project's own YAML reader reads the written text as the same values.
#[test]
fn the_text_is_read_as_the_same_values() {
    let documents = egress_compile::manifest::yaml::parse(&format_all()).expect("valid");
    let values: Vec<Value> = documents.into_iter().map(|document| document.value).collect();
    let expected: Vec<Value> = all().into_iter().map(|(_, definition)| definition).collect();
    assert_eq!(values, expected);
}

/// An API server accepts only these keys in a schema.
#[test]
fn the_schemas_are_structural() {
    const KNOWN: [&str; 17] = [
        "maxItems",
        "maxLength",
        "nullable",
        "type",
        "properties",
        "required",
        "items",
        "description",
        "enum",
        "pattern",
        "minimum",
        "maximum",
        "default",
        "format",
        "additionalProperties",
        "oneOf",
        "x-kubernetes-preserve-unknown-fields",
    ];
    fn check(schema: &Value, path: &str) {
        assert!(schema["type"].is_string(), "{path} has no type");
        for key in schema.as_object().expect("an object").keys() {
            assert!(KNOWN.contains(&key.as_str()) || key.starts_with("x-kubernetes-list-"), "{path}: {key}");
        }
        for (name, field) in schema["properties"].as_object().into_iter().flatten() {
            check(field, &format!("{path}.{name}"));
        }
        if schema["type"] == "array" {
            check(&schema["items"], &format!("{path}[]"));
        }
        for required in schema["required"].as_array().into_iter().flatten() {
            let name = required.as_str().expect("a name");
            assert!(schema["properties"].get(name).is_some(), "{path}: {name} is required but not there");
        }
    }
    for (name, definition) in all() {
        for version in definition["spec"]["versions"].as_array().expect("versions") {
            check(&version["schema"]["openAPIV3Schema"], name);
        }
    }
}

/// The fields that a type reads, from serde's error about an unknown field.
fn field_names<T: DeserializeOwned>() -> BTreeSet<String> {
    let error =
        serde_json::from_value::<T>(json!({ "no-such-field": 0 })).err().expect("an error").to_string();
    let (_, known) = error.split_once("expected").unwrap_or_else(|| panic!("{error}"));
    known.split('`').skip(1).step_by(2).map(str::to_owned).collect()
}

fn schema_at<'v>(file: &str, version: usize, path: &str) -> &'v Value {
    let definition = all().into_iter().find(|(name, _)| *name == file).expect("a definition").1;
    // A test may leak.
    let definition: &'static Value = Box::leak(Box::new(definition));
    let mut schema =
        &definition["spec"]["versions"][version]["schema"]["openAPIV3Schema"]["properties"]["spec"];
    for step in path.split('.').filter(|step| !step.is_empty()) {
        schema = if step == "[]" { &schema["items"] } else { &schema["properties"][step] };
    }
    schema
}

fn assert_same_fields<T: DeserializeOwned>(file: &str, path: &str) {
    let schema = schema_at(file, 0, path);
    let found: BTreeSet<String> =
        schema["properties"].as_object().unwrap_or_else(|| panic!("{file} {path}")).keys().cloned().collect();
    assert_eq!(found, field_names::<T>(), "{file} {path}");
}

/// A field that one of both does not know would be dropped by the API server, or refused by us.
#[test]
fn the_schemas_have_the_fields_of_the_types() {
    assert_same_fields::<Egress>("egresses.yaml", "");
    assert_same_fields::<Source>("egresses.yaml", "sources.[]");
    assert_same_fields::<PortSpec>("egresses.yaml", "ports.[]");
    assert_same_fields::<MatchRef>("egresses.yaml", "matches.[]");
    assert_same_fields::<UpstreamTrafficSetting>("upstreamtrafficsettings.yaml", "");
    assert_same_fields::<ConnectionSettings>("upstreamtrafficsettings.yaml", "connectionSettings");
    assert_same_fields::<TcpSettings>("upstreamtrafficsettings.yaml", "connectionSettings.tcp");
    assert_same_fields::<HttpSettings>("upstreamtrafficsettings.yaml", "connectionSettings.http");
    assert_same_fields::<HttpRouteGroup>("httproutegroups.yaml", "");
    assert_same_fields::<HttpMatch>("httproutegroups.yaml", "matches.[]");
    assert_same_fields::<TrafficTarget>("traffictargets.yaml", "");
    assert_same_fields::<Subject>("traffictargets.yaml", "destination");
    assert_same_fields::<TargetRule>("traffictargets.yaml", "rules.[]");
    assert_same_fields::<Traffic>("meshconfigs.yaml", "traffic");
    assert_same_fields::<ExternalAuthorization>("meshconfigs.yaml", "traffic.inboundExternalAuthorization");
}

#[test]
fn the_schema_accepts_protocols_in_any_case_and_no_others() {
    let pattern = schema_at("egresses.yaml", 0, "ports.[].protocol")["pattern"].as_str().expect("a pattern");
    let pattern = Regex::new(pattern).expect("valid");
    for good in ["http", "HTTP", "https", "Https", "tcp", "tcp-server-first", "TCP-Server-First"] {
        assert!(pattern.is_match(good), "{good}");
    }
    for bad in ["", "udp", "http ", "htt", "tcpserverfirst", "grpc", "http\n", "xhttp"] {
        assert!(!pattern.is_match(bad), "{bad:?}");
    }
}

/// The schema accepts every address block that the compiler accepts, and refuses those that never worked.
#[test]
fn the_schema_accepts_address_blocks_of_both_families() {
    let pattern = schema_at("egresses.yaml", 0, "ipAddresses.[]")["pattern"].as_str().expect("a pattern");
    let pattern = Regex::new(pattern).expect("valid");
    for text in [
        "10.0.0.0/8",
        "1.2.3.4/32",
        "0.0.0.0/0",
        "255.255.255.255/32",
        "10.1.2.3/8",
        "10.0.0.0/08",
        "2001:db8::/32",
        "::/0",
        "::1/128",
        "FD00::1/64",
        "::ffff:1.2.3.4/128",
        "1:2:3:4:5:6:7:8/100",
    ] {
        assert!(pattern.is_match(text), "{text}");
    }
    for text in [
        "",
        "10.0.0.0",
        "10.0.0.0/33",
        "10.0.0.256/32",
        "999.1.1.1/8",
        "x10.0.0.0/8",
        "10.0.0.0/8 ",
        "10.0.0/8",
        "010.0.0.1/32",
        "2001:db8::",
        "::/129",
        "10.0.0.0/-1",
        "2001:db8::g/64",
        "host/8",
    ] {
        assert!(!pattern.is_match(text), "{text}");
        assert!(Cidr::canonical(text).is_err(), "the compiler takes {text:?}");
    }
}
