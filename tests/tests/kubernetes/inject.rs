//! `osm-egress inject` and an API server: it accepts the pods, the init containers intercept, and the
//! sidecars get their policy.

#![allow(clippy::wildcard_enum_match_arm, reason = "what a test does not expect fails it")]

use std::io::Write;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};
use egress_tests::authority::Volume;
use egress_tests::client::{self, Outcome};
use egress_tests::cluster::{Cluster, issue_control_plane_certificate, wait_for_status};
use egress_tests::control_plane;
use egress_tests::envoy::{self, Envoy};
use egress_tests::kube::User;
use egress_tests::netns::{Netns, Pod, can_switch_uid, ensure_capable, find_tool};
use egress_tests::network::{CONTROL_PLANE, ELSEWHERE, HTTPBIN, TestNetwork};
use egress_tests::wait::wait_for;
use serde_json::{Value, json};

const MANIFESTS: &str = "# What people write.
apiVersion: v1
kind: ServiceAccount
metadata: {name: default, namespace: curl}
---
apiVersion: v1
kind: ServiceAccount
metadata: {name: curl, namespace: curl}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: curl, namespace: curl}
spec:
  replicas: 1
  selector: {matchLabels: {app: curl}}
  template:
    metadata:
      labels: {app: curl}
      annotations: {openservicemesh.io/outbound-port-exclusion-list: '5432, 6379'}
    spec:
      serviceAccountName: curl
      initContainers: [{name: first, image: curlimages/curl, command: ['true']}]
      containers: [{name: curl, image: curlimages/curl, command: [sleep, 365d]}]
      volumes: [{name: settings, configMap: {name: settings, defaultMode: 0644}}]
---
apiVersion: v1
kind: Pod
metadata: {name: alone, namespace: curl}
spec:
  serviceAccountName: curl
  containers: [{name: curl, image: curlimages/curl, command: [sleep, 365d]}]
";

/// Runs `osm-egress inject` on a text.
pub(crate) fn inject(text: &str, flags: &[&str]) -> Result<String> {
    let mut child = Command::new(control_plane::binary()?)
        .args(["inject", "-f", "-"])
        .args(flags)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    child.stdin.take().context("no standard input")?.write_all(text.as_bytes())?;
    let output = child.wait_with_output()?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8(output.stdout)?)
}

fn write(folder: &Path, name: &str, text: &str) -> Result<String> {
    let file = folder.join(name);
    std::fs::write(&file, text)?;
    Ok(file.to_string_lossy().into_owned())
}

fn get(cluster: &Cluster<'_>, kind: &str, name: &str) -> Result<Value> {
    let text = cluster.api.kubectl(User::Admin, &["get", kind, name, "-n", "curl", "-o", "json"])?;
    Ok(serde_json::from_str(&text)?)
}

/// A container of a pod or of a template.
pub(crate) fn container<'p>(pod: &'p Value, list: &str, name: &str) -> Result<&'p Value> {
    let mut containers = pod["spec"][list].as_array().into_iter().flatten();
    containers.find(|container| container["name"] == name).with_context(|| format!("no container {name}"))
}

pub(crate) fn texts(list: &Value) -> Vec<String> {
    list.as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
}

/// The arguments of a container, with the environment's values of the pod, as the kubelet passes them.
pub(crate) fn arguments(pod: &Value, container: &Value) -> Result<Vec<String>> {
    let mut arguments = texts(&container["args"]);
    for variable in container["env"].as_array().into_iter().flatten() {
        let field = variable["valueFrom"]["fieldRef"]["fieldPath"].as_str().context("no field")?;
        let value = pod.pointer(&format!("/{}", field.replace('.', "/"))).and_then(Value::as_str);
        let name = format!("$({})", variable["name"].as_str().context("no name")?);
        let value = value.with_context(|| format!("the pod has no {field}"))?;
        arguments = arguments.into_iter().map(|argument| argument.replace(&name, value)).collect();
    }
    ensure!(!arguments.iter().any(|argument| argument.contains("$(")), "{arguments:?}");
    Ok(arguments)
}

/// The rules of the project's chains, as iptables-save prints them.
fn rules(netns: &Netns, tool: &str) -> Result<Vec<String>> {
    let path = find_tool(tool).with_context(|| format!("`{tool}` is missing"))?;
    let output = netns.command(&path.to_string_lossy()).args(["-t", "nat"]).output()?;
    let text = String::from_utf8(output.stdout)?;
    Ok(text.lines().filter(|line| line.starts_with("-A")).map(str::to_owned).collect())
}

/// An API server accepts the result, with and without a native sidecar, and again after it has added its
/// defaults.
#[test]
fn an_api_server_accepts_injected_pods() -> Result<()> {
    ensure_capable()?;
    let network = TestNetwork::new()?;
    let cluster = Cluster::new(&network)?;
    let folder = tempfile::tempdir()?;
    let (authority, _) = issue_control_plane_certificate()?;
    let authority = write(folder.path(), "ca.crt", &authority.pem)?;
    let injected = inject(MANIFESTS, &["--xds-ca", &authority])?;
    let file = write(folder.path(), "injected.yaml", &injected)?;
    cluster.api.kubectl(User::Admin, &["apply", "--dry-run=server", "-f", &file])?;
    cluster.api.kubectl(User::Admin, &["apply", "-f", &file])?;
    // Injection is idempotent, also with the API server's defaults.
    ensure!(inject(&injected, &["--xds-ca", &authority])? == injected);
    let message = cluster.api.kubectl(User::Admin, &["apply", "-f", &file])?;
    ensure!(message.lines().all(|line| line.ends_with("unchanged")), "{message}");

    let deployment = get(&cluster, "deployment", "curl")?;
    let template = &deployment["spec"]["template"];
    let names = |list: &str| -> Vec<Value> {
        let containers = template["spec"][list].as_array().into_iter().flatten();
        containers.map(|container| container["name"].clone()).collect()
    };
    ensure!(names("initContainers") == ["osm-init", "first"], "{template}");
    ensure!(names("containers") == ["curl", "envoy"], "{template}");
    ensure!(template["spec"]["volumes"][0]["configMap"]["defaultMode"] == 0o644, "{template}");
    let token = &template["spec"]["volumes"][1]["projected"]["sources"][0]["serviceAccountToken"];
    ensure!(
        *token == json!({"audience": "osm-egress", "expirationSeconds": 3600, "path": "token"}),
        "{token}"
    );
    let hosts = json!([{"path": "hosts", "fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.uid"}}]);
    ensure!(template["spec"]["volumes"][2]["downwardAPI"]["items"] == hosts, "{template}");
    let mount =
        json!({"name": "osm-egress-hosts", "mountPath": "/etc/hosts", "subPath": "hosts", "readOnly": true});
    ensure!(container(template, "containers", "envoy")?["volumeMounts"][1] == mount, "{template}");
    for (name, list) in [("envoy", "containers"), ("osm-init", "initContainers")] {
        // The API server kept every field.
        let context = &container(template, list, name)?["securityContext"];
        ensure!(context["seccompProfile"]["type"] == "RuntimeDefault", "{context}");
        ensure!(context["readOnlyRootFilesystem"] == true && context["allowPrivilegeEscalation"] == false);
        ensure!(context["capabilities"]["drop"] == json!(["ALL"]), "{context}");
    }
    // A pod as the API server has it: with its defaults in our containers, and its status.
    let pod = get(&cluster, "pod", "alone")?;
    let again = inject(&pod.to_string(), &["--xds-ca", &authority, "-o", "json"])?;
    let again: Value = serde_json::from_str(&again)?;
    let made = inject(MANIFESTS, &["--xds-ca", &authority, "-o", "json"])?;
    let made: Value = serde_json::from_str(&made)?;
    let made = &made["items"][3];
    for list in ["containers", "initContainers"] {
        for name in ["envoy", "osm-init"] {
            ensure!(container(&again, list, name).ok() == container(made, list, name).ok());
        }
    }
    Ok(())
}

/// The init container's command, run in a namespace, installs Open Service Mesh's table, and running it twice
/// changes nothing.
#[test]
fn the_init_container_installs_the_table() -> Result<()> {
    ensure_capable()?;
    ensure!(can_switch_uid(), "rules that know Envoy by its uid need root");
    let network = TestNetwork::new()?;
    let cluster = Cluster::new(&network)?;
    cluster.api.apply(&inject(MANIFESTS, &[])?)?;
    let deployment = get(&cluster, "deployment", "curl")?;
    let init = container(&deployment["spec"]["template"], "initContainers", "osm-init")?;
    ensure!(init["command"] == json!(["osm-egress"]), "{init}");
    let netns = Netns::new()?;
    let run = || -> Result<()> {
        let output =
            netns.command(&control_plane::binary()?.to_string_lossy()).args(texts(&init["args"])).output()?;
        ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        Ok(())
    };
    for _ in 0..2 {
        run()?;
        for (tool, loopback) in [("iptables-save", "127.0.0.1/32"), ("ip6tables-save", "::1/128")] {
            let found = rules(&netns, tool)?;
            let expected = [
                "-A OUTPUT -p tcp -j OSM_PROXY_OUTBOUND".to_owned(),
                "-A OSM_PROXY_IN_REDIRECT -p tcp -j REDIRECT --to-ports 15003".to_owned(),
                format!(
                    "-A OSM_PROXY_OUTBOUND ! -d {loopback} -o lo -m owner --uid-owner 1500 -j OSM_PROXY_IN_REDIRECT"
                ),
                "-A OSM_PROXY_OUTBOUND -o lo -m owner ! --uid-owner 1500 -j RETURN".to_owned(),
                "-A OSM_PROXY_OUTBOUND -m owner --uid-owner 1500 -j RETURN".to_owned(),
                format!("-A OSM_PROXY_OUTBOUND -d {loopback} -j RETURN"),
                "-A OSM_PROXY_OUTBOUND -p tcp -m multiport --dports 5432,6379 -j RETURN".to_owned(),
                "-A OSM_PROXY_OUTBOUND -j OSM_PROXY_OUT_REDIRECT".to_owned(),
                "-A OSM_PROXY_OUT_REDIRECT -p tcp -j REDIRECT --to-ports 15001".to_owned(),
                "-A OSM_PROXY_OUT_REDIRECT -p tcp -m tcp --dport 15000 -j ACCEPT".to_owned(),
            ];
            ensure!(found == expected, "{tool}: {found:#?}");
        }
    }
    Ok(())
}

/// The sidecar's arguments, with the pod's names filled in, start a real Envoy: it is not ready before it has
/// its policy, and the policy is that of its service account.
#[test]
fn the_sidecar_gets_its_policy() -> Result<()> {
    ensure_capable()?;
    let network = TestNetwork::new()?;
    let place = network.pod()?;
    let cluster = Cluster::new(&network)?;
    cluster.api.apply(
        "apiVersion: policy.openservicemesh.io/v1alpha1\nkind: Egress\nmetadata: {name: echo, namespace: curl}\n\
         spec:\n  sources: [{kind: ServiceAccount, name: curl, namespace: curl}]\n  \
         ipAddresses: [203.0.113.10/32]\n  ports: [{number: 9000, protocol: tcp}]\n",
    )?;
    let xds = SocketAddr::new(CONTROL_PLANE, 15128).to_string();
    let image = format!("envoyproxy/envoy:v{}", envoy::version()?);
    let folder = tempfile::tempdir()?;
    let (authority, own) = issue_control_plane_certificate()?;
    let authority = write(folder.path(), "ca.crt", &authority.pem)?;
    let flags = ["--xds-address", &xds, "--sidecar-image", &image, "--xds-ca", &authority];
    cluster.api.apply(&inject(MANIFESTS, &flags)?)?;
    let pod = get(&cluster, "pod", "alone")?;
    let sidecar = container(&pod, "containers", "envoy")?;
    ensure!(sidecar["command"] == json!(["envoy"]), "{sidecar}");
    // What the kubelet does: the token, where the pod asks for it.
    let (audience, file) = token(&pod, sidecar)?;
    let token = Volume::new(&[(&file, &cluster.api.token("curl", "curl", &audience, Some("alone"))?)])?;
    let mut envoy = Envoy::launch_injected(&place, &arguments(&pod, sidecar)?, token.folder())?;

    let probe = &sidecar["readinessProbe"]["httpGet"];
    let port = probe["port"].as_u64().and_then(|port| u16::try_from(port).ok()).context("no port")?;
    let path = probe["path"].as_str().context("no path")?;
    // From outside the pod, like a kubelet.
    let ready = || -> Result<bool> {
        let request = client::request("GET", path, &[("host", "pod"), ("connection", "close")]);
        let to = SocketAddr::new(place.address.into(), port);
        match network.outside.netns.run(|| client::http(to, &request))? {
            Outcome::Http(answer) => Ok(answer.status == 200),
            _ => Ok(false),
        }
    };
    wait_for("Envoy's admin interface", Duration::from_secs(20), || {
        envoy.stat("server.uptime").is_ok() || envoy.exited().is_some()
    })?;
    ensure!(envoy.exited().is_none(), "{}", envoy.log_tail(30));
    ensure!(!ready()?, "it is ready before it has a policy");

    let (certificate, key) = (own.text("tls.crt"), own.text("tls.key"));
    let control_plane = cluster.control_plane(&[
        "--service-account-tokens",
        "--tls-cert",
        &certificate,
        "--tls-key",
        &key,
    ])?;
    wait_for("the sidecar to be ready", Duration::from_secs(20), || ready().unwrap_or(false))
        .with_context(|| envoy.log_tail(30))?;
    wait_for_status(&control_plane, "the sidecar to be known by its names", |status| {
        status["proxies"][0]["node"] == "alone.curl.curl" && status["proxies"][0]["identity"] == "curl/curl"
    })?;
    wait_for("the policy to be in force", Duration::from_secs(10), || {
        echo(&place, HTTPBIN).is_ok_and(|through| through)
    })
    .with_context(|| envoy.log_tail(30))?;
    ensure!(!echo(&place, ELSEWHERE)?, "what no policy allows got out");
    ensure!(control_plane.log().contains("by=\"token\""), "{}", control_plane.log());
    Ok(())
}

/// Audience and path of a sidecar's token.
pub(crate) fn token(pod: &Value, sidecar: &Value) -> Result<(String, String)> {
    ensure!(sidecar["volumeMounts"][0]["mountPath"] == "/var/run/secrets/osm-egress", "{sidecar}");
    let name = &sidecar["volumeMounts"][0]["name"];
    let mut volumes = pod["spec"]["volumes"].as_array().into_iter().flatten();
    let volume = volumes.find(|volume| volume["name"] == *name).context("no such volume")?;
    let token = &volume["projected"]["sources"][0]["serviceAccountToken"];
    let text = |field: &str| token[field].as_str().map(str::to_owned).with_context(|| token.to_string());
    Ok((text("audience")?, text("path")?))
}

pub(crate) fn echo(pod: &Pod, to: IpAddr) -> Result<bool> {
    match pod.workload().run(|| client::exchange(SocketAddr::new(to, 9000), b"hello"))? {
        Outcome::Bytes(bytes) => Ok(bytes == b"hello"),
        Outcome::Closed | Outcome::Refused(_) => Ok(false),
        other => Err(anyhow!("{other:?}")),
    }
}
