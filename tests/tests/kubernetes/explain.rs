//! `osm-egress explain` on a cluster: its results equal Envoy's, and it reports which proxies have the
//! policy.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Output;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use egress_tests::cluster::{Cluster, wait_for_status};
use egress_tests::control_plane;
use egress_tests::curl::Curl;
use egress_tests::kube::User;
use egress_tests::netns::ensure_capable;
use egress_tests::network::{CONTROL_PLANE, TestNetwork};
use egress_tests::sidecar;
use egress_tests::wait::wait_for;
use serde_json::Value;

const POLICIES: &str = r#"
apiVersion: policy.openservicemesh.io/v1alpha1
kind: Egress
metadata: {name: web, namespace: curl}
spec:
  sources: [{kind: ServiceAccount, name: curl, namespace: curl}]
  hosts: [httpbin.org]
  ports: [{number: 80, protocol: http}, {number: 443, protocol: https}]
  matches: [{apiGroup: specs.smi-spec.io/v1alpha4, kind: HTTPRouteGroup, name: get}]
---
apiVersion: specs.smi-spec.io/v1alpha4
kind: HTTPRouteGroup
metadata: {name: get, namespace: curl}
spec: {matches: [{name: get, pathRegex: /get, methods: [GET]}]}
---
apiVersion: policy.openservicemesh.io/v1alpha1
kind: Egress
metadata: {name: echo, namespace: curl}
spec:
  sources: [{kind: ServiceAccount, name: curl, namespace: curl}]
  ipAddresses: [203.0.113.10/32]
  ports: [{number: 9000, protocol: tcp}]
---
apiVersion: v1
kind: Pod
metadata: {name: sidecar, namespace: curl}
spec:
  serviceAccountName: curl
  containers: [{name: curl, image: curl}, {name: envoy, image: envoy}]
---
apiVersion: v1
kind: Pod
metadata: {name: bare, namespace: plain}
spec: {containers: [{name: curl, image: curl}]}
"#;

/// A policy with one more port, which changes the document.
const ANOTHER_POLICY: &str = r#"
apiVersion: policy.openservicemesh.io/v1alpha1
kind: Egress
metadata: {name: another, namespace: curl}
spec:
  sources: [{kind: ServiceAccount, name: curl, namespace: curl}]
  ports: [{number: 9001, protocol: tcp}]
"#;

struct Explain<'c> {
    cluster: &'c Cluster<'c>,
}

impl Explain<'_> {
    fn run(&self, user: User, arguments: &[&str]) -> Result<Output> {
        let kubeconfig: PathBuf = self.cluster.api.kubeconfig(user);
        let mut command =
            self.cluster.network.outside.netns.command(&control_plane::binary()?.to_string_lossy());
        Ok(command.arg("explain").arg("--kubeconfig").arg(kubeconfig).args(arguments).output()?)
    }

    /// The report about the pod, and the exit code.
    fn query(&self, arguments: &[&str]) -> Result<(Value, i32)> {
        let admin = SocketAddr::new(CONTROL_PLANE, 15129).to_string();
        let mut all = vec!["--pod", "curl/sidecar", "--admin", &admin, "--output", "json"];
        all.extend_from_slice(arguments);
        let output = self.run(User::Admin, &all)?;
        let report = serde_json::from_slice(&output.stdout)
            .with_context(|| String::from_utf8_lossy(&output.stderr).into_owned())?;
        Ok((report, output.status.code().unwrap_or(-1)))
    }

    fn expect_refusal(&self, user: User, arguments: &[&str], expected: &[&str]) -> Result<()> {
        let output = self.run(user, arguments)?;
        let message = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.code() == Some(1), "{arguments:?}: {message}");
        for expected in expected {
            ensure!(message.contains(expected), "{arguments:?} lacks `{expected}`: {message}");
        }
        Ok(())
    }
}

/// The explanation equals Envoy's decision for the same connection, word for word.
#[test]
fn explain_agrees_with_envoy() -> Result<()> {
    ensure_capable()?;
    let network = TestNetwork::new()?;
    let pod = network.pod()?;
    let cluster = Cluster::new(&network)?;
    cluster.api.namespace("plain", false)?;
    cluster.api.apply(POLICIES)?;
    let control_plane = cluster.control_plane(&[])?;
    wait_for_status(&control_plane, "the policies", |status| {
        status["identities"]["curl/curl"]["rules"] == 3
    })?;
    let envoy = sidecar::start(&pod, false)?;
    let explain = Explain { cluster: &cluster };

    let mut decided = 0;
    let elsewhere = "elsewhere.example:80:198.51.100.66";
    let cases: [(&[&str], &[&str]); 10] = [
        (&["http://httpbin.org/get"], &[]),
        (&["http://httpbin.org/get", "-X", "POST"], &["--method", "POST"]),
        (&["http://httpbin.org/status/200"], &[]),
        (&["http://httpbin.org//x/../get"], &[]),
        (&["http://elsewhere.example/get", "--resolve", elsewhere], &["--address", "198.51.100.66"]),
        (&["https://httpbin.org/get", "-k"], &[]),
        (&["https://203.0.113.10/get", "-k"], &[]),
        (&["http://httpbin.org:443/get"], &[]),
        (&["https://www.example.com/", "-k"], &[]),
        (&["http://203.0.113.20:9000/"], &[]),
    ];
    for (curl, flags) in cases {
        let _ = Curl::run(&pod, curl)?;
        let decisions = || -> Vec<String> {
            let lines = envoy.access_log();
            lines.iter().filter_map(|line| line["decision"].as_str().map(str::to_owned)).collect()
        };
        wait_for("the decision in the access log", Duration::from_secs(5), || decisions().len() > decided)
            .with_context(|| format!("{curl:?}"))?;
        let all = decisions();
        decided = all.len();
        let message = all.last().context("no decision")?;

        let (report, code) = explain.query(&[&["--to", curl[0]], flags].concat())?;
        let text = |key: &str| report[key].as_str().unwrap_or("-").to_owned();
        let explained = ["verdict", "reason", "policy", "rule"].map(text).join(" ");
        ensure!(explained == *message, "{curl:?}: explained as `{explained}`, Envoy: `{message}`");
        ensure!(code == if message.starts_with("allow") { 0 } else { 3 }, "{curl:?}: exit code {code}");
        let denied = message.starts_with("deny");
        ensure!(
            report["rules"].as_array().is_some_and(|rules| rules.len() == 3
                && (!denied
                    || rules
                        .iter()
                        .all(|rule| rule["mismatches"].as_array().is_some_and(|l| !l.is_empty())))),
            "{report:#}"
        );
    }
    Ok(())
}

/// The report says if a pod's sidecar has the policy, and what a change opens or closes until then.
#[test]
fn the_report_names_acknowledgements() -> Result<()> {
    ensure_capable()?;
    let network = TestNetwork::new()?;
    let pod = network.pod()?;
    let cluster = Cluster::new(&network)?;
    cluster.api.namespace("plain", false)?;
    cluster.api.apply(POLICIES)?;
    let control_plane = cluster.control_plane(&[])?;
    let explain = Explain { cluster: &cluster };
    let to = ["--to", "tcp://203.0.113.10:9001"];
    // There is no proxy yet.
    let (report, code) = explain.query(&to)?;
    ensure!(code == 3 && report["proxies"]["proxies"] == Value::Array(vec![]), "{report:#}");

    let envoy = sidecar::start(&pod, false)?;
    let has = |expected: bool| {
        wait_for(&format!("acknowledged: {expected}"), Duration::from_secs(10), || {
            explain.query(&to).is_ok_and(|(report, _)| {
                report["proxies"]["proxies"][0]["acknowledged"] == expected
                    && report["proxies"]["otherDocument"].is_null()
            })
        })
        .with_context(|| {
            format!("{:#?}\n{}", explain.query(&to).map(|(report, _)| report), control_plane.log())
        })
    };
    has(true)?;
    let note = |expected: &str| {
        wait_for(&format!("a note `{expected}`"), Duration::from_secs(20), || {
            let output = explain.run(User::Admin, &["--pod", "curl/sidecar", "--to", to[1]]);
            output.is_ok_and(|output| String::from_utf8_lossy(&output.stdout).contains(expected))
        })
    };
    note("1 of 1 proxies of curl/curl have acknowledged this document\n")?;
    // A sidecar that rejects its policy.
    envoy.pause()?;
    cluster.api.apply(ANOTHER_POLICY)?;
    wait_for_status(&control_plane, "the change", |status| status["identities"]["curl/curl"]["rules"] == 4)?;
    has(false)?;
    let (report, code) = explain.query(&to)?;
    ensure!(code == 0 && report["verdict"] == "allow" && report["policy"] == "curl/another", "{report:#}");
    let text = explain.run(
        User::Admin,
        &[
            "--pod",
            "curl/sidecar",
            "--to",
            to[1],
            "--admin",
            &SocketAddr::new(CONTROL_PLANE, 15129).to_string(),
        ],
    )?;
    let text = String::from_utf8(text.stdout)?;
    ensure!(text.contains("sidecar.curl.curl: NOT YET"), "{text}");
    note("0 of 1 proxies of curl/curl have acknowledged this document: pass `--admin` to list them\n")?;
    envoy.resume()?;
    has(true)?;

    // Questions without an answer.
    let base = ["--to", "https://httpbin.org"];
    let query = |more: &[&'static str]| [&base[..], more].concat();
    explain.expect_refusal(User::Admin, &query(&["--pod", "curl/none"]), &["pod `curl/none`", "404"])?;
    explain.expect_refusal(
        User::Nobody,
        &query(&["--pod", "curl/sidecar"]),
        &["pod `curl/sidecar`", "403"],
    )?;
    let nobody = query(&["--identity", "curl/curl", "--timeout", "3s"]);
    explain.expect_refusal(User::Nobody, &nobody, &["could not be read in 3s", "403"])?;
    let nowhere = query(&["--identity", "curl/curl", "--admin", "203.0.113.2:1"]);
    explain.expect_refusal(User::Admin, &nowhere, &["cannot reach a control plane at 203.0.113.2:1"])?;
    // The control plane's own role is sufficient for a service account.
    let output = explain.run(User::ControlPlane, &query(&["--identity", "curl/curl"]))?;
    ensure!(output.status.code() == Some(0), "{}", String::from_utf8_lossy(&output.stderr));

    // A pod without interception, in a namespace outside the mesh.
    let output = explain.run(User::Admin, &query(&["--pod", "plain/bare", "--output", "json"]))?;
    let report: Value = serde_json::from_slice(&output.stdout)?;
    ensure!(report["identity"] == "plain/default" && report["reason"] == "no-policy", "{report:#}");
    let notes = report["notes"].to_string();
    ensure!(
        notes.contains("does not belong to the mesh") && notes.contains("no container `envoy`"),
        "{notes}"
    );
    Ok(())
}
