//! Containers and volumes that a pod gets.

use egress_compile::manifest::spec::Sidecar;
use serde_json::{Map, Value, json};

use super::bootstrap::{self, READY_PORT, TOKEN_FILE, TOKEN_FOLDER};
use super::{
    HOSTS_PATH, HOSTS_VOLUME, INIT_CONTAINER, InjectionError, SIDECAR_CONTAINER, Settings, TOKEN_VOLUME,
};
use crate::interception::{Interception, PROXY_UID, render_arguments};
use crate::validation::{VALIDATE_COMMAND, VALIDATOR_UID};

/// File name of the hosts file in its volume.
const HOSTS_FILE: &str = "hosts";
/// Lifetime of a token; the kubelet renews it in time.
const TOKEN_LIFETIME_SECONDS: u32 = 3600;

/// Command of the binary that installs the rules.
const IPTABLES_COMMAND: &str = "iptables";
/// Path where Kubernetes mounts the workload's API token into each container that mounts nothing there itself. The injected
/// containers ask no API server.
const API_TOKEN_FOLDER: &str = "/var/run/secrets/kubernetes.io/serviceaccount";

/// Default log level of Open Service Mesh.
const DEFAULT_LOG_LEVEL: &str = "error";

/// Builds the sidecar's container.
pub(super) fn sidecar_container(
    settings: &Settings,
    mesh: &Sidecar,
    native: bool,
) -> Result<Value, InjectionError> {
    let image = value_or(&mesh.envoy_image, &settings.sidecar_image);
    let version = bootstrap::envoy_version(image)?;
    let mut container = json!({
        "name": SIDECAR_CONTAINER,
        "image": image,
        "command": ["envoy"],
        "args": [
            "--config-yaml", bootstrap::render(settings, version),
            "--service-node", "$(POD_NAME).$(SERVICE_ACCOUNT).$(POD_NAMESPACE)",
            "--service-cluster", "$(SERVICE_ACCOUNT).$(POD_NAMESPACE)",
            "--log-level", value_or(&mesh.log_level, DEFAULT_LOG_LEVEL),
            "--concurrency", settings.concurrency.to_string(),
            // Hot restart needs a writable folder.
            "--disable-hot-restart",
        ],
        "env": [
            env_from_field("POD_NAME", "metadata.name"),
            env_from_field("POD_NAMESPACE", "metadata.namespace"),
            env_from_field("SERVICE_ACCOUNT", "spec.serviceAccountName"),
        ],
        "readinessProbe": ready_probe(2),
        "securityContext": unprivileged_context(PROXY_UID),
    });
    let hosts =
        json!({"name": HOSTS_VOLUME, "mountPath": HOSTS_PATH, "subPath": HOSTS_FILE, "readOnly": true});
    let token = json!({"name": TOKEN_VOLUME, "mountPath": TOKEN_FOLDER, "readOnly": true});
    container["volumeMounts"] =
        settings.xds_ca.iter().map(|_| token.clone()).chain([hosts, no_api_token()]).collect();
    if native {
        container["restartPolicy"] = json!("Always");
        // The init containers that follow wait for this probe.
        container["startupProbe"] = ready_probe(1);
    }
    set_resources(&mut container, mesh);
    Ok(container)
}

/// Builds the init container that runs before the pod's own containers. It sets up interception, or proves that the CNI
/// plugin has done so.
pub(super) fn init_container(settings: &Settings, mesh: &Sidecar, interception: &Interception) -> Value {
    let mut container = json!({
        "name": INIT_CONTAINER,
        "image": value_or(&mesh.init_container_image, &settings.init_image),
        "command": ["osm-egress"],
    });
    let (command, context) = if settings.cni {
        // The message that a pod's status shows.
        container["terminationMessagePolicy"] = json!("FallbackToLogsOnError");
        (VALIDATE_COMMAND, unprivileged_context(VALIDATOR_UID))
    } else {
        // The default folder of the lock file is read-only.
        container["env"] = json!([{"name": "XTABLES_LOCKFILE", "value": "/dev/shm/osm-egress-xtables.lock"}]);
        let privileged = mesh.enable_privileged_init_container == Some(true);
        let context = json!({
            "runAsUser": 0,
            "runAsGroup": 0,
            "runAsNonRoot": false,
            "privileged": privileged,
            // Kubernetes refuses a privileged container that may not escalate.
            "allowPrivilegeEscalation": privileged,
            "readOnlyRootFilesystem": true,
            // iptables over x_tables opens a raw socket.
            "capabilities": {"drop": ["ALL"], "add": ["NET_ADMIN", "NET_RAW"]},
            "seccompProfile": {"type": "RuntimeDefault"},
        });
        (IPTABLES_COMMAND, context)
    };
    let arguments = render_arguments(interception, settings.ip_families);
    container["args"] = std::iter::once(command.to_owned()).chain(arguments).collect();
    container["volumeMounts"] = json!([no_api_token()]);
    container["securityContext"] = context;
    set_resources(&mut container, mesh);
    container
}

/// The security context that Kubernetes' profile `restricted` accepts.
fn unprivileged_context(uid: u32) -> Value {
    json!({
        "runAsUser": uid,
        "runAsGroup": uid,
        "runAsNonRoot": true,
        "privileged": false,
        "allowPrivilegeEscalation": false,
        "readOnlyRootFilesystem": true,
        "capabilities": {"drop": ["ALL"]},
        "seccompProfile": {"type": "RuntimeDefault"},
    })
}

/// Builds a mount in the place of the workload's API token. The volume is that of the hosts file, which exists anyway and
/// holds nothing secret.
fn no_api_token() -> Value {
    json!({"name": HOSTS_VOLUME, "mountPath": API_TOKEN_FOLDER, "readOnly": true})
}

/// Builds the volumes: the token that identifies the sidecar to the control plane, and the sidecar's hosts file.
///
/// The pod's own hosts file has its `hostAliases`, and root in any container can write it. This one comes from the
/// downward API and is mounted read-only. Its only line is the pod's uid, which has no name and so maps nothing.
pub(super) fn volumes(settings: &Settings) -> Vec<Value> {
    let uid = json!({"path": HOSTS_FILE, "fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.uid"}});
    let hosts = json!({"name": HOSTS_VOLUME, "downwardAPI": {"items": [uid]}});
    let token = json!({
        "audience": settings.token_audience,
        "expirationSeconds": TOKEN_LIFETIME_SECONDS,
        "path": TOKEN_FILE,
    });
    let volume = json!({"name": TOKEN_VOLUME, "projected": {"sources": [{"serviceAccountToken": token}]}});
    settings.xds_ca.iter().map(|_| volume.clone()).chain([hosts]).collect()
}

fn value_or<'a>(of_mesh: &'a Option<String>, otherwise: &'a str) -> &'a str {
    of_mesh.as_deref().filter(|text| !text.is_empty()).unwrap_or(otherwise)
}

fn env_from_field(name: &str, field: &str) -> Value {
    json!({"name": name, "valueFrom": {"fieldRef": {"apiVersion": "v1", "fieldPath": field}}})
}

fn ready_probe(period: u8) -> Value {
    json!({
        "httpGet": {"path": "/ready", "port": READY_PORT},
        "periodSeconds": period,
        "timeoutSeconds": 1,
        "failureThreshold": 60,
    })
}

/// Sets the resources: those of the MeshConfig, else defaults, because a namespace with a ResourceQuota refuses pods that
/// have a container without. The init container has ended when the sidecar runs, so it needs none in addition.
fn set_resources(container: &mut Value, mesh: &Sidecar) {
    let of_mesh = mesh.resources.as_ref().filter(|resources| **resources != Value::Object(Map::new()));
    container["resources"] = of_mesh.cloned().unwrap_or_else(default_resources);
}

/// Returns the default resources. An idle sidecar has some 60 MB, and each worker at most 16 MiB of connections that wait
/// for their first bytes. The limits only stop what has gone wrong: two workers use no more than two cores.
fn default_resources() -> Value {
    json!({
        "requests": {"cpu": "50m", "memory": "128Mi"},
        "limits": {"cpu": "2", "memory": "1Gi"},
    })
}
