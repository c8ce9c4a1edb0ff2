//! Rendering of values as objects. It does not query the cluster: equal input gives equal objects.

mod access;
mod admission_policies;
mod cni;
mod input;
mod mesh_config;
mod network;
mod webhooks;
mod workload;

use k8s_openapi::ByteString;
use serde_json::{Value, json};

use super::certificates::PemPair;
use super::names::{CA_SECRET, MANAGED_BY_LABEL, NAME, Names, TLS_SECRET};
use super::object_id::ObjectId;
use super::values::Values;
use crate::crds;
use egress_compile::IGNORE_LABEL;
pub(super) use workload::{CNI_FLAG, NATIVE_FLAG, POD_ANNOTATIONS_FLAG};

pub(super) use self::access::list_permissions;
pub(super) use self::admission_policies::API_VERSION as ADMISSION_POLICIES;
use self::input::encode_base64;
pub(super) use self::input::{ClusterFacts, Input, TlsSecrets};
pub(super) use self::mesh_config::patch_for;
pub(super) use self::webhooks::ADVISORY_WEBHOOKS;

/// Renders all objects, in an order in which none refers to a later one. Webhooks come last: from then on the API server
/// asks the control plane.
pub(super) fn render_objects(input: &Input<'_>) -> Vec<Value> {
    let names = input.names;
    let mut objects = vec![namespace(names)];
    objects.extend(definitions().map(|mut definition| {
        if input.cluster.has_validation_rules {
            crds::add_rules(&mut definition);
        }
        definition
    }));
    objects.extend(access::role_objects(names));
    if !input.values.osm.egress.console_token_secret.is_empty() {
        objects.extend(access::console_write_objects(names));
    }
    objects.extend(secrets(input));
    objects.push(network::service(names));
    if input.values.osm.egress.network_policy {
        objects.push(network::policy(input));
    }
    objects.push(workload::budget(names, input.cluster));
    objects.push(mesh_config::object(input.values, names));
    if input.values.osm.egress.cni {
        // Before the control plane that relies on it.
        objects.extend(cni::objects(input));
    }
    objects.push(workload::deployment(input));
    objects.extend(admission_policies::objects(input));
    objects.extend(webhooks::objects(input));
    for object in &mut objects {
        let labels = if ObjectId::from_object(object).is_crd() {
            // Definitions belong to no mesh, and keep the labels of Open Service Mesh.
            json!({ MANAGED_BY_LABEL: NAME, "app.kubernetes.io/part-of": NAME })
        } else {
            names.labels()
        };
        for (key, value) in labels.as_object().into_iter().flatten() {
            object["metadata"]["labels"][key] = value.clone();
        }
    }
    objects
}

/// Lists every object that some values would render.
pub(super) fn possible_ids(names: &Names, cluster: &ClusterFacts) -> Vec<ObjectId> {
    let (mut values, given) = (Values::default(), json!({}));
    values.osm.egress.console_token_secret = NAME.to_owned();
    values.osm.egress.cni = true;
    let cluster = &ClusterFacts { has_admission_policies: true, ..cluster.clone() };
    let empty = PemPair { certificate: String::new(), key: String::new() };
    let secrets = TlsSecrets::Generated { authority: &empty, server: &empty };
    render_objects(&Input { values: &values, given: &given, names, cluster, secrets })
        .iter()
        .map(ObjectId::from_object)
        .collect()
}

/// The custom resource definitions.
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
                // The control plane is not part of its mesh.
                IGNORE_LABEL: "true",
                // The control plane's pods satisfy this profile, and other pods of the namespace get no more.
                "pod-security.kubernetes.io/enforce": "restricted",
                "pod-security.kubernetes.io/warn": "restricted",
            },
        },
    })
}

fn secrets(input: &Input<'_>) -> Vec<Value> {
    let TlsSecrets::Generated { authority, server } = input.secrets else { return Vec::new() };
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
        json!({ "ca.crt": encode_base64(&authority.certificate), "ca.key": encode_base64(&authority.key) });
    let server_data = json!({
        "ca.crt": encode_base64(&authority.certificate),
        "tls.crt": encode_base64(&server.certificate),
        "tls.key": encode_base64(&server.key),
    });
    vec![secret(CA_SECRET, "Opaque", authority_data), secret(TLS_SECRET, "kubernetes.io/tls", server_data)]
}

/// Decodes one key of a Secret.
pub(super) fn decode_secret_key(secret: &Value, key: &str) -> Option<String> {
    let bytes: ByteString = serde_json::from_value(secret["data"].get(key)?.clone()).ok()?;
    String::from_utf8(bytes.0).ok()
}

#[cfg(test)]
mod tests;
