//! From values to objects. Nobody is asked: equal input gives equal objects.

mod access;
mod input;
mod mesh_config;
mod network;
mod webhooks;
mod workload;

use k8s_openapi::ByteString;
use serde_json::{Value, json};

use super::certificates::Pair;
use super::id::Id;
use super::names::{CA_SECRET, MANAGED_BY, NAME, Names, TLS_SECRET};
use super::values::Values;
use crate::crds;
use egress_compile::IGNORE_LABEL;
pub(super) use workload::POD_ANNOTATIONS;

pub(super) use self::access::rules;
use self::input::encoded;
pub(super) use self::input::{Facts, Input, Secrets};
pub(super) use self::mesh_config::difference;
pub(super) use self::webhooks::GRANTS;

/// All objects, in an order in which none refers to one that comes later. Webhooks are the last: from then on
/// the API server asks the control plane.
pub(super) fn objects(input: &Input<'_>) -> Vec<Value> {
    let names = input.names;
    let mut objects = vec![namespace(names)];
    objects.extend(definitions());
    objects.extend(access::objects(names));
    if !input.values.osm.egress.console_token_secret.is_empty() {
        objects.extend(access::writing(names));
    }
    objects.extend(secrets(input));
    objects.push(network::service(names));
    if input.values.osm.egress.network_policy {
        objects.push(network::policy(input));
    }
    objects.push(workload::budget(names, input.cluster));
    objects.push(mesh_config::object(input.values, names));
    objects.push(workload::deployment(input));
    objects.extend(webhooks::objects(input));
    for object in &mut objects {
        let labels = if Id::of(object).is_definition() {
            // They belong to no mesh, and have the labels that Open Service Mesh gives them.
            json!({ MANAGED_BY: NAME, "app.kubernetes.io/part-of": NAME })
        } else {
            names.labels()
        };
        for (key, value) in labels.as_object().into_iter().flatten() {
            object["metadata"]["labels"][key] = value.clone();
        }
    }
    objects
}

/// Which objects there may be.
pub(super) fn ids(names: &Names, cluster: &Facts) -> Vec<Id> {
    let (mut values, given) = (Values::default(), json!({}));
    values.osm.egress.console_token_secret = NAME.to_owned();
    let nobody = Pair { certificate: String::new(), key: String::new() };
    let secrets = Secrets::Made { authority: &nobody, server: &nobody };
    objects(&Input { values: &values, given: &given, names, cluster, secrets }).iter().map(Id::of).collect()
}

/// The definitions.
pub(super) fn definitions() -> impl Iterator<Item = Value> {
    crds::all().into_iter().map(|(_, definition)| definition)
}

fn namespace(names: &Names) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Namespace",
        "metadata": {
            "name": names.namespace,
            "labels": {
                // A mesh does not contain its own control plane.
                IGNORE_LABEL: "true",
                // What the control plane's pods satisfy. Whoever may make pods beside them gets no more.
                "pod-security.kubernetes.io/enforce": "restricted",
                "pod-security.kubernetes.io/warn": "restricted",
            },
        },
    })
}

fn secrets(input: &Input<'_>) -> Vec<Value> {
    let Secrets::Made { authority, server } = input.secrets else { return Vec::new() };
    let secret = |name: &str, kind: &str, data: Value| {
        json!({
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": { "name": name, "namespace": input.names.namespace },
            "type": kind,
            "data": data,
        })
    };
    let authority_data =
        json!({ "ca.crt": encoded(&authority.certificate), "ca.key": encoded(&authority.key) });
    let server_data = json!({
        "ca.crt": encoded(&authority.certificate),
        "tls.crt": encoded(&server.certificate),
        "tls.key": encoded(&server.key),
    });
    vec![secret(CA_SECRET, "Opaque", authority_data), secret(TLS_SECRET, "kubernetes.io/tls", server_data)]
}

/// The text of one key of a secret.
pub(super) fn decoded(secret: &Value, key: &str) -> Option<String> {
    let bytes: ByteString = serde_json::from_value(secret["data"].get(key)?.clone()).ok()?;
    String::from_utf8(bytes.0).ok()
}

#[cfg(test)]
mod tests;
