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

fn ask(connection: Value) -> Value {
    json(&explain(MANIFESTS, &connection.to_string()))
}

#[test]
fn the_rule_that_decides_has_a_line() {
    let said = ask(json!({ "source": "shop/app", "to": "https://httpbin.org" }));
    let report = &said["report"];
    assert_eq!((report["verdict"].as_str(), report["line"].as_u64()), (Some("allow"), Some(10)));
    assert_eq!(said["rules"].as_array().map(Vec::len), Some(2));
    let other = said["rules"].as_array().into_iter().flatten().find(|rule| rule["mismatches"] != json!([]));
    assert!(
        other.is_some_and(|rule| rule["mismatches"][0].as_str().is_some_and(|text| text.contains("443"))),
        "{said}"
    );
}

#[test]
fn fields_of_the_form() {
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
        connection["source"] = json!("shop/app");
        let said = ask(connection.clone());
        let text = said["report"]["connection"].as_str().unwrap_or_default();
        assert!(text.contains(expected), "{connection}: {said}");
    }
    for (connection, expected) in [
        (json!({ "to": "https://a.org" }), "say who connects"),
        (json!({ "source": "x", "to": "https://a.org" }), "`x`: "),
        (json!({ "source": "a/b", "to": "a.org" }), "says no port"),
        (json!({ "source": "a/b", "to": "https://a.org", "address": "x" }), "`x` is not an IP address"),
    ] {
        let said = ask(connection.clone());
        assert!(said["error"].as_str().unwrap_or_default().contains(expected), "{connection}: {said}");
    }
}

#[test]
fn cases_and_what_changes() {
    let case = |to: &str, expect: &str| json!({ "name": to, "expect": expect, "connection": { "source": "shop/app", "to": to } });
    let cases =
        json!([case("https://httpbin.org", "allow"), case("https://a.org", "allow"), case("a.org", "deny")]);
    let ran = json(&run(MANIFESTS, &cases.to_string()));
    assert_eq!((&ran[0]["asExpected"], &ran[1]["asExpected"]), (&json!(true), &json!(false)));
    assert_eq!(ran[1]["found"], "deny sni-not-allowed");
    assert_eq!(
        ran[2]["error"],
        "`a.org` says no port: write it as HOST:PORT, or as a URL with `https://` or `http://`"
    );
    let other = MANIFESTS.replace("httpbin.org", "a.org");
    let changes = json(&diff(MANIFESTS, &other, &cases.to_string()));
    assert_eq!(changes[0]["before"], "allow rule by shop/web spec.ports[1]");
    assert_eq!(changes[0]["after"], "deny sni-not-allowed");
    assert_eq!((&changes[0]["changed"], &changes[1]["changed"]), (&json!(true), &json!(true)));
    let written = file(&json!([case("https://httpbin.org", "allow")]).to_string());
    let expected = egress_compile::explain::expected::Expected::parse("cases", written.as_bytes());
    assert_eq!(expected.map(|cases| cases.len()), Ok(1));
}

#[test]
fn problems() {
    let checked = json(&check(&MANIFESTS.replace("number: 80", "number: 0")));
    let problems = checked["problems"].as_array().expect("a list");
    let error = problems.iter().find(|problem| problem["severity"] == "error").expect("an error");
    assert_eq!((&error["line"], &error["field"]), (&json!(9), &json!("spec.ports[0].number")));
    assert_eq!(checked["identities"], json!(["shop/app"]));
    assert_eq!(json(&check("a: ["))["summary"]["errors"], 1);
}

#[test]
fn what_an_envoy_is_given() {
    let ask =
        |identity: &str, version: &str, module: &str| json(&given(MANIFESTS, identity, version, module));
    let text = |said: &Value| said["envoy"].as_str().unwrap_or_default().to_owned();
    let said = ask("shop/app", "1.40", "");
    assert!(text(&said).contains("filename: target/egress_filter.wasm"), "{said}");
    assert!(text(&said).contains(r#""hosts": ["httpbin.org", "*.example.com"]"#), "{said}");
    let document = json(said["document"].as_str().unwrap_or_default());
    assert_eq!(document["rules"].as_array().map(Vec::len), Some(2));
    // As the command line: one that nothing names has a policy too.
    assert!(text(&ask("shop/other", "1.39", "/f.wasm")).contains(r#""rules": []"#));
    for (identity, version, expected) in [
        ("x", "1.40", "`x`: "),
        ("shop/app", "1.2", "Envoy 1.2 is too old"),
        ("shop/app", "", "is not an Envoy version"),
    ] {
        let said = ask(identity, version, "");
        assert!(said["error"].as_str().unwrap_or_default().contains(expected), "{said}");
    }
    assert_eq!(json(&choices())["versions"][0], "1.40");
}
