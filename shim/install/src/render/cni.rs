//! The CNI plugin: a DaemonSet that puts it on each node, with a namespace and permissions of its own.

use egress_compile::IGNORE_LABEL;
use serde_json::{Value, json};

use super::input::Input;
use crate::names::{CNI_NAME, Names};

/// Mount path of the folder of plugins.
const BIN_MOUNT_PATH: &str = "/host/opt/cni/bin";
/// Mount path of the folder of network configurations.
const CONF_MOUNT_PATH: &str = "/host/etc/cni/net.d";

/// The objects, in an order in which none refers to a later one.
pub(super) fn objects(input: &Input<'_>) -> Vec<Value> {
    let namespace = input.names.cni_namespace();
    let metadata = json!({ "name": CNI_NAME, "namespace": namespace });
    let account = json!([{ "kind": "ServiceAccount", "name": CNI_NAME, "namespace": namespace }]);
    let rbac = "rbac.authorization.k8s.io";
    let reference = |kind: &str| json!({ "apiGroup": rbac, "kind": kind, "name": CNI_NAME });
    let version = format!("{rbac}/v1");
    vec![
        json!({
            "apiVersion": "v1",
            "kind": "Namespace",
            "metadata": { "name": namespace, "labels": {
                IGNORE_LABEL: "true",
                // Folders of the node, which no other profile allows.
                "pod-security.kubernetes.io/enforce": "privileged",
            } },
        }),
        json!({ "apiVersion": "v1", "kind": "ServiceAccount", "metadata": metadata }),
        json!({
            "apiVersion": version, "kind": "ClusterRole", "metadata": { "name": CNI_NAME },
            // The plugin reads the pod that it sets up, and nothing else.
            "rules": [{ "apiGroups": [""], "resources": ["pods"], "verbs": ["get"] }],
        }),
        json!({
            "apiVersion": version, "kind": "ClusterRoleBinding", "metadata": { "name": CNI_NAME },
            "roleRef": reference("ClusterRole"), "subjects": account,
        }),
        json!({
            "apiVersion": version, "kind": "Role", "metadata": metadata,
            // When it ends it asks whether it is uninstalled.
            "rules": [{
                "apiGroups": ["apps"], "resources": ["daemonsets"], "resourceNames": [CNI_NAME], "verbs": ["get"],
            }],
        }),
        json!({
            "apiVersion": version, "kind": "RoleBinding", "metadata": metadata,
            "roleRef": reference("Role"), "subjects": account,
        }),
        daemon_set(input, &metadata),
    ]
}

fn daemon_set(input: &Input<'_>, metadata: &Value) -> Value {
    let (names, osm) = (input.names, &input.values.osm);
    let folder = |name: &str, path: &str| json!({ "name": name, "hostPath": { "path": path, "type": "DirectoryOrCreate" } });
    let mut pod = json!({
        "serviceAccountName": CNI_NAME,
        "automountServiceAccountToken": true,
        "enableServiceLinks": false,
        // Before the pods that need it, and on every node that runs any.
        "priorityClassName": "system-node-critical",
        "tolerations": [{ "operator": "Exists" }],
        "nodeSelector": { "kubernetes.io/os": "linux" },
        "securityContext": { "seccompProfile": { "type": "RuntimeDefault" } },
        "containers": [container(input)],
        "volumes": [folder("bin", &osm.egress.cni_bin_dir), folder("conf", &osm.egress.cni_conf_dir)],
    });
    if !osm.image_pull_secrets.is_empty() {
        pod["imagePullSecrets"] = json!(osm.image_pull_secrets);
    }
    json!({
        "apiVersion": "apps/v1",
        "kind": "DaemonSet",
        "metadata": metadata,
        "spec": {
            "revisionHistoryLimit": 3,
            "selector": { "matchLabels": names.cni_selector() },
            "template": { "metadata": { "labels": names.cni_selector() }, "spec": pod },
        },
    })
}

fn container(input: &Input<'_>) -> Value {
    let given = &input.values.osm.egress;
    let arguments = arguments(input);
    let check: Vec<String> = ["/osm-egress".to_owned()]
        .into_iter()
        .chain(arguments.iter().cloned())
        .chain(["--check".to_owned()])
        .collect();
    json!({
        "name": CNI_NAME,
        "image": given.image,
        "imagePullPolicy": given.image_pull_policy,
        "args": arguments,
        "readinessProbe": { "exec": { "command": check }, "periodSeconds": 10, "timeoutSeconds": 15 },
        // Twice the program in memory, when it is compared with the installed one.
        "resources": { "requests": { "cpu": "10m", "memory": "96Mi" }, "limits": { "memory": "256Mi" } },
        "securityContext": {
            // The folders of the node are root's. It needs no capability to write there.
            "runAsUser": 0, "runAsGroup": 0,
            "privileged": false,
            "allowPrivilegeEscalation": false,
            "readOnlyRootFilesystem": true,
            "capabilities": { "drop": ["ALL"] },
        },
        "volumeMounts": [
            { "name": "bin", "mountPath": BIN_MOUNT_PATH },
            { "name": "conf", "mountPath": CONF_MOUNT_PATH },
        ],
    })
}

fn arguments(input: &Input<'_>) -> Vec<String> {
    let (names, given) = (input.names, &input.values.osm.egress);
    vec![
        "cni".to_owned(),
        "install".to_owned(),
        format!("--bin-dir={BIN_MOUNT_PATH}"),
        format!("--net-dir={CONF_MOUNT_PATH}"),
        format!("--node-net-dir={}", given.cni_conf_dir),
        format!(
            "--exclude-namespaces={}",
            excluded_namespaces(names, &given.cni_exclude_namespaces).join(",")
        ),
        format!("--daemon-set={}/{CNI_NAME}", names.cni_namespace()),
    ]
}

/// Namespaces that never get sidecars: they must start while there is no control plane, and no API server to ask.
fn excluded_namespaces(names: &Names, more: &[String]) -> Vec<String> {
    let own = ["kube-system", "kube-public", "kube-node-lease", &names.namespace, &names.cni_namespace()]
        .map(str::to_owned);
    let mut all = own.to_vec();
    all.extend(more.iter().filter(|name| !own.contains(name)).cloned());
    all
}
