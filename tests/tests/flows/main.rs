//! Flows that sidecars report, and suggestions from them: `docs/learn.md`, command by command.

mod hostile;
mod limits;
mod persistence;

use std::net::SocketAddr;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use egress_tests::client;
use egress_tests::control_plane::{self, ControlPlane};
use egress_tests::doc_commands;
use egress_tests::envoy::Envoy;
use egress_tests::manifests::audited_account;
use egress_tests::netns::ensure_capable;
use egress_tests::network::{CONTROL_PLANE, ELSEWHERE, EXAMPLE, HTTPBIN, NAME_SERVER, TestNetwork};
use egress_tests::repository_root;
use egress_tests::sidecar;
use egress_tests::wait::wait_for;
use egress_tests::workload;
use serde_json::{Value, json};

const POLICIES: &str = "apiVersion: policy.openservicemesh.io/v1alpha1
kind: Egress
metadata: {name: web, namespace: curl}
spec:
  sources: [{kind: ServiceAccount, name: NAME, namespace: curl}]
  hosts: [httpbin.org]
  ports: [{number: 80, protocol: http}, {number: 443, protocol: https}]
---
apiVersion: policy.openservicemesh.io/v1alpha1
kind: Egress
metadata: {name: echo, namespace: curl}
spec:
  sources: [{kind: ServiceAccount, name: NAME, namespace: curl}]
  ipAddresses: [203.0.113.10/32]
  ports: [{number: 9000, protocol: tcp}]
";

/// Each flow has the same reason, policy and rule as the line in Envoy's log.
#[test]
fn flows_match_envoys_log() -> Result<()> {
    ensure_capable()?;
    let network = TestNetwork::new()?;
    network.write("web.yaml", &POLICIES.replace("NAME", "curl"))?;
    network.write("account.yaml", &audited_account("watched"))?;
    network.write(
        "watched.yaml",
        &POLICIES.replace("NAME", "watched").replace("name: web", "name: w").replace("name: echo", "name: e"),
    )?;
    let control_plane = network.control_plane(&["--flow-log", "--flows-per-identity", "50"])?;
    for (identity, state) in [("curl/curl", false), ("curl/watched", true)] {
        let pod = network.pod()?;
        let envoy = Envoy::start(&pod, &sidecar::bootstrap(identity, state)?, 1)?;
        let to = |ip, port| SocketAddr::new(ip, port);
        workload::get(&pod, to(HTTPBIN, 80), "httpbin.org", "/get?secret=1")?;
        workload::get(&pod, to(EXAMPLE, 80), "www.example.com", "/get")?;
        workload::get_tls(&pod, to(HTTPBIN, 443), Some("httpbin.org"))?;
        workload::get_tls(&pod, to(EXAMPLE, 443), Some("www.example.com"))?;
        workload::get_tls(&pod, to(EXAMPLE, 443), None)?;
        pod.workload().run(|| client::exchange(to(HTTPBIN, 9000), b"ping"))?;
        pod.workload().run(|| client::exchange(to(ELSEWHERE, 9000), b"ping"))?;
        let upgrade = [("host", "httpbin.org"), ("connection", "upgrade"), ("upgrade", "h2c-of-ours")];
        pod.workload().run(|| client::http(to(HTTPBIN, 80), &client::request("GET", "/up", &upgrade)))?;
        let mut flows = Vec::new();
        wait_for("eight flows", Duration::from_secs(10), || {
            flows = fetch_flows(&control_plane, identity).unwrap_or_default();
            flows.len() >= 8
        })
        .with_context(|| format!("{flows:#?}\n{}\n{}", control_plane.log(), envoy.log_tail(40)))?;
        let mut logged: Vec<Value> = envoy.access_log().iter().filter_map(flow_of_line).collect();
        logged.sort_by_key(Value::to_string);
        logged.dedup();
        let mut reported: Vec<Value> = flows.iter().map(common_fields).collect();
        reported.sort_by_key(Value::to_string);
        ensure!(reported == logged, "reported {reported:#?}\nlogged {logged:#?}");
        let names: Vec<&Value> = flows.iter().map(|flow| &flow["name"]).collect();
        ensure!(names.contains(&&json!("www.example.com")), "{names:?}");
        ensure!(
            flows.iter().all(|flow| flow["identity"] == identity && flow["nodes"][0].is_string()),
            "{flows:#?}"
        );
        ensure!(!json!(flows).to_string().contains("secret"), "{flows:#?}");
        let audited = flows.iter().filter(|flow| flow["wouldRefuse"].is_string()).count();
        ensure!(audited == if state { 4 } else { 0 }, "{audited} audited: {flows:#?}");

        // The log gives the same suggestion as the reports, except for the dates.
        let log = tempfile::NamedTempFile::new()?;
        let lines: Vec<String> = envoy.access_log().iter().map(Value::to_string).collect();
        std::fs::write(log.path(), lines.join("\n"))?;
        let run_with_admin = |flags: &[&str]| {
            let mut command = network.outside.netns.command(&control_plane::binary()?.to_string_lossy());
            let output = command.args(["suggest", "--identity", identity]).args(flags).output()?;
            ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
            Ok(String::from_utf8(output.stdout)?)
        };
        let by_log = run_with_admin(&["--log", &log.path().to_string_lossy()])?;
        let by_admin = run_with_admin(&["--admin", &SocketAddr::new(CONTROL_PLANE, 15129).to_string()])?;
        ensure!(by_log == by_admin, "{by_log}\n{by_admin}");
        ensure!(by_log.contains("- www.example.com #") && !by_log.contains("- httpbin.org"), "{by_log}");
    }
    ensure!(control_plane.metric("osm_egress_flow_entries_total")? >= 16);
    ensure!(control_plane.metric("osm_egress_flows_dropped_total")? == 0);
    Ok(())
}

/// Without the flag no sidecar reports anything, and `flows` says so.
#[test]
fn flows_are_off_by_default() -> Result<()> {
    ensure_capable()?;
    let network = TestNetwork::new()?;
    let pod = network.pod()?;
    let control_plane = network.control_plane(&[])?;
    let envoy = sidecar::start(&pod, false)?;
    ensure!(!envoy.admin("/config_dump?resource=dynamic_listeners")?.contains("tcp_grpc"));
    ensure!(serde_json::from_str::<Value>(&control_plane.get("/flows")?)?["enabled"] == false);
    let admin = SocketAddr::new(CONTROL_PLANE, 15129).to_string();
    let output = network
        .outside
        .netns
        .command(&control_plane::binary()?.to_string_lossy())
        .args(["flows", "--admin", &admin])
        .output()?;
    ensure!(
        !output.status.success() && String::from_utf8_lossy(&output.stderr).contains("--flow-log"),
        "{output:?}"
    );
    Ok(())
}

/// A malformed question is answered with its problem.
#[test]
fn malformed_questions_are_answered_with_the_problem() -> Result<()> {
    ensure_capable()?;
    let network = TestNetwork::new()?;
    let control_plane = network.control_plane(&["--flow-log"])?;
    for (question, answer) in [
        ("limit=0", "must be 1 to 10000"),
        ("limit=10001", "must be 1 to 10000"),
        ("limit=many", "limit: invalid digit"),
        ("after=-1", "after: invalid digit"),
        ("newest=perhaps", "newest: "),
        ("verdict=refused", "unknown variant `refused`"),
        ("identity=curl", "`curl` is not of the form `namespace/service-account`"),
        ("identiy=curl/curl", "unknown field `identiy`"),
    ] {
        let error = control_plane
            .get(&format!("/flows?{question}"))
            .err()
            .with_context(|| format!("{question} is taken"))?;
        let error = format!("{error:#}");
        ensure!(error.contains(" 400 ") && error.contains(answer), "{question}: {error}");
    }
    let page: Value =
        serde_json::from_str(&control_plane.get("/flows?limit=10000&newest=true&after=7&verdict=audit")?)?;
    ensure!(page["more"] == false && page["flows"] == json!([]), "{page}");
    Ok(())
}

/// `docs/learn.md`: from audit to enforcement, without a refusal on the way.
#[test]
fn suggestions_lead_from_audit_to_enforcement() -> Result<()> {
    ensure_capable()?;
    let text = std::fs::read_to_string(repository_root().join("docs/learn.md"))?;
    let manifests = text.split("\n```yaml\n").nth(1).and_then(|rest| rest.split("```").next());
    let network = TestNetwork::new()?;
    network.write("curl.yaml", manifests.context("docs/learn.md has no manifests")?)?;
    let pod = network.pod()?;
    let control_plane = network.control_plane(&["--flow-log"])?;
    let _envoy = sidecar::start(&pod, false)?;
    let folder = tempfile::tempdir()?;
    std::os::unix::fs::symlink(network.manifests.path(), folder.path().join("manifests"))?;
    let binary = control_plane::binary()?;
    let path = format!(
        "{}:{}",
        binary.parent().context("a folder")?.display(),
        std::env::var("PATH").unwrap_or_default()
    );
    let shell = |script: &str| -> Command {
        // Commands of the workload, and of other places.
        let is_workload = script.starts_with("{ curl ");
        let mut command = match is_workload.then(|| pod.command("bash", NAME_SERVER)) {
            Some(Ok(command)) => command,
            Some(Err(error)) => panic!("no shell in the pod: {error}"),
            None => network.outside.netns.command("bash"),
        };
        command.args(["-c", script]).current_dir(folder.path()).env("PATH", &path);
        command.env("ADMIN", SocketAddr::new(CONTROL_PLANE, 15129).to_string());
        command
    };
    let steps = doc_commands::steps(&text);
    ensure!(steps.len() >= 18, "docs/learn.md has {} commands only", steps.len());
    for step in &steps {
        let played = step.run(shell, Duration::from_secs(10));
        played.with_context(|| format!("docs/learn.md\n{}", control_plane.log()))?;
    }
    let refused: Vec<Value> = fetch_flows(&control_plane, "curl/curl")?
        .into_iter()
        .filter(|flow| flow["verdict"] == "deny")
        .collect();
    ensure!(refused.len() == 1 && refused[0]["name"] == "openservicemesh.io", "{refused:#?}");
    Ok(())
}

/// The output of a command.
struct CommandOutput {
    stdout: String,
    stderr: String,
    success: bool,
}

fn run(network: &TestNetwork, words: &[&str]) -> Result<CommandOutput> {
    let mut command = network.outside.netns.command(&control_plane::binary()?.to_string_lossy());
    let output = command.args(words).output()?;
    let text = |bytes| String::from_utf8(bytes).context("what is printed is no text");
    Ok(CommandOutput {
        stdout: text(output.stdout)?,
        stderr: text(output.stderr)?,
        success: output.status.success(),
    })
}

/// Runs a command that asks the control plane.
fn run_with_admin(network: &TestNetwork, words: &[&str]) -> Result<CommandOutput> {
    run(network, &[words, &["--admin", &SocketAddr::new(CONTROL_PLANE, 15129).to_string()]].concat())
}

fn fetch_flows(control_plane: &ControlPlane<'_>, identity: &str) -> Result<Vec<Value>> {
    let all: Value = serde_json::from_str(&control_plane.get(&format!("/flows?identity={identity}"))?)?;
    Ok(all["flows"].as_array().cloned().unwrap_or_default())
}

/// The fields that a flow and a log line have in common.
fn common_fields(flow: &Value) -> Value {
    let decision: Vec<&str> = ["reason", "policy", "rule", "wouldRefuse"]
        .iter()
        .map(|key| flow[*key].as_str().unwrap_or("-"))
        .collect();
    json!([flow["verdict"], decision, flow["name"], flow["port"]])
}

/// A line of Envoy's log as a flow; `None` if nothing was decided.
fn flow_of_line(line: &Value) -> Option<Value> {
    let refused = line["refused"].as_str();
    let decision = line["decision"].as_str();
    let mut words: Vec<&str> = decision.unwrap_or("deny - - -").split(' ').collect();
    if let Some(reason) = refused {
        words.truncate(4);
        words[0] = "deny";
        words[1] = reason;
    } else {
        decision?;
    }
    words.resize(5, "-");
    let name =
        [&line["authority"], &line["name"], &line["server_name"]].into_iter().find(|name| name.is_string());
    let name = name.filter(|name| **name != "-").cloned().unwrap_or_default();
    let port: u16 = line["dialled"].as_str()?.rsplit(':').next()?.parse().ok()?;
    Some(json!([words[0], words[1..].to_vec(), name, port]))
}
