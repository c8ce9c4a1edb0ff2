//! Workloads that make pods: their author sees a warning before the API server refuses the pods, which only a controller
//! would learn.

use egress_compile::CompileOptions;
use egress_compile::manifest::{Kind, ObjectRef};
use egress_compile::store::Store;
use kube::core::DynamicObject;
use kube::core::admission::{AdmissionRequest, AdmissionResponse, Operation};
use serde_json::Value;

use crate::decision::{InjectionDecision, decide_injection, namespace_cni};
use crate::pod_security::{ENFORCE_LABEL, find_refusal};
use crate::{PodAnnotations, Settings};

/// Kinds with pod templates, and where these are.
const TEMPLATES: [(&str, &str); 6] = [
    ("Deployment", "/spec/template"),
    ("StatefulSet", "/spec/template"),
    ("DaemonSet", "/spec/template"),
    ("ReplicaSet", "/spec/template"),
    ("Job", "/spec/template"),
    ("CronJob", "/spec/jobTemplate/spec/template"),
];

/// Reviews a workload; `None` if the object is none. It is never refused.
pub(crate) fn review_workload(
    settings: &Settings,
    store: &Store,
    options: &CompileOptions,
    request: &AdmissionRequest<DynamicObject>,
) -> Option<AdmissionResponse> {
    let is_workload = ["apps", "batch"].contains(&&*request.kind.group) && request.sub_resource.is_none();
    let (_, pointer) = TEMPLATES.into_iter().find(|(kind, _)| is_workload && *kind == request.kind.kind)?;
    let mut response = AdmissionResponse::from(request);
    let is_written = matches!(request.operation, Operation::Create | Operation::Update);
    let object = request.object.as_ref().filter(|_| is_written)?;
    let object = serde_json::to_value(object).unwrap_or_default();
    let template = object.pointer(pointer).unwrap_or(&Value::Null);
    let namespace = request.namespace.as_deref().unwrap_or_default();
    // What the annotations of its pods may do is decided when they are created.
    let decision = decide_injection(template, namespace, store, options, PodAnnotations::All);
    if !matches!(decision, Ok(InjectionDecision::ByNamespace | InjectionDecision::ByPod)) {
        return Some(response);
    }
    let found = store.object(&ObjectRef::new(Kind::Namespace, "", namespace))?;
    let profile = found.metadata.labels.as_ref().and_then(|labels| labels.get(ENFORCE_LABEL));
    let cni = namespace_cni(namespace, store).ok().flatten().unwrap_or(settings.cni);
    if let Some(refusal) = find_refusal(profile.map(String::as_str), cni) {
        response.warnings = Some(vec![format!("namespace `{namespace}`: {refusal}")]);
    }
    Some(response)
}
