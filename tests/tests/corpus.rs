//! The shared corpus through the native engine and through real Envoy.

#![allow(clippy::wildcard_enum_match_arm, reason = "what a test does not expect fails it")]

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use egress_policy::Policy;
use egress_policy::explain::Explainer;
use egress_tests::client::{self, Outcome};
use egress_tests::corpus::{self, Case, Corpus};
use egress_tests::envoy::Envoy;
use egress_tests::log;
use egress_tests::mesh::{self, EXAMPLE, HTTPBIN, World};
use egress_tests::netns::{Form, Pod, ensure_capable};
use egress_tests::origin::ADDRESS_HEADER;
use egress_tests::shim;
use egress_tests::standalone::Standalone;
use egress_tests::wait::wait_for;

#[test]
fn native_engine() -> Result<()> {
    for corpus in corpus::all()? {
        let policy = Policy::new(corpus.document()?.as_ref().clone())?;
        for case in &corpus.cases {
            assert_eq!(corpus::ask(&policy, case), case.expect, "{}: {}", corpus.name, case.name);
        }
    }
    Ok(())
}

#[test]
fn explanations() -> Result<()> {
    for corpus in corpus::all()? {
        let explainer = Explainer::new(corpus.document()?.as_ref().clone())?;
        for case in &corpus.cases {
            let explanation = corpus::explain(&explainer, case);
            let said = corpus::explained(&explanation);
            assert_eq!(said, case.expect, "{}: {}", corpus.name, case.name);
            let by_rule = case.expect.starts_with("allow rule ");
            let some_rule_allows = explanation.rules.iter().any(|rule| rule.allows());
            assert_eq!(some_rule_allows, by_rule, "{}: {}", corpus.name, case.name);
        }
    }
    Ok(())
}

/// The same by `osm-egress explain` on a folder, with what it makes of URLs and flags.
#[test]
fn on_the_command_line() -> Result<()> {
    let folder = tempfile::tempdir()?;
    for corpus in corpus::all()? {
        std::fs::write(folder.path().join("corpus.yaml"), &corpus.manifests)?;
        for case in &corpus.cases {
            let output = std::process::Command::new(shim::binary()?)
                .args(["explain", "--identity", "curl/curl", "--output", "json", "--config-dir"])
                .arg(folder.path())
                .args(corpus::explain_arguments(case))
                .output()?;
            let name = format!("{}: {}", corpus.name, case.name);
            let report: serde_json::Value = serde_json::from_slice(&output.stdout)
                .with_context(|| format!("{name}: {}", String::from_utf8_lossy(&output.stderr)))?;
            assert_eq!(corpus::reported(&report), case.expect, "{name}");
            let allowed = case.expect.starts_with("allow");
            assert_eq!(output.status.code(), Some(if allowed { 0 } else { 3 }), "{name}");
        }
    }
    Ok(())
}

#[test]
fn envoy_with_state_of_the_world() -> Result<()> {
    through_envoy(false, Form::possible())
}

#[test]
fn envoy_with_delta() -> Result<()> {
    through_envoy(true, Form::possible())
}

/// The form that an ordinary user has, tried as root too.
#[test]
fn envoy_in_the_routed_form() -> Result<()> {
    through_envoy(false, Form::Routed)
}

/// The same decisions without a control plane: `envoy/standalone.yaml` with the corpus' policies in it, by
/// `osm-egress compile`.
#[test]
fn standalone() -> Result<()> {
    ensure_capable()?;
    let world = World::new()?;
    let standalone = Standalone::new()?;
    for corpus in corpus::all()? {
        let pod = world.pod()?;
        world.write("corpus.yaml", &corpus.manifests)?;
        let config = standalone.compiled(world.manifests.path()).with_context(|| corpus.name.clone())?;
        let envoy = Envoy::start(&pod, &config, 1).with_context(|| corpus.name.clone())?;
        let mut decided = 0;
        for case in &corpus.cases {
            check(&world, &pod, &envoy, &corpus, case, &mut decided)
                .with_context(|| format!("{}: {}", corpus.name, case.name))?;
        }
    }
    Ok(())
}

fn through_envoy(delta: bool, form: Form) -> Result<()> {
    ensure_capable()?;
    let world = World::new()?;
    let pod = world.outside.pod(form)?;
    let shim = world.shim(&[])?;
    let envoy = mesh::sidecar(&pod, delta)?;
    let mut decided = 0;
    for corpus in corpus::all()? {
        world.write("corpus.yaml", &corpus.manifests)?;
        let version = corpus.document()?.version.clone();
        wait_for("Envoy to acknowledge the policy", Duration::from_secs(10), || {
            shim.status().is_ok_and(|status| status["proxies"][0]["documentAcknowledged"] == version.as_str())
        })
        .with_context(|| format!("{}: {:#?}", corpus.name, shim.status()))?;
        for case in &corpus.cases {
            check(&world, &pod, &envoy, &corpus, case, &mut decided)
                .with_context(|| format!("{}: {}", corpus.name, case.name))?;
        }
    }
    ensure!(envoy.stat("listener_manager.listener_modified")? == 0, "a policy change modified a listener");
    Ok(())
}

fn check(
    world: &World,
    pod: &Pod,
    envoy: &Envoy<'_>,
    corpus: &Corpus,
    case: &Case,
    decided: &mut usize,
) -> Result<()> {
    let before = arrivals(world);
    let outcome = attempt(pod, case)?;
    let decisions =
        || -> Vec<_> { envoy.access_log().into_iter().filter(|line| line["decision"].is_string()).collect() };
    wait_for("the decision in the access log", Duration::from_secs(5), || decisions().len() > *decided)
        .with_context(|| format!("outcome: {outcome:?}"))?;
    let lines = decisions();
    *decided = lines.len();
    let line = lines.last().context("no line")?;
    let decision = line["decision"].as_str().unwrap_or_default();
    let said = decision.split(' ').take(3).collect::<Vec<_>>().join(" ");
    let expected = case.expect.split(" -> ").next().unwrap_or_default();
    ensure!(said == expected, "Envoy decided `{said}`, expected `{}` ({outcome:?})", case.expect);
    ensure!(log::columns(line) == decision, "the columns say something else: {line}");
    for field in ["identity", "mode", "policy_version", "protocol"] {
        ensure!(line[field].is_string(), "no `{field}`: {line}");
    }
    let after = arrivals(world);
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

fn arrivals(world: &World) -> Vec<SocketAddr> {
    use egress_tests::origin::Seen;
    let seen = world.origins.seen();
    seen.into_iter()
        .filter_map(|seen| if let Seen::Connection(to) = seen { Some(to) } else { None })
        .collect()
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
