//! What makes the API server ask the control plane.

use serde_json::{Value, json};

use super::{Input, Secrets, encoded};
use crate::install::names::NAME;
use egress_compile::{IGNORE_LABEL, MONITORED_LABEL};

pub(super) fn objects(input: &Input<'_>) -> [Value; 2] {
    let namespaces = json!({
        "matchExpressions": [
            { "key": MONITORED_LABEL, "operator": "In", "values": [input.names.mesh] },
            { "key": IGNORE_LABEL, "operator": "DoesNotExist" },
            // Set by API servers from 1.21 on; those before have IGNORE_LABEL.
            { "key": "kubernetes.io/metadata.name", "operator": "NotIn", "values": [input.names.namespace] },
        ],
    });
    let rule = |group: &str, versions: &[&str], resources: &[&str], operations: &[&str]| {
        json!({
            "apiGroups": [group], "apiVersions": versions, "resources": resources,
            "operations": operations, "scope": "Namespaced",
        })
    };
    let written = ["CREATE", "UPDATE"];
    let policies = json!([
        rule("policy.openservicemesh.io", &["v1alpha1"], &["egresses", "upstreamtrafficsettings"], &written),
        rule("specs.smi-spec.io", &["v1alpha4"], &["httproutegroups"], &written),
    ]);
    // It is in the control plane's own namespace, which the others leave out.
    let config =
        json!([rule("config.openservicemesh.io", &["v1alpha1", "v1alpha2"], &["meshconfigs"], &written),]);
    let pods = json!([
        // Updates, because they can change the sidecar's image.
        rule("", &["v1"], &["pods"], &written),
        // What `kubectl debug` adds to a pod that runs.
        rule("", &["v1"], &["pods/ephemeralcontainers"], &["UPDATE"]),
    ]);
    [
        configuration(
            input,
            "Validating",
            &[
                webhook(input, "policies", "/validate", policies, Some(&namespaces)),
                webhook(input, "mesh-config", "/validate", config, None),
            ],
        ),
        configuration(input, "Mutating", &[webhook(input, "inject", "/mutate", pods, Some(&namespaces))]),
    ]
}

fn configuration(input: &Input<'_>, kind: &str, webhooks: &[Value]) -> Value {
    json!({
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": format!("{kind}WebhookConfiguration"),
        "metadata": { "name": input.names.webhooks() },
        "webhooks": webhooks,
    })
}

/// Without an answer nothing is let in: a pod without a sidecar would be one without a policy.
fn webhook(input: &Input<'_>, name: &str, path: &str, rules: Value, namespaces: Option<&Value>) -> Value {
    let service = json!({ "name": NAME, "namespace": input.names.namespace, "path": path, "port": 443 });
    let mut client = json!({ "service": service });
    match input.secrets {
        Secrets::Made { authority, .. } => client["caBundle"] = encoded(&authority.certificate),
        Secrets::Theirs { authority } => client["caBundle"] = encoded(authority),
        #[cfg(test)]
        Secrets::Missing => {}
    }
    let mut webhook = json!({
        "name": format!("{name}.osm-egress.openservicemesh.io"),
        "clientConfig": client,
        "rules": rules,
        "failurePolicy": "Fail",
        "sideEffects": "None",
        "admissionReviewVersions": ["v1"],
        "timeoutSeconds": input.values.osm.egress.webhook_timeout_seconds,
    });
    if let Some(namespaces) = namespaces {
        webhook["namespaceSelector"] = namespaces.clone();
    }
    webhook
}
