//! The Deployment and the PodDisruptionBudget.

use egress_policy::EncryptedHello;
use serde_json::{Value, json};

use super::super::values::{INLINE, PodAnnotations, UPSTREAM_IDLE_TIMEOUT};
use super::input::{ClusterFacts, Input};
use crate::names::{ADMIN_PORT, NAME, Names, TLS_SECRET, VALUES_ANNOTATION, WEBHOOK_PORT, XDS_PORT};
use crate::values::{NativeSidecar, PodDns};

/// The uid and gid of the control plane: neither root's nor a sidecar's (1500).
const CONTROL_PLANE_UID: u32 = 65532;
/// The mount path of the serving certificate.
const TLS_MOUNT_PATH: &str = "/etc/osm-egress/tls";
/// The mount path of the console's token.
const CONSOLE_MOUNT_PATH: &str = "/etc/osm-egress/console";
/// The mount path of the authority of webhook clients.
const WEBHOOK_CLIENTS_MOUNT_PATH: &str = "/etc/osm-egress/webhook-clients";
/// The mount path of the flow database, which lives as long as the pod and survives restarts of its container.
const FLOWS_MOUNT_PATH: &str = "/var/lib/osm-egress";
/// The flag for the changes that annotations of pods may make; `verify` reads it.
pub(crate) const POD_ANNOTATIONS_FLAG: &str = "pod-annotations";

/// The flag by which the CNI plugin intercepts pods; `verify` reads it.
pub(crate) const CNI_FLAG: &str = "--cni";
/// The flag that makes sidecars native; `verify` reads it.
pub(crate) const NATIVE_FLAG: &str = "--native-sidecar";

pub(super) fn budget(names: &Names, cluster: &ClusterFacts) -> Value {
    json!({
        "apiVersion": cluster.budget,
        "kind": "PodDisruptionBudget",
        "metadata": { "name": NAME, "namespace": names.namespace },
        // Not `minAvailable`, which would block the drain of a node when there is one replica.
        "spec": { "maxUnavailable": 1, "selector": { "matchLabels": names.selector() } },
    })
}

pub(super) fn deployment(input: &Input<'_>) -> Value {
    let Input { values, names, .. } = input;
    let given = &values.osm.egress;
    let spread = |key: &str| {
        json!({
            "maxSkew": 1, "topologyKey": key, "whenUnsatisfiable": "ScheduleAnyway",
            "labelSelector": { "matchLabels": names.selector() },
        })
    };
    let mut pod = json!({
        "serviceAccountName": NAME,
        "automountServiceAccountToken": true,
        "enableServiceLinks": false,
        "securityContext": {
            "runAsNonRoot": true, "runAsUser": CONTROL_PLANE_UID, "runAsGroup": CONTROL_PLANE_UID,
            // Only this group can read the Secret and the token.
            "fsGroup": CONTROL_PLANE_UID,
            "seccompProfile": { "type": "RuntimeDefault" },
        },
        "topologySpreadConstraints": [spread("kubernetes.io/hostname"), spread("topology.kubernetes.io/zone")],
        "containers": [container(input)],
        "volumes": [{ "name": "tls", "secret": { "secretName": TLS_SECRET, "defaultMode": 0o440 } }],
    });
    if given.flow_log
        && let Some(volumes) = pod["volumes"].as_array_mut()
    {
        volumes.push(json!({ "name": "flows", "emptyDir": {} }));
    }
    if !given.console_token_secret.is_empty()
        && let Some(volumes) = pod["volumes"].as_array_mut()
    {
        let secret = json!({ "secretName": given.console_token_secret, "defaultMode": 0o440 });
        volumes.push(json!({ "name": "console", "secret": secret }));
    }
    if !given.webhook_client_ca_secret.is_empty()
        && let Some(volumes) = pod["volumes"].as_array_mut()
    {
        let secret = json!({ "secretName": given.webhook_client_ca_secret, "defaultMode": 0o440 });
        volumes.push(json!({ "name": "webhook-clients", "secret": secret }));
    }
    if !given.node_selector.is_empty() {
        pod["nodeSelector"] = json!(given.node_selector);
    }
    if !values.osm.image_pull_secrets.is_empty() {
        pod["imagePullSecrets"] = json!(values.osm.image_pull_secrets);
    }
    if !values.osm.control_plane_tolerations.is_empty() {
        pod["tolerations"] = json!(values.osm.control_plane_tolerations);
    }
    json!({
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {
            "name": NAME, "namespace": names.namespace,
            "annotations": { VALUES_ANNOTATION: input.given.to_string() },
        },
        "spec": {
            "replicas": given.replicas,
            "revisionHistoryLimit": 3,
            "selector": { "matchLabels": names.selector() },
            "strategy": { "type": "RollingUpdate", "rollingUpdate": { "maxSurge": 1, "maxUnavailable": 0 } },
            "template": { "metadata": { "labels": names.selector() }, "spec": pod },
        },
    })
}

fn container(input: &Input<'_>) -> Value {
    let given = &input.values.osm.egress;
    let port = |name: &str, port: u16| json!({ "name": name, "containerPort": port, "protocol": "TCP" });
    let probe = |path: &str, every: u32, failures: u32| {
        json!({
            "httpGet": { "path": path, "port": "admin", "scheme": "HTTP" },
            "periodSeconds": every, "timeoutSeconds": 3, "failureThreshold": failures,
        })
    };
    let mut mounts = vec![json!({ "name": "tls", "mountPath": TLS_MOUNT_PATH, "readOnly": true })];
    if given.flow_log {
        mounts.push(json!({ "name": "flows", "mountPath": FLOWS_MOUNT_PATH }));
    }
    if !given.console_token_secret.is_empty() {
        mounts.push(json!({ "name": "console", "mountPath": CONSOLE_MOUNT_PATH, "readOnly": true }));
    }
    if !given.webhook_client_ca_secret.is_empty() {
        mounts.push(
            json!({ "name": "webhook-clients", "mountPath": WEBHOOK_CLIENTS_MOUNT_PATH, "readOnly": true }),
        );
    }
    json!({
        "name": NAME,
        "image": given.image,
        "imagePullPolicy": given.image_pull_policy,
        "args": arguments(input),
        "ports": [port("xds", XDS_PORT), port("webhook", WEBHOOK_PORT), port("admin", ADMIN_PORT)],
        "livenessProbe": probe("/healthz", 10, 3),
        // Not /readyz: without the API server, all control planes serve the last good state. If they became unready,
        // restarting sidecars would get no policy.
        "readinessProbe": probe("/servingz", 5, 2),
        "resources": given.resources,
        "securityContext": {
            "allowPrivilegeEscalation": false,
            "readOnlyRootFilesystem": true,
            "capabilities": { "drop": ["ALL"] },
        },
        "volumeMounts": mounts,
    })
}

fn arguments(input: &Input<'_>) -> Vec<String> {
    let Input { values, names, .. } = input;
    let given = &values.osm.egress;
    let [host, _] = names.hosts();
    let mut arguments = vec!["serve".to_owned()];
    let mut flag = |name: &str, value: String| arguments.push(format!("--{name}={value}"));
    flag("wasm", "/egress_filter.wasm".to_owned());
    flag("mesh-name", names.mesh.clone());
    flag("osm-namespace", names.namespace.clone());
    // Always set: `upgrade` reads the current policy namespaces from it.
    flag("policy-namespaces", values.policy_namespaces(&names.namespace));
    flag("xds-listen", format!("0.0.0.0:{XDS_PORT}"));
    flag("admin-listen", format!("0.0.0.0:{ADMIN_PORT}"));
    flag("webhook-listen", format!("0.0.0.0:{WEBHOOK_PORT}"));
    flag("tls-cert", format!("{TLS_MOUNT_PATH}/tls.crt"));
    flag("tls-key", format!("{TLS_MOUNT_PATH}/tls.key"));
    flag("xds-address", format!("{host}:{XDS_PORT}"));
    flag("xds-ca", format!("{TLS_MOUNT_PATH}/ca.crt"));
    flag("sidecar-image", values.osm.sidecar_image.clone());
    flag("init-image", given.init_image.clone());
    flag("http-deny-status", given.http_deny_status.to_string());
    if given.module_delivery != INLINE {
        flag("module-delivery", given.module_delivery.clone());
    }
    if !given.idle_timeout.is_empty() {
        flag("idle-timeout", given.idle_timeout.clone());
    }
    if given.upstream_idle_timeout != UPSTREAM_IDLE_TIMEOUT {
        flag("upstream-idle-timeout", given.upstream_idle_timeout.clone());
    }
    if given.ip_families == super::super::values::IpFamilies::Ipv4 {
        flag("ip-families", "ipv4".to_owned());
    }
    match given.pod_annotations {
        PodAnnotations::All => {}
        PodAnnotations::Tighten => flag(POD_ANNOTATIONS_FLAG, "tighten".to_owned()),
        PodAnnotations::None => flag(POD_ANNOTATIONS_FLAG, "none".to_owned()),
    }
    if !given.dns_resolvers.is_empty() {
        flag("dns-resolver", given.dns_resolvers.join(","));
    }
    if !given.never_resolve_to.is_empty() {
        flag("never-resolve-to", given.never_resolve_to.join(","));
    }
    if !given.nat64_prefixes.is_empty() {
        flag("nat64-prefix", given.nat64_prefixes.join(","));
    }
    if given.encrypted_hello == EncryptedHello::Refuse {
        flag("encrypted-hello", "refuse".to_owned());
    }
    match given.pod_dns {
        PodDns::Allow => flag("pod-dns", "allow".to_owned()),
        PodDns::Warn => {}
        PodDns::Refuse => flag("pod-dns", "refuse".to_owned()),
    }
    if given.flow_log {
        flag("flows-per-identity", given.flows_per_identity.to_string());
        flag("flow-db", format!("{FLOWS_MOUNT_PATH}/flows.db"));
    }
    if !given.console_token_secret.is_empty() {
        flag("console-token-file", format!("{CONSOLE_MOUNT_PATH}/token"));
    }
    if !given.webhook_client_ca_secret.is_empty() {
        flag("webhook-client-ca", format!("{WEBHOOK_CLIENTS_MOUNT_PATH}/ca.crt"));
        if !given.webhook_client_names.is_empty() {
            flag("webhook-client-name", given.webhook_client_names.join(","));
        }
    }
    flag("log-format", "json".to_owned());
    arguments.push("--service-account-tokens".to_owned());
    if given.cni {
        arguments.push(CNI_FLAG.to_owned());
    }
    let native = match given.native_sidecar {
        NativeSidecar::Auto => input.cluster.native_sidecars,
        NativeSidecar::Enabled => true,
        NativeSidecar::Disabled => false,
    };
    if native {
        arguments.push(NATIVE_FLAG.to_owned());
    }
    if given.flow_log {
        arguments.push("--flow-log".to_owned());
    }
    if given.allow_custom_methods {
        arguments.push("--allow-custom-methods".to_owned());
    }
    if !given.console_token_secret.is_empty() {
        arguments.push("--console-write".to_owned());
    }
    arguments
}
