//! The console's writes to a cluster, which its role permits and limits.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use egress_tests::cli::osm_egress;
use egress_tests::cluster::{Cluster, permissions, role_permissions, rules, wait_for_status};
use egress_tests::kube::User;
use egress_tests::manifests::{egress, egress_in};
use egress_tests::netns::ensure_capable;
use egress_tests::network::{CONTROL_PLANE, NAME_SERVER, TestNetwork};
use egress_tests::wait::wait_for;
use serde_json::{Value, json};

const ROLE: &str = include_str!("../../../deploy/console-write.yaml");
const TOKEN: &str = "the-token-of-the-console";

struct Console<'n> {
    network: &'n TestNetwork,
}

impl Console<'_> {
    /// Sends a write and returns status and text.
    fn post(&self, path: &str, body: &Value, more: &[&str]) -> Result<(u16, String)> {
        let url = format!("http://{}/console/{path}", SocketAddr::new(CONTROL_PLANE, 15129));
        let output = self
            .network
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
fn the_console_writes_what_its_role_permits() -> Result<()> {
    ensure_capable()?;
    let network = TestNetwork::new()?;
    let cluster = Cluster::new(&network)?;
    let api = &cluster.api;
    let token = tempfile::NamedTempFile::new()?;
    std::fs::write(token.path(), TOKEN)?;
    let file = token.path().to_string_lossy();
    let control_plane = cluster.control_plane(&["--console-write", "--console-token-file", &file])?;
    let console = Console { network: &network };
    let port = "ipAddresses: [203.0.113.20/32]\nports: [{number: 9000, protocol: tcp}]";

    // The usual role is insufficient, and the error names the missing permission.
    for (status, text) in [console.switch(true)?, console.make("curl/curl", &egress("p", port))?] {
        ensure!(status == 502 && text.contains("403") && text.contains("docs/console.md"), "{status} {text}");
    }
    api.apply(ROLE)?;
    wait_for("the role to count", Duration::from_secs(10), || {
        console.switch(true).is_ok_and(|(status, _)| status == 200)
    })?;
    wait_for_status(&control_plane, "global egress", |status| status["meshMode"] == "passthrough")?;
    let switch =
        ["get", "meshconfig", "osm-mesh-config", "-n", "osm-system", "-o", "jsonpath={.spec.traffic}"];
    let after = api.kubectl(User::Admin, &switch)?;
    ensure!(after.contains(r#""enableEgress":true"#), "{after}");
    let (status, text) = console.switch(false)?;
    ensure!(status == 200 && text.contains("MeshConfig osm-system/osm-mesh-config"), "{status} {text}");
    wait_for_status(&control_plane, "no global egress", |status| status["meshMode"] == "enforce")?;
    // Other fields are unchanged.
    let before: Value = serde_json::from_str(&after.replace("true", "false"))?;
    let now: Value = serde_json::from_str(&api.kubectl(User::Admin, &switch)?.replace("true", "false"))?;
    ensure!(before == now, "{before} {now}");

    // Policies, all or none.
    let both = format!("{}---\n{}", egress("one", port), egress("two", port));
    let (status, text) = console.make("curl/curl", &both)?;
    ensure!(
        status == 200 && text.contains("Egress curl/one") && text.contains("Egress curl/two"),
        "{status} {text}"
    );
    wait_for_status(&control_plane, "the policies", |status| rules(status, "Egress curl/two") == Some(1))?;
    // Nothing but the confirmed change.
    let wide = egress("wide", "ports: [{number: 9000, protocol: tcp}]");
    let (status, text) = console.make("curl/curl", &wide)?;
    ensure!(status == 422 && text.contains("any destination"), "{status} {text}");
    let other = egress("one", &port.replace("tcp", "tcp-server-first"));
    let (status, text) = console.make("curl/curl", &other)?;
    ensure!(status == 409 && text.contains("already exists"), "{status} {text}");
    let stored =
        api.kubectl(User::Admin, &["get", "egress", "one", "-n", "curl", "-o", "jsonpath={.spec.ports}"])?;
    ensure!(stored.contains("9000"), "{stored}");
    // An object outside the mesh that the API server already has: then the first is not created either.
    api.namespace("plain", false)?;
    let plain =
        |name: &str| egress_in("plain", name, port).replace("namespace: curl}]", "namespace: plain}]");
    api.apply(&plain("there"))?;
    let (status, text) = console.make("plain/curl", &format!("{}---\n{}", plain("new"), plain("there")))?;
    ensure!(status == 409 && text.contains("Egress plain/there already exists"), "{status} {text}");
    ensure!(api.kubectl(User::Admin, &["get", "egress", "new", "-n", "plain"]).is_err(), "half was made");

    // From another machine it is refused, even with the token.
    let from = NAME_SERVER.to_string();
    let (status, text) =
        console.post("global-egress", &json!({ "enabled": true }), &["--interface", &from])?;
    ensure!(status == 403 && text.contains("own machine or pod"), "{status} {text}");
    // A request of another site.
    let evil = ["-H", "origin: http://attacker.example"];
    let (status, text) = console.post("global-egress", &json!({ "enabled": true }), &evil)?;
    ensure!(status == 403 && text.contains("another site"), "{status} {text}");

    // The console prints kubectl's text about policies.
    wait_for_status(&control_plane, "the conditions", |status| {
        let mut policies = status["policies"].as_array().into_iter().flatten();
        policies
            .any(|policy| policy["name"] == "one" && policy["ofAll"] == true && policy["programmed"] == "0/0")
    })?;

    // The role is sufficient, and no permission is unused.
    let writing = permissions(ROLE)?;
    let used = api.used_permissions()?;
    let all: BTreeSet<String> = role_permissions()?.union(&writing).cloned().collect();
    ensure!(used.is_superset(&writing) && used.is_subset(&all), "{used:?} {writing:?}");
    let log = control_plane.log();
    ensure!(
        log.contains("the console switched global egress") && log.contains("the console created policies"),
        "{log}"
    );
    ensure!(!log.contains(TOKEN), "{log}");
    Ok(())
}

/// `install` creates and removes the role for writing on demand.
#[test]
fn install_adds_and_removes_the_consoles_role() -> Result<()> {
    ensure_capable()?;
    let network = TestNetwork::new()?;
    let cluster = Cluster::without_definitions(&network)?;
    let api = &cluster.api;
    let may = |verb: &str, what: &str| {
        let who = "--as=system:serviceaccount:osm-system:osm-egress";
        let message = api.kubectl(User::Admin, &["auth", "can-i", verb, what, who, "-n", "osm-system"]);
        // `kubectl auth can-i` exits with 1 for no.
        message.is_ok_and(|message| message.trim() == "yes")
    };
    let writes = || [may("create", "egresses"), may("patch", "meshconfigs/osm-mesh-config")];
    let never = || [may("delete", "egresses"), may("update", "egresses"), may("get", "secrets")];
    let arguments = || -> Result<String> {
        let what = "jsonpath={.spec.template.spec.containers[0].args}";
        api.kubectl(User::Admin, &["get", "deployment", "osm-egress", "-n", "osm-system", "-o", what])
    };
    osm_egress(api, User::Admin, &["install"])?.expect_success()?;
    ensure!(writes() == [false, false] && !arguments()?.contains("console"), "{}", arguments()?);
    let with = ["upgrade", "--set", "osm.egress.consoleTokenSecret=console-token"];
    osm_egress(api, User::Admin, &with)?.expect_success()?;
    wait_for("the role to count", Duration::from_secs(10), || writes() == [true, true])?;
    ensure!(never() == [false, false, false]);
    ensure!(arguments()?.contains("--console-token-file=/etc/osm-egress/console/token"), "{}", arguments()?);
    osm_egress(api, User::Admin, &["upgrade", "--set", "osm.egress.consoleTokenSecret="])?
        .expect_success()?;
    wait_for("the role not to count", Duration::from_secs(10), || writes() == [false, false])?;
    ensure!(!arguments()?.contains("console"), "{}", arguments()?);
    Ok(())
}

/// Many people read a cluster's logs, so the console requires a token of its own there.
#[test]
fn a_cluster_requires_its_own_token() -> Result<()> {
    ensure_capable()?;
    let network = TestNetwork::new()?;
    let cluster = Cluster::without_definitions(&network)?;
    let control_plane = cluster.launch(User::ControlPlane, CONTROL_PLANE, &["--console-write"])?;
    wait_for("it to say so", Duration::from_secs(10), || {
        control_plane.log().contains("pass `--console-token-file FILE`")
    })
    .with_context(|| control_plane.log())?;
    Ok(())
}
