//! Validation of objects: Open Service Mesh's rules in its own words, and every other problem that keeps an object
//! from being accepted, each with its field.
//!
//! No rule is written here: the object goes through the same reader and compiler as after it is stored. Problems that
//! depend on other objects only cause a warning, which kubectl prints, because those objects may be created later.

use std::collections::BTreeSet;
use std::sync::Arc;

use kube::api::{ApiResource, DynamicObject};
use kube::core::admission::{AdmissionRequest, AdmissionResponse, Operation};
use serde_json::Value;

use crate::audit::{RequestLog, User};
use crate::object::{Item, is_ours, read};
use egress_compile::manifest::{Body, Cause, Diagnostic, Kind, Object, ObjectRef, ParsedFile, Severity};
use egress_compile::store::{Change, FileUpdate, Store};
use egress_compile::{CompileOptions, Compiled, compile};

/// Kinds that are validated. Only these can have problems that matter here.
const VALIDATED_KINDS: [Kind; 7] = [
    Kind::Egress,
    Kind::HttpRouteGroup,
    Kind::UpstreamTrafficSetting,
    Kind::MeshConfig,
    Kind::TrafficTarget,
    Kind::Namespace,
    Kind::ServiceAccount,
];
/// Maximum length of a refusal; nobody reads more.
const MAX_REFUSAL_LENGTH: usize = 4096;
/// Maximum length of a warning: an API server may truncate longer ones.
const MAX_WARNING_LENGTH: usize = 256;
/// Maximum number of warnings.
const MAX_WARNINGS: usize = 12;

/// Objects and settings that a review is evaluated with.
#[derive(Debug, Clone, Copy)]
pub struct ReviewContext<'k> {
    /// Names of the mesh.
    pub options: &'k CompileOptions,
    /// Stored objects.
    pub store: &'k Store,
    /// Policy documents compiled from them.
    pub compiled: &'k Compiled,
}

/// Kind of the object under review, if it is validated.
fn requested_kind(request: &AdmissionRequest<DynamicObject>) -> Option<Kind> {
    let gvk = &request.kind;
    VALIDATED_KINDS.into_iter().find(|kind| {
        (kind.as_str(), kind.group()) == (&*gvk.kind, &*gvk.group) && kind.versions().contains(&&*gvk.version)
    })
}

/// Records the user of an admitted request that changes what policies grant. The user counts as verified if the
/// client has presented a certificate, as only an API server can.
pub fn record_user(request: &AdmissionRequest<DynamicObject>, is_verified: bool, request_log: &RequestLog) {
    let (Some(kind), Some(name), false) =
        (requested_kind(request), &request.user_info.username, request.dry_run)
    else {
        return;
    };
    let user = || User { name: name.clone(), is_verified };
    let is_part = request.sub_resource.as_deref().is_some_and(|part| !part.is_empty());
    if request.operation == Operation::Delete && !is_part {
        let namespace = request.namespace.as_deref().filter(|_| kind.is_namespaced()).unwrap_or_default();
        request_log.record(ObjectRef::new(kind, namespace, &request.name), None, user());
    } else if let Some(object) = request.object.as_ref().filter(|object| is_judged(request, object)) {
        let item = candidate(kind, request, object.clone());
        let reference = ObjectRef::new(kind, &item.key.0, &item.key.1);
        if let Change::Read(parsed) = item.change {
            for object in parsed.objects.iter().filter(|object| object.reference == reference) {
                request_log.record(reference.clone(), Some(object), user());
            }
        }
    }
}

/// Answers a validation request.
#[must_use]
pub fn review(request: &AdmissionRequest<DynamicObject>, known: &ReviewContext<'_>) -> AdmissionResponse {
    let answer = AdmissionResponse::from(request);
    let gvk = &request.kind;
    let Some(kind) = requested_kind(request) else {
        // Open Service Mesh's text.
        return answer.deny(format!("unknown gvk: {}/{}, Kind={}", gvk.group, gvk.version, gvk.kind));
    };
    let Some(object) = request.object.as_ref().filter(|object| is_judged(request, object)) else {
        return answer;
    };
    let (refusals, warnings) =
        validate_object(kind, candidate(kind, request, object.clone()), request, known);
    let mut answer = if refusals.is_empty() {
        answer
    } else {
        answer.deny(truncate(refusals.join("; "), MAX_REFUSAL_LENGTH))
    };
    let truncate_one = |warning| truncate(warning, MAX_WARNING_LENGTH);
    answer.warnings = Some(warnings.into_iter().take(MAX_WARNINGS).map(truncate_one).collect());
    answer
}

/// Returns true if the request writes something that can be judged. Deleting an object, its finalizers or a label
/// must work even if the object was invalid before.
fn is_judged(request: &AdmissionRequest<DynamicObject>, object: &DynamicObject) -> bool {
    let is_part = request.sub_resource.as_deref().is_some_and(|part| !part.is_empty());
    let is_written = matches!(request.operation, Operation::Create | Operation::Update);
    if !is_written || is_part || object.metadata.deletion_timestamp.is_some() {
        return false;
    }
    let ours = |object: &DynamicObject| {
        let all = object.metadata.annotations.clone().unwrap_or_default();
        all.into_iter().filter(|(name, _)| is_ours(name)).collect::<Vec<_>>()
    };
    request
        .old_object
        .as_ref()
        .is_none_or(|old| old.data["spec"] != object.data["spec"] || ours(old) != ours(object))
}

/// Reads the object as it would be stored.
fn candidate(kind: Kind, request: &AdmissionRequest<DynamicObject>, mut object: DynamicObject) -> Item {
    let gvk = &request.kind;
    let resource = ApiResource {
        group: gvk.group.clone(),
        version: gvk.version.clone(),
        api_version: match &*gvk.group {
            "" => gvk.version.clone(),
            group => format!("{group}/{}", gvk.version),
        },
        kind: gvk.kind.clone(),
        plural: request.resource.resource.clone(),
    };
    let metadata = &mut object.metadata;
    // A review of a Namespace names the namespace itself as its namespace.
    if metadata.namespace.is_none() && kind.is_namespaced() {
        metadata.namespace.clone_from(&request.namespace);
    }
    if metadata.name.as_deref().unwrap_or_default().is_empty() {
        // The API server has not generated the name yet.
        metadata.name = Some(format!("{}new", metadata.generate_name.as_deref().unwrap_or_default()));
    }
    read(kind, &resource, object)
}

/// Compiles the object; returns the reasons to refuse it, and the warnings.
fn validate_object(
    kind: Kind,
    item: Item,
    request: &AdmissionRequest<DynamicObject>,
    known: &ReviewContext<'_>,
) -> (Vec<String>, Vec<String>) {
    let parsed = match item.change {
        Change::Read(parsed) => parsed,
        Change::Unreadable(problems) | Change::Void(problems) => {
            return (problems.iter().map(format_refusal).collect(), Vec::new());
        }
        Change::Removed => return (Vec::new(), Vec::new()),
    };
    let mut store = Store::default();
    for object in &parsed.objects {
        for reference in references(object, known.options) {
            let file: Arc<str> = reference.to_string().into();
            let objects = known.store.file_objects(&file).to_vec();
            store.apply(FileUpdate { change: Change::Read(ParsedFile { objects, notes: Vec::new() }), file });
        }
    }
    let reference = ObjectRef::new(kind, &item.key.0, &item.key.1);
    let file = reference.to_string().into();
    store.apply(FileUpdate { file, change: Change::Read(parsed) });
    let compiled = compile(&store, known.options, None);
    let problems = compiled.statuses.get(&reference).map_or(&[][..], |condition| &condition.diagnostics);
    // A Namespace may later permit what an Egress object grants; whoever loosens a mode by a ServiceAccount should be
    // refused at once (decision 110). Other objects of an identity may be deleted, so exceeding a shared budget is
    // admitted.
    let refuses = |cause: Cause| match cause {
        Cause::Object | Cause::Size => true,
        Cause::Permission => kind == Kind::ServiceAccount,
        Cause::Reference | Cause::Conflict | Cause::SharedBudget => false,
    };
    let (mut errors, others): (Vec<&Diagnostic>, Vec<&Diagnostic>) =
        problems.iter().partition(|problem| problem.severity == Severity::Error && refuses(problem.cause));
    errors.sort_by_key(|problem| rule_order(kind, problem));
    let refusals = errors.iter().map(|problem| {
        if is_osm_rule(kind, problem) { problem.message.clone() } else { format_refusal(problem) }
    });
    let warnings = others
        .iter()
        .filter(|problem| problem.severity != Severity::Info)
        .map(|problem| problem.format_brief());
    (refusals.collect(), warnings.chain(global_egress_warning(kind, &reference, request, known)).collect())
}

/// References from an object to the objects that it names or that permit it.
fn references(object: &Object, options: &CompileOptions) -> Vec<ObjectRef> {
    let namespace = |name: &str| ObjectRef::new(Kind::Namespace, "", name);
    if object.body == Body::ServiceAccount {
        let CompileOptions { mesh_config_namespace, mesh_config_name, .. } = options;
        let config = ObjectRef::new(Kind::MeshConfig, mesh_config_namespace, mesh_config_name);
        return vec![namespace(&object.reference.namespace), config];
    }
    let Body::Egress(egress) = &object.body else { return Vec::new() };
    let targets: BTreeSet<&str> = egress.sources.iter().map(|source| source.namespace.as_str()).collect();
    let named = egress.matches.iter().flatten().filter_map(|reference| {
        let kind = [Kind::HttpRouteGroup, Kind::UpstreamTrafficSetting]
            .into_iter()
            .find(|kind| kind.as_str() == reference.kind)?;
        Some(ObjectRef::new(kind, &object.reference.namespace, &reference.name))
    });
    named.chain(targets.into_iter().map(namespace)).collect()
}

/// Returns true for rules of Open Service Mesh. Users know their texts, which name the match.
fn is_osm_rule(kind: Kind, problem: &Diagnostic) -> bool {
    let field = problem.field.as_deref().unwrap_or_default();
    let of_matches = field.starts_with("spec.matches[")
        || (field == "spec.matches" && problem.message.starts_with("Cannot have more"));
    kind == Kind::Egress && of_matches && problem.cause == Cause::Object
}

/// Sort key: Open Service Mesh's rules in its order (each match, then all matches), then the others.
fn rule_order(kind: Kind, problem: &Diagnostic) -> (bool, usize) {
    let field = problem.field.as_deref().unwrap_or_default();
    let index = field
        .strip_prefix("spec.matches[")
        .and_then(|rest| rest.split_once(']'))
        .and_then(|(index, _)| index.parse().ok());
    (!is_osm_rule(kind, problem), index.unwrap_or(usize::MAX))
}

/// Formats a problem with its field and advice. Advice after "until then" concerns stored objects only.
fn format_refusal(problem: &Diagnostic) -> String {
    match problem.remedy() {
        Some(advice) => format!("{} ({advice})", problem.format_brief()),
        None => problem.format_brief(),
    }
}

/// Warns that a change of the MeshConfig overrides policies.
fn global_egress_warning(
    kind: Kind,
    reference: &ObjectRef,
    request: &AdmissionRequest<DynamicObject>,
    known: &ReviewContext<'_>,
) -> Option<String> {
    let CompileOptions { mesh_config_namespace, mesh_config_name, .. } = known.options;
    let is_mesh = kind == Kind::MeshConfig
        && (&reference.namespace, &reference.name) == (mesh_config_namespace, mesh_config_name);
    let is_open = |object: &Option<DynamicObject>| {
        object
            .as_ref()
            .is_some_and(|object| object.data["spec"]["traffic"]["enableEgress"] == Value::Bool(true))
    };
    if !is_mesh || !is_open(&request.object) || is_open(&request.old_object) {
        return None;
    }
    let counts = known.compiled.statuses.values().filter(|c| c.object.kind == Kind::Egress && c.rules > 0);
    let policies = match counts.count() {
        0 => return None,
        1 => "1 Egress policy does".to_owned(),
        policies => format!("{policies} Egress policies do"),
    };
    Some(format!("spec.traffic.enableEgress: all egress is allowed: {policies} not apply while this is true"))
}

fn truncate(text: String, longest: usize) -> String {
    match text.char_indices().nth(longest.saturating_sub(1)) {
        Some((end, _)) if text.chars().count() > longest => {
            format!("{}…", text.get(..end).unwrap_or_default())
        }
        Some(_) | None => text,
    }
}

#[cfg(test)]
pub(super) mod tests;
