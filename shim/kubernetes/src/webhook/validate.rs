//! The validation of an object before an API server stores it: Open Service Mesh's rules in its own words, and everything else
//! that makes an object not be accepted, each with its field.
//!
//! No rule is written here: the object goes through the reader and the compiler that it will go through once it
//! is stored. What follows from other objects refuses nothing, as they may come later; it becomes a warning, which
//! kubectl prints.

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

/// The kinds that are validated. Only these can have mistakes that matter here.
const KINDS: [Kind; 7] = [
    Kind::Egress,
    Kind::HttpRouteGroup,
    Kind::UpstreamTrafficSetting,
    Kind::MeshConfig,
    Kind::TrafficTarget,
    Kind::Namespace,
    Kind::ServiceAccount,
];
/// The longest text of all that is wrong; nobody reads as much.
const LONGEST: usize = 4096;
/// The longest warning: an API server may cut longer ones.
const LONGEST_WARNING: usize = 256;
/// The most warnings.
const MOST_WARNINGS: usize = 12;

/// The state of the cluster when an object comes.
#[derive(Debug, Clone, Copy)]
pub struct Known<'k> {
    /// The mesh's names.
    pub options: &'k CompileOptions,
    /// The objects that there are.
    pub store: &'k Store,
    /// The compiled documents.
    pub compiled: &'k Compiled,
}

/// The kind of what is asked about.
fn kind(request: &AdmissionRequest<DynamicObject>) -> Option<Kind> {
    let gvk = &request.kind;
    KINDS.into_iter().find(|kind| {
        (kind.as_str(), kind.group()) == (&*gvk.kind, &*gvk.group) && kind.versions().contains(&&*gvk.version)
    })
}

/// Remembers who asked, where the request was let in and writes something that may grant. Who that is is verified where
/// the client has shown a certificate, as only an API server can.
pub fn log_request(request: &AdmissionRequest<DynamicObject>, is_verified: bool, request_log: &RequestLog) {
    let (Some(kind), Some(name), false) = (kind(request), &request.user_info.username, request.dry_run)
    else {
        return;
    };
    let user = || User { name: name.clone(), is_verified };
    let is_part = request.sub_resource.as_deref().is_some_and(|part| !part.is_empty());
    if request.operation == Operation::Delete && !is_part {
        let namespace = request.namespace.as_deref().filter(|_| kind.is_namespaced()).unwrap_or_default();
        request_log.record(ObjectRef::new(kind, namespace, &request.name), None, user());
    } else if let Some(object) = request.object.as_ref().filter(|object| says_something_new(request, object))
    {
        let item = candidate(kind, request, object.clone());
        let reference = ObjectRef::new(kind, &item.key.0, &item.key.1);
        if let Change::Read(parsed) = item.change {
            for object in parsed.objects.iter().filter(|object| object.reference == reference) {
                request_log.record(reference.clone(), Some(object), user());
            }
        }
    }
}

/// Answers.
#[must_use]
pub fn review(request: &AdmissionRequest<DynamicObject>, known: &Known<'_>) -> AdmissionResponse {
    let answer = AdmissionResponse::from(request);
    let gvk = &request.kind;
    let Some(kind) = kind(request) else {
        // As Open Service Mesh says it.
        return answer.deny(format!("unknown gvk: {}/{}, Kind={}", gvk.group, gvk.version, gvk.kind));
    };
    let Some(object) = request.object.as_ref().filter(|object| says_something_new(request, object)) else {
        return answer;
    };
    let (refusals, warnings) = judge(kind, candidate(kind, request, object.clone()), request, known);
    let mut answer =
        if refusals.is_empty() { answer } else { answer.deny(cut(refusals.join("; "), LONGEST)) };
    let cut_one = |warning| cut(warning, LONGEST_WARNING);
    answer.warnings = Some(warnings.into_iter().take(MOST_WARNINGS).map(cut_one).collect());
    answer
}

/// Returns whether there is anything to judge: whoever removes an object, its finalizers or a label of it must be able to,
/// even if it was wrong all the time.
fn says_something_new(request: &AdmissionRequest<DynamicObject>, object: &DynamicObject) -> bool {
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

/// The object as it will be stored.
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
    // A review of a Namespace says that it is in itself.
    if metadata.namespace.is_none() && kind.is_namespaced() {
        metadata.namespace.clone_from(&request.namespace);
    }
    if metadata.name.as_deref().unwrap_or_default().is_empty() {
        // The API server has not chosen it yet.
        metadata.name = Some(format!("{}new", metadata.generate_name.as_deref().unwrap_or_default()));
    }
    read(kind, &resource, object)
}

/// The refusals and warnings of an object.
fn judge(
    kind: Kind,
    item: Item,
    request: &AdmissionRequest<DynamicObject>,
    known: &Known<'_>,
) -> (Vec<String>, Vec<String>) {
    let parsed = match item.change {
        Change::Read(parsed) => parsed,
        Change::Unreadable(problems) | Change::Void(problems) => {
            return (problems.iter().map(refusal).collect(), Vec::new());
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
    // A Namespace may come to permit what an Egress object says; who loosens a mode by a ServiceAccount should hear no
    // at once (decision 110). Other objects of an identity may go, so what crowds is let in.
    let refuses = |cause: Cause| match cause {
        Cause::Object | Cause::Size => true,
        Cause::Permission => kind == Kind::ServiceAccount,
        Cause::Reference | Cause::Conflict | Cause::SharedBudget => false,
    };
    let (mut errors, others): (Vec<&Diagnostic>, Vec<&Diagnostic>) =
        problems.iter().partition(|problem| problem.severity == Severity::Error && refuses(problem.cause));
    errors.sort_by_key(|problem| order(kind, problem));
    let refusals = errors
        .iter()
        .map(|problem| if is_osm(kind, problem) { problem.message.clone() } else { refusal(problem) });
    let warnings = others
        .iter()
        .filter(|problem| problem.severity != Severity::Info)
        .map(|problem| problem.format_brief());
    (refusals.collect(), warnings.chain(opened(kind, &reference, request, known)).collect())
}

/// The objects that an object names, or that say what it may.
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

/// Returns whether Open Service Mesh has this rule. Its text says which match it is about, and people know it.
fn is_osm(kind: Kind, problem: &Diagnostic) -> bool {
    let field = problem.field.as_deref().unwrap_or_default();
    let of_matches = field.starts_with("spec.matches[")
        || (field == "spec.matches" && problem.message.starts_with("Cannot have more"));
    kind == Kind::Egress && of_matches && problem.cause == Cause::Object
}

/// Open Service Mesh's rules in its order (one match after another, then all of them), then ours.
fn order(kind: Kind, problem: &Diagnostic) -> (bool, usize) {
    let field = problem.field.as_deref().unwrap_or_default();
    let index = field
        .strip_prefix("spec.matches[")
        .and_then(|rest| rest.split_once(']'))
        .and_then(|(index, _)| index.parse().ok());
    (!is_osm(kind, problem), index.unwrap_or(usize::MAX))
}

/// The place of a problem, the problem, and what to write instead. What holds "until then" holds of objects that are stored.
fn refusal(problem: &Diagnostic) -> String {
    match problem.remedy() {
        Some(advice) => format!("{} ({advice})", problem.format_brief()),
        None => problem.format_brief(),
    }
}

/// That a change of the MeshConfig makes policies not count.
fn opened(
    kind: Kind,
    reference: &ObjectRef,
    request: &AdmissionRequest<DynamicObject>,
    known: &Known<'_>,
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
    Some(format!(
        "spec.traffic.enableEgress: everything may leave the mesh: {policies} not count while this is true"
    ))
}

fn cut(text: String, longest: usize) -> String {
    match text.char_indices().nth(longest.saturating_sub(1)) {
        Some((end, _)) if text.chars().count() > longest => {
            format!("{}…", text.get(..end).unwrap_or_default())
        }
        Some(_) | None => text,
    }
}

#[cfg(test)]
pub(super) mod tests;
