//! `install`, `upgrade`, `uninstall`, `namespace` and `verify` on a real API server.

use std::io::Write;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use egress_tests::cli::{CommandOutput, osm_egress};
use egress_tests::cluster::Cluster;
use egress_tests::kube::{self, ApiServer, Objects, User, with_namespace_controller};
use egress_tests::manifests::egress_in;
use egress_tests::netns::ensure_capable;
use egress_tests::network::TestNetwork;
use egress_tests::wait::wait_for;
use serde_json::{Value, json};

fn run(api: &ApiServer<'_>, words: &[&str]) -> Result<CommandOutput> {
    osm_egress(api, User::Admin, words)
}

fn uninstall(api: &ApiServer<'_>, words: &[&str]) -> Result<CommandOutput> {
    with_namespace_controller(api, || {
        run(api, &[&["uninstall", "--timeout=60s"], words].concat())?.expect_success()
    })
}

fn read(api: &ApiServer<'_>, words: &[&str]) -> Result<Value> {
    let text = api.kubectl(User::Admin, &[&["get", "-o", "json"], words].concat())?;
    Ok(serde_json::from_str(&text)?)
}

/// The objects that only one of the two listings has.
fn difference(before: &Objects, after: &Objects) -> Vec<String> {
    let gone = before.keys().filter(|id| !after.contains_key(*id)).map(|id| format!("- {id}"));
    let new = after.keys().filter(|id| !before.contains_key(*id)).map(|id| format!("+ {id}"));
    gone.chain(new).collect()
}

/// Waits until the objects are as before: the API server takes a moment to forget a kind.
fn wait_until_same(api: &ApiServer<'_>, before: &Objects) -> Result<()> {
    let mut last = Vec::new();
    let same = wait_for("the API server to have what it had before", Duration::from_secs(30), || {
        last = api.objects().map_or_else(|error| vec![error.to_string()], |after| difference(before, &after));
        last.is_empty()
    });
    same.with_context(|| format!("{last:#?}")).map(drop)
}

const EGRESS: &str = "apiVersion: policy.openservicemesh.io/v1alpha1\nkind: Egress\n\
    metadata: {name: mine, namespace: default}\n\
    spec:\n  sources: [{kind: ServiceAccount, name: curl, namespace: curl}]\n  hosts: [httpbin.org]\n  \
    ports: [{number: 443, protocol: https}]\n";

/// The command of Open Service Mesh's page. A second install writes nothing, and uninstall leaves nothing.
#[test]
fn uninstall_leaves_no_trace() -> Result<()> {
    ensure_capable()?;
    let network = TestNetwork::new()?;
    let cluster = Cluster::without_definitions(&network)?;
    let api = &cluster.api;
    let before = api.objects()?;
    // Tags would cause a warning.
    let images = image_digests();
    let first =
        run(api, &["install", "--set", "osm.enableEgress=true", "--set", &images])?.expect_success()?;
    ensure!(first.stderr.is_empty(), "{}", first.stderr);
    ensure!(first.stdout.contains("egress: open"), "{}", first.stdout);
    let installed = api.objects()?;
    let config = read(api, &["meshconfig", "osm-mesh-config", "-n", "osm-system"])?;
    ensure!(config["spec"]["traffic"]["enableEgress"] == true, "{config}");
    ensure!(config["spec"]["traffic"]["enablePermissiveTrafficPolicyMode"] == true, "{config}");
    let labelled = read(
        api,
        &[
            "deployment,service,serviceaccount,secret,role,rolebinding,pdb,networkpolicy",
            "-n",
            "osm-system",
            "-l",
            "app.kubernetes.io/managed-by=osm-egress",
        ],
    )?;
    ensure!(labelled["items"].as_array().is_some_and(|items| items.len() == 9), "{labelled}");

    for again in [&["install"][..], &["upgrade"], &["install", "--set", "osm.enableEgress=true"]] {
        let output = run(api, again)?.expect_success()?;
        ensure!(output.stderr.is_empty(), "{}", output.stderr);
        ensure!(
            !output.stdout.contains(": changed") && !output.stdout.contains(": created"),
            "{}",
            output.stdout
        );
        let now = api.objects()?;
        let changed: Vec<_> = installed
            .iter()
            .filter(|(id, _)| !before.contains_key(*id))
            .filter(|(id, version)| now.get(*id) != Some(version))
            .collect();
        ensure!(changed.is_empty(), "{again:?} wrote {changed:?}");
    }

    // Values are stored, merged and reset.
    run(api, &["upgrade", "--set", "osm.egress.replicas=3"])?.expect_success()?;
    run(api, &["upgrade", "--set", "osm.egress.httpDenyStatus=404"])?.expect_success()?;
    let replicas = || -> Result<Value> {
        Ok(read(api, &["deployment", "osm-egress", "-n", "osm-system"])?["spec"]["replicas"].clone())
    };
    ensure!(replicas()? == 3);
    run(api, &["upgrade", "--reset-values", "--set", "osm.egress.networkPolicy=false"])?.expect_success()?;
    ensure!(replicas()? == 2);
    ensure!(read(api, &["networkpolicy", "-n", "osm-system"])?["items"] == json!([]));
    let kept = run(api, &["upgrade", "--set", "osm.enableEgress=false"])?.expect_success()?;
    let patch = r#"kubectl patch meshconfig osm-mesh-config -n osm-system --type=merge -p '{"spec":{"traffic":{"enableEgress":false}}}'"#;
    ensure!(kept.stdout.contains(patch), "{}", kept.stdout);

    let output = uninstall(api, &[])?;
    ensure!(!output.stdout.contains("stays"), "{}", output.stdout);
    wait_until_same(api, &before)?;
    let nothing = uninstall(api, &[])?;
    ensure!(nothing.stdout.contains("there was nothing of mesh osm"), "{}", nothing.stdout);
    let error = run(api, &["upgrade"])?.expect_failure()?;
    ensure!(error.contains("run `osm-egress install`"), "{error}");
    Ok(())
}

/// The installed definition refuses an Egress while no webhook answers, and `upgrade` says "by force" only of what it takes.
#[test]
fn the_definitions_have_rules_and_are_taken_over_once() -> Result<()> {
    ensure_capable()?;
    let network = TestNetwork::new()?;
    let cluster = Cluster::without_definitions(&network)?;
    let api = &cluster.api;
    // Another manager of the same definitions, first with the same content and then with another.
    cluster.install_definitions(|text| text.contains("egresses.policy"))?;
    let first = run(api, &["install"])?.expect_success()?;
    let again = run(api, &["upgrade"])?.expect_success()?;
    ensure!(!again.stderr.contains("by force"), "{}", again.stderr);
    let name = "egresses.policy.openservicemesh.io";
    let patch = r#"{"spec":{"names":{"shortNames":["other"]}}}"#;
    api.kubectl(User::Admin, &["patch", "crd", name, "--type=merge", "--field-manager=other", "-p", patch])?;
    let taken = run(api, &["upgrade"])?.expect_success()?;
    ensure!(taken.stderr.contains(&format!("{name}: its schema is taken over from ")), "{}", taken.stderr);
    let again = run(api, &["upgrade"])?.expect_success()?;
    ensure!(!again.stderr.contains("by force"), "{}", again.stderr);
    // The ports of the API server, from its EndpointSlices.
    let policy = read(api, &["networkpolicy", "osm-egress", "-n", "osm-system"])?;
    ensure!(policy.to_string().contains("6443"), "{policy}");
    let version = kube::version()?;
    if version < (1, 30) {
        println!("\nNOT RUN: rules in definitions need an API server of 1.30, and this one is {version:?}\n");
        return Ok(());
    }
    // No webhook is asked in this namespace.
    let bad = EGRESS.replace("hosts: [httpbin.org]", "hosts: []");
    let error = format!("{:#}", api.apply(&bad).err().context("an empty list was let in")?);
    ensure!(error.contains("hosts is present but empty, which grants nothing"), "{error}\n{}", first.stderr);
    let bad = EGRESS.replace("hosts: [httpbin.org]\n  ", "").replace("https", "HTTP");
    let error = format!("{:#}", api.apply(&bad).err().context("http without hosts was let in")?);
    ensure!(error.contains("protocol http without hosts grants nothing"), "{error}");
    Ok(())
}

#[test]
fn objects_of_the_user_survive() -> Result<()> {
    ensure_capable()?;
    let network = TestNetwork::new()?;
    let cluster = Cluster::without_definitions(&network)?;
    let api = &cluster.api;
    let before = api.objects()?;
    run(api, &["install"])?.expect_success()?;
    api.apply(EGRESS)?;
    let mine = read(api, &["egress", "mine"])?;
    api.kubectl(User::Admin, &["create", "configmap", "mine", "-n", "osm-system"])?;
    api.kubectl(User::Admin, &["create", "serviceaccount", "osm-egress"])?;

    let output = uninstall(api, &[])?;
    for expected in [
        "CustomResourceDefinition egresses.policy.openservicemesh.io: stays, since objects of it exist (1, the \
         first is default/mine); `--delete-crds` deletes them too",
        "Namespace osm-system: stays, since it contains objects that `osm-egress install` did not make: ConfigMap mine",
    ] {
        ensure!(output.stdout.contains(expected), "{}", output.stdout);
    }
    ensure!(read(api, &["egress", "mine"])? == mine);
    let left = difference(&before, &api.objects()?);
    let expected = [
        "APIService.apiregistration.k8s.io /v1alpha1.policy.openservicemesh.io",
        "ConfigMap. osm-system/mine",
        "CustomResourceDefinition.apiextensions.k8s.io /egresses.policy.openservicemesh.io",
        "Egress.policy.openservicemesh.io default/mine",
        "Namespace. /osm-system",
        "ServiceAccount. default/osm-egress",
    ];
    // The API server lists removed kinds a moment longer.
    wait_for("only these to be left", Duration::from_secs(30), || {
        api.objects().is_ok_and(|after| difference(&before, &after) == expected.map(|id| format!("+ {id}")))
    })
    .with_context(|| format!("{left:#?}"))?;

    run(api, &["install"])?.expect_success()?;
    ensure!(read(api, &["egress", "mine"])? == mine);
    api.kubectl(User::Admin, &["delete", "configmap", "mine", "-n", "osm-system"])?;
    api.kubectl(User::Admin, &["delete", "serviceaccount", "osm-egress"])?;
    uninstall(api, &["--delete-crds"])?;
    wait_until_same(api, &before)
}

/// An Open Service Mesh's definitions, MeshConfig and control plane survive install and uninstall.
#[test]
fn existing_objects_survive_install_and_uninstall() -> Result<()> {
    ensure_capable()?;
    let network = TestNetwork::new()?;
    let cluster = Cluster::without_definitions(&network)?;
    let api = &cluster.api;
    api.namespace("osm-system", false)?;
    api.apply(&osm_definition("egresses", "Egress", "policy.openservicemesh.io", &["v1alpha1"]))?;
    api.apply(&osm_definition(
        "meshconfigs",
        "MeshConfig",
        "config.openservicemesh.io",
        &["v1alpha2", "v1alpha1"],
    ))?;
    wait_for("the definitions to be served", Duration::from_secs(30), || {
        ["egress", "meshconfig"].iter().all(|kind| api.kubectl(User::Admin, &["get", kind, "-A"]).is_ok())
    })?;
    api.apply(EGRESS)?;
    api.apply(
        "apiVersion: config.openservicemesh.io/v1alpha2\nkind: MeshConfig\n\
         metadata: {name: osm-mesh-config, namespace: osm-system}\n\
         spec: {traffic: {enableEgress: false, outboundPortExclusionList: [5432]}}\n",
    )?;
    api.kubectl(User::Admin, &["create", "deployment", "osm-controller", "--image=osm", "-n", "osm-system"])?;
    let (mine, config) = (
        read(api, &["egress", "mine"])?,
        read(api, &["meshconfig", "-n", "osm-system"])?["items"][0].clone(),
    );
    let before = api.objects()?;

    let output =
        run(api, &["install", "--set", "osm.enableEgress=true,osm.outboundPortExclusionList={5432}"])?
            .expect_success()?;
    let patch = r#"-p '{"spec":{"traffic":{"enableEgress":true}}}'"#;
    ensure!(output.stdout.contains(patch) && output.stdout.contains("egress: closed"), "{}", output.stdout);
    ensure!(
        output.stdout.contains("Namespace osm-system: existed before, and stays as it is"),
        "{}",
        output.stdout
    );
    ensure!(output.stderr.contains("Open Service Mesh is still there"), "{}", output.stderr);
    ensure!(output.stderr.contains("Deployment osm-system/osm-controller"), "{}", output.stderr);
    ensure!(
        output.stderr.contains("its schema is taken over from kubectl-client-side-apply"),
        "{}",
        output.stderr
    );
    ensure!(read(api, &["egress", "mine"])?["spec"] == mine["spec"]);
    ensure!(read(api, &["meshconfig", "-n", "osm-system"])?["items"][0]["spec"] == config["spec"]);
    let definition = read(api, &["crd", "egresses.policy.openservicemesh.io"])?;
    ensure!(definition["spec"]["versions"][0]["subresources"]["status"].is_object(), "{definition}");
    ensure!(definition["spec"]["conversion"] == json!({"strategy": "None"}), "{definition}");
    ensure!(
        run(api, &["upgrade"])?.expect_success()?.stdout.lines().all(|line| !line.ends_with(": changed"))
    );

    let output = uninstall(api, &[])?;
    ensure!(output.stdout.contains("MeshConfig osm-system/osm-mesh-config: stays"), "{}", output.stdout);
    wait_until_same(api, &before)?;
    ensure!(read(api, &["egress", "mine"])?["spec"] == mine["spec"]);
    Ok(())
}

/// A definition as Open Service Mesh 1.1 left it: converted by its own webhook.
fn osm_definition(plural: &str, kind: &str, group: &str, versions: &[&str]) -> String {
    let singular = kind.to_lowercase();
    let versions: Vec<Value> = versions
        .iter()
        .enumerate()
        .map(|(i, name)| {
            json!({ "name": name, "served": true, "storage": i == 0, "schema": { "openAPIV3Schema": {
                "type": "object", "x-kubernetes-preserve-unknown-fields": true,
            }}})
        })
        .collect();
    json!({
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": { "name": format!("{plural}.{group}"),
            "labels": { "app.kubernetes.io/name": "openservicemesh.io" } },
        "spec": {
            "group": group, "scope": "Namespaced", "versions": versions,
            "names": { "kind": kind, "listKind": format!("{kind}List"), "plural": plural, "singular": singular },
            "conversion": { "strategy": "Webhook", "webhook": {
                "conversionReviewVersions": ["v1beta1", "v1"],
                "clientConfig": { "service": {
                    "namespace": "osm-system", "name": "osm-bootstrap", "port": 9095, "path": "/convert",
                }},
            }},
        },
    })
    .to_string()
}

#[test]
fn a_dry_run_touches_nothing_and_can_be_applied() -> Result<()> {
    ensure_capable()?;
    let network = TestNetwork::new()?;
    let cluster = Cluster::without_definitions(&network)?;
    let api = &cluster.api;
    let before = api.objects()?;
    let output = run(api, &["install", "--dry-run"])?.expect_success()?;
    ensure!(
        output.stdout.contains("Deployment osm-system/osm-egress: would be created"),
        "{}",
        output.stdout
    );
    let manifests = run(api, &["install", "--dry-run", "-o", "yaml", "--set", "osm.enableEgress=true"])?
        .expect_success()?
        .stdout;
    ensure!(
        run(api, &["install", "--dry-run=client", "-o", "yaml"])?
            .expect_success()?
            .stdout
            .contains("policy/v1\n")
    );
    let after = api.objects()?;
    ensure!(difference(&before, &after).is_empty(), "{:?}", difference(&before, &after));

    cluster.install_definitions(|_| true)?;
    api.apply(&manifests)?;
    let config = read(api, &["meshconfig", "osm-mesh-config", "-n", "osm-system"])?;
    ensure!(config["spec"]["traffic"]["enableEgress"] == true, "{config}");
    let secret = read(api, &["secret", "osm-egress-tls", "-n", "osm-system"])?["data"].clone();
    let applied = api.objects()?;
    let error = run(api, &["install", "--dry-run", "--set", "osm.egress.replicas=5"])?.expect_failure()?;
    ensure!(error.contains("kubectl-client-side-apply") && error.contains(".spec.replicas"), "{error}");
    ensure!(error.contains("another field manager set these fields"), "{error}");
    run(api, &["install", "--dry-run"])?.expect_success()?;
    ensure!(api.objects()? == applied);
    // Objects applied by kubectl count as installed.
    run(api, &["install"])?.expect_success()?;
    ensure!(read(api, &["secret", "osm-egress-tls", "-n", "osm-system"])?["data"] == secret);
    Ok(())
}

#[test]
fn errors_name_the_remedy() -> Result<()> {
    ensure_capable()?;
    let network = TestNetwork::new()?;
    let cluster = Cluster::without_definitions(&network)?;
    let api = &cluster.api;
    let before = api.objects()?;
    for (words, expected) in [
        (&["install", "--set", "osm.enableEgres=true"][..], "did you mean `osm.enableEgress`?"),
        (&["install", "--set", "osm.enableEgress=maybe"], "value `osm.enableEgress`: invalid type"),
        (&["install", "-f", "/no/such/file"], "cannot use the values of /no/such/file"),
        (&["install", "--mesh-name", "A"], "`A` (--mesh-name) is not a valid name"),
        (&["install", "--kubeconfig", "/no/such/file"], "cannot use /no/such/file"),
        (&["namespace", "add", "kube-system"], "kube-system is a system namespace"),
        (&["namespace", "add", "osm-system"], "osm-system is the control plane's own namespace"),
        (&["namespace", "add", "nowhere"], "there is no namespace nowhere"),
    ] {
        let error = run(api, words)?.expect_failure()?;
        ensure!(error.contains(expected), "{words:?}: {error}");
    }
    let nobody = osm_egress(api, User::Nobody, &["install"])?.expect_failure()?;
    ensure!(nobody.contains("403") && nobody.contains("cluster-admin"), "{nobody}");
    ensure!(difference(&before, &api.objects()?).is_empty());

    api.namespace("osm-system", false)?;
    api.kubectl(User::Admin, &["create", "serviceaccount", "osm-egress", "-n", "osm-system"])?;
    let with = api.objects()?;
    let error = run(api, &["install"])?.expect_failure()?;
    ensure!(
        error.contains("ServiceAccount osm-system/osm-egress") && error.contains("Nothing was changed"),
        "{error}"
    );
    ensure!(api.objects()? == with);
    api.kubectl(User::Admin, &["delete", "serviceaccount", "osm-egress", "-n", "osm-system"])?;

    // An interrupted uninstall continues.
    let broken = json!({
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "ValidatingWebhookConfiguration",
        "metadata": { "name": "broken" },
        "webhooks": [{
            "name": "broken.example.com", "failurePolicy": "Fail", "sideEffects": "None", "timeoutSeconds": 1,
            "admissionReviewVersions": ["v1"], "clientConfig": { "url": "https://127.0.0.1:1/" },
            "rules": [{ "apiGroups": [""], "apiVersions": ["v1"], "resources": ["services"], "operations": ["*"] }],
        }],
    });
    api.apply(&broken.to_string())?;
    let refuses = || {
        let probe =
            ["create", "service", "clusterip", "probe", "--tcp=1", "-n", "osm-system", "--dry-run=server"];
        api.kubectl(User::Admin, &probe).is_err()
    };
    wait_for("the webhook to be in force", Duration::from_secs(10), refuses)?;
    let error = run(api, &["install"])?.expect_failure()?;
    ensure!(error.contains("cannot apply Service osm-system/osm-egress: the API server says 500"), "{error}");
    ensure!(error.contains("a webhook does not answer"), "{error}");
    ensure!(error.contains("run the same command again"), "{error}");
    api.kubectl(User::Admin, &["delete", "validatingwebhookconfiguration", "broken"])?;
    wait_for("the webhook to be gone", Duration::from_secs(10), || !refuses())?;
    let output = run(api, &["install"])?.expect_success()?;
    ensure!(output.stdout.contains("ServiceAccount osm-system/osm-egress: unchanged"), "{}", output.stdout);
    ensure!(output.stdout.contains("Service osm-system/osm-egress: created"), "{}", output.stdout);

    let error = run(api, &["install", "--mesh-name", "other"])?.expect_failure()?;
    ensure!(error.contains("belongs to mesh `osm`"), "{error}");
    let error = run(api, &["install", "--osm-namespace", "other"])?.expect_failure()?;
    ensure!(error.contains("is for namespace osm-system"), "{error}");
    Ok(())
}

#[test]
fn namespaces_join_as_in_open_service_mesh() -> Result<()> {
    ensure_capable()?;
    let network = TestNetwork::new()?;
    let cluster = Cluster::without_definitions(&network)?;
    let api = &cluster.api;
    for name in ["one", "two", "three"] {
        api.namespace(name, false)?;
    }
    api.kubectl(User::Admin, &["label", "namespace", "three", "openservicemesh.io/monitored-by=other"])?;
    let before = read(api, &["namespace", "one"])?["metadata"]["labels"].clone();
    let output = run(api, &["namespace", "add", "one", "two"])?.expect_success()?;
    ensure!(output.stdout.contains("Namespace [one] successfully added to mesh [osm]"), "{}", output.stdout);
    run(api, &["namespace", "add", "two", "--disable-sidecar-injection"])?.expect_success()?;
    let one = read(api, &["namespace", "one"])?["metadata"].clone();
    ensure!(one["labels"]["openservicemesh.io/monitored-by"] == "osm", "{one}");
    ensure!(one["annotations"]["openservicemesh.io/sidecar-injection"] == "enabled", "{one}");
    let error = run(api, &["namespace", "add", "one", "three"])?.expect_failure()?;
    ensure!(error.contains("belongs to mesh other"), "{error}");
    let error = run(api, &["namespace", "remove", "three"])?.expect_failure()?;
    ensure!(error.contains("belongs to mesh other"), "{error}");
    let list = run(api, &["namespace", "list", "--mesh-name", "osm"])?.expect_success()?.stdout;
    let rows: Vec<Vec<&str>> = list.lines().map(|line| line.split_whitespace().collect()).collect();
    let expected =
        [["NAMESPACE", "MESH", "SIDECAR-INJECTION"], ["one", "osm", "enabled"], ["two", "osm", "disabled"]];
    ensure!(rows == expected, "{list}");
    let all: Value =
        serde_json::from_str(&run(api, &["namespace", "list", "-o", "json"])?.expect_success()?.stdout)?;
    ensure!(all.as_array().is_some_and(|all| all.len() == 3), "{all}");
    run(api, &["namespace", "remove", "one"])?.expect_success()?;
    let one = read(api, &["namespace", "one"])?["metadata"].clone();
    ensure!(one["labels"] == before && one["annotations"].is_null(), "{one}");
    Ok(())
}

/// The checks in a state.
fn checks(report: &Value, state: &str) -> Vec<String> {
    let all = report["checks"].as_array().into_iter().flatten();
    all.filter(|check| check["state"] == state)
        .map(|check| check["check"].as_str().unwrap_or_default().to_owned())
        .collect()
}

/// Values that name every image by digest.
fn image_digests() -> String {
    let sum = "0123456789abcdef".repeat(4);
    ["osm.sidecarImage", "osm.egress.image", "osm.egress.initImage"]
        .map(|key| format!("{key}=registry.example/image@sha256:{sum}"))
        .join(",")
}

fn verify(api: &ApiServer<'_>) -> Result<(bool, Value)> {
    let output = run(api, &["verify", "-o", "json"])?;
    let report = serde_json::from_str(&output.stdout).with_context(|| output.stderr)?;
    Ok((output.success, report))
}

/// Sets the status that the Deployment controller would write; none runs here.
fn report_deployment_available(api: &ApiServer<'_>) -> Result<()> {
    let mut deployment = read(api, &["deployment", "osm-egress", "-n", "osm-system"])?;
    deployment["status"] = json!({ "replicas": 2, "readyReplicas": 2, "availableReplicas": 2, "updatedReplicas": 2,
        "observedGeneration": deployment["metadata"]["generation"] });
    let path = "/apis/apps/v1/namespaces/osm-system/deployments/osm-egress/status";
    let mut kubectl = api
        .command("kubectl", User::Admin)
        .args(["replace", "--raw", path, "-f", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()?;
    kubectl.stdin.take().context("no stdin")?.write_all(deployment.to_string().as_bytes())?;
    ensure!(kubectl.wait()?.success());
    Ok(())
}

/// An upgrade warns of objects that grant to another namespace and lose that permission.
#[test]
fn an_upgrade_lists_the_grants_that_stop() -> Result<()> {
    ensure_capable()?;
    let network = TestNetwork::new()?;
    let cluster = Cluster::without_definitions(&network)?;
    let api = &cluster.api;
    let run = |words: &[&str]| osm_egress(api, User::Admin, words);
    run(&["install", "--set", "osm.egress.policyNamespaces={team-b}"])?.expect_success()?;
    api.namespace("team-b", false)?;
    api.kubectl(User::Admin, &["delete", "validatingwebhookconfiguration", "osm-egress-osm"])?;
    api.apply(&egress_in("team-b", "theirs", "ports: [{number: 1, protocol: tcp}]"))?;
    let set = ["--set", "osm.egress.policyNamespaces={team-c}"];
    let upgrade = |more: &[&str]| run(&[&["upgrade"], &set[..], more].concat());
    let refused = upgrade(&[])?.expect_failure()?;
    ensure!(
        refused.contains("Egress team-b/theirs no longer counts for curl/curl")
            && refused.contains("--stop-grants")
            && refused.contains("Nothing was changed"),
        "{refused}"
    );
    let flag = || -> Result<bool> {
        let words = ["get", "deployment", "osm-egress", "-n", "osm-system", "-o", "json"];
        Ok(api.kubectl(User::Admin, &words)?.contains("--policy-namespaces=team-b"))
    };
    ensure!(flag()?, "it was changed");
    let output = upgrade(&["--dry-run"])?.expect_success()?;
    ensure!(output.stderr.contains("a grant stops: Egress team-b/theirs"), "{}", output.stderr);
    let output = upgrade(&["--stop-grants"])?.expect_success()?;
    ensure!(output.stderr.contains("a grant stops: Egress team-b/theirs") && !flag()?, "{}", output.stderr);
    // A revoked grant is not reported again.
    upgrade(&[])?.expect_success()?;
    Ok(())
}

#[test]
fn verify_finds_what_is_wrong() -> Result<()> {
    ensure_capable()?;
    let network = TestNetwork::new()?;
    let cluster = Cluster::without_definitions(&network)?;
    let api = &cluster.api;
    let (ok, report) = verify(api)?;
    ensure!(!ok, "{report}");
    let missing = ["definitions", "MeshConfig", "role", "Deployment", "certificate", "webhooks"];
    ensure!(checks(&report, "fail") == missing, "{report:#}");

    api.namespace("curl", false)?;
    api.apply("apiVersion: v1\nkind: Pod\nmetadata: {name: bare, namespace: curl}\nspec: {containers: [{name: a, image: a}]}\n")?;
    // A pod injected before sidecars had a hosts file.
    api.apply(
        "apiVersion: v1\nkind: Pod\nmetadata: {name: old, namespace: curl}\nspec:\n  \
         hostAliases: [{ip: 6.6.6.6, hostnames: [httpbin.org]}]\n  containers: [{name: envoy, image: a}]\n",
    )?;
    let output = run(api, &["install", "--set", "osm.outboundPortExclusionList={5432}"])?.expect_success()?;
    ensure!(output.stderr.contains("a tag may refer to another image later"), "{}", output.stderr);
    run(api, &["namespace", "add", "curl"])?.expect_success()?;
    let namespace = read(api, &["namespace", "osm-system"])?;
    let labels = &namespace["metadata"]["labels"];
    ensure!(labels["pod-security.kubernetes.io/enforce"] == "restricted", "{namespace:#}");
    let (ok, report) = verify(api)?;
    ensure!(!ok && checks(&report, "fail") == ["Deployment"], "{report:#}");
    report_deployment_available(api)?;
    let (ok, report) = verify(api)?;
    ensure!(ok && checks(&report, "fail").is_empty(), "{report:#}");
    let expected = [
        "images",
        "pods without sidecar",
        "sidecars without a hosts file of their own",
        "pods that lead names",
        "lists of the MeshConfig",
    ];
    ensure!(checks(&report, "warn") == expected, "{report:#}");
    ensure!(checks(&report, "unknown") == ["proxies"], "{report:#}");
    ensure!(report.to_string().contains("curl/bare"), "{report:#}");
    let text = run(api, &["verify"])?.expect_success()?.stdout;
    ensure!(text.contains("note     not captured: UDP") && text.ends_with("nothing failed\n"), "{text}");

    // Host names that are not fully qualified. No control plane runs here.
    api.kubectl(User::Admin, &["delete", "validatingwebhookconfiguration", "osm-egress-osm"])?;
    api.apply(
        "apiVersion: policy.openservicemesh.io/v1alpha1\nkind: Egress\nmetadata: {name: db, namespace: curl}\n\
         spec:\n  sources: [{kind: ServiceAccount, name: curl, namespace: curl}]\n  hosts: [db.curl]\n  \
         ports: [{number: 80, protocol: http}]\n",
    )?;
    let (_, report) = verify(api)?;
    for (check, part) in [
        ("names that need search domains", "Egress curl/db: `db.curl`, perhaps `db.curl.svc.cluster.local`"),
        ("sidecars without a hosts file of their own", "curl/old"),
        ("pods that lead names", "curl/old: `hostAliases` maps `httpbin.org` to 6.6.6.6"),
    ] {
        let found = report["checks"].as_array().into_iter().flatten().find(|found| found["check"] == check);
        let found = found.with_context(|| format!("no {check}"))?;
        let message = found["message"].as_str().unwrap_or_default();
        ensure!(found["state"] == "warn" && message.contains(part), "{found:#}");
    }
    let output = run(api, &["upgrade", "--set", &image_digests()])?.expect_success()?;
    ensure!(!output.stderr.contains("tag"), "{}", output.stderr);
    report_deployment_available(api)?;
    let (_, report) = verify(api)?;
    ensure!(!checks(&report, "warn").contains(&"images".to_owned()), "{report:#}");

    // Each of these breaks one part, and an upgrade repairs it.
    let unlabel =
        r#"{"webhooks":[{"name":"inject.osm-egress.openservicemesh.io","clientConfig":{"caBundle":null}}]}"#;
    for (words, check) in [
        (&["delete", "clusterrolebinding", "osm-egress"][..], "role"),
        (&["delete", "validatingwebhookconfiguration", "osm-egress-osm"], "webhooks"),
        (&["patch", "mutatingwebhookconfiguration", "osm-egress-osm", "-p", unlabel], "webhooks"),
        (&["delete", "crd", "traffictargets.access.smi-spec.io"], "definitions"),
        (&["delete", "secret", "osm-egress-tls", "-n", "osm-system"], "certificate"),
    ] {
        api.kubectl(User::Admin, words)?;
        let (ok, report) = verify(api)?;
        let failed = checks(&report, "fail");
        ensure!(!ok && failed.iter().any(|name| name == check), "{words:?}: {report:#}");
        run(api, &["upgrade"])?.expect_success()?;
        let (ok, report) = verify(api)?;
        ensure!(ok, "{words:?}: {report:#}");
    }
    api.kubectl(User::Admin, &["delete", "meshconfig", "osm-mesh-config", "-n", "osm-system"])?;
    ensure!(checks(&verify(api)?.1, "fail") == ["MeshConfig"]);
    Ok(())
}
