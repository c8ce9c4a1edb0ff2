use super::super::documents::{InjectedManifests, ManifestError, inject_manifests};
use super::*;

fn run(text: &str) -> Result<InjectedManifests, ManifestError> {
    inject_manifests(text, &settings(), &MeshConfig::default())
}

const SPEC: &str = "{containers: [{name: a, image: a}]}";

#[test]
fn every_kind_that_creates_pods_is_injected() {
    let template = format!("template: {{spec: {SPEC}}}");
    for (api_version, kind, spec, place) in [
        ("v1", "Pod", SPEC.to_owned(), ""),
        ("v1", "ReplicationController", format!("{{{template}}}"), "/spec/template"),
        ("apps/v1", "Deployment", format!("{{{template}}}"), "/spec/template"),
        ("apps/v1", "StatefulSet", format!("{{{template}}}"), "/spec/template"),
        ("apps/v1", "DaemonSet", format!("{{{template}}}"), "/spec/template"),
        ("apps/v1", "ReplicaSet", format!("{{{template}}}"), "/spec/template"),
        ("batch/v1", "Job", format!("{{{template}}}"), "/spec/template"),
        (
            "batch/v1beta1",
            "CronJob",
            format!("{{jobTemplate: {{spec: {{{template}}}}}}}"),
            "/spec/jobTemplate/spec/template",
        ),
    ] {
        let text = format!("apiVersion: {api_version}\nkind: {kind}\nmetadata: {{name: x}}\nspec: {spec}\n");
        let manifests = run(&text).expect(kind);
        let json = manifests.to_json();
        let pod = json.pointer(place).expect("a pod");
        assert_eq!(pod["spec"]["containers"][1]["name"], SIDECAR_CONTAINER, "{kind}");
        assert_eq!(pod["metadata"]["labels"][INJECTED_LABEL], "injected", "{kind}");
        let again = run(&manifests.to_yaml()).expect(kind);
        assert_eq!(again.to_json(), manifests.to_json(), "{kind}");
        let list =
            format!("apiVersion: v1\nkind: List\nitems:\n- {}\n", text.trim_end().replace('\n', "\n  "));
        assert_eq!(run(&list).expect(kind).to_json()["items"][0], json, "{kind}");
    }
}

#[test]
fn other_documents_stay_unchanged() {
    let config = "# First.\napiVersion: v1\nkind: ConfigMap  # a\ndata: {mode: 0644, on: yes}\n";
    let off = format!(
        "---\n# Off.\napiVersion: v1\nkind: Pod\nmetadata: {{name: none, annotations: {{{INJECTION_ANNOTATION}: 'no'}}}}\nspec: {SPEC}\n"
    );
    let crd = "--- # Odd.\napiVersion: example.org/v1\nkind: Deployment\nspec: {template: 5}";
    let text =
        format!("{config}---\napiVersion: v1\nkind: Pod\nmetadata: {{name: x}}\nspec: {SPEC}\n{off}{crd}");
    let manifests = run(&text).expect("read");
    let yaml = manifests.to_yaml();
    assert!(yaml.starts_with(&format!("{config}---\napiVersion: v1\nkind: Pod\n")), "{yaml}");
    assert!(yaml.ends_with(&format!("{off}{crd}\n")), "{yaml}");
    assert_eq!(
        manifests.notes,
        [
            "Pod x: as root, `a` would have NET_RAW and SETUID by default and could bypass the sidecar: set \
             `runAsNonRoot: true` or `capabilities.drop: [ALL]`"
                .to_owned(),
            format!(
                "Pod none: not changed, because it opts out with `{INJECTION_ANNOTATION}`: none of its connections are intercepted"
            ),
        ]
    );
    assert_eq!(run("{}").expect("read").notes, ["no document creates pods"]);
    assert_eq!(run("").expect("read").to_yaml(), "");
}

/// Scalars are read as kubectl does, not as YAML 1.2.
#[test]
fn scalars_are_read_as_kubectl_does() {
    let volume = "{name: c, configMap: {name: c, defaultMode: 0644, optional: yes}}";
    let text = format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: x}}\nspec: {{containers: [{{name: a, args: ['yes', \"0644\"]}}], volumes: [{volume}]}}\n"
    );
    let pod = run(&text).expect("read").to_json();
    assert_eq!(
        pod["spec"]["volumes"][0]["configMap"],
        json!({"name": "c", "defaultMode": 420, "optional": true})
    );
    assert_eq!(pod["spec"]["containers"][0]["args"], json!(["yes", "0644"]));
}

#[test]
fn errors_name_the_line_or_the_object() {
    let error = |text: &str| run(text).expect_err("refused").to_string();
    assert!(error("a: 1\n---\nb: [\n").starts_with("4:1: "), "{}", error("a: 1\n---\nb: [\n"));
    assert_eq!(
        error("apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: x}\nspec: {}\n"),
        "Deployment x: `spec.template` is missing or invalid: correct the pod"
    );
    assert_eq!(
        error(
            "apiVersion: v1\nkind: Pod\nmetadata: {name: x}\nspec: {hostNetwork: true, containers: [{name: a}]}\n"
        ),
        "Pod x: a pod with `hostNetwork` cannot be intercepted, because it shares its node's network: remove `hostNetwork`, or annotate the pod with `openservicemesh.io/sidecar-injection: disabled`"
    );
}

/// kubectl turns these into integers, and the API server into a uid.
#[test]
fn a_uid_written_as_a_float_is_refused_too() {
    for uid in ["1500", "1500.0", "1.5e3", "+1500", "0x5dc", "1_500", "02734", "'1500'", "'01500'"] {
        let text = format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: x}}\nspec: {{securityContext: {{runAsUser: {uid}}}, containers: [{{name: a}}]}}\n"
        );
        let message = run(&text).expect_err(uid).to_string();
        let refusals =
            ["container `a` runs as uid 1500", "`securityContext.runAsUser` is missing or invalid"];
        assert!(refusals.iter().any(|refusal| message.contains(refusal)), "{uid}: {message}");
    }
}

#[test]
fn a_pod_must_not_opt_out_where_that_is_not_permitted() {
    let settings = Settings { pod_annotations: PodAnnotations::Tighten, ..settings() };
    let text = format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: x, annotations: {{{INJECTION_ANNOTATION}: disabled}}}}\nspec: {SPEC}\n"
    );
    let message =
        inject_manifests(&text, &settings, &MeshConfig::default()).expect_err("refused").to_string();
    assert!(message.starts_with("Pod x: pods may not change interception by annotation"), "{message}");
}
