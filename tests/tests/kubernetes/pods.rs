//! Pods at an API server with the webhooks and admission policies that `install` makes, beside other people's webhooks.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use egress_compile::manifest::yaml;
use egress_tests::authority::Volume;
use egress_tests::cli::osm_egress;
use egress_tests::cluster::{Cluster, issue_control_plane_certificate};
use egress_tests::control_plane::ControlPlane;
use egress_tests::kube::{self, User};
use egress_tests::netns::ensure_capable;
use egress_tests::network::{CONTROL_PLANE, TestNetwork};
use egress_tests::patch_webhook;
use egress_tests::wait::wait_for;
use serde_json::{Value, json};

const WEBHOOK: SocketAddr = SocketAddr::new(CONTROL_PLANE, 9443);
const OTHER_WEBHOOK: SocketAddr = SocketAddr::new(CONTROL_PLANE, 9444);

/// A cluster with the webhook `inject` as `install` renders it, in whose namespace `curl` pods get sidecars.
struct Injecting<'n> {
    cluster: Cluster<'n>,
    control_plane: ControlPlane<'n>,
    volume: Volume,
    bundle: Value,
    /// The objects that `install` would apply to this cluster.
    objects: Vec<Value>,
}

impl<'n> Injecting<'n> {
    fn new(network: &'n TestNetwork) -> Result<Self> {
        let cluster = Cluster::with_mounted_tokens(network)?;
        let api = &cluster.api;
        // Before anything is there that `install` would not have made.
        let words = ["install", "--dry-run", "-o", "yaml", "--set", "osm.egress.admissionPolicy=strict"];
        let text = osm_egress(api, User::Admin, &words)?.expect_success()?.stdout;
        let documents = yaml::parse(&text).map_err(|error| anyhow::anyhow!("{error:?}"))?;
        let objects = documents.into_iter().map(|document| document.value).collect();
        cluster.install_definitions(|_| true)?;
        cluster.set_up()?;
        api.service_account("curl", "curl")?;
        let (authority, volume) = issue_control_plane_certificate()?;
        std::fs::write(volume.path("ca.pem"), &authority.pem)?;
        let (certificate, key, ca) = (volume.text("tls.crt"), volume.text("tls.key"), volume.text("ca.pem"));
        let address = WEBHOOK.to_string();
        let control_plane = cluster.control_plane(&[
            "--tls-cert",
            &certificate,
            "--tls-key",
            &key,
            "--xds-ca",
            &ca,
            "--service-account-tokens",
            "--webhook-listen",
            &address,
        ])?;
        api.kubectl(
            User::Admin,
            &["annotate", "namespace", "curl", "openservicemesh.io/sidecar-injection=enabled"],
        )?;
        let bundle =
            json!(base64::Engine::encode(&base64::engine::general_purpose::STANDARD, &authority.pem));
        let injecting = Self { cluster, control_plane, volume, bundle, objects };
        let mut configuration = injecting.rendered("MutatingWebhookConfiguration").remove(0);
        let webhook = &mut configuration["webhooks"][0];
        webhook["clientConfig"] =
            json!({"url": format!("https://{WEBHOOK}/mutate"), "caBundle": injecting.bundle});
        injecting.cluster.api.apply(&configuration.to_string())?;
        let mut tried = 0;
        wait_for("the API server to ask", Duration::from_secs(20), || {
            tried += 1;
            let name = format!("first-{tried}");
            let made = injecting.cluster.api.apply(&pod(&name, &json!({})));
            made.is_ok() && injecting.names(&name, "containers").is_ok_and(|names| names.contains("envoy"))
        })
        .with_context(|| injecting.control_plane.log())?;
        Ok(injecting)
    }

    fn rendered(&self, kind: &str) -> Vec<Value> {
        self.objects.iter().filter(|object| object["kind"] == kind).cloned().collect()
    }

    fn get(&self, name: &str) -> Result<Value> {
        let text =
            self.cluster.api.kubectl(User::Admin, &["get", "pod", name, "-n", "curl", "-o", "json"])?;
        Ok(serde_json::from_str(&text)?)
    }

    fn names(&self, name: &str, list: &str) -> Result<String> {
        let pod = self.get(name)?;
        let containers = pod["spec"][list].as_array().into_iter().flatten();
        let names: Vec<&str> = containers.filter_map(|container| container["name"].as_str()).collect();
        Ok(names.join(" "))
    }
}

/// A pod whose spec has these fields besides.
fn pod(name: &str, more: &Value) -> String {
    let mut pod = json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": "curl"},
        "spec": {
            "serviceAccountName": "curl",
            "securityContext": {"runAsUser": 1000},
            "containers": [{"name": "app", "image": "app", "securityContext": {"allowPrivilegeEscalation": false}}],
        },
    });
    for (key, value) in more.as_object().into_iter().flatten() {
        pod["spec"][key] = value.clone();
    }
    pod.to_string()
}

/// The API server mounts the workload's token into its containers, and not into the injected ones; and they have
/// resources, which a ResourceQuota requires.
#[test]
fn injected_containers_get_no_api_token() -> Result<()> {
    ensure_capable()?;
    let network = TestNetwork::new()?;
    let injecting = Injecting::new(&network)?;
    let api = &injecting.cluster.api;
    let quota =
        json!({"requests.cpu": "1", "requests.memory": "1Gi", "limits.cpu": "8", "limits.memory": "8Gi"});
    let resources =
        json!({"requests": {"cpu": "1m", "memory": "1Mi"}, "limits": {"cpu": "1m", "memory": "1Mi"}});
    let quota = json!({
        "apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "q", "namespace": "curl"},
        "spec": {"hard": quota},
        "status": {"hard": quota, "used": {"requests.cpu": "0", "requests.memory": "0", "limits.cpu": "0", "limits.memory": "0"}},
    });
    let containers = json!([{
        "name": "app", "image": "app", "resources": resources, "securityContext": {"allowPrivilegeEscalation": false},
    }]);
    api.apply(&quota.to_string())?;
    api.apply(&pod("quota", &json!({"containers": containers})))
        .with_context(|| injecting.control_plane.log())?;
    let pod = injecting.get("quota")?;
    let token = "/var/run/secrets/kubernetes.io/serviceaccount";
    let mut seen = 0;
    for list in ["containers", "initContainers"] {
        for container in pod["spec"][list].as_array().context("no list")? {
            let mounts = container["volumeMounts"].as_array().into_iter().flatten();
            let volumes: Vec<&Value> =
                mounts.filter(|mount| mount["mountPath"] == token).map(|mount| &mount["name"]).collect();
            let [volume] = volumes.as_slice() else { anyhow::bail!("{container}") };
            let is_ours = container["name"] != "app";
            ensure!((**volume == "osm-egress-hosts") == is_ours, "{container}");
            seen += 1;
        }
    }
    ensure!(seen == 3, "{pod}");
    Ok(())
}

/// A webhook that is asked after ours puts its containers first; ours is asked again and comes before them.
#[test]
fn nothing_that_other_webhooks_add_precedes_interception() -> Result<()> {
    ensure_capable()?;
    let network = TestNetwork::new()?;
    let injecting = Injecting::new(&network)?;
    patch_webhook::start(&network.outside.netns, OTHER_WEBHOOK, &injecting.volume, "zz")?;
    let rule = json!({
        "apiGroups": [""], "apiVersions": ["v1"], "resources": ["pods"], "operations": ["CREATE"], "scope": "Namespaced",
    });
    let other = json!({
        "apiVersion": "admissionregistration.k8s.io/v1", "kind": "MutatingWebhookConfiguration",
        // API servers ask in the order of names.
        "metadata": {"name": "zz-other"},
        "webhooks": [{
            "name": "zz.example.com", "sideEffects": "None", "admissionReviewVersions": ["v1"], "failurePolicy": "Fail",
            "clientConfig": {"url": format!("https://{OTHER_WEBHOOK}/"), "caBundle": injecting.bundle},
            "rules": [rule],
        }],
    });
    injecting.cluster.api.apply(&other.to_string())?;
    let mut tried = 0;
    let mut last = String::new();
    wait_for("the API server to ask the other webhook", Duration::from_secs(20), || {
        tried += 1;
        last = format!("other-{tried}");
        injecting.cluster.api.apply(&pod(&last, &json!({}))).is_ok()
            && injecting.names(&last, "containers").is_ok_and(|names| names.contains("zz"))
    })?;
    let (containers, init) =
        (injecting.names(&last, "containers")?, injecting.names(&last, "initContainers")?);
    ensure!(init == "osm-init zz-init", "{init}");
    ensure!(containers == "zz app envoy", "{containers}");
    Ok(())
}

/// `kubectl debug --copy-to` copies the containers of a pod and not its labels.
#[test]
fn a_copy_of_a_pod_is_injected_again() -> Result<()> {
    ensure_capable()?;
    let network = TestNetwork::new()?;
    let injecting = Injecting::new(&network)?;
    let api = &injecting.cluster.api;
    api.apply(&pod("whole", &json!({})))?;
    let debug = [
        "debug",
        "whole",
        "-n",
        "curl",
        "--copy-to=copy",
        "--image=busybox",
        "--container=tools",
        "--attach=false",
    ];
    api.kubectl(User::Admin, &debug)?;
    ensure!(injecting.names("copy", "initContainers")? == "osm-init");
    let containers = injecting.names("copy", "containers")?;
    ensure!(containers == "app tools envoy", "{containers}");
    let label = &injecting.get("copy")?["metadata"]["labels"]["openservicemesh.io/egress-sidecar"];
    ensure!(*label == "injected", "{label}");
    // What only has the name is refused as before.
    let containers = json!([{"name": "envoy", "image": "app", "securityContext": {"runAsUser": 1500}}]);
    let error =
        api.apply(&pod("named", &json!({"containers": containers}))).err().context("it was let in")?;
    ensure!(format!("{error:#}").contains("envoy"), "{error:#}");
    Ok(())
}

/// The API server refuses what goes round a sidecar by itself: no control plane answers any more.
#[test]
fn admission_policies_need_no_control_plane() -> Result<()> {
    ensure_capable()?;
    let network = TestNetwork::new()?;
    let injecting = Injecting::new(&network)?;
    let policies = injecting.rendered("ValidatingAdmissionPolicy");
    let version = kube::version()?;
    if version < (1, 30) {
        ensure!(policies.is_empty(), "this API server has none: {policies:?}");
        println!(
            "\nNOT RUN: ValidatingAdmissionPolicy needs an API server of 1.30, and this one is {version:?}\n"
        );
        return Ok(());
    }
    let api = &injecting.cluster.api;
    ensure!(policies.len() == 2, "{policies:?}");
    let bindings = injecting.rendered("ValidatingAdmissionPolicyBinding");
    for object in policies.iter().chain(&bindings) {
        api.apply(&object.to_string())?;
    }
    let deny = |more: &Value| -> Result<String> {
        let error = api.apply(&pod("bad", more)).err().with_context(|| format!("it was let in: {more}"))?;
        Ok(format!("{error:#}"))
    };
    let host = json!({"hostNetwork": true});
    // The control plane says nothing of pods in their host's network.
    wait_for("the policies to be in force", Duration::from_secs(60), || {
        let _ = api.kubectl(
            User::Admin,
            &["delete", "pod", "bad", "-n", "curl", "--ignore-not-found", "--grace-period=0", "--force"],
        );
        deny(&host).is_ok()
    })?;
    ensure!(deny(&host)?.contains("hostNetwork"), "{}", deny(&host)?);
    api.apply(&pod("good", &json!({})))?;
    ensure!(injecting.names("good", "containers")? == "app envoy");
    let pod_with =
        |context: Value| json!({"containers": [{"name": "app", "image": "app", "securityContext": context}]});
    for context in [
        json!({"privileged": true}),
        json!({"allowPrivilegeEscalation": true, "capabilities": {"add": ["NET_ADMIN"], "drop": ["ALL"]}}),
        json!({"capabilities": {"add": ["NET_RAW"], "drop": ["ALL"]}}),
        json!({"capabilities": {"add": ["SETUID"], "drop": ["ALL"]}}),
        json!({"capabilities": {"add": ["CAP_SETUID"], "drop": ["ALL"]}}),
        // As root with the default capabilities, and as whatever user the image names.
        json!({"runAsUser": 0}),
        json!({}),
    ] {
        let message = deny(&pod_with(context.clone()))?;
        ensure!(message.contains("ValidatingAdmissionPolicy"), "{context}: {message}");
    }
    let mut unnamed = pod_with(json!({"allowPrivilegeEscalation": false}));
    unnamed["securityContext"] = json!({});
    let message = deny(&unnamed)?;
    ensure!(message.contains("must name its user by number"), "{message}");
    api.apply(&pod("root", &pod_with(json!({"runAsUser": 0, "capabilities": {"drop": ["ALL"]}}))))?;
    // An ephemeral container, after the webhooks have gone.
    let debug = |uid: u32| -> Result<String> {
        let container = json!({
            "name": format!("debug-{uid}"), "image": "busybox", "targetContainerName": "app",
            "securityContext": {"runAsUser": uid, "allowPrivilegeEscalation": false},
        });
        let mut pod = injecting.get("good")?;
        let spec = &mut pod["spec"];
        let before = spec["ephemeralContainers"].as_array().cloned().unwrap_or_default();
        spec["ephemeralContainers"] = [before, vec![container]].concat().into();
        let file = injecting.volume.path("debug.json");
        std::fs::write(&file, pod.to_string())?;
        let path = "/api/v1/namespaces/curl/pods/good/ephemeralcontainers";
        api.kubectl(User::Admin, &["replace", "--raw", path, "-f", &file.to_string_lossy()])
    };
    api.kubectl(User::Admin, &["delete", "mutatingwebhookconfiguration", "--all"])?;
    wait_for("the webhook to be forgotten", Duration::from_secs(30), || debug(1000).is_ok())?;
    let message = debug(1500).err().context("uid 1500 was let in")?;
    ensure!(format!("{message:#}").contains("user 1500"), "{message:#}");
    // The annotation can be changed while the pod runs.
    let opt_out = ["annotate", "pod", "good", "-n", "curl", "openservicemesh.io/sidecar-injection=disabled"];
    api.kubectl(User::Admin, &[&opt_out[..], &["--overwrite"]].concat())?;
    let message = debug(1500).err().context("uid 1500 was let in by an annotation")?;
    ensure!(format!("{message:#}").contains("user 1500"), "{message:#}");
    let typed = api.kubectl(
        User::Admin,
        &["get", "validatingadmissionpolicies", "-o", "jsonpath={.items[*].status.typeChecking}"],
    )?;
    ensure!(!typed.contains("expressionWarnings"), "{typed}");
    Ok(())
}
