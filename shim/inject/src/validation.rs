//! The init container of a pod whose interception a CNI plugin sets up.
//!
//! Init containers cannot change after the pod was created, but annotations can. So the plugin reads the interception of a
//! pod from the arguments of this container.

use serde_json::Value;

use crate::INIT_CONTAINER;
use crate::interception::{Family, Interception, parse_arguments};

/// Command of the binary that proves interception.
pub const VALIDATE_COMMAND: &str = "validate-interception";
/// Uid of the container that proves interception: neither root's nor the sidecar's.
pub const VALIDATOR_UID: u32 = 1501;

/// An injected init container whose arguments cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "the arguments of the init container `{INIT_CONTAINER}` cannot be read: {0}: run the CNI plugin and the control plane in \
     the same version"
)]
pub struct InvalidArguments(String);

/// Reads the interception that a pod expects of the CNI plugin; `None` if it expects none.
///
/// # Errors
/// Returns an error if the pod expects one and it cannot be read.
pub fn expected_interception(
    pod: &Value,
) -> Result<Option<(Interception, &'static [Family])>, InvalidArguments> {
    let containers = pod.pointer("/spec/initContainers").and_then(Value::as_array);
    let mut own = containers.into_iter().flatten().filter(|c| c["name"] == INIT_CONTAINER);
    let Some(arguments) = own.next().and_then(|container| container["args"].as_array()) else {
        return Ok(None);
    };
    let mut words = arguments.iter().map(|word| word.as_str().unwrap_or_default());
    if words.next() != Some(VALIDATE_COMMAND) {
        return Ok(None);
    }
    parse_arguments(words).map(Some).map_err(InvalidArguments)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn only_the_validating_init_container_expects_a_plugin() {
        let pod = |args: Value| json!({"spec": {"initContainers": [{"name": "osm-init", "args": args}]}});
        let families = Family::ALL.as_slice();
        let ports = Interception { exclude_ports: vec![5432], ..Interception::default() };
        for (pod, expected) in [
            (json!({}), Ok(None)),
            (json!({"spec": {"initContainers": [{"name": "a", "args": [VALIDATE_COMMAND]}]}}), Ok(None)),
            (pod(json!(["iptables", "--exclude-ports", "5432"])), Ok(None)),
            (pod(json!([VALIDATE_COMMAND])), Ok(Some((Interception::default(), families)))),
            (pod(json!([VALIDATE_COMMAND, "--exclude-ports", "5432"])), Ok(Some((ports, families)))),
            (
                pod(json!([VALIDATE_COMMAND, "--no-such"])),
                Err(InvalidArguments("unexpected argument '--no-such' found".to_owned())),
            ),
            (
                pod(json!([VALIDATE_COMMAND, 5])),
                Err(InvalidArguments("unexpected argument '' found".to_owned())),
            ),
        ] {
            assert_eq!(expected_interception(&pod), expected, "{pod}");
        }
    }
}
