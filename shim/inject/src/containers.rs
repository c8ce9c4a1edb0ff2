//! What a pod gets.

use egress_compile::manifest::spec::Sidecar;
use serde_json::{Map, Value, json};

use super::bootstrap::{self, READY_PORT, TOKEN_FILE, TOKEN_FOLDER};
use super::{HOSTS_PATH, HOSTS_VOLUME, INIT, Refusal, SIDECAR, Settings, TOKEN_VOLUME};
use crate::interception::{Interception, PROXY_UID};
use egress_envoy::IpFamilies;

/// The hosts file in its volume.
const HOSTS_FILE: &str = "hosts";
/// How long a token lives; the kubelet replaces it in time.
const TOKEN_SECONDS: u32 = 3600;

/// Open Service Mesh's default.
const LOG_LEVEL: &str = "error";

/// Envoy.
pub(super) fn sidecar(settings: &Settings, mesh: &Sidecar, native: bool) -> Result<Value, Refusal> {
    let image = chosen(&mesh.envoy_image, &settings.sidecar_image);
    let version = bootstrap::version(image)?;
    let mut container = json!({
        "name": SIDECAR,
        "image": image,
        "command": ["envoy"],
        "args": [
            "--config-yaml", bootstrap::text(settings, version),
            "--service-node", "$(POD_NAME).$(SERVICE_ACCOUNT).$(POD_NAMESPACE)",
            "--service-cluster", "$(SERVICE_ACCOUNT).$(POD_NAMESPACE)",
            "--log-level", chosen(&mesh.log_level, LOG_LEVEL),
            "--concurrency", settings.concurrency.to_string(),
            // It would want a folder for itself.
            "--disable-hot-restart",
        ],
        "env": [
            from_pod("POD_NAME", "metadata.name"),
            from_pod("POD_NAMESPACE", "metadata.namespace"),
            from_pod("SERVICE_ACCOUNT", "spec.serviceAccountName"),
        ],
        "readinessProbe": probe(2),
        "securityContext": {
            "runAsUser": PROXY_UID,
            "runAsGroup": PROXY_UID,
            "runAsNonRoot": true,
            "privileged": false,
            "allowPrivilegeEscalation": false,
            "readOnlyRootFilesystem": true,
            "capabilities": {"drop": ["ALL"]},
            "seccompProfile": {"type": "RuntimeDefault"},
        },
    });
    let hosts =
        json!({"name": HOSTS_VOLUME, "mountPath": HOSTS_PATH, "subPath": HOSTS_FILE, "readOnly": true});
    let token = json!({"name": TOKEN_VOLUME, "mountPath": TOKEN_FOLDER, "readOnly": true});
    container["volumeMounts"] = settings.xds_ca.iter().map(|_| token.clone()).chain([hosts]).collect();
    if native {
        container["restartPolicy"] = json!("Always");
        // The init containers that follow wait for this.
        container["startupProbe"] = probe(1);
    }
    resources(&mut container, mesh);
    Ok(container)
}

/// What intercepts, before anything of the pod's own runs.
pub(super) fn init(settings: &Settings, mesh: &Sidecar, interception: &Interception) -> Value {
    let privileged = mesh.enable_privileged_init_container == Some(true);
    let mut container = json!({
        "name": INIT,
        "image": chosen(&mesh.init_container_image, &settings.init_image),
        "command": ["osm-egress"],
        "args": arguments(settings, interception),
        // Where the file of the lock would be, nothing can be written.
        "env": [{"name": "XTABLES_LOCKFILE", "value": "/dev/shm/osm-egress-xtables.lock"}],
        "securityContext": {
            "runAsUser": 0,
            "runAsGroup": 0,
            "runAsNonRoot": false,
            "privileged": privileged,
            // Kubernetes refuses the contradiction.
            "allowPrivilegeEscalation": privileged,
            "readOnlyRootFilesystem": true,
            // iptables over x_tables opens a raw socket.
            "capabilities": {"drop": ["ALL"], "add": ["NET_ADMIN", "NET_RAW"]},
            "seccompProfile": {"type": "RuntimeDefault"},
        },
    });
    resources(&mut container, mesh);
    container
}

/// The token that says who the sidecar is, for nobody but the control plane, and the sidecar's hosts file.
///
/// The pod's own hosts file is `hostAliases`, and root in any of its containers may write it. The kubelet makes this
/// one of what it knows, and mounts it for reading only. The pod's uid is a line without a name, so it says nothing.
pub(super) fn volumes(settings: &Settings) -> Vec<Value> {
    let uid = json!({"path": HOSTS_FILE, "fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.uid"}});
    let hosts = json!({"name": HOSTS_VOLUME, "downwardAPI": {"items": [uid]}});
    let token = json!({
        "audience": settings.token_audience,
        "expirationSeconds": TOKEN_SECONDS,
        "path": TOKEN_FILE,
    });
    let volume = json!({"name": TOKEN_VOLUME, "projected": {"sources": [{"serviceAccountToken": token}]}});
    settings.xds_ca.iter().map(|_| volume.clone()).chain([hosts]).collect()
}

fn arguments(settings: &Settings, interception: &Interception) -> Vec<String> {
    let Interception { exclude_interfaces, exclude_blocks, exclude_ports, include_blocks, .. } = interception;
    let mut arguments = vec!["iptables".to_owned()];
    let mut list = |flag: &str, items: Vec<String>| {
        if !items.is_empty() {
            arguments.extend([flag.to_owned(), items.join(",")]);
        }
    };
    list("--exclude-ports", exclude_ports.iter().map(ToString::to_string).collect());
    list("--exclude-cidrs", exclude_blocks.iter().map(ToString::to_string).collect());
    list("--include-cidrs", include_blocks.iter().map(ToString::to_string).collect());
    list("--exclude-interfaces", exclude_interfaces.clone());
    if settings.ip_families == IpFamilies::Ipv4 {
        list("--ip-families", vec!["ipv4".to_owned()]);
    }
    arguments
}

fn chosen<'a>(of_mesh: &'a Option<String>, otherwise: &'a str) -> &'a str {
    of_mesh.as_deref().filter(|text| !text.is_empty()).unwrap_or(otherwise)
}

fn from_pod(name: &str, field: &str) -> Value {
    json!({"name": name, "valueFrom": {"fieldRef": {"apiVersion": "v1", "fieldPath": field}}})
}

fn probe(period: u8) -> Value {
    json!({
        "httpGet": {"path": "/ready", "port": READY_PORT},
        "periodSeconds": period,
        "timeoutSeconds": 1,
        "failureThreshold": 60,
    })
}

/// The init container is gone when the sidecar runs, so it costs nothing more.
fn resources(container: &mut Value, mesh: &Sidecar) {
    if let Some(resources) =
        mesh.resources.as_ref().filter(|resources| **resources != Value::Object(Map::new()))
    {
        container["resources"] = resources.clone();
    }
}
