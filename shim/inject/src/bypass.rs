//! Permissions of a pod that let its containers bypass the sidecar. Kubernetes permits them, so they cause a warning
//! and not a refusal; Pod Security can forbid them.

use serde_json::Value;

use super::user::run_as_user;

/// Capabilities that change the network, or lead to it.
const NETWORK_CAPABILITIES: [&str; 5] = ["ALL", "NET_ADMIN", "SYS_ADMIN", "SYS_MODULE", "BPF"];
/// Capabilities that read or write the node's resources.
const NODE_CAPABILITIES: [&str; 2] = ["DAC_READ_SEARCH", "SYS_RAWIO"];
/// Capabilities that container runtimes give to root unless they are dropped, as far as they matter here.
const DEFAULT_ROOT_CAPABILITIES: [&str; 2] = ["NET_RAW", "SETUID"];

/// Describes each way in which a pod's specification lets these containers bypass the sidecar.
pub fn find_bypasses<'a>(spec: &Value, containers: impl IntoIterator<Item = &'a Value>) -> Vec<String> {
    let mut found = Vec::new();
    let mut roots = Vec::new();
    let is = |key: &str| spec.get(key) == Some(&Value::Bool(true));
    for container in containers {
        let name = container.get("name").and_then(Value::as_str).unwrap_or_default();
        let mut add = |what: &str| found.push(format!("container `{name}` {what}"));
        let capabilities = Capabilities::from_container(container);
        if capabilities.is_privileged || capabilities.first_added(&NETWORK_CAPABILITIES).is_some() {
            add("can change the network, and so turn interception off");
            continue;
        }
        if let Some(capability) = capabilities.first_added(&NODE_CAPABILITIES) {
            add(&format!("can reach into its node ({capability}), where nothing is intercepted"));
        }
        if capabilities.first_added(&["NET_RAW"]).is_some() {
            add("can send raw packets (NET_RAW), which are not intercepted");
        }
        if capabilities.first_added(&["SETUID"]).is_some() {
            add("can switch to the sidecar's uid (SETUID), whose connections are not intercepted");
        }
        if is("shareProcessNamespace") && capabilities.first_added(&["SYS_PTRACE"]).is_some() {
            add("can take over the sidecar's process (SYS_PTRACE with `shareProcessNamespace`)");
        }
        let kept = capabilities.default_capabilities();
        if may_be_root(spec, container) && !kept.is_empty() {
            roots.push((name, kept));
        }
    }
    if let Some((_, kept)) = roots.first() {
        let names: Vec<String> = roots.iter().take(3).map(|(name, _)| format!("`{name}`")).collect();
        let more = match roots.len().saturating_sub(names.len()) {
            0 => String::new(),
            more => format!(" and {more} more"),
        };
        found.push(format!(
            // The wording holds for one container and for several.
            "as root, {}{more} would have {} by default and could bypass the sidecar: set `runAsNonRoot: true` or \
             `capabilities.drop: [ALL]`",
            names.join(", "),
            kept.join(" and "),
        ));
    }
    if is("hostPID") {
        found.push(
            "`hostPID` gives access to the processes of the node, which are not intercepted".to_owned(),
        );
    }
    let volumes = spec.get("volumes").and_then(Value::as_array).into_iter().flatten();
    for volume in volumes.filter(|volume| volume.get("hostPath").is_some_and(Value::is_object)) {
        let name = volume.get("name").and_then(Value::as_str).unwrap_or_default();
        found.push(format!(
            "volume `{name}` mounts a path of the node (`hostPath`): sockets and credentials there can bypass the sidecar"
        ));
    }
    found
}

/// Capabilities of a container.
struct Capabilities {
    is_privileged: bool,
    added: Vec<String>,
    dropped: Vec<String>,
}

impl Capabilities {
    fn from_container(container: &Value) -> Self {
        let context = container.get("securityContext").unwrap_or(&Value::Null);
        let list = |pointer: &str| {
            let names = context.pointer(pointer).and_then(Value::as_array).into_iter().flatten();
            names.filter_map(Value::as_str).map(normalize_capability).collect()
        };
        Self {
            is_privileged: context.get("privileged") == Some(&Value::Bool(true)),
            added: list("/capabilities/add"),
            dropped: list("/capabilities/drop"),
        }
    }

    /// The first of these names that is added.
    fn first_added(&self, names: &[&'static str]) -> Option<&'static str> {
        names.iter().find(|name| self.added.iter().any(|added| added == *name)).copied()
    }

    /// Default capabilities of root that are neither dropped nor added.
    fn default_capabilities(&self) -> Vec<&'static str> {
        let is_in = |list: &[String], name: &str| list.iter().any(|other| other == name || other == "ALL");
        let kept = DEFAULT_ROOT_CAPABILITIES
            .iter()
            .filter(|name| !is_in(&self.dropped, name) && !is_in(&self.added, name));
        kept.copied().collect()
    }
}

/// Normalizes the name of a capability as container runtimes do.
fn normalize_capability(name: &str) -> String {
    let name = name.to_ascii_uppercase();
    name.strip_prefix("CAP_").map_or(name.clone(), str::to_owned)
}

/// Returns true unless the specification says that a container is not root. The image's user is unknown here.
fn may_be_root(spec: &Value, container: &Value) -> bool {
    let user = match run_as_user(container) {
        Ok(None) => run_as_user(spec),
        own => own,
    };
    let is_not = |of: &Value| of.pointer("/securityContext/runAsNonRoot").and_then(Value::as_bool);
    match user {
        Ok(Some(user)) => user == 0,
        Ok(None) => is_not(container).or_else(|| is_not(spec)) != Some(true),
        Err(_) => true,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// Returns the warnings for one container `a` with this security context, and more in the pod's specification.
    fn warnings(context: &Value, more: &Value) -> Vec<String> {
        let container = json!({"name": "a", "securityContext": context});
        let mut spec = json!({"securityContext": {"runAsNonRoot": true}});
        for (key, value) in more.as_object().into_iter().flatten() {
            spec[key] = value.clone();
        }
        find_bypasses(&spec, [&container])
    }

    #[test]
    fn each_permission_that_allows_a_bypass_causes_a_warning() {
        let none = json!({});
        let add = |name: &str| json!({"capabilities": {"drop": ["ALL"], "add": [name]}});
        let share = json!({"shareProcessNamespace": true});
        let network = "container `a` can change the network, and so turn interception off";
        for (context, more, expected) in [
            (json!({"privileged": true}), &none, network),
            (add("NET_ADMIN"), &none, network),
            (add("cap_sys_admin"), &none, network),
            (add("all"), &none, network),
            (add("BPF"), &none, network),
            (
                add("NET_RAW"),
                &none,
                "container `a` can send raw packets (NET_RAW), which are not intercepted",
            ),
            (
                add("CAP_SETUID"),
                &none,
                "container `a` can switch to the sidecar's uid (SETUID), whose connections are not intercepted",
            ),
            (
                add("SYS_PTRACE"),
                &share,
                "container `a` can take over the sidecar's process (SYS_PTRACE with `shareProcessNamespace`)",
            ),
            (
                add("DAC_READ_SEARCH"),
                &none,
                "container `a` can reach into its node (DAC_READ_SEARCH), where nothing is intercepted",
            ),
            (
                json!({"runAsUser": 0}),
                &none,
                "as root, `a` would have NET_RAW and SETUID by default and could bypass the sidecar: set \
                 `runAsNonRoot: true` or `capabilities.drop: [ALL]`",
            ),
            (
                json!({"runAsNonRoot": false, "capabilities": {"drop": ["NET_RAW"]}}),
                &none,
                "as root, `a` would have SETUID by default and could bypass the sidecar: set \
                 `runAsNonRoot: true` or `capabilities.drop: [ALL]`",
            ),
            (
                none.clone(),
                &json!({"hostPID": true}),
                "`hostPID` gives access to the processes of the node, which are not intercepted",
            ),
            (
                none.clone(),
                &json!({"volumes": [{"name": "w", "emptyDir": {}}, {"name": "v", "hostPath": {"path": "/run"}}]}),
                "volume `v` mounts a path of the node (`hostPath`): sockets and credentials there can bypass the sidecar",
            ),
        ] {
            assert_eq!(warnings(&context, more), [expected], "{context} {more}");
        }
        for (context, more) in [
            (none.clone(), &none),
            (json!({"runAsUser": 1000}), &json!({"securityContext": {}})),
            (add("SYS_PTRACE"), &none),
            (add("CHOWN"), &none),
            (json!({"runAsUser": 0, "capabilities": {"drop": ["ALL"]}}), &none),
            (json!({"runAsUser": 0, "capabilities": {"drop": ["CAP_NET_RAW", "SETUID"]}}), &none),
        ] {
            assert_eq!(warnings(&context, more), [""; 0], "{context} {more}");
        }
    }

    #[test]
    fn many_root_containers_cause_one_warning() {
        let containers: Vec<Value> = (0..5).map(|n| json!({"name": format!("c{n}")})).collect();
        let found = find_bypasses(&json!({}), &containers);
        assert_eq!(found.len(), 1);
        assert!(found[0].starts_with("as root, `c0`, `c1`, `c2` and 2 more would have"), "{found:?}");
        assert!(found[0].len() < 256, "an API server may cut it");
    }
}
