//! A namespace with the Pod Security profile `restricted`: its pods by the webhook, the CNI plugin and a real Envoy.

use std::fs;
use std::net::SocketAddr;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use egress_tests::authority::Volume;
use egress_tests::cli::osm_egress;
use egress_tests::cluster::{Cluster, issue_control_plane_certificate};
use egress_tests::control_plane;
use egress_tests::envoy::{self, Envoy};
use egress_tests::kube::{ApiServer, User};
use egress_tests::netns::{Netns, can_switch_uid, ensure_capable};
use egress_tests::network::{CONTROL_PLANE, ELSEWHERE, HTTPBIN, TestNetwork};
use egress_tests::wait::wait_for;
use serde_json::{Value, json};

use crate::cni_node::{CONFIGURATION, Node, install};
use crate::inject::{arguments, container, echo, texts, token};

const WEBHOOK_PORT: u16 = 9443;

/// The API server's webhooks, for pods and for workloads, without a Service.
fn webhooks(volume: &Volume) -> Result<String> {
    let output = Command::new("base64").arg("-w0").arg(volume.path("ca.pem")).output()?;
    let bundle = String::from_utf8(output.stdout)?;
    let webhook = |name: &str, rules: Value| {
        json!({
            "name": format!("{name}.openservicemesh.io"),
            "clientConfig": {"url": format!("https://{}/mutate", SocketAddr::new(CONTROL_PLANE, WEBHOOK_PORT)), "caBundle": bundle},
            "admissionReviewVersions": ["v1"], "sideEffects": "None", "failurePolicy": "Fail", "timeoutSeconds": 5,
            "rules": rules,
        })
    };
    let rule = |group: &str, versions: &[&str], resources: &[&str]| json!([{"operations": ["CREATE"], "apiGroups": [group], "apiVersions": versions, "resources": resources}]);
    Ok(json!({
        "apiVersion": "admissionregistration.k8s.io/v1", "kind": "MutatingWebhookConfiguration",
        "metadata": {"name": "test"},
        "webhooks": [
            webhook("inject", rule("", &["v1"], &["pods"])),
            webhook("workloads", rule("apps", &["v1"], &["deployments", "statefulsets"])),
            webhook("jobs", rule("batch", &["v1", "v1beta1"], &["jobs", "cronjobs"])),
        ],
    })
    .to_string())
}

/// Minor version of the API server.
pub(crate) fn minor_version(api: &ApiServer<'_>) -> Result<u32> {
    let version: Value = serde_json::from_str(&api.kubectl(User::Admin, &["get", "--raw", "/version"])?)?;
    let digits: String =
        version["minor"].as_str().unwrap_or_default().chars().take_while(char::is_ascii_digit).collect();
    digits.parse().with_context(|| format!("{version}"))
}

/// The workloads of a user, whose pods satisfy the profile `restricted`.
fn workloads(minor: u32) -> Vec<(Value, &'static str)> {
    let template = |policy: &str| {
        json!({
            "metadata": {"labels": {"app": "a"}},
            "spec": {
                "serviceAccountName": "curl", "restartPolicy": policy,
                "securityContext": {"runAsNonRoot": true, "runAsUser": 1000, "seccompProfile": {"type": "RuntimeDefault"}},
                "containers": [{"name": "app", "image": "app", "securityContext": {
                    "allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]},
                }}],
            },
        })
    };
    let selector = json!({"matchLabels": {"app": "a"}});
    let object = |version: &str, kind: &str, spec: Value| {
        let metadata = json!({"name": kind.to_ascii_lowercase(), "namespace": "curl"});
        json!({"apiVersion": version, "kind": kind, "metadata": metadata, "spec": spec})
    };
    let job = json!({"template": template("Never")});
    let cron = if minor >= 21 { "batch/v1" } else { "batch/v1beta1" };
    vec![
        (
            object("apps/v1", "Deployment", json!({"selector": selector, "template": template("Always")})),
            "/spec/template",
        ),
        (
            object(
                "apps/v1",
                "StatefulSet",
                json!({"selector": selector, "serviceName": "a", "template": template("Always")}),
            ),
            "/spec/template",
        ),
        (object("batch/v1", "Job", job.clone()), "/spec/template"),
        (
            object(cron, "CronJob", json!({"schedule": "* * * * *", "jobTemplate": {"spec": job}})),
            "/spec/jobTemplate/spec/template",
        ),
    ]
}

/// A namespace with the profile `restricted`: pods of workloads are accepted, intercepted and enforced.
#[test]
fn pods_of_a_restricted_namespace_are_intercepted_and_enforced() -> Result<()> {
    ensure_capable()?;
    ensure!(can_switch_uid(), "network namespaces of others, and rules by uid, need root");
    let network = TestNetwork::new()?;
    let cluster = Cluster::without_definitions(&network)?;
    let api = &cluster.api;
    install(api)?;
    for kind in ["ValidatingWebhookConfiguration", "MutatingWebhookConfiguration"] {
        api.kubectl(User::Admin, &["delete", kind, "osm-egress-osm"])?;
    }
    api.namespace("curl", false)?;
    api.service_account("curl", "curl")?;
    api.kubectl(
        User::Admin,
        &["label", "namespace", "curl", "pod-security.kubernetes.io/enforce=restricted"],
    )?;
    let added = osm_egress(api, User::Admin, &["namespace", "add", "curl"])?.expect_success()?;
    ensure!(!added.stderr.contains("refuses injected pods"), "{}", added.stderr);
    api.apply(
        "apiVersion: policy.openservicemesh.io/v1alpha1\nkind: Egress\nmetadata: {name: echo, namespace: curl}\n\
         spec:\n  sources: [{kind: ServiceAccount, name: curl, namespace: curl}]\n  \
         ipAddresses: [203.0.113.10/32]\n  ports: [{number: 9000, protocol: tcp}]\n",
    )?;
    let (authority, volume) = issue_control_plane_certificate()?;
    fs::write(volume.path("ca.pem"), &authority.pem)?;
    let (certificate, key, ca) = (volume.text("tls.crt"), volume.text("tls.key"), volume.text("ca.pem"));
    let xds = SocketAddr::new(CONTROL_PLANE, 15128).to_string();
    let webhook = SocketAddr::new(CONTROL_PLANE, WEBHOOK_PORT).to_string();
    let image = format!("envoyproxy/envoy:v{}", envoy::version()?);
    let flags = [
        "--service-account-tokens",
        "--tls-cert",
        &certificate,
        "--tls-key",
        &key,
        "--xds-ca",
        &ca,
        "--xds-address",
        &xds,
        "--webhook-listen",
        &webhook,
        "--sidecar-image",
        &image,
    ];
    let minor = minor_version(api)?;
    let has_pod_security = minor >= 23;
    // Without the plugin: explained before the user meets it.
    let without = cluster.control_plane(&flags)?;
    api.apply(&webhooks(&volume)?)?;
    let (deployment, _) = &workloads(minor)[0];
    let file = volume.path("deployment.json");
    fs::write(&file, deployment.to_string())?;
    let warned = || -> Result<bool> {
        let mut command = api.command("kubectl", User::Admin);
        let output = command.args(["apply", "--dry-run=server", "-f"]).arg(&file).output()?;
        let text = String::from_utf8([output.stdout, output.stderr].concat())?;
        Ok(text.contains("Warning: namespace `curl`: its label") && text.contains("refuses injected pods"))
    };
    wait_for("the warning for a Deployment", Duration::from_secs(20), || warned().unwrap_or(false))?;
    drop(without);
    let control_plane = cluster.control_plane(&[&flags[..], &["--cni"]].concat())?;
    ensure!(!warned()?, "a warning with the plugin");

    let node = Node::new(&cluster)?;
    node.write("10-net.conflist", CONFIGURATION)?;
    let _running = node.install()?;
    node.wait_until_ready()?;
    for (workload, template) in workloads(minor) {
        api.apply(&workload.to_string())?;
        // What a controller does.
        let mut object = workload.pointer(template).context("no template")?.clone();
        let name = format!("{}-0", workload["kind"].as_str().unwrap_or_default().to_ascii_lowercase());
        object["apiVersion"] = json!("v1");
        object["kind"] = json!("Pod");
        object["metadata"]["name"] = json!(name);
        object["metadata"]["namespace"] = json!("curl");
        api.apply(&object.to_string())?;
        let text = api.kubectl(User::Admin, &["get", "pod", &name, "-n", "curl", "-o", "json"])?;
        let pod: Value = serde_json::from_str(&text)?;
        let init = container(&pod, "initContainers", "osm-init")?;
        ensure!(texts(&init["args"]) == ["validate-interception"], "{init}");
        ensure!(init["securityContext"]["capabilities"] == json!({"drop": ["ALL"]}), "{init}");

        let place = network.outside.pod_without_rules()?;
        let netns = &place.sidecar;
        // The pod does not start before the plugin has run.
        let (started, message) = start_init(netns, init)?;
        ensure!(!started && message.contains("not redirected"), "{name}: {message}");
        node.call("ADD", &netns.path(), &format!("curl/{name}"))?.succeeded()?;
        let (started, message) = start_init(netns, init)?;
        ensure!(
            started && message.contains("IPv4: redirected") && message.contains("IPv6: redirected"),
            "{name}: {message}"
        );
        // Without its sidecar nothing gets out.
        ensure!(!echo(&place, HTTPBIN)?, "{name}: it is not intercepted");
        let sidecar = container(&pod, "containers", "envoy")?;
        let (audience, file) = token(&pod, sidecar)?;
        let credentials = Volume::new(&[(&file, &api.token("curl", "curl", &audience, Some(&name))?)])?;
        let envoy = Envoy::launch_injected(&place, &arguments(&pod, sidecar)?, credentials.folder())?;
        wait_for("the policy to be in force", Duration::from_secs(20), || {
            echo(&place, HTTPBIN).unwrap_or(false)
        })
        .with_context(|| format!("{name}\n{}\n{}", envoy.log_tail(30), control_plane.log()))?;
        ensure!(!echo(&place, ELSEWHERE)?, "{name}: what no policy allows got out");
    }
    if has_pod_security {
        // The namespace's choice of an init container with NET_ADMIN: the API server's own admission refuses the pod.
        api.kubectl(
            User::Admin,
            &["annotate", "namespace", "curl", "openservicemesh.io/egress-cni=disabled"],
        )?;
        let mut pod = workloads(minor)[0].0.pointer("/spec/template").context("no template")?.clone();
        pod["apiVersion"] = json!("v1");
        pod["kind"] = json!("Pod");
        pod["metadata"]["name"] = json!("refused");
        pod["metadata"]["namespace"] = json!("curl");
        wait_for("the refusal by Pod Security", Duration::from_secs(20), || {
            let refused =
                api.apply(&pod.to_string()).err().map(|error| error.to_string()).unwrap_or_default();
            let _ =
                api.kubectl(User::Admin, &["delete", "pod", "refused", "-n", "curl", "--ignore-not-found"]);
            refused.contains("violates PodSecurity")
        })?;
    } else {
        eprintln!(
            "NOT RUN: Pod Security admission, which this API server (1.{minor}) does not have: it needs 1.23. The unit test \
             `with_the_plugin_an_injected_pod_satisfies_the_restricted_profile` checks the profile by a table"
        );
    }
    // In words, for users who install later.
    api.kubectl(
        User::Admin,
        &["annotate", "--overwrite", "namespace", "curl", "openservicemesh.io/egress-cni=disabled"],
    )?;
    let verified = osm_egress(api, User::Admin, &["verify"])?;
    ensure!(
        verified
            .stdout
            .contains("namespace curl: its label `pod-security.kubernetes.io/enforce: restricted`"),
        "{}",
        verified.stdout
    );
    let added = osm_egress(api, User::Admin, &["namespace", "add", "curl"])?.expect_success()?;
    ensure!(
        added.stderr.contains("namespace curl: its label") && added.stderr.contains("refuses injected pods"),
        "{}",
        added.stderr
    );
    Ok(())
}

/// Runs an init container, as the kubelet does: its uid, no capabilities, no new privileges.
fn start_init(netns: &Netns, init: &Value) -> Result<(bool, String)> {
    let uid = init["securityContext"]["runAsUser"].as_u64().context("no uid")?.to_string();
    let mut command = netns.command("setpriv");
    command
        .args([
            "--reuid",
            &uid,
            "--regid",
            &uid,
            "--clear-groups",
            "--inh-caps=-all",
            "--bounding-set=-all",
            "--no-new-privs",
        ])
        .arg(control_plane::binary()?)
        .args(texts(&init["args"]));
    let output = command.output()?;
    Ok((output.status.success(), String::from_utf8([output.stdout, output.stderr].concat())?))
}
