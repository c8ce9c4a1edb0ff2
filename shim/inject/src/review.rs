//! Admission review of pods: injects the sidecar, and protects it later.

use egress_compile::manifest::spec::MeshConfig;
use egress_compile::manifest::{Body, Kind, ObjectRef};
use egress_compile::store::Store;
use egress_compile::{CompileOptions, Compiled};
use egress_policy::Identity;
use kube::core::DynamicObject;
use kube::core::admission::{AdmissionRequest, AdmissionResponse, Operation};
use serde_json::Value;

use super::decision::{InjectionDecision, decide_injection, namespace_cni};
use super::pod::check_uid;
use super::workload::review_workload;
use super::{
    INJECTION_ANNOTATION, InjectionError, POD_ANNOTATIONS_ANNOTATION, PodAnnotations, PodDns,
    SIDECAR_CONTAINER, Settings, find_bypasses, find_name_overrides, has_proxy_uid, inject_sidecar,
};

/// Reviews a pod: patches it if it gets a sidecar, admits it unchanged if not, or refuses it. The Namespace and the
/// MeshConfig come from the store.
#[must_use]
pub fn review_pod(
    settings: &Settings,
    store: &Store,
    compiled: &Compiled,
    options: &CompileOptions,
    request: &AdmissionRequest<DynamicObject>,
) -> AdmissionResponse {
    if let Some(response) = review_workload(settings, store, options, request) {
        return response;
    }
    let response = AdmissionResponse::from(request);
    if request.sub_resource.as_deref() == Some("ephemeralcontainers") {
        return review_ephemeral_containers(response, request.object.as_ref());
    }
    if request.kind.kind == "Pod" && request.operation == Operation::Update && request.sub_resource.is_none()
    {
        return review_update(response, request);
    }
    let is_pod =
        request.kind.group.is_empty() && request.kind.kind == "Pod" && request.sub_resource.is_none();
    let (Some(pod), true) = (&request.object, is_pod && request.operation == Operation::Create) else {
        return response;
    };
    let pod = match serde_json::to_value(pod) {
        Ok(pod) => pod,
        Err(error) => return response.deny(error),
    };
    // The pod itself may lack the namespace in its metadata.
    let namespace = request.namespace.as_deref().unwrap_or_default();
    let permitted = namespace_pod_annotations(namespace, store).unwrap_or(settings.pod_annotations);
    let decision = match decide_injection(&pod, namespace, store, options, permitted) {
        Ok(InjectionDecision::Skip) => return response,
        Ok(InjectionDecision::OptedOut) => {
            let why = format!(
                "no sidecar: the pod opts out with `{INJECTION_ANNOTATION}`, so none of its connections are intercepted"
            );
            return with_warnings(response, vec![why]);
        }
        Ok(decision) => decision,
        Err(reason) => return response.deny(reason),
    };
    let cni = match namespace_cni(namespace, store) {
        Ok(setting) => setting.unwrap_or(settings.cni),
        Err(reason) => return response.deny(reason),
    };
    let settings = &Settings { pod_annotations: permitted, cni, ..settings.clone() };
    let mesh_config =
        ObjectRef::new(Kind::MeshConfig, &options.mesh_config_namespace, &options.mesh_config_name);
    let default = MeshConfig::default();
    let mesh = match store.object(&mesh_config).map(|object| &object.body) {
        Some(Body::MeshConfig(mesh)) => mesh,
        _ => &default,
    };
    match inject_sidecar(&pod, settings, mesh) {
        Ok(mut injected) => {
            let account = pod.pointer("/spec/serviceAccountName").and_then(Value::as_str);
            let account = account.filter(|name| !name.is_empty()).unwrap_or("default");
            let policy = Identity::new(namespace, account).ok().map(|identity| compiled.document(&identity));
            let overrides: Vec<_> =
                find_name_overrides(&pod, policy.as_deref()).iter().map(ToString::to_string).collect();
            match settings.pod_dns {
                PodDns::Refuse if !overrides.is_empty() => return response.deny(overrides.join("; ")),
                PodDns::Warn => injected.warnings.extend(overrides),
                PodDns::Allow | PodDns::Refuse => {}
            }
            with_patch(response, injected)
        }
        // A namespace's annotation does not refer to pods that cannot have a sidecar.
        Err(reason @ (InjectionError::HostNetwork | InjectionError::Windows))
            if decision == InjectionDecision::ByNamespace =>
        {
            with_warnings(response, vec![format!("no sidecar: {reason}")])
        }
        Err(reason) => response.deny(reason),
    }
}

/// Reviews an update of a running pod. Kubernetes permits new images, and another image with the sidecar's uid would
/// bypass interception. Labels can change as well, so the uid identifies the sidecar.
fn review_update(
    response: AdmissionResponse,
    request: &AdmissionRequest<DynamicObject>,
) -> AdmissionResponse {
    let sidecars = |object: &Option<DynamicObject>| -> Vec<(String, Value)> {
        let spec = object.as_ref().map_or(&Value::Null, |object| &object.data["spec"]);
        let list = |key: &str| spec.get(key).and_then(Value::as_array).into_iter().flatten();
        let ours = list("containers").chain(list("initContainers"));
        let ours = ours.filter(|container| has_proxy_uid(spec, container) == Ok(true));
        ours.map(|container| {
            (container["name"].as_str().unwrap_or_default().to_owned(), container["image"].clone())
        })
        .collect()
    };
    let before = sidecars(&request.old_object);
    for (name, image) in sidecars(&request.object) {
        if before.iter().any(|(other, was)| *other == name && *was != image) {
            return response.deny(InjectionError::SidecarImageChange(name));
        }
    }
    response
}

/// Reviews ephemeral containers (`kubectl debug`). None may have the sidecar's uid.
fn review_ephemeral_containers(
    response: AdmissionResponse,
    object: Option<&DynamicObject>,
) -> AdmissionResponse {
    // Before Kubernetes 1.22 the object is a list of its own without the pod's other containers.
    let nothing = Value::Null;
    let data = object.map_or(&nothing, |object| &object.data);
    let spec = data.get("spec").unwrap_or(data);
    let list = |key: &str| spec.get(key).and_then(Value::as_array).into_iter().flatten();
    let is_sidecar =
        |container: &Value| container.get("name").and_then(Value::as_str) == Some(SIDECAR_CONTAINER);
    let is_whole = spec.get("containers").is_some();
    if is_whole && !list("containers").chain(list("initContainers")).any(is_sidecar) {
        return response;
    }
    for container in list("ephemeralContainers") {
        if let Err(reason) = check_uid(spec, container) {
            return response.deny(reason);
        }
    }
    with_warnings(response, find_bypasses(spec, list("ephemeralContainers")))
}

/// AnnotationChanges that the namespace's annotation lets pods make. An invalid annotation permits none.
fn namespace_pod_annotations(namespace: &str, store: &Store) -> Option<PodAnnotations> {
    let object = store.object(&ObjectRef::new(Kind::Namespace, "", namespace))?;
    let text = object.metadata.annotation(POD_ANNOTATIONS_ANNOTATION)?;
    Some(PodAnnotations::parse(text).unwrap_or(PodAnnotations::None))
}

fn with_patch(response: AdmissionResponse, injected: super::InjectedPod) -> AdmissionResponse {
    let response = with_warnings(response, injected.warnings);
    if injected.patch.0.is_empty() {
        return response;
    }
    match response.clone().with_patch(injected.patch) {
        Ok(patched) => patched,
        Err(error) => response.deny(error),
    }
}

fn with_warnings(mut response: AdmissionResponse, warnings: Vec<String>) -> AdmissionResponse {
    if !warnings.is_empty() {
        response.warnings = Some(warnings);
    }
    response
}
