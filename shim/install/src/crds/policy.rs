//! `Egress`.

use serde_json::{Value, json};

use super::definition::{Names, definition, version};
use super::schema::{at_most, block, choice, kept_if_null, list, object, port, text};
use egress_compile::budget;

/// The protocols, in any case as in OSM. OSM accepts any text, and ignores ports with other protocols.
const PROTOCOL: &str =
    "^([Hh][Tt][Tt][Pp][Ss]?|[Tt][Cc][Pp](-[Ss][Ee][Rr][Vv][Ee][Rr]-[Ff][Ii][Rr][Ss][Tt])?)$";

pub(super) fn egress() -> Value {
    let mut version = version("v1alpha1", specification());
    version["schema"]["openAPIV3Schema"]["properties"]["status"] = status();
    version["subresources"] = json!({ "status": {} });
    version["additionalPrinterColumns"] = json!([
        { "name": "Hosts", "type": "string", "jsonPath": ".spec.hosts", "description": "Allowed hosts" },
        {
            "name": "Accepted", "type": "string", "description": "True if the whole policy is valid",
            "jsonPath": ".status.conditions[?(@.type==\"Accepted\")].status",
        },
        {
            "name": "Programmed", "type": "string", "jsonPath": ".status.programmed",
            "description": "Connected proxies that have acknowledged it, of all",
        },
        { "name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp" },
    ]);
    let names = Names {
        group: "policy.openservicemesh.io",
        kind: "Egress",
        plural: "egresses",
        singular: "egress",
        short: "egress",
    };
    definition(&names, &[version])
}

fn specification() -> Value {
    let source = object(
        &["kind", "name", "namespace"],
        json!({
            "kind": choice("Kind of this source", &["ServiceAccount"]),
            "name": text("Name of this source"),
            "namespace": text("Namespace of this source"),
        }),
    );
    let port = object(
        &["number", "protocol"],
        json!({
            "number": port("Port number"),
            "protocol": {
                "type": "string", "pattern": PROTOCOL,
                "description": "http, https, tcp or tcp-server-first",
            },
        }),
    );
    let reference = object(
        &["apiGroup", "kind", "name"],
        json!({
            "apiGroup": text("Group and version of the referenced object"),
            "kind": text("Kind of the referenced object"),
            "name": text("Name of the referenced object, which is in the same namespace"),
        }),
    );
    object(
        &["sources", "ports"],
        json!({
            "sources": at_most(budget::MAX_SOURCES, list("Workloads that the policy applies to", source)),
            "hosts": kept_if_null(at_most(
                budget::MAX_HOSTS,
                list(
                    "Names that may be reached; `*.` and a suffix for all names below it",
                    // A name has 253 characters, a wildcard and a trailing dot three more.
                    at_most(256, json!({ "type": "string" })),
                ),
            )),
            "ipAddresses": kept_if_null(at_most(
                budget::MAX_ADDRESSES,
                list("Blocks of addresses that may be reached, as in 10.0.0.0/8", block()),
            )),
            "ports": at_most(budget::MAX_PORTS, list("Ports that may be reached", port)),
            "matches": kept_if_null(at_most(
                budget::MAX_MATCHES,
                list("HTTPRouteGroups, of which one must match, and an UpstreamTrafficSetting", reference),
            )),
        }),
    )
}

/// The status: conditions in the form of Kubernetes.
fn status() -> Value {
    let condition = object(
        &["type", "status", "reason", "message", "lastTransitionTime"],
        json!({
            "type": text("Type of the condition"),
            "status": choice("Status of the condition", &["True", "False", "Unknown"]),
            "reason": text("Reason, in one word"),
            "message": text("Reason, in full"),
            "observedGeneration": super::schema::at_least("Generation of the object that the condition describes", 0),
            "lastTransitionTime": { "type": "string", "format": "date-time" },
        }),
    );
    let mut conditions = list("Conditions of the policy", condition);
    conditions["x-kubernetes-list-type"] = json!("map");
    conditions["x-kubernetes-list-map-keys"] = json!(["type"]);
    let programmed = text("Connected proxies of its sources that have acknowledged it, of all, as in 2/3");
    object(&[], json!({ "conditions": conditions, "programmed": programmed }))
}
