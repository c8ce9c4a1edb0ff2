//! The answer to an API server that is about to make a pod.

use egress_compile::manifest::spec::MeshConfig;
use egress_compile::manifest::{Body, Kind, Metadata, ObjectRef};
use egress_compile::store::Store;
use egress_compile::{CompileOptions, Compiled, IGNORE_LABEL, MONITORED_LABEL};
use egress_policy::Identity;
use kube::core::DynamicObject;
use kube::core::admission::{AdmissionRequest, AdmissionResponse, Operation};
use serde_json::Value;

use super::pod::Annotations;
use super::{INJECTION_ANNOTATION, PodDns, Refusal, Settings, led_names, mutate};

/// Namespaces of Kubernetes itself.
const NEVER: [&str; 2] = ["kube-system", "kube-public"];

/// Whether an annotation says yes or no; nothing where there is none.
pub type Choice = Option<bool>;

/// Reads the value of an annotation that says yes or no, in Open Service Mesh's words.
///
/// # Errors
/// When it says neither, with Open Service Mesh's text.
pub fn choice(value: Option<&str>, annotation: &'static str) -> Result<Choice, Refusal> {
    let Some(value) = value.filter(|value| !value.is_empty()) else { return Ok(None) };
    match value.to_ascii_lowercase().as_str() {
        "enabled" | "yes" | "true" => Ok(Some(true)),
        "disabled" | "no" | "false" => Ok(Some(false)),
        _ => Err(Refusal::Switch { value: value.to_owned(), annotation }),
    }
}

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
    let asked = match asked(&pod, namespace, store, options) {
        Ok(Asked::No) => return response,
        Ok(asked) => asked,
        Err(reason) => return response.deny(reason),
    };
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

/// Who asks for a sidecar.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Asked {
    No,
    ByNamespace,
    ByPod,
}

/// Open Service Mesh's rule: in namespaces of the mesh, the pod's word counts, and else its namespace's.
fn asked(pod: &Value, namespace: &str, store: &Store, options: &CompileOptions) -> Result<Asked, String> {
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
    Ok(match (by_pod, by_namespace) {
        (Some(true), _) => Asked::ByPod,
        (None, Some(true)) => Asked::ByNamespace,
        (Some(false), _) | (None, None | Some(false)) => Asked::No,
    })
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
