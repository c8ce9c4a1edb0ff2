//! The answer to an API server that is about to make a pod.

use egress_compile::manifest::spec::MeshConfig;
use egress_compile::manifest::{Body, Kind, Metadata, ObjectRef};
use egress_compile::store::Store;
use egress_compile::{CompileOptions, Compiled, IGNORE_LABEL, MONITORED_LABEL};
use egress_policy::Identity;
use kube::core::DynamicObject;
use kube::core::admission::{AdmissionRequest, AdmissionResponse, Operation};
use serde_json::Value;

use super::annotations::{Annotations, choice};
use super::pod::check_uid;
use super::{
    Change, INJECTION_ANNOTATION, POD_ANNOTATIONS_ANNOTATION, PodAnnotations, PodDns, Refusal, SIDECAR,
    Settings, bypasses, has_proxy_uid, led_names, mutate,
};

/// Namespaces of Kubernetes itself.
const NEVER: [&str; 2] = ["kube-system", "kube-public"];

/// Answers a request to make a pod: with the patch that gives it a sidecar, without one where it gets none,
/// or with no. The namespace and the MeshConfig are those of the store.
#[must_use]
pub fn review(
    settings: &Settings,
    store: &Store,
    compiled: &Compiled,
    options: &CompileOptions,
    request: &AdmissionRequest<DynamicObject>,
) -> AdmissionResponse {
    let response = AdmissionResponse::from(request);
    if request.sub_resource.as_deref() == Some("ephemeralcontainers") {
        return added(response, request.object.as_ref());
    }
    if request.kind.kind == "Pod" && request.operation == Operation::Update && request.sub_resource.is_none()
    {
        return changed(response, request);
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
    // A new pod need not say it itself.
    let namespace = request.namespace.as_deref().unwrap_or_default();
    let permitted = permitted(namespace, store).unwrap_or(settings.pod_annotations);
    let asked = match asked(&pod, namespace, store, options, permitted) {
        Ok(Asked::No) => return response,
        Ok(Asked::NotByPod) => {
            let why = format!(
                "no sidecar: the pod says so by `{INJECTION_ANNOTATION}`: nothing of it is intercepted"
            );
            return with_warnings(response, vec![why]);
        }
        Ok(asked) => asked,
        Err(reason) => return response.deny(reason),
    };
    let settings = &Settings { pod_annotations: permitted, ..settings.clone() };
    let mesh_config =
        ObjectRef::new(Kind::MeshConfig, &options.mesh_config_namespace, &options.mesh_config_name);
    let default = MeshConfig::default();
    let mesh = match store.object(&mesh_config).map(|object| &object.body) {
        Some(Body::MeshConfig(mesh)) => mesh,
        _ => &default,
    };
    match mutate(&pod, settings, mesh) {
        Ok(mut injected) => {
            let account = pod.pointer("/spec/serviceAccountName").and_then(Value::as_str);
            let account = account.filter(|name| !name.is_empty()).unwrap_or("default");
            let policy = Identity::new(namespace, account).ok().map(|identity| compiled.document(&identity));
            let led: Vec<_> = led_names(&pod, policy.as_deref()).iter().map(ToString::to_string).collect();
            match settings.pod_dns {
                PodDns::Refuse if !led.is_empty() => return response.deny(led.join("; ")),
                PodDns::Warn => injected.warnings.extend(led),
                PodDns::Allow | PodDns::Refuse => {}
            }
            with_patch(response, injected)
        }
        // Who asks for a namespace does not mean those that cannot have one.
        Err(reason @ (Refusal::HostNetwork | Refusal::Windows)) if asked == Asked::ByNamespace => {
            with_warnings(response, vec![format!("no sidecar: {reason}")])
        }
        Err(reason) => response.deny(reason),
    }
}

/// Answers a request to change a pod that runs. Kubernetes permits to change images, and what another one sends as the
/// sidecar's uid would not be intercepted. Labels can be changed as well, so the uid says which container that is.
fn changed(response: AdmissionResponse, request: &AdmissionRequest<DynamicObject>) -> AdmissionResponse {
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
            return response.deny(Refusal::Sidecar(name));
        }
    }
    response
}

/// Answers a request to add containers to a pod that runs, as `kubectl debug` does. One must not pass for the sidecar.
fn added(response: AdmissionResponse, object: Option<&DynamicObject>) -> AdmissionResponse {
    // Before Kubernetes 1.22 it is a list of its own that does not say whose it is.
    let nothing = Value::Null;
    let data = object.map_or(&nothing, |object| &object.data);
    let spec = data.get("spec").unwrap_or(data);
    let list = |key: &str| spec.get(key).and_then(Value::as_array).into_iter().flatten();
    let is_sidecar = |container: &Value| container.get("name").and_then(Value::as_str) == Some(SIDECAR);
    let is_whole = spec.get("containers").is_some();
    if is_whole && !list("containers").chain(list("initContainers")).any(is_sidecar) {
        return response;
    }
    for container in list("ephemeralContainers") {
        if let Err(reason) = check_uid(spec, container) {
            return response.deny(reason);
        }
    }
    with_warnings(response, bypasses(spec, list("ephemeralContainers")))
}

/// Who asks for a sidecar.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Asked {
    No,
    /// The pod wants none, and its namespace does.
    NotByPod,
    ByNamespace,
    ByPod,
}

/// What the annotations of pods may change, where their namespace says it. What it cannot be read as permits nothing.
fn permitted(namespace: &str, store: &Store) -> Option<PodAnnotations> {
    let object = store.object(&ObjectRef::new(Kind::Namespace, "", namespace))?;
    let text = object.metadata.annotation(POD_ANNOTATIONS_ANNOTATION)?;
    Some(PodAnnotations::parse(text).unwrap_or(PodAnnotations::None))
}

/// Open Service Mesh's rule: in namespaces of the mesh, the pod's word counts, and else its namespace's.
fn asked(
    pod: &Value,
    namespace: &str,
    store: &Store,
    options: &CompileOptions,
    permitted: PodAnnotations,
) -> Result<Asked, String> {
    if NEVER.contains(&namespace) || namespace == options.mesh_config_namespace {
        return Ok(Asked::No);
    }
    let Some(object) = store.object(&ObjectRef::new(Kind::Namespace, "", namespace)) else {
        return Err(format!("namespace `{namespace}` is not known yet: try again"));
    };
    let metadata = &object.metadata;
    if label(metadata, MONITORED_LABEL) != Some(&options.mesh_name) || label(metadata, IGNORE_LABEL).is_some()
    {
        return Ok(Asked::No);
    }
    let by = |value| choice(value, INJECTION_ANNOTATION).map_err(|reason| reason.to_string());
    let by_pod = by(Annotations::of(pod).get(INJECTION_ANNOTATION))?;
    let by_namespace = by(metadata.annotation(INJECTION_ANNOTATION))?;
    let (asked, change) = match (by_pod, by_namespace) {
        (Some(true), Some(true)) => (Asked::ByPod, None),
        (Some(true), None | Some(false)) => (Asked::ByPod, Some(Change::More)),
        (Some(false), Some(true)) => (Asked::NotByPod, Some(Change::Less)),
        (None, Some(true)) => (Asked::ByNamespace, None),
        (Some(false) | None, None | Some(false)) => (Asked::No, None),
    };
    match change.filter(|change| !permitted.permits(*change)) {
        Some(change) => Err(Refusal::Annotation { annotation: INJECTION_ANNOTATION, change }.to_string()),
        None => Ok(asked),
    }
}

fn label<'m>(metadata: &'m Metadata, name: &str) -> Option<&'m String> {
    metadata.labels.as_ref()?.get(name)
}

fn with_patch(response: AdmissionResponse, injected: super::Injected) -> AdmissionResponse {
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
