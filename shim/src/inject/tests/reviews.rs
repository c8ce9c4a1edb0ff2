use egress_compile::store::{FileUpdate, Store};
use egress_compile::{CompileOptions, Compiled, compile};
use kube::core::DynamicObject;
use kube::core::admission::{AdmissionRequest, AdmissionResponse, AdmissionReview};

use super::*;

fn request(namespace: &str, pod: &Value, operation: &str) -> AdmissionRequest<DynamicObject> {
    let review = json!({
        "apiVersion": "admission.k8s.io/v1",
        "kind": "AdmissionReview",
        "request": {
            "uid": "1",
            "kind": {"group": "", "version": "v1", "kind": "Pod"},
            "resource": {"group": "", "version": "v1", "resource": "pods"},
            "namespace": namespace,
            "operation": operation,
            "userInfo": {},
            "object": pod,
        }
    });
    let review: AdmissionReview<DynamicObject> = serde_json::from_value(review).expect("a review");
    review.try_into().expect("a request")
}

fn store(manifests: &str) -> Store {
    let mut store = Store::default();
    store.apply(FileUpdate::read("objects.yaml".into(), manifests.as_bytes()));
    assert_eq!(store.problems().collect::<Vec<_>>(), []);
    store
}

const NAMESPACES: &str = "
{apiVersion: v1, kind: Namespace, metadata: {name: kube-system, labels: {openservicemesh.io/monitored-by: osm}, annotations: {openservicemesh.io/sidecar-injection: enabled}}}
---
{apiVersion: v1, kind: Namespace, metadata: {name: osm-system, labels: {openservicemesh.io/monitored-by: osm}, annotations: {openservicemesh.io/sidecar-injection: enabled}}}
---
{apiVersion: v1, kind: Namespace, metadata: {name: outside, annotations: {openservicemesh.io/sidecar-injection: enabled}}}
---
{apiVersion: v1, kind: Namespace, metadata: {name: another, labels: {openservicemesh.io/monitored-by: another}, annotations: {openservicemesh.io/sidecar-injection: enabled}}}
---
{apiVersion: v1, kind: Namespace, metadata: {name: ignored, labels: {openservicemesh.io/monitored-by: osm, openservicemesh.io/ignore: 'true'}, annotations: {openservicemesh.io/sidecar-injection: enabled}}}
---
{apiVersion: v1, kind: Namespace, metadata: {name: silent, labels: {openservicemesh.io/monitored-by: osm}}}
---
{apiVersion: v1, kind: Namespace, metadata: {name: 'on', labels: {openservicemesh.io/monitored-by: osm}, annotations: {openservicemesh.io/sidecar-injection: enabled}}}
---
{apiVersion: v1, kind: Namespace, metadata: {name: 'off', labels: {openservicemesh.io/monitored-by: osm}, annotations: {openservicemesh.io/sidecar-injection: disabled}}}
---
{apiVersion: v1, kind: Namespace, metadata: {name: wrong, labels: {openservicemesh.io/monitored-by: osm}, annotations: {openservicemesh.io/sidecar-injection: maybe}}}
---
apiVersion: config.openservicemesh.io/v1alpha2
kind: MeshConfig
metadata: {name: osm-mesh-config, namespace: osm-system}
spec: {traffic: {outboundPortExclusionList: [5432]}}
";

fn answer(namespace: &str, pod: &Value) -> AdmissionResponse {
    answer_with(&settings(), "", namespace, pod)
}

/// The same beside other manifests.
fn answer_with(settings: &Settings, others: &str, namespace: &str, pod: &Value) -> AdmissionResponse {
    let (store, options) = (store(&format!("{NAMESPACES}{others}")), CompileOptions::default());
    let compiled = compile(&store, &options, None);
    review(settings, &store, &compiled, &options, &request(namespace, pod, "CREATE"))
}

fn pod_that_says(value: Option<&str>) -> Value {
    let mut pod = plain();
    if let Some(value) = value {
        pod["metadata"]["annotations"] = json!({ INJECTION_ANNOTATION: value });
    }
    pod
}

/// Open Service Mesh's rule.
#[test]
fn who_gets_a_sidecar() {
    for (namespace, says, expected) in [
        ("on", None, Ok(true)),
        ("on", Some("enabled"), Ok(true)),
        ("on", Some("Yes"), Ok(true)),
        ("on", Some("disabled"), Ok(false)),
        ("on", Some("no"), Ok(false)),
        ("on", Some("FALSE"), Ok(false)),
        ("on", Some(""), Ok(true)),
        ("on", Some("invalid-value"), Err("invalid-value")),
        ("off", None, Ok(false)),
        ("off", Some("true"), Ok(true)),
        ("silent", None, Ok(false)),
        ("silent", Some("enabled"), Ok(true)),
        ("wrong", None, Err("maybe")),
        ("wrong", Some("enabled"), Err("maybe")),
        ("outside", Some("enabled"), Ok(false)),
        ("outside", Some("invalid-value"), Ok(false)),
        ("another", None, Ok(false)),
        ("ignored", None, Ok(false)),
        ("kube-system", Some("enabled"), Ok(false)),
        ("osm-system", Some("enabled"), Ok(false)),
    ] {
        let found = answer(namespace, &pod_that_says(says));
        let found = if found.allowed { Ok(found.patch.is_some()) } else { Err(found.result.message) };
        let expected = expected.map_err(|value| {
            format!("invalid annotation value for key \"openservicemesh.io/sidecar-injection\": {value}")
        });
        assert_eq!(found, expected, "{namespace} {says:?}");
    }
    let unknown = answer("new", &plain());
    assert!(!unknown.allowed && unknown.result.message == "namespace `new` is not known yet: try again");
}

#[test]
fn the_patch_is_what_mutate_does() {
    let found = answer("on", &plain());
    let patch: json_patch::Patch =
        serde_json::from_slice(&found.patch.expect("a patch")).expect("a JSON patch");
    let mut pod = plain();
    json_patch::patch(&mut pod, &patch).expect("a patch of this pod");
    let traffic = Traffic { outbound_port_exclusion_list: Some(vec![5432]), ..Traffic::default() };
    let mesh = MeshConfig { traffic: Some(traffic), ..MeshConfig::default() };
    assert_eq!(pod, mutate(&plain(), &settings(), &mesh).expect("injected").pod);
    // As an API server calls again after other webhooks.
    let again = answer("on", &pod);
    assert!(again.allowed && again.patch.is_none());
}

#[test]
fn what_is_no_new_pod_is_left_alone() {
    let update = review(
        &settings(),
        &store(NAMESPACES),
        &Compiled::default(),
        &CompileOptions::default(),
        &request("on", &plain(), "UPDATE"),
    );
    assert!(update.allowed && update.patch.is_none());
    let mut other = request("on", &plain(), "CREATE");
    other.sub_resource = Some("eviction".to_owned());
    let other =
        review(&settings(), &store(NAMESPACES), &Compiled::default(), &CompileOptions::default(), &other);
    assert!(other.allowed && other.patch.is_none());
}

/// A namespace's word is for pods that can have a sidecar; a pod's own is taken at its word.
#[test]
fn pods_of_the_host_network() {
    let pod = |says| {
        let mut pod = pod_that_says(says);
        pod["spec"]["hostNetwork"] = json!(true);
        pod
    };
    let by_namespace = answer("on", &pod(None));
    assert!(by_namespace.allowed && by_namespace.patch.is_none());
    assert_eq!(by_namespace.warnings, Some(vec![format!("no sidecar: {}", Refusal::HostNetwork)]));
    let by_pod = answer("on", &pod(Some("enabled")));
    assert!(!by_pod.allowed && by_pod.result.message == Refusal::HostNetwork.to_string());
}

/// Names that a pod leads elsewhere: of `hostAliases`, those that the policy of its identity allows.
#[test]
fn pods_that_lead_names() {
    const POLICY: &str = "---
apiVersion: policy.openservicemesh.io/v1alpha1
kind: Egress
metadata: {name: web, namespace: 'on'}
spec:
  sources: [{kind: ServiceAccount, name: curl, namespace: 'on'}]
  hosts: [httpbin.org, '*.example.com']
  ports: [{number: 443, protocol: https}]
";
    let pod = |spec: Value| {
        let mut pod = plain();
        for (key, value) in spec.as_object().expect("fields") {
            pod["spec"][key] = value.clone();
        }
        pod
    };
    let alias = |host: &str| pod(json!({"hostAliases": [{"ip": "6.6.6.6", "hostnames": ["x", host]}]}));
    let options = |options: Value| pod(json!({"dnsConfig": {"searches": ["a.org"], "options": options}}));
    for (pod, expected) in [
        (plain(), None),
        (alias("other.example"), None),
        (alias("example.com"), None),
        (alias("HTTPBIN.org."), Some("`hostAliases` leads `HTTPBIN.org.` to 6.6.6.6")),
        (alias("a.b.example.com"), Some("`hostAliases` leads `a.b.example.com` to 6.6.6.6")),
        (
            pod(json!({"dnsPolicy": "None", "dnsConfig": {"nameservers": ["6.6.6.6"]}})),
            Some("`dnsConfig` makes the sidecar ask 6.6.6.6"),
        ),
        (options(json!([{"name": "ndots", "value": "1"}, {"name": "edns0"}])), None),
        (options(json!([{"name": "a\nnameserver 6.6.6.6"}])), Some("`dnsConfig.options` has")),
    ] {
        let answer = |pod_dns| answer_with(&Settings { pod_dns, ..settings() }, POLICY, "on", &pod);
        let (allowed, warned, refused) =
            (answer(PodDns::Allow), answer(PodDns::Warn), answer(PodDns::Refuse));
        assert!(allowed.allowed && allowed.warnings.is_none(), "{allowed:?}");
        assert!(warned.allowed && warned.patch.is_some(), "{warned:?}");
        assert_eq!(refused.allowed, expected.is_none(), "{refused:?}");
        let warnings = warned.warnings.unwrap_or_default();
        assert_eq!(warnings.len(), usize::from(expected.is_some()), "{warnings:?}");
        if let Some(expected) = expected {
            assert!(warnings[0].starts_with(expected), "{warnings:?}");
            assert_eq!(refused.result.message, warnings[0]);
        }
    }
    // Another identity has no such policy.
    let mut other = alias("httpbin.org");
    other["spec"]["serviceAccountName"] = json!("other");
    assert_eq!(answer_with(&settings(), POLICY, "on", &other).warnings, None);
}
