//! Metrics, status and logs match the documentation.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use egress_tests::authority::Volume;
use egress_tests::client;
use egress_tests::cluster::issue_control_plane_certificate;
use egress_tests::envoy::Envoy;
use egress_tests::hello::Hello;
use egress_tests::manifests::{self, ENFORCED_AND_AUDITED};
use egress_tests::netns::ensure_capable;
use egress_tests::network::{EXAMPLE, HTTPBIN, TestNetwork};
use egress_tests::repository_root;
use egress_tests::sidecar;
use egress_tests::wait::wait_for;
use egress_tests::workload;

#[test]
fn metrics_and_status_report_every_decision() -> Result<()> {
    ensure_capable()?;
    let network = TestNetwork::new()?;
    let pod = network.pod()?;
    network.write("httpbin-80.yaml", &manifests::sample("httpbin-80.yaml")?)?;
    network.write(
        "bad.yaml",
        &manifests::sample("any-host-443.yaml")?.replace("protocol: tcp", "protocol: htttp"),
    )?;
    // Over TLS, without credentials of the proxy.
    let (authority, own) = issue_control_plane_certificate()?;
    let ca = Volume::new(&[("ca.crt", &authority.pem)])?;
    let tls = ["--tls-cert", &own.text("tls.crt"), "--tls-key", &own.text("tls.key")];
    let control_plane = network.control_plane(&[&tls[..], &["--flow-log"]].concat())?;
    let bootstrap = sidecar::bootstrap_with("curl/curl", false, &["--xds-ca", &ca.text("ca.crt")])?;
    let envoy = Envoy::start(&pod, &bootstrap, 1)?;

    let text = control_plane.get("/metrics")?;
    let documented: Vec<String> = std::fs::read_to_string(repository_root().join("docs/metrics.md"))?
        .lines()
        .filter_map(|line| Some(line.strip_prefix("| `osm_egress_")?.split(['`', '{']).next()?.to_owned()))
        .map(|name| format!("osm_egress_{name}"))
        // Metrics of token reviews and of the webhook, which the tests on an API server check.
        .filter(|name| !["osm_egress_token_reviews_total", "osm_egress_admission_total"].contains(&&**name))
        .collect();
    let found: Vec<String> = text
        .lines()
        .filter(|line| !line.starts_with('#'))
        .filter_map(|line| Some(line.split(['{', ' ']).next()?.to_owned()))
        .collect();
    for name in &documented {
        ensure!(found.contains(name), "docs/metrics.md has {name}, /metrics has not:\n{text}");
    }
    for name in found {
        ensure!(documented.contains(&name), "/metrics has {name}, docs/metrics.md has not");
    }
    ensure!(text.contains("osm_egress_problems 1\n"), "{text}");

    let status = control_plane.status()?;
    let object =
        status["objects"].as_array().into_iter().flatten().find(|o| o["object"]["name"] == "any-host-443");
    ensure!(object.is_some_and(|o| o["accepted"] == false), "{status:#}");
    let problems = status["diagnostics"].as_array().cloned().unwrap_or_default();
    ensure!(problems.iter().any(|problem| problem["field"] == "spec.ports[0].protocol"), "{status:#}");

    // The proxy has the policy, but has not reported a connection.
    let warnings = || -> Result<String> { Ok(control_plane.status()?["proxies"][0]["warnings"].to_string()) };
    wait_for("the proxy", Duration::from_secs(5), || warnings().is_ok_and(|text| text != "null"))?;
    ensure!(warnings()?.contains("it has reported no decision yet"), "{}", warnings()?);
    let http = SocketAddr::new(HTTPBIN, 80);
    workload::get(&pod, http, "httpbin.org", "/get")?;
    wait_for("its word", Duration::from_secs(10), || warnings().is_ok_and(|text| text == "[]"))
        .with_context(|| format!("{:?}", warnings()))?;
    workload::get(&pod, http, "www.example.com", "/get")?;
    workload::get_tls(&pod, SocketAddr::new(EXAMPLE, 443), Some("www.example.com"))?;
    let counted = |labels: &str| {
        let line = format!("egress_decisions_total{{{labels}}} 1");
        wait_for(&line, Duration::from_secs(5), || {
            envoy.admin("/stats/prometheus").is_ok_and(|text| text.lines().any(|found| found == line))
        })
    };
    counted(r#"verdict="allow",reason="rule",protocol="http""#)?;
    counted(r#"verdict="deny",reason="host-not-allowed",protocol="http""#)?;
    counted(r#"verdict="deny",reason="no-rule",protocol="tcp""#)?;
    Ok(())
}

/// Envoy's metrics have the documented names, and labels with documented values.
#[test]
fn metrics_of_envoy_are_documented() -> Result<()> {
    ensure_capable()?;
    let network = TestNetwork::new()?;
    network.write("web.yaml", ENFORCED_AND_AUDITED)?;
    let _control_plane = network.control_plane(&["--flow-log"])?;
    let documentation = std::fs::read_to_string(repository_root().join("docs/metrics.md"))?;
    let reasons = std::fs::read_to_string(repository_root().join("docs/policy-reference.md"))?;
    let rows = |prefix: &str| -> Vec<String> {
        let names = documentation.lines().filter_map(|line| line.strip_prefix("| `")?.split('`').next());
        names.filter(|name| name.starts_with(prefix)).map(str::to_owned).collect()
    };
    for identity in ["curl/curl", "curl/watched"] {
        let pod = network.pod()?;
        let envoy = Envoy::start(&pod, &sidecar::bootstrap(identity, false)?, 1)?;
        let at = |ip, port| SocketAddr::new(ip, port);
        workload::get(&pod, at(HTTPBIN, 80), "httpbin.org", "/get")?;
        workload::get(&pod, at(EXAMPLE, 80), "www.example.com", "/get")?;
        workload::get_tls(&pod, at(HTTPBIN, 443), Some("httpbin.org"))?;
        workload::get_tls(&pod, at(EXAMPLE, 443), Some("www.example.com"))?;
        let encrypted = Hello::named("httpbin.org").encrypted().bytes();
        pod.workload().run(|| client::exchange(at(HTTPBIN, 443), &encrypted))?;
        pod.workload().run(|| client::exchange(at(EXAMPLE, 9000), b"ping"))?;
        // A workload's text is never a label.
        let hostile = client::request("GET", "/", &[("host", "x.verdict.allow.reason.rule")]);
        pod.workload().run(|| client::http(at(EXAMPLE, 80), &hostile))?;
        let expected = if identity == "curl/curl" {
            [
                (r#"egress_decisions_total{verdict="allow",reason="rule",protocol="http"}"#, 1),
                (r#"egress_decisions_total{verdict="allow",reason="rule",protocol="https"}"#, 2),
                (r#"egress_decisions_total{verdict="deny",reason="host-not-allowed",protocol="http"}"#, 2),
                (r#"egress_decisions_total{verdict="deny",reason="sni-not-allowed",protocol="https"}"#, 1),
                (r#"egress_decisions_total{verdict="deny",reason="no-rule",protocol="tcp"}"#, 1),
                (r#"egress_encrypted_hellos_total{verdict="allow"}"#, 1),
            ]
        } else {
            [
                (r#"egress_decisions_total{verdict="allow",reason="audit",protocol="http"}"#, 2),
                (r#"egress_decisions_total{verdict="allow",reason="audit",protocol="tcp"}"#, 1),
                (r#"egress_audited_total{reason="host-not-allowed",protocol="http"}"#, 2),
                (r#"egress_audited_total{reason="sni-not-allowed",protocol="https"}"#, 1),
                (r#"egress_audited_total{reason="no-rule",protocol="tcp"}"#, 1),
                (r#"egress_encrypted_hellos_total{verdict="allow"}"#, 1),
            ]
        };
        let mut text = String::new();
        for (series, count) in expected {
            let line = format!("{series} {count}");
            wait_for(&line, Duration::from_secs(5), || {
                text = envoy.admin("/stats/prometheus").unwrap_or_default();
                text.lines().any(|found| found == line)
            })
            .with_context(|| text.lines().filter(|line| line.starts_with("egress_")).collect::<String>())?;
        }
        for name in rows("envoy_") {
            let is_there = text.lines().any(|line| line.starts_with(&format!("{name}{{")));
            ensure!(is_there, "docs/metrics.md has {name}, Envoy has not");
        }
        for line in text.lines().filter(|line| line.starts_with("egress_")) {
            let (name, labels) = line.split_once('{').with_context(|| line.to_owned())?;
            let row = documentation.lines().find(|row| row.starts_with(&format!("| `{name}`")));
            let row = row.with_context(|| format!("docs/metrics.md has not {name}"))?;
            for label in labels.split('}').next().unwrap_or_default().split(',') {
                let (key, value) = label.split_once('=').with_context(|| line.to_owned())?;
                let value = value.trim_matches('"');
                let known = match key {
                    "verdict" => ["allow", "deny"].contains(&value),
                    "protocol" => ["tcp", "https", "http"].contains(&value),
                    "reason" => reasons.contains(&format!("\n| `{value}` |")),
                    _ => false,
                };
                ensure!(known && row.contains(&format!("`{key}`")), "{line}");
            }
        }
    }
    Ok(())
}

/// A policy change is sent to the proxies that it concerns, and to no other.
#[test]
fn a_change_is_sent_to_affected_proxies_only() -> Result<()> {
    ensure_capable()?;
    let network = TestNetwork::new()?;
    let (one, other) = (network.pod()?, network.pod()?);
    let control_plane = network.control_plane(&[])?;
    let _one = Envoy::start(&one, &sidecar::bootstrap("curl/curl", false)?, 1)?;
    let _other = Envoy::start(&other, &sidecar::bootstrap("curl/other", false)?, 1)?;
    let settled = || -> Option<Vec<(String, String)>> {
        let status = control_plane.status().ok()?;
        let proxies = status["proxies"].as_array()?;
        let of = |proxy: &serde_json::Value| {
            let acknowledged = proxy["documentAcknowledged"].as_str()?;
            (proxy["documentSent"] == acknowledged)
                .then(|| (proxy["identity"].as_str().unwrap_or_default().to_owned(), acknowledged.to_owned()))
        };
        proxies.iter().map(of).collect::<Option<Vec<_>>>().filter(|found| found.len() == 2)
    };
    let sent = || -> Result<u64> {
        let text = control_plane.get("/metrics")?;
        let line = text.lines().find_map(|line| line.strip_prefix("osm_egress_xds_responses_total "));
        Ok(line.unwrap_or_default().trim().parse()?)
    };
    wait_for("both proxies", Duration::from_secs(10), || settled().is_some())?;
    let (before, responses) = (settled().unwrap_or_default(), sent()?);
    network.write("httpbin-80.yaml", &manifests::sample("httpbin-80.yaml")?)?;
    wait_for("the change", Duration::from_secs(10), || settled().is_some_and(|now| now != before))?;
    let after = settled().unwrap_or_default();
    let document = |list: &[(String, String)], identity: &str| {
        list.iter().find(|(found, _)| found == identity).map(|(_, document)| document.clone())
    };
    ensure!(document(&before, "curl/curl") != document(&after, "curl/curl"));
    ensure!(document(&before, "curl/other") == document(&after, "curl/other"));
    // One message over SotW with both plugins in it, or one over delta.
    ensure!(sent()? == responses + 1, "{} responses for one change", sent()? - responses);
    Ok(())
}
