//! Warnings for workloads, and the namespace's choice of the CNI plugin.

use egress_compile::store::{FileUpdate, Store};
use egress_compile::{CompileOptions, compile};
use kube::core::DynamicObject;
use kube::core::admission::{AdmissionRequest, AdmissionResponse, AdmissionReview};

use super::*;

/// A namespace of the mesh with injection.
fn namespace(labels: &Value, annotations: &Value) -> Store {
    let mut object = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "shop",
        "labels": {"openservicemesh.io/monitored-by": "osm"},
        "annotations": {"openservicemesh.io/sidecar-injection": "enabled"}}});
    for (field, more) in [("labels", labels), ("annotations", annotations)] {
        for (key, value) in more.as_object().into_iter().flatten() {
            object["metadata"][field][key] = value.clone();
        }
    }
    let mut store = Store::default();
    store.apply(FileUpdate::read("objects.yaml".into(), object.to_string().as_bytes()));
    assert_eq!(store.diagnostics().collect::<Vec<_>>(), []);
    store
}

fn review(settings: &Settings, store: &Store, group: &str, kind: &str, object: &Value) -> AdmissionResponse {
    let review = json!({
        "apiVersion": "admission.k8s.io/v1",
        "kind": "AdmissionReview",
        "request": {
            "uid": "1",
            "kind": {"group": group, "version": "v1", "kind": kind},
            "resource": {"group": group, "version": "v1", "resource": "any"},
            "namespace": "shop",
            "operation": "CREATE",
            "userInfo": {},
            "object": object,
        }
    });
    let review: AdmissionReview<DynamicObject> = serde_json::from_value(review).expect("a review");
    let request: AdmissionRequest<DynamicObject> = review.try_into().expect("a request");
    let options = CompileOptions::default();
    let compiled = compile(store, &options, None);
    review_pod(settings, store, &compiled, &options, &request)
}

#[test]
fn authors_of_workloads_learn_that_their_pods_will_be_refused() {
    let restricted = json!({"pod-security.kubernetes.io/enforce": "restricted"});
    let template = json!({"metadata": {}, "spec": plain()["spec"]});
    let disabled =
        json!({"metadata": {"annotations": {INJECTION_ANNOTATION: "disabled"}}, "spec": plain()["spec"]});
    let of = |template: &Value| json!({"metadata": {"name": "w"}, "spec": {"template": template}});
    let cron = json!({"metadata": {"name": "w"}, "spec": {"jobTemplate": {"spec": {"template": template}}}});
    let none = json!({});
    let cni = Settings { cni: true, ..settings() };
    for (settings, labels, annotations, (group, kind), object, warns) in [
        (settings(), &restricted, &none, ("apps", "Deployment"), of(&template), true),
        (settings(), &restricted, &none, ("apps", "StatefulSet"), of(&template), true),
        (settings(), &restricted, &none, ("apps", "DaemonSet"), of(&template), true),
        (settings(), &restricted, &none, ("batch", "Job"), of(&template), true),
        (settings(), &restricted, &none, ("batch", "CronJob"), cron, true),
        (settings(), &none, &none, ("apps", "Deployment"), of(&template), false),
        (settings(), &restricted, &none, ("apps", "Deployment"), of(&disabled), false),
        (
            settings(),
            &restricted,
            &json!({CNI_ANNOTATION: "enabled"}),
            ("apps", "Deployment"),
            of(&template),
            false,
        ),
        (cni.clone(), &restricted, &none, ("apps", "Deployment"), of(&template), false),
        (cni, &restricted, &json!({CNI_ANNOTATION: "disabled"}), ("apps", "Deployment"), of(&template), true),
        (settings(), &restricted, &none, ("other.example", "Deployment"), of(&template), false),
        (settings(), &restricted, &none, ("apps", "Deployment"), json!({}), true),
    ] {
        let found = review(&settings, &namespace(labels, annotations), group, kind, &object);
        assert!(found.allowed && found.patch.is_none());
        assert_eq!(found.warnings.is_some(), warns, "{group} {kind} {labels} {annotations} {found:?}");
        if let Some([warning]) = found.warnings.as_deref() {
            assert!(warning.starts_with("namespace `shop`: its label `pod-security"), "{warning}");
        }
    }
}

#[test]
fn the_namespace_chooses_between_the_plugin_and_an_init_container() {
    for (mesh, says, expected) in [
        (false, None, Some("iptables")),
        (true, None, Some("validate-interception")),
        (false, Some("enabled"), Some("validate-interception")),
        (true, Some("disabled"), Some("iptables")),
        (true, Some("maybe"), None),
    ] {
        let annotations = says.map_or(json!({}), |says| json!({ CNI_ANNOTATION: says }));
        let settings = Settings { cni: mesh, ..settings() };
        let found = review(&settings, &namespace(&json!({}), &annotations), "", "Pod", &plain());
        assert_eq!(found.allowed, expected.is_some(), "{says:?}");
        let patch = String::from_utf8(found.patch.unwrap_or_default()).expect("text");
        assert!(
            expected.is_none_or(|command| patch.contains(&format!("\"args\":[\"{command}\""))),
            "{patch}"
        );
    }
}
