//! The shared corpus through the native engine and through real Envoy.

#![allow(clippy::wildcard_enum_match_arm, reason = "what a test does not expect fails it")]

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use egress_policy::Policy;
use egress_policy::explain::Explainer;
use egress_tests::access_log;
use egress_tests::client::{self, Outcome};
use egress_tests::control_plane;
use egress_tests::corpus::{self, Case, Corpus};
use egress_tests::envoy::Envoy;
use egress_tests::netns::{Pod, PodForm, ensure_capable};
use egress_tests::network::{EXAMPLE, HTTPBIN, TestNetwork};
use egress_tests::origin::{ADDRESS_HEADER, OriginEvent};
use egress_tests::sidecar;
use egress_tests::standalone::Standalone;
use egress_tests::wait::wait_for;

#[test]
fn the_native_engine_decides_the_corpus() -> Result<()> {
    for corpus in corpus::load_all()? {
        let policy = Policy::new(corpus.document()?.as_ref().clone())?;
        for case in &corpus.cases {
            assert_eq!(corpus::decide(&policy, case), case.expect, "{}: {}", corpus.name, case.name);
        }
    }
    Ok(())
}

#[test]
fn explanations_match_the_corpus() -> Result<()> {
    for corpus in corpus::load_all()? {
        let explainer = Explainer::new(corpus.document()?.as_ref().clone())?;
        for case in &corpus.cases {
            let explanation = corpus::explain(&explainer, case);
            let message = corpus::format_explanation(&explanation);
            assert_eq!(message, case.expect, "{}: {}", corpus.name, case.name);
            let by_rule = case.expect.starts_with("allow rule ");
            let some_rule_allows = explanation.rules.iter().any(|rule| rule.allows());
            assert_eq!(some_rule_allows, by_rule, "{}: {}", corpus.name, case.name);
        }
    }
    Ok(())
}

/// `osm-egress explain` on a folder gives the expected results, including its reading of URLs and flags.
#[test]
fn the_command_line_explains_the_corpus() -> Result<()> {
    let folder = tempfile::tempdir()?;
    for corpus in corpus::load_all()? {
        std::fs::write(folder.path().join("corpus.yaml"), &corpus.manifests)?;
        for case in &corpus.cases {
            let output = std::process::Command::new(control_plane::binary()?)
                .args(["explain", "--identity", "curl/curl", "--output", "json", "--config-dir"])
                .arg(folder.path())
                .args(corpus::explain_arguments(case))
                .output()?;
            let name = format!("{}: {}", corpus.name, case.name);
            let report: serde_json::Value = serde_json::from_slice(&output.stdout)
                .with_context(|| format!("{name}: {}", String::from_utf8_lossy(&output.stderr)))?;
            assert_eq!(corpus::format_report(&report), case.expect, "{name}");
            let allowed = case.expect.starts_with("allow");
            assert_eq!(output.status.code(), Some(if allowed { 0 } else { 3 }), "{name}");
        }
    }
    Ok(())
}

#[test]
fn envoy_decides_the_corpus_over_sotw() -> Result<()> {
    through_envoy(false, PodForm::supported())
}

#[test]
fn envoy_decides_the_corpus_over_delta() -> Result<()> {
    through_envoy(true, PodForm::supported())
}

/// An ordinary user's pod gives the expected results, tried as root too.
#[test]
fn envoy_decides_the_corpus_in_a_routed_pod() -> Result<()> {
    through_envoy(false, PodForm::Routed)
}

/// Envoy gives the expected results without a control plane: `envoy/standalone.yaml` with the corpus's
/// policies, by `osm-egress compile`.
#[test]
fn envoy_decides_the_corpus_without_a_control_plane() -> Result<()> {
    ensure_capable()?;
    let network = TestNetwork::new()?;
    let standalone = Standalone::new()?;
    for corpus in corpus::load_all()? {
        let pod = network.pod()?;
        network.write("corpus.yaml", &corpus.manifests)?;
        let config = standalone.compiled(network.manifests.path()).with_context(|| corpus.name.clone())?;
        let envoy = Envoy::start(&pod, &config, 1).with_context(|| corpus.name.clone())?;
        let mut decided = 0;
        for case in &corpus.cases {
            check(&network, &pod, &envoy, &corpus, case, &mut decided)
                .with_context(|| format!("{}: {}", corpus.name, case.name))?;
        }
    }
    Ok(())
}

fn through_envoy(delta: bool, form: PodForm) -> Result<()> {
    ensure_capable()?;
    let network = TestNetwork::new()?;
    let pod = network.outside.pod(form)?;
    let control_plane = network.control_plane(&[])?;
    let envoy = sidecar::start(&pod, delta)?;
    let mut decided = 0;
    for corpus in corpus::load_all()? {
        network.write("corpus.yaml", &corpus.manifests)?;
        let version = corpus.document()?.version.clone();
        wait_for("Envoy to acknowledge the policy", Duration::from_secs(10), || {
            control_plane
                .status()
                .is_ok_and(|status| status["proxies"][0]["documentAcknowledged"] == version.as_str())
        })
        .with_context(|| format!("{}: {:#?}", corpus.name, control_plane.status()))?;
        for case in &corpus.cases {
            check(&network, &pod, &envoy, &corpus, case, &mut decided)
                .with_context(|| format!("{}: {}", corpus.name, case.name))?;
        }
    }
    ensure!(envoy.stat("listener_manager.listener_modified")? == 0, "a policy change modified a listener");
    Ok(())
}

fn check(
    network: &TestNetwork,
    pod: &Pod,
    envoy: &Envoy<'_>,
    corpus: &Corpus,
    case: &Case,
    decided: &mut usize,
) -> Result<()> {
    let before = arrivals(network);
    let outcome = attempt(pod, case)?;
    let decisions =
        || -> Vec<_> { envoy.access_log().into_iter().filter(|line| line["decision"].is_string()).collect() };
    wait_for("the decision in the access log", Duration::from_secs(5), || decisions().len() > *decided)
        .with_context(|| format!("outcome: {outcome:?}"))?;
    let lines = decisions();
    *decided = lines.len();
    let line = lines.last().context("no line")?;
    let decision = line["decision"].as_str().unwrap_or_default();
    let message = decision.split(' ').take(3).collect::<Vec<_>>().join(" ");
    let expected = case.expect.split(" -> ").next().unwrap_or_default();
    ensure!(message == expected, "Envoy decided `{message}`, expected `{}` ({outcome:?})", case.expect);
    ensure!(access_log::format_columns(line) == decision, "the columns say something else: {line}");
    for field in ["identity", "mode", "policy_version", "protocol"] {
        ensure!(line[field].is_string(), "no `{field}`: {line}");
    }
    let after = arrivals(network);
    let served: Option<IpAddr> = match case.destination() {
        None => None,
        Some("dialled" | "passthrough") => Some(case.to.ip()),
        Some("httpbin.org") => Some(HTTPBIN),
        Some(_) => Some(EXAMPLE),
    };
    match (served, &outcome) {
        (None, Outcome::Http(answer)) => {
            ensure!(answer.status == 403, "status {}", answer.status);
            ensure!(answer.header("x-egress-denied") == expected.split(' ').nth(1), "{answer:?}");
        }
        (None, Outcome::Closed) => {}
        (Some(address), Outcome::Http(answer)) => {
            let at = answer.header(ADDRESS_HEADER).unwrap_or_default();
            ensure!(answer.status == 200 && at == address.to_string(), "{answer:?}");
            let expected = case.normalized_path().and_then(|path| path.split('?').next());
            let received = requested_path(network);
            ensure!(
                case.tls.is_some() || received.as_deref() == expected,
                "the origin received {received:?}, not {expected:?}"
            );
        }
        (Some(address), Outcome::Bytes(_)) => {
            ensure!(after.last() == Some(&SocketAddr::new(address, case.to.port())), "arrived at {after:?}");
        }
        (_, outcome) => anyhow::bail!("{}: unexpected outcome {outcome:?}", corpus.name),
    }
    if served.is_none() {
        ensure!(after.len() == before.len(), "something arrived at an origin: {after:?}");
    }
    Ok(())
}

fn arrivals(network: &TestNetwork) -> Vec<SocketAddr> {
    let seen = network.origins.events();
    seen.into_iter()
        .filter_map(|seen| if let OriginEvent::Connection(to) = seen { Some(to) } else { None })
        .collect()
}

/// The path of the last request at an origin, without its query.
fn requested_path(network: &TestNetwork) -> Option<String> {
    let events = network.origins.events();
    events.into_iter().rev().find_map(|event| match event {
        OriginEvent::Request(_, _, path) => Some(path),
        OriginEvent::Connection(_) => None,
    })
}

fn attempt(pod: &Pod, case: &Case) -> Result<Outcome> {
    let request = |method: &str, authority: &str, path: &str| {
        let mut headers = vec![("host", authority), ("connection", "close")];
        headers.extend(case.headers.iter().map(|(name, value)| (name.as_str(), value.as_str())));
        client::request(method, path, &headers)
    };
    pod.workload().run(|| {
        if let Some(name) = &case.tls {
            let name = Some(name.as_str()).filter(|name| !name.is_empty());
            return client::https(case.to, name, &request("GET", name.unwrap_or("none"), "/get"));
        }
        match case.request() {
            Some(http) => client::http(case.to, &request(http.method, http.authority, http.path)),
            None => client::exchange(case.to, case.bytes.as_deref().unwrap_or_default().as_bytes()),
        }
    })
}
