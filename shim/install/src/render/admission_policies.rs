//! The ValidatingAdmissionPolicies: pods of the mesh that could go round their sidecar are refused by the API server itself,
//! whether a control plane answers or not.

use serde_json::{Value, json};

use super::input::Input;
use super::webhooks::mesh_namespaces;
use crate::values::AdmissionPolicy;
use egress_inject::interception::PROXY_UID;
use egress_inject::{INIT_CONTAINER, INJECTION_ANNOTATION, SIDECAR_CONTAINER};

/// The API of admission policies.
pub(crate) const API_VERSION: &str = "admissionregistration.k8s.io/v1";
/// The capabilities by which a container changes interception or becomes the sidecar's user.
const CAPABILITIES: &str = "['ALL', 'SETUID', 'NET_ADMIN', 'NET_RAW', 'SYS_ADMIN']";

/// A policy: the suffix of its name, its rules, and what it says.
struct Policy {
    suffix: &'static str,
    /// The condition that holds for a container `c`.
    container: String,
    message: &'static str,
    denies: bool,
}

pub(super) fn objects(input: &Input<'_>) -> Vec<Value> {
    let mode = input.values.osm.egress.admission_policy;
    if !input.cluster.has_admission_policies || mode == AdmissionPolicy::Off {
        return Vec::new();
    }
    let policies = [
        Policy {
            suffix: "bypasses",
            container: no_explicit_bypass(),
            message: "a container of the mesh may not run as user 1500, be privileged, or add the capabilities ALL, SETUID, \
                NET_ADMIN, NET_RAW or SYS_ADMIN, because it could go round its sidecar: remove that from its \
                securityContext",
            denies: mode != AdmissionPolicy::Warn,
        },
        Policy {
            suffix: "users",
            container: no_implicit_bypass(),
            message: "a container of the mesh must name its user by number (runAsUser) and must not be able to become \
                another: drop the capabilities ALL, or use another user than 0 with allowPrivilegeEscalation: false. The \
                image's user is unknown here, and root may become the sidecar's user 1500",
            denies: mode == AdmissionPolicy::Strict,
        },
    ];
    policies.iter().flat_map(|policy| [definition(input, policy), binding(input, policy)]).collect()
}

fn name(input: &Input<'_>, policy: &Policy) -> String {
    format!("{}-{}", input.names.webhook_configuration(), policy.suffix)
}

fn definition(input: &Input<'_>, policy: &Policy) -> Value {
    let mut validations = Vec::new();
    let ours = format!("['{SIDECAR_CONTAINER}', '{INIT_CONTAINER}']");
    for list in ["containers", "initContainers", "ephemeralContainers"] {
        // An ephemeral container is never an injected one.
        let exempt =
            if list == "ephemeralContainers" { "false".to_owned() } else { format!("c.name in {ours}") };
        let condition = &policy.container;
        validations.push(json!({
            "expression": format!("object.spec.?{list}.orValue([]).all(c, {exempt} || ({condition}))"),
            "message": policy.message,
            "reason": "Forbidden",
        }));
    }
    if policy.suffix == "bypasses" {
        validations.push(json!({
            "expression": "!object.spec.?hostNetwork.orValue(false)",
            "message": "a pod of the mesh may not use its host's network (hostNetwork), because no sidecar intercepts there",
            "reason": "Forbidden",
        }));
    }
    let rule = |resource: &str, operation: &str| {
        json!({
            "apiGroups": [""], "apiVersions": ["v1"], "resources": [resource], "operations": [operation],
            "scope": "Namespaced",
        })
    };
    let opted_out = format!(
        "object.metadata.?annotations[?'{INJECTION_ANNOTATION}'].orValue('enabled') in ['disabled', 'no', 'false']"
    );
    let injected = format!("object.spec.?initContainers.orValue([]).exists(c, c.name == '{INIT_CONTAINER}')");
    json!({
        "apiVersion": API_VERSION,
        "kind": "ValidatingAdmissionPolicy",
        "metadata": { "name": name(input, policy) },
        "spec": {
            "failurePolicy": "Fail",
            "matchConstraints": {
                "namespaceSelector": mesh_namespaces(input.names),
                // The defaults, in full: server-side apply compares this part as a whole.
                "objectSelector": {},
                "matchPolicy": "Equivalent",
                // A running pod can change only by ephemeral containers.
                "resourceRules": [rule("pods", "CREATE"), rule("pods/ephemeralcontainers", "UPDATE")],
            },
            // A pod without a sidecar has nothing to go round. Whether it may opt out is decided by the webhook. The annotation
            // of a running pod can be changed, and its containers cannot.
            "matchConditions": [{ "name": "has-a-sidecar", "expression": format!("{injected} || !({opted_out})") }],
            "validations": validations,
        },
    })
}

fn binding(input: &Input<'_>, policy: &Policy) -> Value {
    let name = name(input, policy);
    json!({
        "apiVersion": API_VERSION,
        "kind": "ValidatingAdmissionPolicyBinding",
        "metadata": { "name": name },
        "spec": { "policyName": name, "validationActions": [if policy.denies { "Deny" } else { "Warn" }] },
    })
}

/// The user of container `c`: its own, else the pod's; -1 if neither names one.
const USER: &str =
    "c.?securityContext.?runAsUser.orValue(object.spec.?securityContext.?runAsUser.orValue(-1))";

fn no_explicit_bypass() -> String {
    format!(
        "{USER} != {PROXY_UID} && !c.?securityContext.?privileged.orValue(false) && \
         !c.?securityContext.?capabilities.?add.orValue([]).exists(x, x.upperAscii().replace('CAP_', '') in {CAPABILITIES})"
    )
}

fn no_implicit_bypass() -> String {
    let drops = |name: &str| {
        format!(
            "c.?securityContext.?capabilities.?drop.orValue([]).exists(x, x.upperAscii().replace('CAP_', '') in ['ALL', '{name}'])"
        )
    };
    format!(
        "{USER} >= 0 && (({} && {}) || ({USER} != 0 && !c.?securityContext.?allowPrivilegeEscalation.orValue(true)))",
        drops("SETUID"),
        drops("NET_RAW")
    )
}
