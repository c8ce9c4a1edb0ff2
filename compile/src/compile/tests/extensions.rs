//! Connection settings, and what annotations add to Open Service Mesh's API.

use std::time::Duration;

use egress_policy::{EncryptedHello, Upgrade};

use super::*;

fn annotated(annotations: &str, spec: &str) -> String {
    egress("p", spec).replace("name: p,", &format!("name: p, annotations: {{{annotations}}},"))
}

fn upstream(name: &str, spec: &str) -> String {
    settings(name).replace("tcp: {maxConnections: 1, connectTimeout: 1s}", spec)
}

#[test]
fn settings_give_rules_clusters_of_their_own() {
    let text = egress(
        "p",
        &format!(
            "hosts: [a.org, '*.b.org'], ports: [{{number: 80, protocol: http}}, {{number: 22, protocol: tcp}}], matches: [{}]",
            by_settings("s")
        ),
    ) + &egress(
        "q",
        &format!(
            "hosts: [c.org], ipAddresses: [10.0.0.0/8], ports: [{{number: 443, protocol: https}}], matches: [{}]",
            by_settings("s")
        ),
    ) + &upstream(
        "s",
        "tcp: {maxConnections: 2, connectTimeout: 1.5s}, http: {maxPendingRequests: 3}",
    );
    let compiled = compiled(&text);
    assert_eq!(
        rules(&compiled),
        [
            "n/p http:80 any [a.org] any in a.org:80",
            "n/p http:80 any [*.b.org] any in *.b.org:80",
            "n/p tcp:22 any any any in 22",
            "n/q https:443 [10.0.0.0/8] [c.org] any in 443",
        ]
    );
    let clusters = compiled.clusters(&identity("n/app"));
    let names: Vec<_> = clusters.iter().map(|cluster| cluster.name.as_str()).collect();
    assert_eq!(names, ["*.b.org:80", "22", "443", "a.org:80"]);
    let expected = Limits {
        connect_timeout: Some(Duration::from_millis(1500)),
        max_connections: Some(2),
        max_pending_requests: Some(3),
        ..Limits::default()
    };
    assert!(clusters.iter().all(|cluster| cluster.limits == expected), "{clusters:?}");
    let hosts: Vec<_> =
        clusters.iter().map(|cluster| cluster.host.as_ref().map(ToString::to_string)).collect();
    assert_eq!(hosts, [Some("*.b.org".to_owned()), None, None, Some("a.org".to_owned())]);
}

/// A changed limit changes only its cluster: the document, and what is allowed, stay the same.
#[test]
fn a_changed_limit_is_a_changed_cluster() {
    let text = |limit: u32| {
        let matches = by_settings("s");
        egress("p", &format!("hosts: [a.org], ports: [{{number: 80, protocol: http}}], matches: [{matches}]"))
            + &upstream("s", &format!("tcp: {{maxConnections: {limit}}}"))
    };
    let first = compiled(&text(1));
    let same = compile(&store(&text(1)), &CompileOptions::default(), Some(&first));
    let other = compile(&store(&text(2)), &CompileOptions::default(), Some(&first));
    let of = |compiled: &Compiled| compiled.document(&identity("n/app"));
    assert!(Arc::ptr_eq(&of(&first), &of(&same)));
    assert!(Arc::ptr_eq(&of(&first), &of(&other)));
    let clusters = |compiled: &Compiled| compiled.clusters(&identity("n/app")).to_vec();
    assert_ne!(clusters(&first), clusters(&other));
}

#[test]
fn the_first_policy_decides_the_settings_of_a_cluster() {
    let policy = |name: &str, settings: &str| {
        let matches = by_settings(settings);
        egress(
            name,
            &format!("hosts: [a.org], ports: [{{number: 80, protocol: http}}], matches: [{matches}]"),
        )
    };
    let one = policy("p", "s") + &policy("q", "t");
    let settings = settings("s") + &upstream("t", "tcp: {maxConnections: 9}");
    let compiled = compiled(&(one + &settings));
    let clusters = compiled.clusters(&identity("n/app"));
    assert_eq!((clusters.len(), clusters[0].limits.max_connections), (1, Some(1)));
    let output = diagnostics(&compiled);
    assert!(
        output.contains("cluster `a.org:80` uses the connection settings of policy `n/p` instead of these"),
        "{output}"
    );
    assert!(status(&compiled, "Egress n/p").diagnostics.is_empty());
    assert!(status(&compiled, "Egress n/q").accepted);
}

#[test]
fn invalid_settings_grant_nothing() {
    let matches = by_settings("s");
    let policy = egress(
        "p",
        &format!("hosts: [a.org], ports: [{{number: 80, protocol: http}}], matches: [{matches}]"),
    );
    let compiled = compiled(&(policy + &upstream("s", "tcp: {connectTimeout: soon}")));
    assert!(rules(&compiled).is_empty());
    let output = diagnostics(&compiled);
    assert!(output.contains("`soon` is not a duration from 1ms to 8760h"), "{output}");
    assert!(output.contains("UpstreamTrafficSetting n/s is invalid"), "{output}");
}

/// Envoy rejects an invalid value together with everything else in its message.
#[test]
fn a_connect_timeout_has_bounds() {
    for (text, valid) in [
        ("1ms", true),
        ("5s", true),
        ("8760h", true),
        ("0", false),
        ("0s", false),
        ("999us", false),
        ("0.5ms", false),
        ("8760h1ns", false),
        ("87600000h", false),
        ("NaNs", false),
        ("infs", false),
        ("1e3s", false),
        ("-1s", false),
    ] {
        let policy =
            egress("p", &format!("ports: [{{number: 80, protocol: tcp}}], matches: [{}]", by_settings("s")));
        let compiled = compiled(&(policy + &upstream("s", &format!("tcp: {{connectTimeout: '{text}'}}"))));
        assert_eq!(rules(&compiled).len(), usize::from(valid), "{text}");
    }
}

#[test]
fn annotations_set_upgrades_and_encrypted_hellos() {
    let spec = "hosts: [a.org], ports: [{number: 80, protocol: http}, {number: 443, protocol: https}]";
    let websocket = "openservicemesh.io/egress-upgrades";
    let ech = "openservicemesh.io/egress-ech";
    for (annotations, upgrades, hello) in [
        (String::new(), vec![], EncryptedHello::AllowOuter),
        (format!("{websocket}: websocket"), vec![Upgrade::Websocket], EncryptedHello::AllowOuter),
        (
            format!("{websocket}: ' WebSocket , websocket'"),
            vec![Upgrade::Websocket],
            EncryptedHello::AllowOuter,
        ),
        (format!("{websocket}: ''"), vec![], EncryptedHello::AllowOuter),
        (format!("{ech}: refuse"), vec![], EncryptedHello::Refuse),
        (format!("{ech}: allow-outer"), vec![], EncryptedHello::AllowOuter),
    ] {
        let compiled = compiled(&annotated(&annotations, spec));
        let document = compiled.document(&identity("n/app"));
        let [http, https] = &document.rules[..] else { panic!("{document:?}") };
        assert_eq!(
            (&http.upgrades, http.encrypted_hello),
            (&upgrades, EncryptedHello::Refuse),
            "{annotations}"
        );
        assert_eq!((&https.upgrades, https.encrypted_hello), (&vec![], hello), "{annotations}");
    }
    // Where the name does not choose the address, and where the mesh says so, somebody must say it.
    let https = "ports: [{number: 443, protocol: https}]";
    for (spec, mesh, annotation, expected) in [
        ("hosts: [a.org]", EncryptedHello::AllowOuter, "", EncryptedHello::AllowOuter),
        ("hosts: [a.org]", EncryptedHello::Refuse, "", EncryptedHello::Refuse),
        ("hosts: [a.org]", EncryptedHello::Refuse, "allow-outer", EncryptedHello::AllowOuter),
        ("hosts: [a.org]", EncryptedHello::AllowOuter, "refuse", EncryptedHello::Refuse),
        (
            "hosts: [a.org], ipAddresses: [192.0.2.0/24]",
            EncryptedHello::AllowOuter,
            "",
            EncryptedHello::Refuse,
        ),
        (
            "hosts: [a.org], ipAddresses: [192.0.2.0/24]",
            EncryptedHello::AllowOuter,
            "allow-outer",
            EncryptedHello::AllowOuter,
        ),
        ("ipAddresses: [192.0.2.0/24]", EncryptedHello::AllowOuter, "", EncryptedHello::Refuse),
    ] {
        let annotations = if annotation.is_empty() { String::new() } else { format!("{ech}: {annotation}") };
        let options = CompileOptions { encrypted_hello: mesh, ..CompileOptions::default() };
        let text = annotated(&annotations, &format!("{spec}, {https}"));
        let compiled = compile(&store(&text), &options, None);
        let document = compiled.document(&identity("n/app"));
        let [rule] = &document.rules[..] else { panic!("{document:?}") };
        assert_eq!(rule.encrypted_hello, expected, "{spec} {mesh:?} {annotation}");
    }
    for annotations in [format!("{websocket}: h2c"), format!("{ech}: 'yes'")] {
        let compiled = compiled(&annotated(&annotations, spec));
        assert!(rules(&compiled).is_empty(), "{annotations}");
        assert!(diagnostics(&compiled).contains("until then the object grants nothing"), "{annotations}");
    }
}
