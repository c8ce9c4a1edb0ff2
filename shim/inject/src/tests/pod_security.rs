//! Kubernetes' Pod Security Standards, as its documentation lists them, for API servers without this admission.

use super::*;

/// Volumes that the profile `restricted` allows.
const VOLUMES: [&str; 8] = [
    "configMap",
    "csi",
    "downwardAPI",
    "emptyDir",
    "ephemeral",
    "persistentVolumeClaim",
    "projected",
    "secret",
];

/// The controls of `restricted`, and with it of `baseline`, that a pod violates.
fn violations(pod: &Value) -> Vec<String> {
    let spec = &pod["spec"];
    let mut found = Vec::new();
    for field in ["hostNetwork", "hostPID", "hostIPC"] {
        if spec[field] == true {
            found.push(format!("spec.{field}"));
        }
    }
    for volume in spec["volumes"].as_array().into_iter().flatten() {
        let kinds = volume.as_object().into_iter().flatten().map(|(key, _)| key).filter(|key| *key != "name");
        found.extend(
            kinds.filter(|kind| !VOLUMES.contains(&kind.as_str())).map(|kind| format!("volume {kind}")),
        );
    }
    for container in ["initContainers", "containers", "ephemeralContainers"]
        .into_iter()
        .flat_map(|list| spec[list].as_array().into_iter().flatten())
    {
        let context = &container["securityContext"];
        // A field of the container counts before the pod's.
        let effective = |field: &str| {
            if context[field].is_null() { &spec["securityContext"][field] } else { &context[field] }
        };
        let capabilities = |list: &str| -> Vec<&str> {
            context["capabilities"][list].as_array().into_iter().flatten().filter_map(Value::as_str).collect()
        };
        for (control, holds) in [
            ("privileged", context["privileged"] != true),
            ("allowPrivilegeEscalation", context["allowPrivilegeEscalation"] == false),
            ("runAsNonRoot", *effective("runAsNonRoot") == true),
            ("runAsUser", *effective("runAsUser") != 0),
            (
                "seccompProfile",
                ["RuntimeDefault", "Localhost"]
                    .iter()
                    .any(|kind| effective("seccompProfile")["type"] == *kind),
            ),
            ("capabilities.drop", capabilities("drop").contains(&"ALL")),
            ("capabilities.add", capabilities("add").iter().all(|name| *name == "NET_BIND_SERVICE")),
            ("procMount", ["", "Default"].contains(&context["procMount"].as_str().unwrap_or_default())),
            ("seLinuxOptions", effective("seLinuxOptions").is_null()),
            ("appArmorProfile", effective("appArmorProfile")["type"] != "Unconfined"),
            ("sysctls", spec["securityContext"]["sysctls"].is_null()),
            ("hostProbes", container.pointer("/readinessProbe/httpGet/host").is_none()),
            ("hostPort", container.pointer("/ports/0/hostPort").is_none_or(|port| *port == 0)),
        ] {
            if !holds {
                found.push(format!("{}: {control}", container["name"].as_str().unwrap_or_default()));
            }
        }
    }
    found
}

/// A pod that satisfies the profile before injection.
fn restricted() -> Value {
    let mut pod = plain();
    pod["spec"]["securityContext"] =
        json!({"runAsNonRoot": true, "runAsUser": 1000, "seccompProfile": {"type": "RuntimeDefault"}});
    pod["spec"]["containers"][0]["securityContext"] =
        json!({"allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]}});
    pod
}

#[test]
fn with_the_plugin_an_injected_pod_satisfies_the_restricted_profile() {
    assert_eq!(violations(&restricted()), [""; 0]);
    let privileged = Sidecar { enable_privileged_init_container: Some(true), ..Sidecar::default() };
    for mesh in
        [MeshConfig::default(), MeshConfig { sidecar: Some(Box::new(privileged)), ..MeshConfig::default() }]
    {
        for native in [false, true] {
            let settings = Settings { cni: true, native_sidecar: native, ..settings() };
            let found = injected(&restricted(), &settings, &mesh);
            assert_eq!(violations(&found), [""; 0], "{found:#}");
            let init = &found["spec"]["initContainers"][0];
            assert_eq!(init["args"], json!(["validate-interception"]));
            assert_ne!(init["securityContext"]["runAsUser"], 1500);
        }
    }
    // Without it, the table finds what admission refuses.
    let found = violations(&injected(&restricted(), &settings(), &MeshConfig::default()));
    assert_eq!(found, ["osm-init: runAsNonRoot", "osm-init: runAsUser", "osm-init: capabilities.add"]);
}

#[test]
fn the_plugin_reads_back_what_injection_wrote() {
    let (pod, mesh) = everything();
    let without = injected(&pod, &settings(), &mesh);
    let with = injected(&pod, &Settings { cni: true, ..settings() }, &mesh);
    let arguments =
        |pod: &Value| pod["spec"]["initContainers"][0]["args"].as_array().expect("a list")[1..].to_vec();
    assert_eq!(arguments(&with), arguments(&without));
    assert!(arguments(&with).len() >= 6, "{with:#}");
    let (interception, families) = expected_interception(&with).expect("read").expect("expected");
    assert_eq!(families, interception::Family::ALL);
    assert!(!interception.exclude_ports.is_empty() && !interception.exclude_blocks.is_empty());
    assert_eq!(expected_interception(&without), Ok(None));
}
