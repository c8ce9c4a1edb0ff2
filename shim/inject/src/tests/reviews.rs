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
    assert_eq!(store.diagnostics().collect::<Vec<_>>(), []);
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

/// Reviews a pod beside other manifests.
fn answer_with(settings: &Settings, others: &str, namespace: &str, pod: &Value) -> AdmissionResponse {
    let (store, options) = (store(&format!("{NAMESPACES}{others}")), CompileOptions::default());
    let compiled = compile(&store, &options, None);
    review_pod(settings, &store, &compiled, &options, &request(namespace, pod, "CREATE"))
}

fn pod_with_annotations(value: Option<&str>) -> Value {
    let mut pod = plain();
    if let Some(value) = value {
        pod["metadata"]["annotations"] = json!({ INJECTION_ANNOTATION: value });
    }
    pod
}

/// Open Service Mesh's rule.
#[test]
fn sidecars_follow_the_annotations_of_pod_and_namespace() {
    for (namespace, mentions, expected) in [
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
        let found = answer(namespace, &pod_with_annotations(mentions));
        let found = if found.allowed { Ok(found.patch.is_some()) } else { Err(found.result.message) };
        let expected = expected.map_err(|value| {
            format!("invalid annotation value for key \"openservicemesh.io/sidecar-injection\": {value}")
        });
        assert_eq!(found, expected, "{namespace} {mentions:?}");
    }
    let unknown = answer("new", &plain());
    assert!(!unknown.allowed && unknown.result.message == "namespace `new` is not known yet: try again");
}

#[test]
fn the_patch_gives_the_injected_pod() {
    let found = answer("on", &plain());
    let patch: json_patch::Patch =
        serde_json::from_slice(&found.patch.expect("a patch")).expect("a JSON patch");
    let mut pod = plain();
    json_patch::patch(&mut pod, &patch).expect("a patch of this pod");
    let traffic = Traffic { outbound_port_exclusion_list: Some(vec![5432]), ..Traffic::default() };
    let mesh = MeshConfig { traffic: Some(traffic), ..MeshConfig::default() };
    assert_eq!(pod, inject_sidecar(&plain(), &settings(), &mesh).expect("injected").pod);
    // An API server calls again after other webhooks.
    let again = answer("on", &pod);
    assert!(again.allowed && again.patch.is_none());
}

#[test]
fn other_requests_are_admitted_unchanged() {
    let update = review_pod(
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
        review_pod(&settings(), &store(NAMESPACES), &Compiled::default(), &CompileOptions::default(), &other);
    assert!(other.allowed && other.patch.is_none());
}

/// A container of `kubectl debug` must not pass for the sidecar.
#[test]
fn ephemeral_containers_may_not_have_the_sidecars_uid() {
    let injected = inject_sidecar(&plain(), &settings(), &MeshConfig::default()).expect("injected").pod;
    let message = |pod: &Value, old: bool, container: &Value| {
        let mut object = pod.clone();
        object["spec"]["ephemeralContainers"] = json!([container]);
        if old {
            object = json!({"kind": "EphemeralContainers", "apiVersion": "v1", "metadata": pod["metadata"],
                "ephemeralContainers": [container]});
        }
        let mut request = request("on", &object, "UPDATE");
        request.sub_resource = Some("ephemeralcontainers".to_owned());
        let answer = review_pod(
            &settings(),
            &store(NAMESPACES),
            &Compiled::default(),
            &CompileOptions::default(),
            &request,
        );
        assert!(answer.patch.is_none());
        (answer.allowed, answer.warnings.unwrap_or_default().len())
    };
    let user = |context: Value| json!({"name": "debugger", "securityContext": context});
    for old in [false, true] {
        assert_eq!(message(&injected, old, &user(json!({"runAsUser": 1500}))), (false, 0));
        assert_eq!(message(&injected, old, &user(json!({"runAsUser": "0x5dc"}))), (false, 0));
        assert_eq!(message(&injected, old, &user(json!({"runAsUser": 1000}))), (true, 0));
        assert_eq!(
            message(&injected, old, &user(json!({"capabilities": {"add": ["NET_ADMIN"]}}))),
            (true, 1)
        );
    }
    // A pod without a sidecar may have any uid.
    assert_eq!(message(&plain(), false, &user(json!({"runAsUser": 1500}))), (true, 0));
}

/// Kubernetes permits new images in running pods.
#[test]
fn the_sidecars_image_cannot_be_changed() {
    let injected = inject_sidecar(&plain(), &settings(), &MeshConfig::default()).expect("injected").pod;
    let message = |before: &Value, after: &Value| {
        let mut request = request("on", after, "UPDATE");
        request.old_object = Some(serde_json::from_value(before.clone()).expect("an object"));
        let answer = review_pod(
            &settings(),
            &store(NAMESPACES),
            &Compiled::default(),
            &CompileOptions::default(),
            &request,
        );
        assert!(answer.patch.is_none());
        if answer.allowed { Ok(()) } else { Err(answer.result.message) }
    };
    let with = |pod: &Value, container: usize| {
        let mut pod = pod.clone();
        pod["spec"]["containers"][container]["image"] = json!("another");
        pod
    };
    assert_eq!(
        message(&injected, &with(&injected, 1)),
        Err(InjectionError::SidecarImageChange(SIDECAR_CONTAINER.to_owned()).to_string())
    );
    // Without the label it is the same container.
    let mut bare = injected.clone();
    bare["metadata"]["labels"] = json!({});
    assert_eq!(message(&injected, &bare), Ok(()));
    assert!(message(&bare, &with(&bare, 1)).is_err());
    let settings = Settings { native_sidecar: true, ..settings() };
    let native = inject_sidecar(&plain(), &settings, &MeshConfig::default()).expect("injected").pod;
    let mut other = native.clone();
    other["spec"]["initContainers"][1]["image"] = json!("another");
    assert!(message(&native, &other).is_err());
    // The workload's own images may change.
    assert_eq!(message(&injected, &with(&injected, 0)), Ok(()));
    assert_eq!(message(&plain(), &with(&plain(), 0)), Ok(()));
}

/// A namespace's annotation applies to pods that can have a sidecar; a pod's own annotation must be satisfied.
#[test]
fn host_network_pods_are_refused_only_on_their_own_request() {
    let pod = |mentions| {
        let mut pod = pod_with_annotations(mentions);
        pod["spec"]["hostNetwork"] = json!(true);
        pod
    };
    let by_namespace = answer("on", &pod(None));
    assert!(by_namespace.allowed && by_namespace.patch.is_none());
    assert_eq!(by_namespace.warnings, Some(vec![format!("no sidecar: {}", InjectionError::HostNetwork)]));
    let by_pod = answer("on", &pod(Some("enabled")));
    assert!(!by_pod.allowed && by_pod.result.message == InjectionError::HostNetwork.to_string());
}

/// A pod may opt in or out only as far as its namespace permits it.
#[test]
fn pods_opt_in_and_out_only_as_permitted() {
    let namespaces = |more: &str| {
        let message = "annotations: {openservicemesh.io/sidecar-injection: enabled";
        store(&NAMESPACES.replace(&format!("{message}}}}}}}"), &format!("{message}{more}}}}}}}")))
    };
    let message = |settings: &Settings, store: &Store, namespace: &str, pod: &Value| {
        let answer = review_pod(
            settings,
            store,
            &Compiled::default(),
            &CompileOptions::default(),
            &request(namespace, pod, "CREATE"),
        );
        if answer.allowed {
            let warnings = answer.warnings.unwrap_or_default();
            Ok((answer.patch.is_some(), warnings.iter().any(|warning| warning.contains("opts out"))))
        } else {
            Err(answer.result.message)
        }
    };
    let of = |pod_annotations| Settings { pod_annotations, ..settings() };
    let refused = |message: &Result<(bool, bool), String>, value: &str| {
        let of = format!("`{INJECTION_ANNOTATION}` here");
        message.as_ref().is_err_and(|why| why.contains(&of) && why.ends_with(value))
    };
    let less = |message: &Result<(bool, bool), String>| refused(message, "pod-annotations: all`");
    let more = |message: &Result<(bool, bool), String>| refused(message, "pod-annotations: tighten`");
    let plain_store = store(NAMESPACES);
    let (off, on) = (pod_with_annotations(Some("disabled")), pod_with_annotations(Some("enabled")));
    use PodAnnotations::{All, None, Tighten};
    // Without an annotation of the namespace the flag applies.
    assert_eq!(message(&of(All), &plain_store, "on", &off), Ok((false, true)));
    assert!(less(&message(&of(Tighten), &plain_store, "on", &off)));
    assert!(less(&message(&of(None), &plain_store, "on", &off)));
    assert_eq!(message(&of(Tighten), &plain_store, "silent", &on), Ok((true, false)));
    assert!(more(&message(&of(None), &plain_store, "silent", &on)));
    // An annotation that changes nothing is permitted.
    assert_eq!(message(&of(None), &plain_store, "on", &on), Ok((true, false)));
    assert_eq!(message(&of(None), &plain_store, "off", &off), Ok((false, false)));
    // The namespace's annotation takes precedence over the flag, and an unknown value is the strictest.
    let annotation = |value: &str| namespaces(&format!(", openservicemesh.io/pod-annotations: {value}"));
    assert_eq!(message(&of(None), &annotation("all"), "on", &off), Ok((false, true)));
    assert!(less(&message(&of(All), &annotation("tighten"), "on", &off)));
    assert!(less(&message(&of(All), &annotation("none"), "on", &off)));
    assert!(less(&message(&of(All), &annotation("ALL"), "on", &off)));
    let mut excluding = plain();
    excluding["metadata"]["annotations"] = json!({"openservicemesh.io/outbound-port-exclusion-list": "80"});
    let why = message(&of(All), &annotation("none"), "on", &excluding).expect_err("refused");
    assert!(why.contains("`openservicemesh.io/outbound-port-exclusion-list` here"), "{why}");
    // A pod cannot permit it itself.
    excluding["metadata"]["annotations"]["openservicemesh.io/pod-annotations"] = json!("all");
    assert!(message(&of(None), &plain_store, "on", &excluding).is_err());
}

/// Name overrides; of `hostAliases`, those that the policy of the pod's identity allows.
#[test]
fn name_overrides_are_warned_of_or_refused() {
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
        // No other warning.
        pod["spec"]["securityContext"] = json!({"runAsNonRoot": true});
        for (key, value) in spec.as_object().expect("fields") {
            pod["spec"][key] = value.clone();
        }
        pod
    };
    let alias = |host: &str| pod(json!({"hostAliases": [{"ip": "6.6.6.6", "hostnames": ["x", host]}]}));
    let options = |options: Value| pod(json!({"dnsConfig": {"searches": ["a.org"], "options": options}}));
    for (pod, expected) in [
        (pod(json!({})), None),
        (alias("other.example"), None),
        (alias("example.com"), None),
        (alias("HTTPBIN.org."), Some("`hostAliases` maps `HTTPBIN.org.` to 6.6.6.6")),
        (alias("a.b.example.com"), Some("`hostAliases` maps `a.b.example.com` to 6.6.6.6")),
        (
            pod(json!({"dnsPolicy": "None", "dnsConfig": {"nameservers": ["6.6.6.6"]}})),
            Some("`dnsConfig` makes the sidecar use name server 6.6.6.6"),
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
