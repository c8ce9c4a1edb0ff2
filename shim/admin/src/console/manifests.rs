//! The manifests behind an identity's policy, for the playground. They are rendered from the store, so that they are
//! the same for a folder and a cluster.

use std::collections::BTreeSet;
use std::sync::Arc;

use axum::extract::{Query, State};
use axum::http::header;
use axum::response::IntoResponse;
use egress_compile::manifest::spec::Egress;
use egress_compile::manifest::{Body, Kind, Object, ObjectRef};
use egress_compile::store::Store;
use egress_compile::{
    CompileOptions, MODE_ANNOTATION, MODE_DELEGATION_ANNOTATION, POLICY_NAMESPACES_ANNOTATION,
};
use egress_policy::Identity;
use serde_json::{Value, json};

use super::queries::IdentityQuery;
use super::state::ConsoleState;
use egress_core::yaml;

pub(super) async fn manifests(
    State(ConsoleState { shared, console }): State<ConsoleState>,
    Query(IdentityQuery { identity }): Query<IdentityQuery>,
) -> impl IntoResponse {
    let store = Arc::clone(&shared.source.borrow().store);
    (
        [(header::CONTENT_TYPE, "application/yaml; charset=utf-8")],
        render_manifests(&store, &console.options, &identity),
    )
}

/// Renders the MeshConfig, the modes, the policies that name the identity, and the objects that these refer to.
fn render_manifests(store: &Store, options: &CompileOptions, identity: &Identity) -> String {
    let objects = store.index().objects;
    let own = |object: &Object| {
        egress_spec(object).is_some_and(|policy| {
            policy.sources.iter().any(|source| {
                (source.namespace.as_str(), source.name.as_str())
                    == (identity.namespace(), identity.service_account())
            })
        })
    };
    let policies: Vec<&Object> = objects.values().copied().filter(|object| own(object)).collect();
    let is_referred_to = |object: &Object| {
        let name = &object.reference.name;
        policies.iter().filter(|policy| policy.reference.namespace == object.reference.namespace).any(
            |policy| {
                egress_spec(policy)
                    .is_some_and(|policy| policy.matches.iter().flatten().any(|found| found.name == *name))
            },
        )
    };
    let texts = objects.values().filter_map(|object| match &object.body {
        Body::MeshConfig(config) => {
            let is_it = object.reference.namespace == options.mesh_config_namespace
                && object.reference.name == options.mesh_config_name;
            let on = config.traffic.as_ref().and_then(|traffic| traffic.enable_egress).unwrap_or_default();
            is_it.then(|| render_manifest(object, json!({ "traffic": { "enableEgress": on } })))
        }
        Body::Egress(egress) => own(object).then(|| render_manifest(object, json!(egress))),
        Body::HttpRouteGroup(group) => is_referred_to(object).then(|| render_manifest(object, json!(group))),
        Body::UpstreamTrafficSetting(setting) => {
            is_referred_to(object).then(|| render_manifest(object, json!(setting)))
        }
        Body::ServiceAccount => {
            let is_it = object.reference.namespace == identity.namespace()
                && object.reference.name == identity.service_account()
                && object.metadata.annotation(MODE_ANNOTATION).is_some();
            is_it.then(|| render_manifest(object, Value::Null))
        }
        Body::Namespace
        | Body::Service(_)
        | Body::Endpoints(..)
        | Body::Workload(..)
        | Body::TrafficTarget(_) => None,
    });
    let texts = texts.chain(render_namespace(store, options, identity, &policies));
    texts.collect::<Vec<_>>().join("---\n")
}

/// Renders the Namespace of an identity with its settings. Permissions from the control plane's flags become part of
/// its annotation, because the playground has no flags.
fn render_namespace(
    store: &Store,
    options: &CompileOptions,
    identity: &Identity,
    policies: &[&Object],
) -> Option<String> {
    let name = identity.namespace();
    let reference = ObjectRef::new(Kind::Namespace, "", name);
    let object = store.object(&reference).map(|object| manifest_value(object, Value::Null));
    let mut object = object.unwrap_or_else(
        || json!({ "apiVersion": "v1", "kind": Kind::Namespace.as_str(), "metadata": { "name": name } }),
    );
    let namespaces = policies.iter().map(|policy| policy.reference.namespace.as_str());
    let mut listed: BTreeSet<&str> = namespaces
        .filter(|namespace| *namespace != name && options.policy_namespaces.contains(namespace))
        .collect();
    let annotations = &mut object["metadata"]["annotations"];
    let own = annotations[POLICY_NAMESPACES_ANNOTATION].as_str().unwrap_or_default().to_owned();
    if !listed.is_empty() {
        listed.extend(own.split(',').map(str::trim).filter(|name| !name.is_empty()));
        let list = listed.into_iter().collect::<Vec<_>>().join(",");
        annotations[POLICY_NAMESPACES_ANNOTATION] = json!(list);
    }
    let settings = [MODE_ANNOTATION, MODE_DELEGATION_ANNOTATION, POLICY_NAMESPACES_ANNOTATION];
    let annotations = annotations.as_object_mut()?;
    annotations.retain(|_, value| !value.is_null());
    settings.iter().any(|name| annotations.contains_key(*name)).then(|| yaml::text(&object))
}

fn egress_spec(object: &Object) -> Option<&Egress> {
    if let Body::Egress(egress) = &object.body { Some(egress) } else { None }
}

/// Renders an object as a manifest.
pub(super) fn render_manifest(object: &Object, spec: Value) -> String {
    yaml::text(&manifest_value(object, spec))
}

/// Builds the manifest's value. It has no annotations but osm-egress's.
pub(super) fn manifest_value(object: &Object, spec: Value) -> Value {
    let reference = &object.reference;
    let kind: Kind = reference.kind;
    let version = kind.versions().first().copied().unwrap_or_default();
    let api_version = match kind.group() {
        "" => version.to_owned(),
        group => format!("{group}/{version}"),
    };
    let mut metadata = json!({ "name": reference.name });
    if !reference.namespace.is_empty() {
        metadata["namespace"] = json!(reference.namespace);
    }
    let annotations = object.metadata.annotations.iter().flatten();
    let ours: serde_json::Map<String, Value> = annotations
        .filter(|(name, _)| egress_kubernetes::is_ours(name))
        .map(|(name, value)| (name.clone(), json!(value)))
        .collect();
    if !ours.is_empty() {
        metadata["annotations"] = Value::Object(ours);
    }
    let mut manifest = json!({ "apiVersion": api_version, "kind": kind.as_str(), "metadata": metadata });
    if !spec.is_null() {
        manifest["spec"] = spec;
    }
    manifest
}
