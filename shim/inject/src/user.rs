//! The user that a container runs as.

use serde_json::Value;

use crate::interception::PROXY_UID;

/// A `runAsUser` that cannot be read, so that the owner of its connections is unknown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InvalidUid;

/// Reads `securityContext.runAsUser` of a pod's specification or of a container.
///
/// # Errors
/// Returns an error if the value is not an integer.
pub(super) fn run_as_user(of: &Value) -> Result<Option<i64>, InvalidUid> {
    match of.pointer("/securityContext/runAsUser") {
        None | Some(Value::Null) => Ok(None),
        Some(Value::Number(number)) => parse_integer(&number.to_string()).map(Some),
        // The API server refuses strings, but manifests may be rewritten on the way.
        Some(Value::String(text)) => parse_integer(text.trim()).map(Some),
        Some(Value::Bool(_) | Value::Array(_) | Value::Object(_)) => Err(InvalidUid),
    }
}

/// Returns true if a container has the sidecar's uid, from its own or its pod's security context.
pub fn has_proxy_uid(pod_spec: &Value, container: &Value) -> Result<bool, InvalidUid> {
    let own = run_as_user(container)?;
    let user = if own.is_some() { own } else { run_as_user(pod_spec)? };
    Ok(user == Some(i64::from(PROXY_UID)))
}

/// Parses an integer in any JSON notation: `1500.0` and `1.5e3` are JSON numbers, and a YAML float reaches the API
/// server as `1500`.
fn parse_integer(text: &str) -> Result<i64, InvalidUid> {
    if let Ok(number) = text.parse() {
        return Ok(number);
    }
    let number: f64 = text.parse().map_err(|_| InvalidUid)?;
    // Kubernetes' uids end at 2^31 - 1, far below the largest integer that a float holds exactly.
    let fits = number.fract() == 0.0 && number.abs() <= f64::from(u32::MAX);
    #[expect(clippy::cast_possible_truncation, reason = "it is whole, and in range")]
    if fits { Ok(number as i64) } else { Err(InvalidUid) }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_uid_is_read_in_any_notation() {
        for (value, expected) in [
            (json!(null), Ok(None)),
            (json!(1500), Ok(Some(1500))),
            (json!(1500.0), Ok(Some(1500))),
            (json!(1.5e3), Ok(Some(1500))),
            (json!("1500"), Ok(Some(1500))),
            (json!(" 1.5e3 "), Ok(Some(1500))),
            (json!("1500.0"), Ok(Some(1500))),
            (json!("+1500"), Ok(Some(1500))),
            (json!(0), Ok(Some(0))),
            (json!(-1), Ok(Some(-1))),
            (json!(1500.5), Err(InvalidUid)),
            (json!("0x5dc"), Err(InvalidUid)),
            (json!("1_500"), Err(InvalidUid)),
            (json!("NaN"), Err(InvalidUid)),
            (json!(1e300), Err(InvalidUid)),
            (json!(true), Err(InvalidUid)),
            (json!([1500]), Err(InvalidUid)),
        ] {
            assert_eq!(run_as_user(&json!({"securityContext": {"runAsUser": value}})), expected, "{value}");
        }
        assert_eq!(run_as_user(&json!({})), Ok(None));
        let user = |value: Value| json!({"securityContext": {"runAsUser": value}});
        assert_eq!(has_proxy_uid(&user(json!(1500)), &json!({})), Ok(true));
        assert_eq!(has_proxy_uid(&user(json!(1500)), &user(json!(null))), Ok(true));
        assert_eq!(has_proxy_uid(&user(json!(1500)), &user(json!(1))), Ok(false));
        assert_eq!(has_proxy_uid(&user(json!(1)), &user(json!(1.5e3))), Ok(true));
        assert_eq!(has_proxy_uid(&user(json!("x")), &json!({})), Err(InvalidUid));
    }
}
