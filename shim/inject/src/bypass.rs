//! What a pod is permitted by which its containers could go round the sidecar. Kubernetes permits it, so it is
//! warned of and not refused: forbid it by Pod Security.

use serde_json::Value;

use super::user::run_as_user;

/// Capabilities that change the network, or lead to it.
const NETWORK: [&str; 5] = ["ALL", "NET_ADMIN", "SYS_ADMIN", "SYS_MODULE", "BPF"];
/// Capabilities that read or write what is the node's.
const NODE: [&str; 2] = ["DAC_READ_SEARCH", "SYS_RAWIO"];
/// What container runtimes give to root unless it is dropped, as far as it matters here.
const BY_DEFAULT: [&str; 2] = ["NET_RAW", "SETUID"];

/// The ways round the sidecar that a pod's specification leaves to these containers, a line each.
pub fn bypasses<'a>(spec: &Value, containers: impl IntoIterator<Item = &'a Value>) -> Vec<String> {
    let mut found = Vec::new();
    let mut roots = Vec::new();
    let is = |key: &str| spec.get(key) == Some(&Value::Bool(true));
    for container in containers {
        let name = container.get("name").and_then(Value::as_str).unwrap_or_default();
        let mut add = |what: &str| found.push(format!("container `{name}` {what}"));
        let capabilities = Capabilities::of(container);
        if capabilities.is_privileged || capabilities.added_of(&NETWORK).is_some() {
            add("may change the network, and so end its interception");
            continue;
        }
        if let Some(capability) = capabilities.added_of(&NODE) {
            add(&format!("may reach into its node ({capability}), whose network nothing intercepts"));
        }
        if capabilities.added_of(&["NET_RAW"]).is_some() {
            add("may send raw packets (NET_RAW), which nothing intercepts");
        }
        if capabilities.added_of(&["SETUID"]).is_some() {
            add("may switch to the sidecar's uid (SETUID), whose connections are not intercepted");
        }
        if is("shareProcessNamespace") && capabilities.added_of(&["SYS_PTRACE"]).is_some() {
            add("may take over the sidecar's process (SYS_PTRACE with `shareProcessNamespace`)");
        }
        let kept = capabilities.kept();
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
            "as root, {}{more} would have {} by default, and so go round the sidecar: set `runAsNonRoot: true` or \
             `capabilities.drop: [ALL]`",
            names.join(", "),
            kept.join(" and "),
        ));
    }
    if is("hostPID") {
        found.push("with `hostPID` it sees the processes of its node, which are not intercepted".to_owned());
    }
    let volumes = spec.get("volumes").and_then(Value::as_array).into_iter().flatten();
    for volume in volumes.filter(|volume| volume.get("hostPath").is_some_and(Value::is_object)) {
        let name = volume.get("name").and_then(Value::as_str).unwrap_or_default();
        found.push(format!(
            "volume `{name}` is of the node (`hostPath`): sockets and credentials there lead round the sidecar"
        ));
    }
    found
}

/// The capabilities of a container.
struct Capabilities {
    is_privileged: bool,
    added: Vec<String>,
    dropped: Vec<String>,
}

impl Capabilities {
    fn of(container: &Value) -> Self {
        let context = container.get("securityContext").unwrap_or(&Value::Null);
        let list = |pointer: &str| {
            let names = context.pointer(pointer).and_then(Value::as_array).into_iter().flatten();
            names.filter_map(Value::as_str).map(capability).collect()
        };
        Self {
            is_privileged: context.get("privileged") == Some(&Value::Bool(true)),
            added: list("/capabilities/add"),
            dropped: list("/capabilities/drop"),
        }
    }

    /// The first of these that is added.
    fn added_of(&self, names: &[&'static str]) -> Option<&'static str> {
        names.iter().find(|name| self.added.iter().any(|added| added == *name)).copied()
    }

    /// Those that the runtime gives to root, less what is dropped and what is said already.
    fn kept(&self) -> Vec<&'static str> {
        let is_in = |list: &[String], name: &str| list.iter().any(|other| other == name || other == "ALL");
        let kept = BY_DEFAULT.iter().filter(|name| !is_in(&self.dropped, name) && !is_in(&self.added, name));
        kept.copied().collect()
    }
}

/// The name of a capability, as runtimes understand it.
fn capability(name: &str) -> String {
    let name = name.to_ascii_uppercase();
    name.strip_prefix("CAP_").map_or(name.clone(), str::to_owned)
}

/// Whether nothing says that a container is not root. What its image says cannot be seen here.
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

    /// The warnings for one container `a` with this security context, and more in the pod's specification.
    fn warnings(context: &Value, more: &Value) -> Vec<String> {
        let container = json!({"name": "a", "securityContext": context});
        let mut spec = json!({"securityContext": {"runAsNonRoot": true}});
        for (key, value) in more.as_object().into_iter().flatten() {
            spec[key] = value.clone();
        }
        bypasses(&spec, [&container])
    }

    #[test]
    fn what_is_permitted_is_warned_of() {
        let none = json!({});
        let add = |name: &str| json!({"capabilities": {"drop": ["ALL"], "add": [name]}});
        let share = json!({"shareProcessNamespace": true});
        let network = "container `a` may change the network, and so end its interception";
        for (context, more, expected) in [
            (json!({"privileged": true}), &none, network),
            (add("NET_ADMIN"), &none, network),
            (add("cap_sys_admin"), &none, network),
            (add("all"), &none, network),
            (add("BPF"), &none, network),
            (add("NET_RAW"), &none, "container `a` may send raw packets (NET_RAW), which nothing intercepts"),
            (
                add("CAP_SETUID"),
                &none,
                "container `a` may switch to the sidecar's uid (SETUID), whose connections are not intercepted",
            ),
            (
                add("SYS_PTRACE"),
                &share,
                "container `a` may take over the sidecar's process (SYS_PTRACE with `shareProcessNamespace`)",
            ),
            (
                add("DAC_READ_SEARCH"),
                &none,
                "container `a` may reach into its node (DAC_READ_SEARCH), whose network nothing intercepts",
            ),
            (
                json!({"runAsUser": 0}),
                &none,
                "as root, `a` would have NET_RAW and SETUID by default, and so go round the sidecar: set \
                 `runAsNonRoot: true` or `capabilities.drop: [ALL]`",
            ),
            (
                json!({"runAsNonRoot": false, "capabilities": {"drop": ["NET_RAW"]}}),
                &none,
                "as root, `a` would have SETUID by default, and so go round the sidecar: set \
                 `runAsNonRoot: true` or `capabilities.drop: [ALL]`",
            ),
            (
                none.clone(),
                &json!({"hostPID": true}),
                "with `hostPID` it sees the processes of its node, which are not intercepted",
            ),
            (
                none.clone(),
                &json!({"volumes": [{"name": "w", "emptyDir": {}}, {"name": "v", "hostPath": {"path": "/run"}}]}),
                "volume `v` is of the node (`hostPath`): sockets and credentials there lead round the sidecar",
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
    fn many_containers_are_one_line() {
        let containers: Vec<Value> = (0..5).map(|n| json!({"name": format!("c{n}")})).collect();
        let found = bypasses(&json!({}), &containers);
        assert_eq!(found.len(), 1);
        assert!(found[0].starts_with("as root, `c0`, `c1`, `c2` and 2 more would have"), "{found:?}");
        assert!(found[0].len() < 256, "an API server may cut it");
    }
}
