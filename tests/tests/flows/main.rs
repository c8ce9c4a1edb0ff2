//! What sidecars tell of, and what follows from it: `docs/learn.md`, command by command.

mod hostile;
mod kept;
mod many;

use std::net::SocketAddr;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use egress_tests::client;
use egress_tests::envoy::Envoy;
use egress_tests::mesh::{self, CONTROL_PLANE, ELSEWHERE, EXAMPLE, HTTPBIN, NAME_SERVER, World};
use egress_tests::netns::ensure_capable;
use egress_tests::shim::Shim;
use egress_tests::wait::wait_for;
use egress_tests::{shim, tour};
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

const ACCOUNT: &str = "apiVersion: v1
kind: Namespace
metadata: {name: curl, annotations: {openservicemesh.io/egress-mode-delegation: service-accounts}}
---
apiVersion: v1
kind: ServiceAccount
metadata: {name: watched, namespace: curl, annotations: {openservicemesh.io/egress-mode: audit}}
";

/// Each decision is told of with the same reason, policy and rule as in Envoy's own log.
#[test]
fn flows_are_what_envoy_logs() -> Result<()> {
    ensure_capable()?;
    let world = World::new()?;
    world.write("web.yaml", &POLICIES.replace("NAME", "curl"))?;
    world.write("account.yaml", ACCOUNT)?;
    world.write(
        "watched.yaml",
        &POLICIES.replace("NAME", "watched").replace("name: web", "name: w").replace("name: echo", "name: e"),
    )?;
    let shim = world.shim(&["--flow-log", "--flows-per-identity", "50"])?;
    for (identity, state) in [("curl/curl", false), ("curl/watched", true)] {
        let pod = world.pod()?;
        let envoy = Envoy::start(&pod, &mesh::bootstrap(identity, state)?, 1)?;
        let to = |ip, port| SocketAddr::new(ip, port);
        mesh::get(&pod, to(HTTPBIN, 80), "httpbin.org", "/get?secret=1")?;
        mesh::get(&pod, to(EXAMPLE, 80), "www.example.com", "/get")?;
        mesh::get_tls(&pod, to(HTTPBIN, 443), Some("httpbin.org"))?;
        mesh::get_tls(&pod, to(EXAMPLE, 443), Some("www.example.com"))?;
        mesh::get_tls(&pod, to(EXAMPLE, 443), None)?;
        pod.workload().run(|| client::exchange(to(HTTPBIN, 9000), b"ping"))?;
        pod.workload().run(|| client::exchange(to(ELSEWHERE, 9000), b"ping"))?;
        let upgrade = [("host", "httpbin.org"), ("connection", "upgrade"), ("upgrade", "h2c-of-ours")];
        pod.workload().run(|| client::http(to(HTTPBIN, 80), &client::request("GET", "/up", &upgrade)))?;
        let mut flows = Vec::new();
        wait_for("eight flows", Duration::from_secs(10), || {
            flows = told(&shim, identity).unwrap_or_default();
            flows.len() >= 8
        })
        .with_context(|| format!("{flows:#?}\n{}\n{}", shim.log(), envoy.log_tail(40)))?;
        let mut logged: Vec<Value> = envoy.access_log().iter().filter_map(as_told).collect();
        logged.sort_by_key(Value::to_string);
        logged.dedup();
        let mut told: Vec<Value> = flows.iter().map(short).collect();
        told.sort_by_key(Value::to_string);
        ensure!(told == logged, "told {told:#?}\nlogged {logged:#?}");
        let names: Vec<&Value> = flows.iter().map(|flow| &flow["name"]).collect();
        ensure!(names.contains(&&json!("www.example.com")), "{names:?}");
        ensure!(
            flows.iter().all(|flow| flow["identity"] == identity && flow["nodes"][0].is_string()),
            "{flows:#?}"
        );
        ensure!(!json!(flows).to_string().contains("secret"), "{flows:#?}");
        let audited = flows.iter().filter(|flow| flow["wouldRefuse"].is_string()).count();
        ensure!(audited == if state { 4 } else { 0 }, "{audited} audited: {flows:#?}");

        // The log itself gives the same suggestion as what was told, but for the dates.
        let log = tempfile::NamedTempFile::new()?;
        let lines: Vec<String> = envoy.access_log().iter().map(Value::to_string).collect();
        std::fs::write(log.path(), lines.join("\n"))?;
        let ask = |flags: &[&str]| {
            let mut command = world.outside.netns.command(&shim::binary()?.to_string_lossy());
            let output = command.args(["suggest", "--identity", identity]).args(flags).output()?;
            ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
            Ok(String::from_utf8(output.stdout)?)
        };
        let by_log = ask(&["--log", &log.path().to_string_lossy()])?;
        let by_admin = ask(&["--admin", &SocketAddr::new(CONTROL_PLANE, 15129).to_string()])?;
        ensure!(by_log == by_admin, "{by_log}\n{by_admin}");
        ensure!(by_log.contains("- www.example.com #") && !by_log.contains("- httpbin.org"), "{by_log}");
    }
    ensure!(shim.metric("osm_egress_flow_entries_total")? >= 16);
    ensure!(shim.metric("osm_egress_flows_dropped_total")? == 0);
    Ok(())
}

/// Without the flag nobody is told of anything, and `flows` says so.
#[test]
fn off_unless_asked() -> Result<()> {
    ensure_capable()?;
    let world = World::new()?;
    let pod = world.pod()?;
    let shim = world.shim(&[])?;
    let envoy = mesh::sidecar(&pod, false)?;
    ensure!(!envoy.admin("/config_dump?resource=dynamic_listeners")?.contains("tcp_grpc"));
    ensure!(serde_json::from_str::<Value>(&shim.get("/flows")?)?["enabled"] == false);
    let admin = SocketAddr::new(CONTROL_PLANE, 15129).to_string();
    let output = world
        .outside
        .netns
        .command(&shim::binary()?.to_string_lossy())
        .args(["flows", "--admin", &admin])
        .output()?;
    ensure!(
        !output.status.success() && String::from_utf8_lossy(&output.stderr).contains("--flow-log"),
        "{output:?}"
    );
    Ok(())
}

/// A question that means nothing is answered with what is wrong with it.
#[test]
fn wrong_questions() -> Result<()> {
    ensure_capable()?;
    let world = World::new()?;
    let shim = world.shim(&["--flow-log"])?;
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
        let error =
            shim.get(&format!("/flows?{question}")).err().with_context(|| format!("{question} is taken"))?;
        let error = format!("{error:#}");
        ensure!(error.contains(" 400 ") && error.contains(answer), "{question}: {error}");
    }
    let page: Value =
        serde_json::from_str(&shim.get("/flows?limit=10000&newest=true&after=7&verdict=audit")?)?;
    ensure!(page["more"] == false && page["flows"] == json!([]), "{page}");
    Ok(())
}

/// `docs/learn.md`: from audit to enforced, and nothing is refused on the way.
#[test]
fn from_audit_to_enforced() -> Result<()> {
    ensure_capable()?;
    let text = std::fs::read_to_string(mesh::root().join("docs/learn.md"))?;
    let manifests = text.split("\n```yaml\n").nth(1).and_then(|rest| rest.split("```").next());
    let world = World::new()?;
    world.write("curl.yaml", manifests.context("docs/learn.md has no manifests")?)?;
    let pod = world.pod()?;
    let shim = world.shim(&["--flow-log"])?;
    let _envoy = mesh::sidecar(&pod, false)?;
    let folder = tempfile::tempdir()?;
    std::os::unix::fs::symlink(world.manifests.path(), folder.path().join("manifests"))?;
    let binary = shim::binary()?;
    let path = format!(
        "{}:{}",
        binary.parent().context("a folder")?.display(),
        std::env::var("PATH").unwrap_or_default()
    );
    let shell = |script: &str| -> Command {
        // What the workload does, and what is done elsewhere.
        let is_workload = script.starts_with("{ curl ");
        let mut command = match is_workload.then(|| pod.command("bash", NAME_SERVER)) {
            Some(Ok(command)) => command,
            Some(Err(error)) => panic!("no shell in the pod: {error}"),
            None => world.outside.netns.command("bash"),
        };
        command.args(["-c", script]).current_dir(folder.path()).env("PATH", &path);
        command.env("ADMIN", SocketAddr::new(CONTROL_PLANE, 15129).to_string());
        command
    };
    let steps = tour::steps(&text);
    ensure!(steps.len() >= 18, "docs/learn.md has {} commands only", steps.len());
    for step in &steps {
        let played = step.play(shell, Duration::from_secs(10));
        played.with_context(|| format!("docs/learn.md\n{}", shim.log()))?;
    }
    let refused: Vec<Value> =
        told(&shim, "curl/curl")?.into_iter().filter(|flow| flow["verdict"] == "deny").collect();
    ensure!(refused.len() == 1 && refused[0]["name"] == "openservicemesh.io", "{refused:#?}");
    Ok(())
}

/// What a command of ours prints.
struct Said {
    out: String,
    err: String,
    success: bool,
}

fn run(world: &World, words: &[&str]) -> Result<Said> {
    let mut command = world.outside.netns.command(&shim::binary()?.to_string_lossy());
    let output = command.args(words).output()?;
    let text = |bytes| String::from_utf8(bytes).context("what is printed is no text");
    Ok(Said { out: text(output.stdout)?, err: text(output.stderr)?, success: output.status.success() })
}

/// The same of one that asks the control plane.
fn ask(world: &World, words: &[&str]) -> Result<Said> {
    run(world, &[words, &["--admin", &SocketAddr::new(CONTROL_PLANE, 15129).to_string()]].concat())
}

fn told(shim: &Shim<'_>, identity: &str) -> Result<Vec<Value>> {
    let all: Value = serde_json::from_str(&shim.get(&format!("/flows?identity={identity}"))?)?;
    Ok(all["flows"].as_array().cloned().unwrap_or_default())
}

/// What a flow and a line have in common.
fn short(flow: &Value) -> Value {
    let decision: Vec<&str> = ["reason", "policy", "rule", "wouldRefuse"]
        .iter()
        .map(|key| flow[*key].as_str().unwrap_or("-"))
        .collect();
    json!([flow["verdict"], decision, flow["name"], flow["port"]])
}

/// A line of Envoy's log in the same form; `None`: nothing was decided.
fn as_told(line: &Value) -> Option<Value> {
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
