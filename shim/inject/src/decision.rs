//! The decision to inject, by the annotations and labels of a pod and its namespace.

use egress_compile::manifest::{Kind, Metadata, ObjectRef};
use egress_compile::store::Store;
use egress_compile::{CompileOptions, IGNORE_LABEL, MONITORED_LABEL};
use serde_json::Value;

use super::annotations::{Annotations, parse_enabled};
use super::{CNI_ANNOTATION, INJECTION_ANNOTATION, InjectionError, InterceptionChange, PodAnnotations};

/// Namespaces of Kubernetes itself.
const SYSTEM_NAMESPACES: [&str; 2] = ["kube-system", "kube-public"];

/// Decision about injection, and the annotation behind it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum InjectionDecision {
    Skip,
    /// The pod opts out, and its namespace enables injection.
    OptedOut,
    ByNamespace,
    ByPod,
}

/// Reads the namespace's choice between the CNI plugin and an init container.
pub(super) fn namespace_cni(namespace: &str, store: &Store) -> Result<Option<bool>, InjectionError> {
    let object = store.object(&ObjectRef::new(Kind::Namespace, "", namespace));
    parse_enabled(object.and_then(|object| object.metadata.annotation(CNI_ANNOTATION)), CNI_ANNOTATION)
}

/// Decides by Open Service Mesh's rule: in namespaces of the mesh, the pod's annotation counts, else its namespace's.
pub(super) fn decide_injection(
    pod: &Value,
    namespace: &str,
    store: &Store,
    options: &CompileOptions,
    permitted: PodAnnotations,
) -> Result<InjectionDecision, String> {
    if SYSTEM_NAMESPACES.contains(&namespace) || namespace == options.mesh_config_namespace {
        return Ok(InjectionDecision::Skip);
    }
    let Some(object) = store.object(&ObjectRef::new(Kind::Namespace, "", namespace)) else {
        return Err(format!("namespace `{namespace}` is not known yet: try again"));
    };
    let metadata = &object.metadata;
    if label(metadata, MONITORED_LABEL) != Some(&options.mesh_name) || label(metadata, IGNORE_LABEL).is_some()
    {
        return Ok(InjectionDecision::Skip);
    }
    let by = |value| parse_enabled(value, INJECTION_ANNOTATION).map_err(|reason| reason.to_string());
    let by_pod = by(Annotations::from_object(pod).get(INJECTION_ANNOTATION))?;
    let by_namespace = by(metadata.annotation(INJECTION_ANNOTATION))?;
    let (decision, change) = match (by_pod, by_namespace) {
        (Some(true), Some(true)) => (InjectionDecision::ByPod, None),
        (Some(true), None | Some(false)) => (InjectionDecision::ByPod, Some(InterceptionChange::Extend)),
        (Some(false), Some(true)) => (InjectionDecision::OptedOut, Some(InterceptionChange::Reduce)),
        (None, Some(true)) => (InjectionDecision::ByNamespace, None),
        (Some(false) | None, None | Some(false)) => (InjectionDecision::Skip, None),
    };
    match change.filter(|change| !permitted.permits(*change)) {
        Some(change) => {
            Err(InjectionError::ForbiddenAnnotation { annotation: INJECTION_ANNOTATION, change }.to_string())
        }
        None => Ok(decision),
    }
}

fn label<'m>(metadata: &'m Metadata, name: &str) -> Option<&'m String> {
    metadata.labels.as_ref()?.get(name)
}
