use super::*;

const MANIFESTS: &str = r#"
apiVersion: policy.openservicemesh.io/v1alpha1
kind: Egress
metadata: {name: web, namespace: shop}
spec:
  sources: [{kind: ServiceAccount, name: app, namespace: shop}]
  hosts: [httpbin.org, "*.example.com"]
  ports:
  - {number: 80, protocol: http}
  - {number: 443, protocol: https}
"#;

fn json(text: &str) -> Value {
    serde_json::from_str(text).expect("JSON")
}

fn run_explain(connection: Value) -> Value {
    json(&explain(MANIFESTS, &connection.to_string()))
}

#[test]
fn the_deciding_rule_has_a_line() {
    let answer = run_explain(json!({ "identity": "shop/app", "to": "https://httpbin.org" }));
    let report = &answer["report"];
    assert_eq!((report["verdict"].as_str(), report["line"].as_u64()), (Some("allow"), Some(10)));
    assert_eq!(answer["rules"].as_array().map(Vec::len), Some(2));
    let other = answer["rules"].as_array().into_iter().flatten().find(|rule| rule["mismatches"] != json!([]));
    assert!(
        other.is_some_and(|rule| rule["mismatches"][0].as_str().is_some_and(|text| text.contains("443"))),
        "{answer}"
    );
}

#[test]
fn form_fields_reach_the_probe() {
    for (connection, expected) in [
        (
            json!({ "to": "http://httpbin.org/a", "path": "b?c", "method": "PUT" }),
            "`PUT /b?c` for `httpbin.org`",
        ),
        (json!({ "to": "http://httpbin.org", "headers": "Host: a.org\n\nx: y" }), "`GET /` for `a.org`"),
        (json!({ "to": "203.0.113.1:443", "sni": "a.org" }), "server name `a.org`"),
        (json!({ "to": "https://a.org", "noSni": true, "ech": true }), "no server name, an encrypted"),
        (json!({ "to": "tcp://a.org:443", "clientHello": "47 45" }), "bytes that are not TLS"),
    ] {
        let mut connection = connection;
        connection["identity"] = json!("shop/app");
        let answer = run_explain(connection.clone());
        let text = answer["report"]["connection"].as_str().unwrap_or_default();
        assert!(text.contains(expected), "{connection}: {answer}");
    }
    for (connection, expected) in [
        (json!({ "to": "https://a.org" }), "enter the identity"),
        (json!({ "identity": "x", "to": "https://a.org" }), "`x`: "),
        (json!({ "identity": "a/b", "to": "a.org" }), "has no port"),
        (json!({ "identity": "a/b", "to": "https://a.org", "address": "x" }), "`x` is not an IP address"),
    ] {
        let answer = run_explain(connection.clone());
        assert!(answer["error"].as_str().unwrap_or_default().contains(expected), "{connection}: {answer}");
    }
}

#[test]
fn cases_run_and_compare() {
    let case = |to: &str, expect: &str| json!({ "name": to, "expect": expect, "connection": { "identity": "shop/app", "to": to } });
    let cases =
        json!([case("https://httpbin.org", "allow"), case("https://a.org", "allow"), case("a.org", "deny")]);
    let ran = json(&run_cases(MANIFESTS, &cases.to_string()));
    assert_eq!((&ran[0]["passed"], &ran[1]["passed"]), (&json!(true), &json!(false)));
    assert_eq!(ran[1]["actual"], "deny sni-not-allowed");
    assert_eq!(
        ran[2]["error"],
        "`a.org` has no port: write it as HOST:PORT, or as a URL with `https://` or `http://`"
    );
    let other = MANIFESTS.replace("httpbin.org", "a.org");
    let changes = json(&compare_cases(MANIFESTS, &other, &cases.to_string()));
    assert_eq!(changes[0]["before"], "allow rule by shop/web spec.ports[1]");
    assert_eq!(changes[0]["after"], "deny sni-not-allowed");
    assert_eq!((&changes[0]["changed"], &changes[1]["changed"]), (&json!(true), &json!(true)));
    let written = export_cases(&json!([case("https://httpbin.org", "allow")]).to_string());
    let expected = egress_compile::explain::test_case::TestCase::parse("cases", written.as_bytes());
    assert_eq!(expected.map(|cases| cases.len()), Ok(1));
}

#[test]
fn diagnostics_have_places() {
    let checked = json(&check(&MANIFESTS.replace("number: 80", "number: 0")));
    let diagnostics = checked["diagnostics"].as_array().expect("a list");
    let error = diagnostics.iter().find(|diagnostic| diagnostic["severity"] == "error").expect("an error");
    assert_eq!((&error["line"], &error["field"]), (&json!(9), &json!("spec.ports[0].number")));
    assert_eq!(checked["identities"], json!(["shop/app"]));
    assert_eq!(json(&check("a: ["))["summary"]["errors"], 1);
}

#[test]
fn a_configuration_is_rendered_for_each_version() {
    let run_explain = |identity: &str, version: &str, module: &str| {
        json(&render_config(MANIFESTS, identity, version, module))
    };
    let text = |answer: &Value| answer["envoy"].as_str().unwrap_or_default().to_owned();
    let answer = run_explain("shop/app", "1.40", "");
    assert!(text(&answer).contains("filename: target/egress_filter.wasm"), "{answer}");
    assert!(text(&answer).contains(r#""hosts": ["httpbin.org", "*.example.com"]"#), "{answer}");
    let document = json(answer["document"].as_str().unwrap_or_default());
    assert_eq!(document["rules"].as_array().map(Vec::len), Some(2));
    // As the command line: one that nothing names has a policy too.
    assert!(text(&run_explain("shop/other", "1.39", "/f.wasm")).contains(r#""rules": []"#));
    for (identity, version, expected) in [
        ("x", "1.40", "`x`: "),
        ("shop/app", "1.2", "Envoy 1.2 is too old"),
        ("shop/app", "", "is not an Envoy version"),
    ] {
        let answer = run_explain(identity, version, "");
        assert!(answer["error"].as_str().unwrap_or_default().contains(expected), "{answer}");
    }
    assert_eq!(json(&list_choices())["versions"][0], "1.40");
}
