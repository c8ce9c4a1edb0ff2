//! What an API server refuses because the control plane's webhook says so, and what it warns of.

use std::net::{IpAddr, SocketAddr};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use egress_tests::authority::{Authority, Volume};
use egress_tests::cluster::{Cluster, EGRESS_OFF, EGRESS_ON, identified_by_tokens, policy};
use egress_tests::kube::User;
use egress_tests::mesh::{CONTROL_PLANE, World};
use egress_tests::netns::ensure_capable;
use egress_tests::shim::Shim;
use egress_tests::wait::wait_for;

const NAME: &str = "egress.validate.openservicemesh.io";
const PORT: u16 = 9443;

/// What an API server must be told to ask the control plane.
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

fn serve<'w>(cluster: &Cluster<'w>, volume: &Volume) -> Result<Shim<'w>> {
    let address = SocketAddr::new(CONTROL_PLANE, PORT).to_string();
    let (certificate, key) = (volume.text("tls.crt"), volume.text("tls.key"));
    let shim = cluster.launch(
        User::Shim,
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
    shim.ready()
}

/// What `kubectl apply` says, warnings and all.
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

/// The same, where it must fail.
fn refused(cluster: &Cluster<'_>, text: &str) -> Result<String> {
    let error = cluster.api.apply(text).err().with_context(|| format!("it was let in:\n{text}"))?;
    Ok(format!("{error:#}"))
}

#[test]
fn a_webhook() -> Result<()> {
    ensure_capable()?;
    let world = World::new()?;
    let cluster = Cluster::new(&world)?;
    let api = &cluster.api;
    let http = "ports: [{number: 80, protocol: http}]";
    let https = "ports: [{number: 443, protocol: https}]";
    // It was there before the webhook.
    api.apply(&policy("curl", "old", &format!("hosts: [not a name]\n  {http}")))?;
    let (authority, volume) = identified_by_tokens()?;
    let shim = serve(&cluster, &volume)?;
    api.apply(&configuration(&volume, &authority, CONTROL_PLANE)?)?;
    let bad = policy("curl", "bad", &format!("hosts: [not a name]\n  {http}"));
    let file = volume.path("bad.yaml");
    std::fs::write(&file, &bad)?;
    let dry = ["apply", "--dry-run=server", "-f", &*file.to_string_lossy()];
    wait_for("the API server to ask", Duration::from_secs(20), || api.kubectl(User::Admin, &dry).is_err())
        .with_context(|| shim.log())?;

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
        let text = policy("curl", "bad", &format!("hosts: [a.org]\n  {http}\n  matches: [{matches}]"));
        let said = refused(&cluster, &text)?;
        ensure!(said.ends_with(&format!("{denied}{expected}")), "{said}");
    }

    // What the definitions let through, with its field.
    let group = |part: &str| {
        format!(
            "apiVersion: specs.smi-spec.io/v1alpha4\nkind: HTTPRouteGroup\n\
             metadata: {{name: g, namespace: curl}}\nspec: {{matches: [{{name: m, {part}}}]}}\n"
        )
    };
    let setting = "apiVersion: policy.openservicemesh.io/v1alpha1\nkind: UpstreamTrafficSetting\n\
                   metadata: {name: s, namespace: curl}\n\
                   spec: {host: a.org, connectionSettings: {tcp: {connectTimeout: '0s'}}}\n";
    let annotated = policy("curl", "bad", &format!("hosts: [a.org]\n  {http}")).replace(
        "namespace: curl}\nspec",
        "namespace: curl, annotations: {openservicemesh.io/egress-ech: maybe}}\nspec",
    );
    for (text, expected) in [
        (bad.clone(), "spec.hosts[0]: `not a name` is no host"),
        (
            policy(
                "curl",
                "bad",
                "ipAddresses: [10.0.0.0/8, '::1:2:3:4:5:6:7:8:9/64']\n  ports: [{number: 1, protocol: tcp}]",
            ),
            "spec.ipAddresses[1]: ",
        ),
        (policy("curl", "bad", http), "spec.ports[0].protocol: protocol `http` without hosts grants nothing"),
        (annotated, "metadata.annotations[\"openservicemesh.io/egress-ech\"]: `maybe`"),
        // What is left when every entry is commented out.
        (policy("curl", "bad", &format!("hosts:\n  {https}")), "spec.hosts: the list is there and empty"),
        (policy("curl", "bad", &format!("hosts: []\n  {https}")), "spec.hosts: the list is there and empty"),
        (policy("curl", "bad", &format!("ipAddresses:\n  {https}")), "spec.ipAddresses: the list is there"),
        (group("methods: ~"), "spec.matches[0].methods: it is there and empty"),
        (group("pathRegex: ~"), "spec.matches[0].pathRegex: it is there and empty"),
        (group("pathRegex: '('"), "spec.matches[0].pathRegex: "),
        (group("headers: [{x-a: b, x-c: d}]"), "spec.matches[0].headers"),
        (setting.to_owned(), "spec.connectionSettings.tcp.connectTimeout: `0s`"),
    ] {
        let said = refused(&cluster, &text)?;
        ensure!(said.contains(&format!("{denied}{expected}")), "{expected}: {said}");
    }

    // `kubectl apply` takes such a field out of an object that it changes.
    apply(&cluster, &policy("curl", "emptied", &format!("hosts: [a.org]\n  {https}")))?;
    let said = refused(&cluster, &policy("curl", "emptied", &format!("hosts:\n  {https}")))?;
    ensure!(said.contains(&format!("{denied}spec.hosts: the list is there and empty")), "{said}");
    api.kubectl(User::Admin, &["delete", "egress", "emptied", "-n", "curl"])?;

    // What others may mend is a warning, which kubectl prints.
    let named = "matches: [{apiGroup: specs.smi-spec.io/v1alpha4, kind: HTTPRouteGroup, name: g}]";
    let routed = policy("curl", "routed", &format!("hosts: [a.org]\n  {http}\n  {named}"));
    let said = apply(&cluster, &routed)?;
    ensure!(said.contains("Warning: spec.matches[0]: there is no HTTPRouteGroup curl/g"), "{said}");
    let said = apply(&cluster, &group("pathRegex: /get"))?;
    ensure!(!said.contains("Warning"), "{said}");
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
            && shim
                .status()
                .is_ok_and(|status| !status["problems"].to_string().contains("there is no HTTPRouteGroup"))
    })?;
    let said = apply(&cluster, &routed.replace("a.org", "b.org"))?;
    ensure!(!said.contains("Warning"), "{said}");
    api.shell(User::Admin, EGRESS_OFF)?;
    let said = api.shell(User::Admin, &format!("({EGRESS_ON}) 2>&1"))?;
    ensure!(
        said.contains("Warning: spec.traffic.enableEgress: ")
            && said.contains("1 Egress policy does not count"),
        "{said}"
    );

    // Who was wrong before can be labelled, and go.
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

    let metrics = shim.get("/metrics")?;
    for allowed in ["true", "false"] {
        let sample = format!("osm_egress_admission_total{{webhook=\"validate\",allowed=\"{allowed}\"}}");
        ensure!(metrics.contains(&sample), "{metrics}");
    }

    // Without the control plane nothing is let in, and with it again.
    shim.stop()?;
    let good = policy("curl", "good", "ports: [{number: 9000, protocol: tcp}]");
    let said = refused(&cluster, &good)?;
    ensure!(said.contains("failed calling webhook"), "{said}");
    let shim = serve(&cluster, &volume)?;
    wait_for("the webhook to be back", Duration::from_secs(20), || api.apply(&good).is_ok())
        .with_context(|| shim.log())?;
    Ok(())
}

/// What an API server must be told to have pods given their sidecars.
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

/// Whoever makes pods changes what is intercepted as far as whoever writes namespaces lets them.
#[test]
fn annotations_of_pods() -> Result<()> {
    ensure_capable()?;
    let world = World::new()?;
    let cluster = Cluster::new(&world)?;
    let api = &cluster.api;
    let (authority, volume) = identified_by_tokens()?;
    std::fs::write(volume.path("ca.pem"), &authority.pem)?;
    let address = SocketAddr::new(CONTROL_PLANE, PORT).to_string();
    let (certificate, key, ca) = (volume.text("tls.crt"), volume.text("tls.key"), volume.text("ca.pem"));
    let tls = ["--tls-cert", &certificate, "--tls-key", &key, "--xds-ca", &ca, "--service-account-tokens"];
    let shim = cluster.shim(&[&tls[..], &["--webhook-listen", &address]].concat())?;
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
    .with_context(|| format!("{:?}\n{}", api.apply(&pod("last", "", user)), shim.log()))?;

    // As in Open Service Mesh, with a warning.
    let ports = "openservicemesh.io/outbound-port-exclusion-list: '5432'";
    let off = "openservicemesh.io/sidecar-injection: disabled";
    let said = apply(&cluster, &pod("ports", ports, user))?;
    let expected = "Warning: annotation `openservicemesh.io/outbound-port-exclusion-list` excludes 5432 from interception";
    ensure!(said.contains(expected), "{said}");
    let said = apply(&cluster, &pod("without", off, user))?;
    ensure!(said.contains("Warning: no sidecar: ") && containers("without")? == "app", "{said}");
    let said = apply(&cluster, &pod("plain", "", ""))?;
    ensure!(said.contains("Warning: as root, `app` would have NET_RAW and SETUID by default"), "{said}");
    let said = apply(&cluster, &pod("quiet", "", user))?;
    ensure!(!said.contains("Warning"), "{said}");

    // Where the namespace does not permit it: refused, and with what would help.
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
        let said = refused(&cluster, &pod("refused", annotations, user))?;
        let expected = "let whoever may write the namespace annotate that with `openservicemesh.io/pod-annotations: all`";
        ensure!(said.contains(expected), "{said}");
    }
    api.apply(&pod("still", "", user))?;

    // An image may be changed in a pod that runs, but not the sidecar's.
    let image = |container: &str| {
        let image = format!("{container}=another");
        api.kubectl(User::Admin, &["set", "image", "pod/still", "-n", "curl", &image])
    };
    image("app")?;
    let said = image("envoy").err().context("the sidecar's image was changed")?.to_string();
    ensure!(said.contains("container `envoy` has the sidecar's uid"), "{said}");

    // kubectl makes a whole number of a float; the API server takes no other and no text.
    for uid in ["1500", "1500.0", "1.5e3", "0x5dc"] {
        let said = refused(&cluster, &pod("uid", "", &format!("securityContext: {{runAsUser: {uid}}}, ")))?;
        ensure!(said.contains("container `app` runs as uid 1500"), "{uid}: {said}");
    }
    for uid in ["1500.0", "1.5e3", "\"1500\""] {
        let pod = format!(
            "{{\"apiVersion\": \"v1\", \"kind\": \"Pod\", \"metadata\": {{\"name\": \"raw\"}}, \"spec\": \
             {{\"serviceAccountName\": \"curl\", \"securityContext\": {{\"runAsUser\": {uid}}}, \"containers\": [{{\"name\": \"app\", \"image\": \"app\"}}]}}}}"
        );
        let file = volume.path("raw.json");
        std::fs::write(&file, &pod)?;
        let raw = ["create", "--raw", "/api/v1/namespaces/curl/pods", "-f", &*file.to_string_lossy()];
        let said = api.kubectl(User::Admin, &raw).err().with_context(|| format!("{uid} was let in"))?;
        println!("runAsUser: {uid}: {said:#}");
    }
    Ok(())
}
