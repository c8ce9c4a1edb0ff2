//! The checks of pods: pods without a sidecar, and connections that a sidecar does not intercept.

use anyhow::Result;
use serde_json::Value;

use super::super::cluster::Cluster;
use super::super::object_id::api_resource;
use super::report::{Report, State};
use egress_inject::{
    HOSTS_PATH, INIT_CONTAINER, INJECTION_ANNOTATION, SIDECAR_CONTAINER, find_bypasses, find_name_overrides,
    has_proxy_uid, parse_enabled,
};

/// The most pods that one check lists.
const MAX_LISTED: usize = 20;
/// The annotations by which pods exclude connections from interception.
const EXCLUSION_ANNOTATIONS: [&str; 4] = [
    "openservicemesh.io/outbound-port-exclusion-list",
    "openservicemesh.io/inbound-port-exclusion-list",
    "openservicemesh.io/outbound-ip-range-exclusion-list",
    "openservicemesh.io/outbound-ip-range-inclusion-list",
];

/// The findings about the pods of the mesh.
#[derive(Debug, Default, PartialEq, Eq)]
struct PodFindings {
    without_sidecar: Vec<String>,
    host_network: Vec<String>,
    proxy_uid: Vec<String>,
    exclusions: Vec<String>,
    bypasses: Vec<String>,
    shared_hosts: Vec<String>,
    set_names: Vec<String>,
    count: usize,
}

impl PodFindings {
    fn add(&mut self, pod: &Value) {
        let phase = pod["status"]["phase"].as_str().unwrap_or_default();
        if ["Succeeded", "Failed"].contains(&phase) {
            return;
        }
        self.count += 1;
        let (metadata, spec) = (&pod["metadata"], &pod["spec"]);
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let name = format!("{}/{}", text(&metadata["namespace"]), text(&metadata["name"]));
        let containers = || {
            ["containers", "initContainers"]
                .into_iter()
                .flat_map(|key| spec[key].as_array().into_iter().flatten())
        };
        if spec["hostNetwork"] == true {
            self.host_network.push(name);
            return;
        }
        if !containers().any(|container| container["name"] == SIDECAR_CONTAINER) {
            let annotation = metadata["annotations"][INJECTION_ANNOTATION].as_str();
            let by_itself = matches!(parse_enabled(annotation, INJECTION_ANNOTATION), Ok(Some(false)));
            self.without_sidecar.push(if by_itself {
                format!("{name} (disabled by its annotation)")
            } else {
                name
            });
            return;
        }
        let mut sidecars = containers().filter(|container| container["name"] == SIDECAR_CONTAINER);
        let has_hosts = |container: &Value| {
            let mounts = container["volumeMounts"].as_array().into_iter().flatten();
            mounts.into_iter().any(|mount| mount["mountPath"] == HOSTS_PATH)
        };
        if !sidecars.all(has_hosts) {
            self.shared_hosts.push(name.clone());
        }
        self.set_names.extend(find_name_overrides(pod, None).iter().map(|led| format!("{name}: {led}")));
        let is_own = |container: &&Value| {
            container["name"] != SIDECAR_CONTAINER && container["name"] != INIT_CONTAINER
        };
        let ephemeral = spec["ephemeralContainers"].as_array().into_iter().flatten();
        let others: Vec<&Value> = containers().chain(ephemeral).filter(is_own).collect();
        for container in others.iter().filter(|container| has_proxy_uid(spec, container) != Ok(false)) {
            self.proxy_uid.push(format!("{name}: {}", text(&container["name"])));
        }
        let found = find_bypasses(spec, others);
        if !found.is_empty() {
            self.bypasses.push(format!("{name}: {}", found.join(", ")));
        }
        for key in EXCLUSION_ANNOTATIONS {
            if let Some(list) = metadata["annotations"][key].as_str() {
                let short = key.trim_start_matches("openservicemesh.io/");
                self.exclusions.push(format!("{name}: {short} {list}"));
            }
        }
    }
}

pub(super) async fn check_pods(cluster: &Cluster, namespaces: &[&str], report: &mut Report) -> Result<()> {
    let mut found = PodFindings::default();
    for namespace in namespaces {
        for pod in cluster.list(&api_resource("v1", "Pod"), Some(namespace), "").await? {
            found.add(&pod);
        }
    }
    let restart = "restart them once injection works";
    let with = |list: Vec<String>, advice: &str| -> Vec<String> {
        if list.is_empty() {
            Vec::new()
        } else {
            vec![format!("{} ({advice})", truncate_list(list).join(", "))]
        }
    };
    let count = found.count;
    report.add_findings(
        "pods without sidecar",
        State::Warn,
        &with(found.without_sidecar, restart),
        format!("none of {count}"),
    );
    let advice = "no sidecar can intercept them";
    report.add_findings(
        "pods in the network of their host",
        State::Warn,
        &with(found.host_network, advice),
        format!("none of {count}"),
    );
    let advice = "their connections count as the sidecar's own and bypass it";
    report.add_findings("containers with uid 1500", State::Warn, &with(found.proxy_uid, advice), "none");
    let advice = "they use the hosts file of the pod, which `hostAliases` and root in the pod can change: restart the pods";
    report.add_findings(
        "sidecars without a hosts file of their own",
        State::Warn,
        &with(found.shared_hosts, advice),
        "none",
    );
    report.add_findings("pods that lead names", State::Warn, &truncate_list(found.set_names), "none");
    report.add_findings(
        "lists of pods",
        State::Warn,
        &truncate_list(found.exclusions),
        "no pod excludes anything",
    );
    let good = "no pod has permissions that bypass its sidecar";
    report.add_findings("ways round sidecars", State::Warn, &truncate_list(found.bypasses), good);
    Ok(())
}

/// Truncates a list, and appends the number of the other items.
fn truncate_list(mut list: Vec<String>) -> Vec<String> {
    let more = list.len().saturating_sub(MAX_LISTED);
    if more > 0 {
        list.truncate(MAX_LISTED);
        list.push(format!("and {more} more"));
    }
    list
}

/// Checks the exclusion lists of the MeshConfig, which apply to every sidecar.
pub(super) fn check_mesh_exclusions(config: &Value, report: &mut Report) {
    let traffic = config["spec"]["traffic"].as_object();
    let lists: Vec<String> = traffic
        .into_iter()
        .flatten()
        .filter(|(key, list)| key.ends_with("List") && list.as_array().is_some_and(|list| !list.is_empty()))
        .map(|(key, list)| format!("{key} {list}"))
        .collect();
    report.add_findings("lists of the MeshConfig", State::Warn, &lists, "they exclude nothing");
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pod(name: &str, annotations: Value, spec: Value) -> Value {
        json!({ "metadata": { "namespace": "a", "name": name, "annotations": annotations }, "spec": spec })
    }

    #[test]
    fn pods_that_bypass_their_sidecar_are_found() {
        let mounts = [json!({ "name": "osm-egress-hosts", "mountPath": "/etc/hosts" })];
        let envoy =
            json!({ "name": "envoy", "securityContext": { "runAsUser": 1500 }, "volumeMounts": mounts });
        let mut found = PodFindings::default();
        let list = json!({ EXCLUSION_ANNOTATIONS[0]: "5432" });
        let app = json!({ "name": "app", "securityContext": { "runAsNonRoot": true } });
        let init =
            json!({ "name": "osm-init", "securityContext": { "capabilities": { "add": ["NET_ADMIN"] } } });
        found.add(&pod("good", json!({}), json!({ "containers": [envoy, app], "initContainers": [init] })));
        let raw = json!({ "name": "app", "securityContext": { "runAsUser": 1, "capabilities": { "add": ["NET_RAW"] } } });
        found.add(&pod("raw", json!({}), json!({ "containers": [envoy, raw] })));
        let off = json!({ INJECTION_ANNOTATION: "disabled" });
        found.add(&pod("off", off, json!({ "containers": [{ "name": "app" }] })));
        found.add(&pod("bare", json!({}), json!({ "containers": [{ "name": "app" }] })));
        found.add(&pod("host", json!({}), json!({ "hostNetwork": true, "containers": [{ "name": "app" }] })));
        found.add(&pod("lists", list, json!({ "containers": [app], "initContainers": [envoy] })));
        found.add(&pod("user", json!({}), json!({
            "securityContext": { "runAsUser": 1500 },
            "containers": [envoy, { "name": "one" }, { "name": "two", "securityContext": { "runAsUser": 1 } }],
            "initContainers": [{ "name": "three", "securityContext": { "runAsUser": 1500 } }],
            "ephemeralContainers": [{ "name": "four", "securityContext": { "runAsUser": "0x5dc" } }],
        })));
        let mut old = envoy.clone();
        old["volumeMounts"] = json!([]);
        let aliases = json!([{ "ip": "6.6.6.6", "hostnames": ["a.org"] }]);
        found.add(&pod("aliases", json!({}), json!({ "containers": [old, app], "hostAliases": aliases })));
        let mut done = pod("done", json!({}), json!({ "containers": [{ "name": "app" }] }));
        done["status"]["phase"] = json!("Succeeded");
        found.add(&done);
        let strings = |list: &[&str]| list.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>();
        let expected = PodFindings {
            without_sidecar: strings(&["a/off (disabled by its annotation)", "a/bare"]),
            host_network: strings(&["a/host"]),
            proxy_uid: strings(&["a/user: one", "a/user: three", "a/user: four"]),
            exclusions: strings(&["a/lists: outbound-port-exclusion-list 5432"]),
            bypasses: strings(&[
                "a/raw: container `app` can send raw packets (NET_RAW), which are not intercepted",
                "a/user: as root, `four` would have NET_RAW and SETUID by default and could bypass the sidecar: set \
                 `runAsNonRoot: true` or `capabilities.drop: [ALL]`",
            ]),
            shared_hosts: strings(&["a/aliases"]),
            set_names: vec![found.set_names.first().cloned().unwrap_or_default()],
            count: 8,
        };
        assert_eq!(found, expected);
        assert!(
            found.set_names[0].starts_with("a/aliases: `hostAliases` maps `a.org` to 6.6.6.6"),
            "{found:?}"
        );
    }

    #[test]
    fn exclusions_of_the_mesh_are_found() {
        let mut report = Report::default();
        let traffic = json!({ "enableEgress": true, "inboundPortExclusionList": [],
            "outboundPortExclusionList": [80], "outboundIPRangeInclusionList": ["10.0.0.0/8"] });
        check_mesh_exclusions(&json!({ "spec": { "traffic": traffic } }), &mut report);
        assert_eq!(report.checks[0].state, State::Warn);
        assert!(report.checks[0].message.contains("outboundPortExclusionList [80]"), "{report}");
        assert!(!report.to_string().contains("inbound"), "{report}");
    }
}
