//! The webhook configurations, by which the API server calls the control plane.

use serde_json::{Value, json};

use super::input::{Input, TlsSecrets, encode_base64};
use crate::names::{NAME, Names};
use egress_compile::{IGNORE_LABEL, MONITORED_LABEL};

/// The timeout of the advisory webhook: a write of a ServiceAccount waits for it.
const ADVISORY_TIMEOUT_SECONDS: u8 = 3;

/// The names of the advisory webhooks. `verify` accepts that they fail open.
pub(crate) const ADVISORY_WEBHOOKS: [&str; 2] =
    ["grants.osm-egress.openservicemesh.io", "workloads.osm-egress.openservicemesh.io"];

pub(super) fn objects(input: &Input<'_>) -> [Value; 2] {
    let namespaces = mesh_namespaces(input.names);
    let rule = |group: &str, versions: &[&str], resources: &[&str], operations: &[&str]| {
        json!({
            "apiGroups": [group], "apiVersions": versions, "resources": resources,
            "operations": operations, "scope": "Namespaced",
        })
    };
    let written = ["CREATE", "UPDATE"];
    let policies = |operations: &[&str]| {
        [
            rule(
                "policy.openservicemesh.io",
                &["v1alpha1"],
                &["egresses", "upstreamtrafficsettings"],
                operations,
            ),
            rule("specs.smi-spec.io", &["v1alpha4"], &["httproutegroups"], operations),
            rule("access.smi-spec.io", &["v1alpha3"], &["traffictargets"], operations),
        ]
    };
    let mut namespaces_themselves = rule("", &["v1"], &["namespaces"], &written);
    namespaces_themselves["scope"] = json!("Cluster");
    let mut grants = vec![rule("", &["v1"], &["serviceaccounts"], &written), namespaces_themselves];
    grants.extend(policies(&["DELETE"]));
    let grants = json!(grants);
    let workloads = json!([
        rule("apps", &["v1"], &["deployments", "statefulsets", "daemonsets"], &written),
        rule("batch", &["v1"], &["jobs", "cronjobs"], &written),
        rule("batch", &["v1beta1"], &["cronjobs"], &written),
    ]);
    // The MeshConfig is in the control plane's own namespace, which the other webhooks exclude.
    let config =
        json!([rule("config.openservicemesh.io", &["v1alpha1", "v1alpha2"], &["meshconfigs"], &written),]);
    let mut validating = vec![
        webhook(input, "policies", "/validate", json!(policies(&written)), Some(&namespaces)),
        webhook(input, "mesh-config", "/validate", config, None),
        advisory(webhook(input, "grants", "/validate", grants, Some(&namespaces))),
        // Their pods may be refused, of which only a controller would learn.
        advisory(webhook(input, "workloads", "/mutate", workloads, Some(&namespaces))),
    ];
    let named: Vec<&String> =
        input.values.osm.egress.policy_namespaces.iter().filter(|name| *name != "*").collect();
    let named = if input.values.osm.egress.policy_namespaces.is_empty() {
        vec![&input.names.namespace]
    } else {
        named
    };
    if !named.is_empty() {
        // Policies in these namespaces apply even without the label of the mesh.
        let selector = json!({
            "matchExpressions": [{ "key": "kubernetes.io/metadata.name", "operator": "In", "values": named }],
        });
        let rules = json!(policies(&written));
        validating.push(webhook(input, "policy-namespaces", "/validate", rules, Some(&selector)));
    }
    let pods = json!([
        // Updates too, because they can change the sidecar's image.
        rule("", &["v1"], &["pods"], &written),
        // The containers that `kubectl debug` adds to a running pod.
        rule("", &["v1"], &["pods/ephemeralcontainers"], &["UPDATE"]),
    ]);
    let mut inject = webhook(input, "inject", "/mutate", pods, Some(&namespaces));
    // Webhooks whose names sort later may add containers. Injection is idempotent, and puts interception first again.
    inject["reinvocationPolicy"] = json!("IfNeeded");
    [configuration(input, "Validating", &validating), configuration(input, "Mutating", &[inject])]
}

/// The selector of the mesh's namespaces.
pub(super) fn mesh_namespaces(names: &Names) -> Value {
    json!({
        "matchExpressions": [
            { "key": MONITORED_LABEL, "operator": "In", "values": [names.mesh] },
            { "key": IGNORE_LABEL, "operator": "DoesNotExist" },
            // API servers set this label since 1.21; on older ones IGNORE_LABEL excludes the namespace.
            { "key": "kubernetes.io/metadata.name", "operator": "NotIn", "values": [names.namespace] },
        ],
    })
}

fn configuration(input: &Input<'_>, kind: &str, webhooks: &[Value]) -> Value {
    json!({
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": format!("{kind}WebhookConfiguration"),
        "metadata": { "name": input.names.webhook_configuration() },
        "webhooks": webhooks,
    })
}

/// Makes a webhook advisory: the cluster must work without it. The compiler enforces grants anyway, a Namespace gets its
/// service accounts while no control plane answers, a policy can always be deleted, and a workload only gets warnings.
fn advisory(mut webhook: Value) -> Value {
    webhook["failurePolicy"] = json!("Ignore");
    webhook["timeoutSeconds"] = json!(ADVISORY_TIMEOUT_SECONDS);
    webhook
}

/// A webhook that fails closed: a pod without a sidecar would have no policy.
fn webhook(input: &Input<'_>, name: &str, path: &str, rules: Value, namespaces: Option<&Value>) -> Value {
    let service = json!({ "name": NAME, "namespace": input.names.namespace, "path": path, "port": 443 });
    let mut client = json!({ "service": service });
    match input.secrets {
        TlsSecrets::Generated { authority, .. } => client["caBundle"] = encode_base64(&authority.certificate),
        TlsSecrets::External { authority } => client["caBundle"] = encode_base64(authority),
        #[cfg(test)]
        TlsSecrets::Absent => {}
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
