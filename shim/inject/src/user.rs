//! The user that a container runs as.

use serde_json::Value;

use crate::interception::PROXY_UID;

/// A user that cannot be read, so that nobody knows whose connections those are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unreadable;

/// Reads `securityContext.runAsUser` of a pod's specification or of a container.
///
/// # Errors
/// When something else than a whole number stands there.
pub(super) fn run_as_user(of: &Value) -> Result<Option<i64>, Unreadable> {
    match of.pointer("/securityContext/runAsUser") {
        None | Some(Value::Null) => Ok(None),
        Some(Value::Number(number)) => whole(&number.to_string()).map(Some),
        // The API server refuses these; what rewrites manifests on the way need not.
        Some(Value::String(text)) => whole(text.trim()).map(Some),
        Some(Value::Bool(_) | Value::Array(_) | Value::Object(_)) => Err(Unreadable),
    }
}

/// Whether a container has the sidecar's uid, by itself or by its pod. One that cannot be read may be that.
pub fn has_proxy_uid(pod_spec: &Value, container: &Value) -> Result<bool, Unreadable> {
    let own = run_as_user(container)?;
    let user = if own.is_some() { own } else { run_as_user(pod_spec)? };
    Ok(user == Some(i64::from(PROXY_UID)))
}

/// A whole number, however it is written: `1500.0` and `1.5e3` are numbers of JSON, and what is written as a float
/// in YAML reaches the API server as `1500`.
fn whole(text: &str) -> Result<i64, Unreadable> {
    if let Ok(number) = text.parse() {
        return Ok(number);
    }
    let number: f64 = text.parse().map_err(|_| Unreadable)?;
    // Kubernetes' uids end at 2^31 - 1, far below what a float holds exactly.
    let fits = number.fract() == 0.0 && number.abs() <= f64::from(u32::MAX);
    #[expect(clippy::cast_possible_truncation, reason = "it is whole, and in range")]
    if fits { Ok(number as i64) } else { Err(Unreadable) }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_uid_however_it_is_written() {
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
            (json!(1500.5), Err(Unreadable)),
            (json!("0x5dc"), Err(Unreadable)),
            (json!("1_500"), Err(Unreadable)),
            (json!("NaN"), Err(Unreadable)),
            (json!(1e300), Err(Unreadable)),
            (json!(true), Err(Unreadable)),
            (json!([1500]), Err(Unreadable)),
        ] {
            assert_eq!(run_as_user(&json!({"securityContext": {"runAsUser": value}})), expected, "{value}");
        }
        assert_eq!(run_as_user(&json!({})), Ok(None));
        let user = |value: Value| json!({"securityContext": {"runAsUser": value}});
        assert_eq!(has_proxy_uid(&user(json!(1500)), &json!({})), Ok(true));
        assert_eq!(has_proxy_uid(&user(json!(1500)), &user(json!(null))), Ok(true));
        assert_eq!(has_proxy_uid(&user(json!(1500)), &user(json!(1))), Ok(false));
        assert_eq!(has_proxy_uid(&user(json!(1)), &user(json!(1.5e3))), Ok(true));
        assert_eq!(has_proxy_uid(&user(json!("x")), &json!({})), Err(Unreadable));
    }
}
