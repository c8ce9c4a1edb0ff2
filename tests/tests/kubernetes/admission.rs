//! The control plane's webhooks, asked by a real API server: refusals and warnings.

use std::net::{IpAddr, SocketAddr};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use egress_tests::authority::{Authority, Volume};
use egress_tests::cluster::{
    Cluster, EGRESS_OFF, EGRESS_ON, issue_control_plane_certificate, rules, wait_for_status,
};
use egress_tests::control_plane::ControlPlane;
use egress_tests::kube::User;
use egress_tests::manifests::{egress, egress_in};
use egress_tests::netns::ensure_capable;
use egress_tests::network::{CONTROL_PLANE, TestNetwork};
use egress_tests::wait::wait_for;

const NAME: &str = "egress.validate.openservicemesh.io";
const PORT: u16 = 9443;

/// The API server's webhook configuration.
fn configuration(volume: &Volume, authority: &Authority, address: IpAddr) -> Result<String> {
    let file = volume.path("ca.pem");
    std::fs::write(&file, &authority.pem)?;
    let output = Command::new("base64").arg("-w0").arg(&file).output()?;
    ensure!(output.status.success(), "base64: {}", String::from_utf8_lossy(&output.stderr));
    let bundle = String::from_utf8(output.stdout)?;
    Ok(format!(
        "apiVersion: admissionregistration.k8s.io/v1\nkind: ValidatingWebhookConfiguration\n\
         metadata: {{name: osm-egress}}\nwebhooks:\n- name: {NAME}\n  \
         clientConfig: {{url: 'https://{}/validate', caBundle: {bundle}}}\n  \
         admissionReviewVersions: [v1]\n  sideEffects: None\n  failurePolicy: Fail\n  timeoutSeconds: 5\n  rules:\n  \
         - {{operations: [CREATE, UPDATE], apiGroups: [policy.openservicemesh.io], apiVersions: [v1alpha1], \
         resources: [egresses, upstreamtrafficsettings]}}\n  \
         - {{operations: [CREATE, UPDATE], apiGroups: [specs.smi-spec.io], apiVersions: [v1alpha4], \
         resources: [httproutegroups]}}\n  \
         - {{operations: [CREATE, UPDATE], apiGroups: [config.openservicemesh.io], apiVersions: ['*'], \
         resources: [meshconfigs]}}\n",
        SocketAddr::new(address, PORT)
    ))
}

fn serve<'n>(cluster: &Cluster<'n>, volume: &Volume) -> Result<ControlPlane<'n>> {
    let address = SocketAddr::new(CONTROL_PLANE, PORT).to_string();
    let (certificate, key) = (volume.text("tls.crt"), volume.text("tls.key"));
    let control_plane = cluster.launch(
        User::ControlPlane,
        CONTROL_PLANE,
        &[
            "--tls-cert",
            &certificate,
            "--tls-key",
            &key,
            "--webhook-listen",
            &address,
            "--service-account-tokens",
        ],
    )?;
    control_plane.ready()
}

/// Runs `kubectl apply` and returns its output with warnings.
fn apply(cluster: &Cluster<'_>, text: &str) -> Result<String> {
    cluster.api.shell(
        User::Admin,
        &format!(
            "kubectl apply -f - 2>&1 <<'EOF'
{text}
EOF"
        ),
    )
}

/// Runs `kubectl apply` that must fail.
fn refused(cluster: &Cluster<'_>, text: &str) -> Result<String> {
    let error = cluster.api.apply(text).err().with_context(|| format!("it was let in:\n{text}"))?;
    Ok(format!("{error:#}"))
}

#[test]
fn the_webhook_refuses_and_warns() -> Result<()> {
    ensure_capable()?;
    let network = TestNetwork::new()?;
    let cluster = Cluster::new(&network)?;
    let api = &cluster.api;
    let http = "ports: [{number: 80, protocol: http}]";
    let https = "ports: [{number: 443, protocol: https}]";
    // An object from before the webhook.
    api.apply(&egress("old", &format!("hosts: [not a name]\n{http}")))?;
    let (authority, volume) = issue_control_plane_certificate()?;
    let control_plane = serve(&cluster, &volume)?;
    api.apply(&configuration(&volume, &authority, CONTROL_PLANE)?)?;
    let bad = egress("bad", &format!("hosts: [not a name]\n{http}"));
    let file = volume.path("bad.yaml");
    std::fs::write(&file, &bad)?;
    let dry = ["apply", "--dry-run=server", "-f", &*file.to_string_lossy()];
    wait_for("the API server to ask", Duration::from_secs(20), || api.kubectl(User::Admin, &dry).is_err())
        .with_context(|| control_plane.log())?;

    // In Open Service Mesh's words, and nothing else.
    let denied = format!("admission webhook \"{NAME}\" denied the request: ");
    let settings = "{apiGroup: policy.openservicemesh.io/v1alpha1, kind: UpstreamTrafficSetting, name: s}";
    for (matches, expected) in [
        (
            "{apiGroup: invalid, kind: Name, name: Name}",
            "Expected 'matches.apiGroup' to be one of [specs.smi-spec.io/v1alpha4 policy.openservicemesh.io/v1alpha1], got: invalid",
        ),
        (
            "{apiGroup: specs.smi-spec.io/v1alpha4, kind: TCPRoute, name: x}",
            "Expected 'matches.kind' for match 'x' to be 'HTTPRouteGroup', got: TCPRoute",
        ),
        (
            "{apiGroup: policy.openservicemesh.io/v1alpha1, kind: Retry, name: x}",
            "Expected 'matches.kind' for match 'x' to be 'UpstreamTrafficSetting', got: Retry",
        ),
        (&format!("{settings}, {settings}"), "Cannot have more than 1 UpstreamTrafficSetting match"),
    ] {
        let text = egress("bad", &format!("hosts: [a.org]\n{http}\nmatches: [{matches}]"));
        let message = refused(&cluster, &text)?;
        ensure!(message.ends_with(&format!("{denied}{expected}")), "{message}");
    }

    // Mistakes that the definitions accept, each with its field.
    let group = |part: &str| {
        format!(
            "apiVersion: specs.smi-spec.io/v1alpha4\nkind: HTTPRouteGroup\n\
             metadata: {{name: g, namespace: curl}}\nspec: {{matches: [{{name: m, {part}}}]}}\n"
        )
    };
    let setting = "apiVersion: policy.openservicemesh.io/v1alpha1\nkind: UpstreamTrafficSetting\n\
                   metadata: {name: s, namespace: curl}\n\
                   spec: {host: a.org, connectionSettings: {tcp: {connectTimeout: '0s'}}}\n";
    let annotated = egress("bad", &format!("hosts: [a.org]\n{http}")).replace(
        "namespace: curl}\nspec",
        "namespace: curl, annotations: {openservicemesh.io/egress-ech: maybe}}\nspec",
    );
    for (text, expected) in [
        (bad.clone(), "spec.hosts[0]: `not a name` is not a host"),
        (
            egress_in(
                "curl",
                "bad",
                "ipAddresses: [10.0.0.0/8, '::1:2:3:4:5:6:7:8:9/64']\nports: [{number: 1, protocol: tcp}]",
            ),
            "spec.ipAddresses[1]: ",
        ),
        (egress("bad", http), "spec.ports[0].protocol: protocol `http` without hosts grants nothing"),
        (annotated, "metadata.annotations[\"openservicemesh.io/egress-ech\"]: `maybe`"),
        // A list whose every entry is commented out.
        (egress("bad", &format!("hosts:\n{https}")), "spec.hosts: the list is present but empty"),
        (egress("bad", &format!("hosts: []\n{https}")), "spec.hosts: the list is present but empty"),
        (egress("bad", &format!("ipAddresses:\n{https}")), "spec.ipAddresses: the list is present but empty"),
        (group("methods: ~"), "spec.matches[0].methods: the field is present but empty"),
        (group("pathRegex: ~"), "spec.matches[0].pathRegex: the field is present but empty"),
        (group("pathRegex: '('"), "spec.matches[0].pathRegex: "),
        (group("headers: [{x-a: b, x-c: d}]"), "spec.matches[0].headers"),
        (setting.to_owned(), "spec.connectionSettings.tcp.connectTimeout: `0s`"),
    ] {
        let message = refused(&cluster, &text)?;
        ensure!(message.contains(&format!("{denied}{expected}")), "{expected}: {message}");
    }

    // `kubectl apply` removes such a field from an existing object.
    apply(&cluster, &egress("emptied", &format!("hosts: [a.org]\n{https}")))?;
    let message = refused(&cluster, &egress("emptied", &format!("hosts:\n{https}")))?;
    ensure!(message.contains(&format!("{denied}spec.hosts: the list is present but empty")), "{message}");
    api.kubectl(User::Admin, &["delete", "egress", "emptied", "-n", "curl"])?;

    // A problem that other objects can solve is a warning, which kubectl prints.
    let named = "matches: [{apiGroup: specs.smi-spec.io/v1alpha4, kind: HTTPRouteGroup, name: g}]";
    let routed = egress("routed", &format!("hosts: [a.org]\n{http}\n{named}"));
    let message = apply(&cluster, &routed)?;
    ensure!(message.contains("Warning: spec.matches[0]: there is no HTTPRouteGroup curl/g"), "{message}");
    let message = apply(&cluster, &group("pathRegex: /get"))?;
    ensure!(!message.contains("Warning"), "{message}");
    wait_for("the group to be known", Duration::from_secs(10), || {
        api.kubectl(
            User::Admin,
            &[
                "annotate",
                "--overwrite",
                "egress",
                "routed",
                "-n",
                "curl",
                "openservicemesh.io/egress-upgrades=websocket",
            ],
        )
        .is_ok()
            && control_plane
                .status()
                .is_ok_and(|status| !status["diagnostics"].to_string().contains("there is no HTTPRouteGroup"))
    })?;
    let message = apply(&cluster, &routed.replace("a.org", "b.org"))?;
    ensure!(!message.contains("Warning"), "{message}");
    api.shell(User::Admin, EGRESS_OFF)?;
    let message = api.shell(User::Admin, &format!("({EGRESS_ON}) 2>&1"))?;
    ensure!(
        message.contains("Warning: spec.traffic.enableEgress: ")
            && message.contains("1 Egress policy does not apply"),
        "{message}"
    );
    // Without a policy that grants anything, global egress overrides nothing.
    api.shell(User::Admin, EGRESS_OFF)?;
    api.kubectl(User::Admin, &["delete", "egress", "routed", "-n", "curl"])?;
    wait_for_status(&control_plane, "the policy to be deleted", |status| {
        rules(status, "Egress curl/routed").is_none()
    })?;
    let message = api.shell(User::Admin, &format!("({EGRESS_ON}) 2>&1"))?;
    ensure!(message.contains("patched") && !message.contains("Warning"), "{message}");

    // An object that was wrong before can be labelled and deleted.
    api.kubectl(User::Admin, &["label", "egress", "old", "-n", "curl", "a=b"])?;
    api.kubectl(
        User::Admin,
        &[
            "patch",
            "egress",
            "old",
            "-n",
            "curl",
            "--type=merge",
            "-p",
            "{\"metadata\":{\"finalizers\":[\"a.b/c\"]}}",
        ],
    )?;
    api.kubectl(User::Admin, &["delete", "egress", "old", "-n", "curl", "--wait=false"])?;
    api.kubectl(
        User::Admin,
        &[
            "patch",
            "egress",
            "old",
            "-n",
            "curl",
            "--type=merge",
            "-p",
            "{\"metadata\":{\"finalizers\":null}}",
        ],
    )?;
    ensure!(api.kubectl(User::Admin, &["get", "egress", "old", "-n", "curl"]).is_err(), "it is still there");

    let metrics = control_plane.get("/metrics")?;
    for allowed in ["true", "false"] {
        let sample = format!("osm_egress_admission_total{{webhook=\"validate\",allowed=\"{allowed}\"}}");
        ensure!(metrics.contains(&sample), "{metrics}");
    }

    // Without the control plane the API server refuses objects; with it, it accepts them again.
    control_plane.stop()?;
    let good = egress("good", "ports: [{number: 9000, protocol: tcp}]");
    let message = refused(&cluster, &good)?;
    ensure!(message.contains("failed calling webhook"), "{message}");
    let control_plane = serve(&cluster, &volume)?;
    wait_for("the webhook to be back", Duration::from_secs(20), || api.apply(&good).is_ok())
        .with_context(|| control_plane.log())?;
    Ok(())
}

/// The API server's configuration of the injection webhook.
fn injection(volume: &Volume) -> Result<String> {
    let output = Command::new("base64").arg("-w0").arg(volume.path("ca.pem")).output()?;
    let bundle = String::from_utf8(output.stdout)?;
    Ok(format!(
        "apiVersion: admissionregistration.k8s.io/v1\nkind: MutatingWebhookConfiguration\n\
         metadata: {{name: osm-egress}}\nwebhooks:\n- name: inject.openservicemesh.io\n  \
         clientConfig: {{url: 'https://{}/mutate', caBundle: {bundle}}}\n  \
         admissionReviewVersions: [v1]\n  sideEffects: None\n  failurePolicy: Fail\n  timeoutSeconds: 5\n  rules:\n  \
         - {{operations: [CREATE, UPDATE], apiGroups: [''], apiVersions: [v1], resources: [pods]}}\n",
        SocketAddr::new(CONTROL_PLANE, PORT)
    ))
}

/// A pod's author changes interception only as far as the namespace's annotations allow.
#[test]
fn namespaces_limit_the_annotations_of_pods() -> Result<()> {
    ensure_capable()?;
    let network = TestNetwork::new()?;
    let cluster = Cluster::new(&network)?;
    let api = &cluster.api;
    let (authority, volume) = issue_control_plane_certificate()?;
    std::fs::write(volume.path("ca.pem"), &authority.pem)?;
    let address = SocketAddr::new(CONTROL_PLANE, PORT).to_string();
    let (certificate, key, ca) = (volume.text("tls.crt"), volume.text("tls.key"), volume.text("ca.pem"));
    let tls = ["--tls-cert", &certificate, "--tls-key", &key, "--xds-ca", &ca, "--service-account-tokens"];
    let control_plane = cluster.control_plane(&[&tls[..], &["--webhook-listen", &address]].concat())?;
    let set = |namespace: &str, annotation: &str| {
        let annotation = format!("openservicemesh.io/{annotation}");
        api.kubectl(User::Admin, &["annotate", "--overwrite", "namespace", namespace, &annotation])
    };
    set("curl", "sidecar-injection=enabled")?;
    api.apply(&injection(&volume)?)?;
    let pod = |name: &str, annotations: &str, spec: &str| {
        format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, namespace: curl, annotations: {{{annotations}}}}}\n\
             spec: {{{spec}serviceAccountName: curl, containers: [{{name: app, image: app}}]}}\n"
        )
    };
    let containers = |name: &str| {
        let path = "jsonpath={.spec.containers[*].name}";
        api.kubectl(User::Admin, &["get", "pod", name, "-n", "curl", "-o", path])
    };
    let user = "securityContext: {runAsUser: 1000}, ";
    let mut made = 0;
    wait_for("the API server to ask", Duration::from_secs(20), || {
        made += 1;
        let name = format!("first-{made}");
        api.apply(&pod(&name, "", user)).is_ok() && containers(&name).is_ok_and(|names| names == "app envoy")
    })
    .with_context(|| format!("{:?}\n{}", api.apply(&pod("last", "", user)), control_plane.log()))?;

    // As in Open Service Mesh, with a warning.
    let ports = "openservicemesh.io/outbound-port-exclusion-list: '5432'";
    let off = "openservicemesh.io/sidecar-injection: disabled";
    let message = apply(&cluster, &pod("ports", ports, user))?;
    let expected = "Warning: annotation `openservicemesh.io/outbound-port-exclusion-list` excludes 5432 from interception";
    ensure!(message.contains(expected), "{message}");
    let message = apply(&cluster, &pod("without", off, user))?;
    ensure!(message.contains("Warning: no sidecar: ") && containers("without")? == "app", "{message}");
    let message = apply(&cluster, &pod("plain", "", ""))?;
    ensure!(
        message.contains("Warning: as root, `app` would have NET_RAW and SETUID by default"),
        "{message}"
    );
    let message = apply(&cluster, &pod("quiet", "", user))?;
    ensure!(!message.contains("Warning"), "{message}");

    // Without the namespace's permission it is refused, with the remedy.
    set("curl", "pod-annotations=tighten")?;
    wait_for("the namespace's word", Duration::from_secs(10), || {
        api.kubectl(
            User::Admin,
            &["delete", "pod", "ports", "-n", "curl", "--ignore-not-found", "--grace-period=0", "--force"],
        )
        .is_ok()
            && api.apply(&pod("ports", ports, user)).is_err()
    })?;
    for annotations in [ports, off, &format!("{ports}, openservicemesh.io/pod-annotations: all")] {
        let message = refused(&cluster, &pod("refused", annotations, user))?;
        let expected = "have someone who may write the namespace annotate it with `openservicemesh.io/pod-annotations: all`";
        ensure!(message.contains(expected), "{message}");
    }
    api.apply(&pod("still", "", user))?;

    // An image may be changed in a pod that runs, but not the sidecar's.
    let image = |container: &str| {
        let image = format!("{container}=another");
        api.kubectl(User::Admin, &["set", "image", "pod/still", "-n", "curl", &image])
    };
    image("app")?;
    let message = image("envoy").err().context("the sidecar's image was changed")?.to_string();
    ensure!(message.contains("container `envoy` runs as the sidecar's uid"), "{message}");

    // kubectl makes a whole number of a float; the API server takes no other and no text.
    for uid in ["1500", "1500.0", "1.5e3", "0x5dc"] {
        let message =
            refused(&cluster, &pod("uid", "", &format!("securityContext: {{runAsUser: {uid}}}, ")))?;
        ensure!(message.contains("container `app` runs as uid 1500"), "{uid}: {message}");
    }
    for uid in ["1500.0", "1.5e3", "\"1500\""] {
        let pod = format!(
            "{{\"apiVersion\": \"v1\", \"kind\": \"Pod\", \"metadata\": {{\"name\": \"raw\"}}, \"spec\": \
             {{\"serviceAccountName\": \"curl\", \"securityContext\": {{\"runAsUser\": {uid}}}, \"containers\": [{{\"name\": \"app\", \"image\": \"app\"}}]}}}}"
        );
        let file = volume.path("raw.json");
        std::fs::write(&file, &pod)?;
        let raw = ["create", "--raw", "/api/v1/namespaces/curl/pods", "-f", &*file.to_string_lossy()];
        let message = api.kubectl(User::Admin, &raw).err().with_context(|| format!("{uid} was let in"))?;
        println!("runAsUser: {uid}: {message:#}");
    }
    Ok(())
}
