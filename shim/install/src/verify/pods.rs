//! Pods that no sidecar holds, and connections that it does not see.

use anyhow::Result;
use serde_json::Value;

use super::super::cluster::Cluster;
use super::super::id::resource;
use super::report::{Report, State};
use egress_inject::{
    HOSTS_PATH, INIT_CONTAINER, INJECTION_ANNOTATION, SIDECAR_CONTAINER, find_bypasses, find_name_overrides,
    has_proxy_uid, parse_enabled,
};

/// How many pods are named of each sort; nobody reads more.
const SHOWN: usize = 20;
/// What pods can say about what is not captured.
const LISTS: [&str; 4] = [
    "openservicemesh.io/outbound-port-exclusion-list",
    "openservicemesh.io/inbound-port-exclusion-list",
    "openservicemesh.io/outbound-ip-range-exclusion-list",
    "openservicemesh.io/outbound-ip-range-inclusion-list",
];

/// What is remarkable about pods.
#[derive(Debug, Default, PartialEq, Eq)]
struct Found {
    without: Vec<String>,
    host: Vec<String>,
    user: Vec<String>,
    lists: Vec<String>,
    permitted: Vec<String>,
    shared_hosts: Vec<String>,
    led: Vec<String>,
    count: usize,
}

impl Found {
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
            self.host.push(name);
            return;
        }
        if !containers().any(|container| container["name"] == SIDECAR_CONTAINER) {
            let says = metadata["annotations"][INJECTION_ANNOTATION].as_str();
            let by_itself = matches!(parse_enabled(says, INJECTION_ANNOTATION), Ok(Some(false)));
            self.without.push(if by_itself { format!("{name} (its annotation says so)") } else { name });
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
        self.led.extend(find_name_overrides(pod, None).iter().map(|led| format!("{name}: {led}")));
        let is_own = |container: &&Value| {
            container["name"] != SIDECAR_CONTAINER && container["name"] != INIT_CONTAINER
        };
        let ephemeral = spec["ephemeralContainers"].as_array().into_iter().flatten();
        let others: Vec<&Value> = containers().chain(ephemeral).filter(is_own).collect();
        for container in others.iter().filter(|container| has_proxy_uid(spec, container) != Ok(false)) {
            self.user.push(format!("{name}: {}", text(&container["name"])));
        }
        let found = find_bypasses(spec, others);
        if !found.is_empty() {
            self.permitted.push(format!("{name}: {}", found.join(", ")));
        }
        for key in LISTS {
            if let Some(list) = metadata["annotations"][key].as_str() {
                let short = key.trim_start_matches("openservicemesh.io/");
                self.lists.push(format!("{name}: {short} {list}"));
            }
        }
    }
}

pub(super) async fn look(cluster: &Cluster, namespaces: &[&str], report: &mut Report) -> Result<()> {
    let mut found = Found::default();
    for namespace in namespaces {
        for pod in cluster.list(&resource("v1", "Pod"), Some(namespace), "").await? {
            found.add(&pod);
        }
    }
    let restart = "restart them once injection works";
    let with = |list: Vec<String>, advice: &str| -> Vec<String> {
        if list.is_empty() { Vec::new() } else { vec![format!("{} ({advice})", first(list).join(", "))] }
    };
    let count = found.count;
    report.sum(
        "pods without sidecar",
        State::Warn,
        &with(found.without, restart),
        format!("none of {count}"),
    );
    let advice = "no sidecar can hold them";
    report.sum(
        "pods in the network of their host",
        State::Warn,
        &with(found.host, advice),
        format!("none of {count}"),
    );
    let advice = "their connections count as the sidecar's own and go round it";
    report.sum("containers with uid 1500", State::Warn, &with(found.user, advice), "none that says so");
    let advice =
        "it follows the hosts file of the pod, which `hostAliases` and root in the pod write: restart them";
    report.sum(
        "sidecars without a hosts file of their own",
        State::Warn,
        &with(found.shared_hosts, advice),
        "none",
    );
    report.sum("pods that lead names", State::Warn, &first(found.led), "none");
    report.sum("lists of pods", State::Warn, &first(found.lists), "no pod leaves anything out");
    let good = "no pod is permitted what leads round its sidecar";
    report.sum("ways round sidecars", State::Warn, &first(found.permitted), good);
    Ok(())
}

/// The first of a list, and how many more there are.
fn first(mut list: Vec<String>) -> Vec<String> {
    let more = list.len().saturating_sub(SHOWN);
    if more > 0 {
        list.truncate(SHOWN);
        list.push(format!("and {more} more"));
    }
    list
}

/// What the MeshConfig takes out of every sidecar's sight.
pub(super) fn excluded_everywhere(config: &Value, report: &mut Report) {
    let traffic = config["spec"]["traffic"].as_object();
    let lists: Vec<String> = traffic
        .into_iter()
        .flatten()
        .filter(|(key, list)| key.ends_with("List") && list.as_array().is_some_and(|list| !list.is_empty()))
        .map(|(key, list)| format!("{key} {list}"))
        .collect();
    report.sum("lists of the MeshConfig", State::Warn, &lists, "they leave nothing out");
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pod(name: &str, annotations: Value, spec: Value) -> Value {
        json!({ "metadata": { "namespace": "a", "name": name, "annotations": annotations }, "spec": spec })
    }

    #[test]
    fn what_is_not_captured_is_found() {
        let mounts = [json!({ "name": "osm-egress-hosts", "mountPath": "/etc/hosts" })];
        let envoy =
            json!({ "name": "envoy", "securityContext": { "runAsUser": 1500 }, "volumeMounts": mounts });
        let mut found = Found::default();
        let list = json!({ LISTS[0]: "5432" });
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
        let expected = Found {
            without: strings(&["a/off (its annotation says so)", "a/bare"]),
            host: strings(&["a/host"]),
            user: strings(&["a/user: one", "a/user: three", "a/user: four"]),
            lists: strings(&["a/lists: outbound-port-exclusion-list 5432"]),
            permitted: strings(&[
                "a/raw: container `app` may send raw packets (NET_RAW), which nothing intercepts",
                "a/user: as root, `four` would have NET_RAW and SETUID by default and could bypass the sidecar: set \
                 `runAsNonRoot: true` or `capabilities.drop: [ALL]`",
            ]),
            shared_hosts: strings(&["a/aliases"]),
            led: vec![found.led.first().cloned().unwrap_or_default()],
            count: 8,
        };
        assert_eq!(found, expected);
        assert!(found.led[0].starts_with("a/aliases: `hostAliases` maps `a.org` to 6.6.6.6"), "{found:?}");
    }

    #[test]
    fn lists_of_the_mesh_are_found() {
        let mut report = Report::default();
        let traffic = json!({ "enableEgress": true, "inboundPortExclusionList": [],
            "outboundPortExclusionList": [80], "outboundIPRangeInclusionList": ["10.0.0.0/8"] });
        excluded_everywhere(&json!({ "spec": { "traffic": traffic } }), &mut report);
        assert_eq!(report.checks[0].state, State::Warn);
        assert!(report.checks[0].message.contains("outboundPortExclusionList [80]"), "{report}");
        assert!(!report.to_string().contains("inbound"), "{report}");
    }
}
