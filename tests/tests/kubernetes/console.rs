//! What the console writes to a cluster: by the role for it, and nothing more.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use egress_tests::cluster::{Cluster, allowed, allowed_by, policy, rules, until};
use egress_tests::installer::osm_egress;
use egress_tests::kube::User;
use egress_tests::mesh::{CONTROL_PLANE, NAME_SERVER, World};
use egress_tests::netns::ensure_capable;
use egress_tests::wait::wait_for;
use serde_json::{Value, json};

const ROLE: &str = include_str!("../../../deploy/console-write.yaml");
const TOKEN: &str = "the-token-of-the-console";

struct Console<'w> {
    world: &'w World,
}

impl Console<'_> {
    /// Sends a write, and gives status and text.
    fn post(&self, path: &str, body: &Value, more: &[&str]) -> Result<(u16, String)> {
        let url = format!("http://{}/console/{path}", SocketAddr::new(CONTROL_PLANE, 15129));
        let output = self
            .world
            .outside
            .netns
            .command("curl")
            .args([
                "-s",
                "-m",
                "20",
                "-w",
                "\n%{http_code}",
                "-H",
                "content-type: application/json",
                "-d",
                &body.to_string(),
            ])
            .args(["-H", &format!("authorization: Bearer {TOKEN}"), &url])
            .args(more)
            .output()?;
        let text = String::from_utf8(output.stdout)?;
        let (text, status) = text.rsplit_once('\n').context("no status")?;
        Ok((status.parse()?, text.trim().to_owned()))
    }

    fn switch(&self, on: bool) -> Result<(u16, String)> {
        self.post("global-egress", &json!({ "enabled": on }), &[])
    }

    fn make(&self, identity: &str, yaml: &str) -> Result<(u16, String)> {
        let question = json!({ "identity": identity, "to": "tcp://203.0.113.20:9000" });
        self.post("policies", &json!({ "question": question, "yaml": yaml }), &[])
    }
}

#[test]
fn what_the_console_writes() -> Result<()> {
    ensure_capable()?;
    let world = World::new()?;
    let cluster = Cluster::new(&world)?;
    let api = &cluster.api;
    let token = tempfile::NamedTempFile::new()?;
    std::fs::write(token.path(), TOKEN)?;
    let file = token.path().to_string_lossy();
    let shim = cluster.shim(&["--console-write", "--console-token-file", &file])?;
    let console = Console { world: &world };
    let port = "ipAddresses: [203.0.113.20/32]\n  ports: [{number: 9000, protocol: tcp}]";

    // The usual role is not enough, and what is missing is said.
    for (status, text) in [console.switch(true)?, console.make("curl/curl", &policy("curl", "p", port))?] {
        ensure!(status == 502 && text.contains("403") && text.contains("docs/console.md"), "{status} {text}");
    }
    api.apply(ROLE)?;
    wait_for("the role to count", Duration::from_secs(10), || {
        console.switch(true).is_ok_and(|(status, _)| status == 200)
    })?;
    until(&shim, "global egress", |status| status["meshMode"] == "passthrough")?;
    let switch =
        ["get", "meshconfig", "osm-mesh-config", "-n", "osm-system", "-o", "jsonpath={.spec.traffic}"];
    let after = api.kubectl(User::Admin, &switch)?;
    ensure!(after.contains(r#""enableEgress":true"#), "{after}");
    let (status, text) = console.switch(false)?;
    ensure!(status == 200 && text.contains("MeshConfig osm-system/osm-mesh-config"), "{status} {text}");
    until(&shim, "no global egress", |status| status["meshMode"] == "enforce")?;
    // Nothing else of it was changed.
    let before: Value = serde_json::from_str(&after.replace("true", "false"))?;
    let now: Value = serde_json::from_str(&api.kubectl(User::Admin, &switch)?.replace("true", "false"))?;
    ensure!(before == now, "{before} {now}");

    // Policies, all or none.
    let both = format!("{}---\n{}", policy("curl", "one", port), policy("curl", "two", port));
    let (status, text) = console.make("curl/curl", &both)?;
    ensure!(
        status == 200 && text.contains("Egress curl/one") && text.contains("Egress curl/two"),
        "{status} {text}"
    );
    until(&shim, "the policies", |status| rules(status, "Egress curl/two") == Some(1))?;
    // Nothing beside what was asked about.
    let wide = policy("curl", "wide", "ports: [{number: 9000, protocol: tcp}]");
    let (status, text) = console.make("curl/curl", &wide)?;
    ensure!(status == 422 && text.contains("any destination"), "{status} {text}");
    let other = policy("curl", "one", &port.replace("tcp", "tcp-server-first"));
    let (status, text) = console.make("curl/curl", &other)?;
    ensure!(status == 409 && text.contains("already exists"), "{status} {text}");
    let stored =
        api.kubectl(User::Admin, &["get", "egress", "one", "-n", "curl", "-o", "jsonpath={.spec.ports}"])?;
    ensure!(stored.contains("9000"), "{stored}");
    // One that this control plane does not look at: the API server knows it, and then the first is not made either.
    api.namespace("plain", false)?;
    let plain = |name: &str| policy("plain", name, port).replace("namespace: curl}]", "namespace: plain}]");
    api.apply(&plain("there"))?;
    let (status, text) = console.make("plain/curl", &format!("{}---\n{}", plain("new"), plain("there")))?;
    ensure!(status == 409 && text.contains("Egress plain/there already exists"), "{status} {text}");
    ensure!(api.kubectl(User::Admin, &["get", "egress", "new", "-n", "plain"]).is_err(), "half was made");

    // From another machine: not even with the token.
    let from = NAME_SERVER.to_string();
    let (status, text) =
        console.post("global-egress", &json!({ "enabled": true }), &["--interface", &from])?;
    ensure!(status == 403 && text.contains("own machine or pod"), "{status} {text}");
    // The same page as any other sends it.
    let evil = ["-H", "origin: http://attacker.example"];
    let (status, text) = console.post("global-egress", &json!({ "enabled": true }), &evil)?;
    ensure!(status == 403 && text.contains("another site"), "{status} {text}");

    // What kubectl says of policies is what the console says.
    until(&shim, "the conditions", |status| {
        let mut policies = status["policies"].as_array().into_iter().flatten();
        policies
            .any(|policy| policy["name"] == "one" && policy["ofAll"] == true && policy["programmed"] == "0/0")
    })?;

    // The role for it is enough, and nothing in it is unused.
    let writing = allowed_by(ROLE)?;
    let asked = api.asked()?;
    let all: BTreeSet<String> = allowed()?.union(&writing).cloned().collect();
    ensure!(asked.is_superset(&writing) && asked.is_subset(&all), "{asked:?} {writing:?}");
    let log = shim.log();
    ensure!(
        log.contains("the console switched global egress") && log.contains("the console created policies"),
        "{log}"
    );
    ensure!(!log.contains(TOKEN), "{log}");
    Ok(())
}

/// `install` gives what writing needs where that is asked for, and takes it back.
#[test]
fn the_role_comes_and_goes() -> Result<()> {
    ensure_capable()?;
    let world = World::new()?;
    let cluster = Cluster::bare(&world)?;
    let api = &cluster.api;
    let may = |verb: &str, what: &str| {
        let who = "--as=system:serviceaccount:osm-system:osm-egress";
        let said = api.kubectl(User::Admin, &["auth", "can-i", verb, what, who, "-n", "osm-system"]);
        // It exits with 1 for no.
        said.is_ok_and(|said| said.trim() == "yes")
    };
    let writes = || [may("create", "egresses"), may("patch", "meshconfigs/osm-mesh-config")];
    let never = || [may("delete", "egresses"), may("update", "egresses"), may("get", "secrets")];
    let arguments = || -> Result<String> {
        let what = "jsonpath={.spec.template.spec.containers[0].args}";
        api.kubectl(User::Admin, &["get", "deployment", "osm-egress", "-n", "osm-system", "-o", what])
    };
    osm_egress(api, User::Admin, &["install"])?.done()?;
    ensure!(writes() == [false, false] && !arguments()?.contains("console"), "{}", arguments()?);
    let with = ["upgrade", "--set", "osm.egress.consoleTokenSecret=console-token"];
    osm_egress(api, User::Admin, &with)?.done()?;
    wait_for("the role to count", Duration::from_secs(10), || writes() == [true, true])?;
    ensure!(never() == [false, false, false]);
    ensure!(arguments()?.contains("--console-token-file=/etc/osm-egress/console/token"), "{}", arguments()?);
    osm_egress(api, User::Admin, &["upgrade", "--set", "osm.egress.consoleTokenSecret="])?.done()?;
    wait_for("the role not to count", Duration::from_secs(10), || writes() == [false, false])?;
    ensure!(!arguments()?.contains("console"), "{}", arguments()?);
    Ok(())
}

/// Logs of clusters are read by many: no token is made up there.
#[test]
fn a_cluster_needs_a_token_of_its_own() -> Result<()> {
    ensure_capable()?;
    let world = World::new()?;
    let cluster = Cluster::bare(&world)?;
    let shim = cluster.launch(User::Shim, CONTROL_PLANE, &["--console-write"])?;
    wait_for("it to say so", Duration::from_secs(10), || {
        shim.log().contains("pass `--console-token-file FILE`")
    })
    .with_context(|| shim.log())?;
    Ok(())
}
