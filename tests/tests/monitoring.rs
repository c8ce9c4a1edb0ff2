//! `deploy/monitoring` on a real Prometheus, which scrapes a real control plane and real sidecars.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};
use egress_compile::manifest::yaml;
use egress_tests::authority::Volume;
use egress_tests::client;
use egress_tests::cluster::issue_control_plane_certificate;
use egress_tests::envoy::Envoy;
use egress_tests::hello::Hello;
use egress_tests::manifests::{self, ENFORCED_AND_AUDITED};
use egress_tests::netns::{Pod, ensure_capable};
use egress_tests::network::{CONTROL_PLANE, ELSEWHERE, EXAMPLE, HTTPBIN, TestNetwork};
use egress_tests::prometheus::{Prometheus, promtool};
use egress_tests::repository_root;
use egress_tests::sidecar;
use egress_tests::wait::wait_for;
use egress_tests::workload;
use serde_json::{Value, json};

fn folder() -> PathBuf {
    repository_root().join("deploy/monitoring")
}

fn read_yaml(name: &str) -> Result<Value> {
    let text = std::fs::read_to_string(folder().join(name))?;
    let documents = yaml::parse(&text).map_err(|error| anyhow!("{name}: {error}"))?;
    Ok(documents.into_iter().next().context("an empty file")?.value)
}

fn dashboard() -> Result<Value> {
    Ok(serde_json::from_str(&std::fs::read_to_string(folder().join("grafana-dashboard.json"))?)?)
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

/// The panels with queries, and their expressions.
fn panels(dashboard: &Value) -> Vec<(&str, Vec<&str>)> {
    let shown = list(&dashboard["panels"]).iter().filter(|panel| panel["type"] != "row");
    let expressions = |panel: &'_ Value| list(&panel["targets"]).len();
    shown
        .inspect(|panel| assert!(expressions(panel) > 0, "{panel}"))
        .map(|panel| {
            (
                text(&panel["title"]),
                list(&panel["targets"]).iter().map(|target| text(&target["expr"])).collect(),
            )
        })
        .collect()
}

fn alerts(rules: &Value) -> Vec<&Value> {
    list(&rules["groups"]).iter().flat_map(|group| list(&group["rules"])).collect()
}

/// The project's and Envoy's metrics in an expression.
fn metrics(expression: &str) -> BTreeSet<&str> {
    expression
        .split(|c: char| !c.is_ascii_alphanumeric() && c != '_')
        .filter(|word| ["egress_", "osm_egress_", "envoy_"].iter().any(|prefix| word.starts_with(prefix)))
        // Labels of Envoy's.
        .filter(|word| {
            !word.ends_with("_prefix")
                && !["envoy_listener_address", "envoy_cluster_name", "envoy_response_code_class"]
                    .contains(word)
        })
        .collect()
}

/// Replaces Grafana's variables by values.
fn substituted(expression: &str) -> String {
    let mut out = expression.to_owned();
    for (variable, value) in
        [("$__rate_interval", "1m"), ("$__range", "5m"), ("$namespace", ".*"), ("$pod", ".*")]
    {
        out = out.replace(variable, value);
    }
    out
}

#[test]
fn alerts_fire() -> Result<()> {
    println!("{}", promtool(&["check", "rules", "alerts.yaml"], &folder())?);
    println!("{}", promtool(&["test", "rules", "alerts_test.yaml"], &folder())?);
    let (rules, tests) = (read_yaml("alerts.yaml")?, read_yaml("alerts_test.yaml")?);
    let alerts = alerts(&rules);
    let tried: Vec<_> = list(&tests["tests"]).iter().map(|test| text(&test["name"])).collect();
    ensure!(alerts.iter().map(|alert| text(&alert["alert"])).collect::<Vec<_>>() == tried, "{tried:?}");
    for (alert, test) in alerts.iter().zip(list(&tests["tests"])) {
        let name = text(&alert["alert"]);
        // First it does not fire, then it does.
        let [quiet, fires] = list(&test["promql_expr_test"]) else {
            anyhow::bail!("{name}: not two expectations")
        };
        for expectation in [quiet, fires] {
            ensure!(text(&expectation["expr"]).contains(&format!("alertname=\"{name}\"")), "{expectation}");
        }
        ensure!(quiet["exp_samples"].is_null() && fires["exp_samples"][0]["value"] == 1, "{test}");
        let annotation = |key: &str| text(&alert["annotations"][key]).len();
        ensure!(
            annotation("summary") > 10 && annotation("description") > 40,
            "{name} does not say what to do"
        );
        ensure!(["critical", "warning", "info"].contains(&text(&alert["labels"]["severity"])), "{alert}");
    }
    Ok(())
}

/// The dashboard follows Grafana's JSON model.
#[test]
fn the_dashboard_follows_grafanas_model() -> Result<()> {
    let dashboard = dashboard()?;
    ensure!(
        dashboard["schemaVersion"] == 39 && dashboard["uid"] == "osm-egress" && dashboard["id"].is_null()
    );
    let variables: Vec<_> =
        list(&dashboard["templating"]["list"]).iter().map(|variable| text(&variable["name"])).collect();
    ensure!(variables == ["datasource", "namespace", "pod"], "{variables:?}");
    let source = json!({"type": "prometheus", "uid": "${datasource}"});
    let (mut ids, mut places) = (BTreeSet::new(), BTreeSet::new());
    for panel in list(&dashboard["panels"]) {
        let title = text(&panel["title"]);
        ensure!(!title.is_empty() && ids.insert(panel["id"].as_u64()), "{panel}");
        let side = |key: &str| panel["gridPos"][key].as_u64().unwrap_or(u64::MAX);
        let (x, y, w, h) = (side("x"), side("y"), side("w"), side("h"));
        ensure!(x < 24 && w <= 24 - x && h < 30, "{title}: {}", panel["gridPos"]);
        for place in (x..x + w).flat_map(|x| (y..y + h).map(move |y| (x, y))) {
            ensure!(places.insert(place), "{title} lies over another panel");
        }
        if panel["type"] == "row" {
            continue;
        }
        ensure!(panel["datasource"] == source, "{title}");
        let mut letters = BTreeSet::new();
        for target in list(&panel["targets"]) {
            ensure!(
                target["datasource"] == source && letters.insert(text(&target["refId"])),
                "{title}: {target}"
            );
        }
    }
    for (title, expressions) in panels(&dashboard) {
        for expression in expressions {
            ensure!(!substituted(expression).contains('$'), "{title}: {expression}");
        }
    }
    Ok(())
}

/// The documentation lists every metric.
#[test]
fn metrics_are_documented() -> Result<()> {
    let documentation = std::fs::read_to_string(repository_root().join("docs/metrics.md"))?;
    let (dashboard, rules) = (dashboard()?, read_yaml("alerts.yaml")?);
    let shown = panels(&dashboard).into_iter().flat_map(|(_, expressions)| expressions);
    let alerted = alerts(&rules).into_iter().map(|alert| text(&alert["expr"]));
    for expression in shown.chain(alerted) {
        for name in metrics(expression) {
            let documented = ["`", "{"].iter().any(|end| documentation.contains(&format!("| `{name}{end}")));
            ensure!(documented, "docs/metrics.md has no {name}");
        }
    }
    Ok(())
}

/// The example configuration, with Kubernetes' answers about a control plane and two pods.
fn configuration(pods: &[&Pod]) -> Result<Value> {
    let mut config = read_yaml("prometheus.yaml")?;
    config["global"] = json!({"scrape_interval": "1s", "evaluation_interval": "1s"});
    let target = |address: String, labels: Value| json!({"targets": [address], "labels": labels});
    let control_plane = target(
        SocketAddr::new(CONTROL_PLANE, 15129).to_string(),
        json!({
            "__meta_kubernetes_pod_container_port_name": "admin",
            "__meta_kubernetes_pod_label_app_kubernetes_io_name": "osm-egress",
            "__meta_kubernetes_namespace": "osm-system",
            "__meta_kubernetes_pod_name": "osm-egress-0",
        }),
    );
    // A pod of another mesh.
    let other = target("192.0.2.1:80".to_owned(), json!({"__meta_kubernetes_pod_name": "other"}));
    let sidecars = pods.iter().enumerate().map(|(n, pod)| {
        target(
            "192.0.2.1:8080".to_owned(),
            json!({
                "__meta_kubernetes_pod_labelpresent_openservicemesh_io_egress_sidecar": "true",
                "__meta_kubernetes_pod_container_name": "envoy",
                "__meta_kubernetes_pod_ip": pod.address,
                "__meta_kubernetes_namespace": "curl",
                "__meta_kubernetes_pod_name": format!("pod-{n}"),
            }),
        )
    });
    let sidecars: Vec<Value> = sidecars.chain([other.clone()]).collect();
    for (job, targets) in
        [("osm-egress", json!([control_plane, other])), ("osm-egress-sidecars", json!(sidecars))]
    {
        let jobs = config["scrape_configs"].as_array_mut().context("no jobs")?;
        let of_name = |found: &&mut Value| found["job_name"] == job;
        let found = jobs.iter_mut().find(of_name).with_context(|| format!("no job {job}"))?;
        let fields = found.as_object_mut().context("no job")?;
        fields.remove("kubernetes_sd_configs").context("it looks for nothing")?;
        fields.insert("static_configs".to_owned(), targets);
    }
    Ok(config)
}

fn traffic(pod: &Pod) -> Result<()> {
    let at = |ip: IpAddr, port| SocketAddr::new(ip, port);
    workload::get(pod, at(HTTPBIN, 80), "httpbin.org", "/get")?;
    workload::get(pod, at(EXAMPLE, 80), "www.example.com", "/get")?;
    workload::get_tls(pod, at(HTTPBIN, 443), Some("httpbin.org"))?;
    workload::get_tls(pod, at(EXAMPLE, 443), Some("www.example.com"))?;
    let encrypted = Hello::named("httpbin.org").encrypted().bytes();
    pod.workload().run(|| client::exchange(at(HTTPBIN, 443), &encrypted))?;
    pod.workload().run(|| client::exchange(at(ELSEWHERE, 9000), b"ping"))?;
    Ok(())
}

#[test]
fn a_real_prometheus_has_every_series() -> Result<()> {
    ensure_capable()?;
    let network = TestNetwork::new()?;
    network.write("web.yaml", ENFORCED_AND_AUDITED)?;
    network.write(
        "bad.yaml",
        &manifests::sample("any-host-443.yaml")?.replace("protocol: tcp", "protocol: htttp"),
    )?;
    let (authority, own) = issue_control_plane_certificate()?;
    let ca = Volume::new(&[("ca.crt", &authority.pem)])?;
    let _control_plane = network.control_plane(&[
        "--tls-cert",
        &own.text("tls.crt"),
        "--tls-key",
        &own.text("tls.key"),
        "--flow-log",
    ])?;
    let pods = [network.pod()?, network.pod()?];
    let sidecar = |pod, identity| {
        let flags = ["--xds-ca", &ca.text("ca.crt"), "--ready-port", "15904"];
        Envoy::start(pod, &sidecar::bootstrap_with(identity, false, &flags)?, 1)
    };
    let _envoys = [sidecar(&pods[0], "curl/curl")?, sidecar(&pods[1], "curl/watched")?];
    pods.iter().try_for_each(traffic)?;
    let config = configuration(&[&pods[0], &pods[1]])?;
    let prometheus = Prometheus::start(&network.outside.netns, &config, &folder().join("alerts.yaml"))?;

    let targets = || prometheus.api("targets?state=active").map(|data| list(&data["activeTargets"]).to_vec());
    wait_for("three targets", Duration::from_secs(20), || {
        targets().is_ok_and(|found| found.len() == 3 && found.iter().all(|target| target["health"] == "up"))
    })
    .with_context(|| format!("{:#?}\n{}", targets(), prometheus.log()))?;
    // That port serves metrics only.
    for path in ["/", "/config_dump", "/quitquitquit", "/stats", "/logging"] {
        let request = client::request("POST", path, &[("host", "envoy"), ("connection", "close")]);
        let to = SocketAddr::new(pods[0].address.into(), 15904);
        let outcome = network.outside.netns.run(|| client::http(to, &request))?;
        ensure!(
            matches!(&outcome, client::Outcome::Http(answer) if answer.status == 404),
            "{path}: {outcome:?}"
        );
    }
    // `increase` needs an earlier sample.
    wait_for("what there was", Duration::from_secs(20), || {
        prometheus.query("egress_audited_total").is_ok_and(|found| !found.is_empty())
    })?;
    pods.iter().try_for_each(traffic)?;

    let dashboard = dashboard()?;
    let panels = panels(&dashboard);
    let rules = read_yaml("alerts.yaml")?;
    let alerted: Vec<&str> = alerts(&rules).into_iter().map(|alert| text(&alert["expr"])).collect();
    let all = || panels.iter().flat_map(|(_, expressions)| expressions).chain(&alerted);
    for expression in all() {
        prometheus.query(&substituted(expression))?;
        for name in metrics(expression) {
            wait_for(name, Duration::from_secs(20), || {
                prometheus.query(&format!("{{__name__=\"{name}\"}}")).is_ok_and(|found| !found.is_empty())
            })?;
        }
    }
    for (title, expressions) in &panels {
        for expression in expressions {
            wait_for(expression, Duration::from_secs(20), || {
                prometheus.query(&substituted(expression)).is_ok_and(|found| !found.is_empty())
            })
            .with_context(|| format!("`{title}` shows nothing"))?;
        }
    }
    // The panels show the traffic.
    for (expression, expected) in [
        (
            r#"sum(egress_decisions_total{pod="pod-0",verdict="deny",reason="host-not-allowed",protocol="http"})"#,
            "2",
        ),
        (r#"sum(egress_decisions_total{pod="pod-1",verdict="allow",reason="audit",protocol="tcp"})"#, "2"),
        (r#"sum(egress_audited_total{namespace="curl",pod="pod-1",reason="no-rule",protocol="tcp"})"#, "2"),
        (r#"sum(egress_decisions_total{pod="pod-1",verdict="deny"}) or vector(0)"#, "0"),
        ("sum(osm_egress_proxies)", "2"),
        ("sum(osm_egress_proxies_outdated)", "0"),
        ("sum(osm_egress_proxies_refusing)", "0"),
        (r#"count(osm_egress_build_info{namespace="osm-system"})"#, "1"),
    ] {
        let value = || Some(text(&prometheus.query(expression).ok()?.first()?["value"][1]).to_owned());
        wait_for(expression, Duration::from_secs(20), || value().as_deref() == Some(expected))
            .with_context(|| format!("it is {:?}, not {expected}", value()))?;
    }

    // The alerts are valid here too, and two of them have a reason.
    let state = |alert: &str| {
        let rules = prometheus.api("rules?type=alert").ok()?;
        let all: Vec<Value> =
            list(&rules["groups"]).iter().flat_map(|group| list(&group["rules"]).to_vec()).collect();
        let healthy = all.len() == alerted.len() && all.iter().all(|rule| rule["health"] == "ok");
        let found = all.iter().find(|rule| rule["name"] == alert)?;
        healthy.then(|| text(&found["state"]).to_owned())
    };
    for (alert, expected) in [
        ("EgressAuditWouldRefuse", "firing"),
        ("EgressPolicyProblems", "pending"),
        ("EgressControlPlaneDown", "inactive"),
        ("EgressConfigurationRejected", "inactive"),
    ] {
        wait_for(alert, Duration::from_secs(20), || state(alert).as_deref() == Some(expected))
            .with_context(|| format!("it is {:?}, not {expected}", state(alert)))?;
    }
    Ok(())
}
