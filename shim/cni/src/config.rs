//! The configuration that a runtime passes to the plugin.

use std::path::PathBuf;

use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;

use crate::error::{CniError, Code, SUPPORTED_VERSIONS};

/// The configuration of the plugin. Fields of the protocol that it does not need are ignored, as the specification wants.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct NetworkConfig {
    pub(crate) cni_version: Option<String>,
    name: Option<String>,
    /// Result of the plugins before this one. It is passed on byte for byte.
    pub(crate) prev_result: Option<Box<RawValue>>,
    /// Kubeconfig by which the plugin reads pods.
    pub(crate) kubeconfig: Option<PathBuf>,
    /// Namespaces without injection, for whose pods the API server is not asked.
    #[serde(default)]
    pub(crate) exclude_namespaces: Vec<String>,
    /// Attachments that GC keeps.
    #[serde(rename = "cni.dev/valid-attachments")]
    pub(crate) valid_attachments: Option<Vec<Value>>,
}

impl NetworkConfig {
    /// Parses a configuration.
    pub(crate) fn parse(text: &str) -> Result<Self, CniError> {
        let value: Self = serde_json::from_str(text).map_err(|error| {
            if error.is_data() {
                invalid(format!("the network configuration on standard input: {error}"))
            } else {
                let details = format!("the network configuration on standard input is not JSON: {error}");
                CniError::new(Code::Undecodable, "cannot decode the network configuration", details)
            }
        })?;
        Ok(value)
    }

    /// The version for answers: the configuration's if it is supported.
    pub(crate) fn version(&self) -> Option<&'static str> {
        let given = self.cni_version.as_deref()?;
        SUPPORTED_VERSIONS.into_iter().find(|version| *version == given)
    }

    /// Checks what every command but VERSION needs. `since` is the version that has the command.
    pub(crate) fn validate(&self, command: &str, since: &str) -> Result<(), CniError> {
        // A configuration without a version has 0.1.0, by the specification.
        let given = self.cni_version.as_deref().unwrap_or("0.1.0");
        let place = |version: &str| SUPPORTED_VERSIONS.iter().position(|other| *other == version);
        let supported = place(given).ok_or_else(|| {
            let versions = SUPPORTED_VERSIONS.join(", ");
            let details =
                format!("`cniVersion` is `{given}`: set it to one of {versions} in the node's configuration");
            CniError::new(Code::IncompatibleVersion, "incompatible CNI version", details)
        })?;
        if place(since).is_some_and(|since| supported < since) {
            let details = format!("`cniVersion` is `{given}`, and {command} needs {since} or newer");
            return Err(CniError::new(Code::IncompatibleVersion, "incompatible CNI version", details));
        }
        let name = self.name.as_deref().unwrap_or_default();
        if !is_name(name) {
            return Err(invalid(format!(
                "`name` is `{name}`: a network needs a name of letters, digits, `_`, `.` and `-` that begins with a letter or \
                 digit"
            )));
        }
        Ok(())
    }

    /// The result of the plugins before this one.
    pub(crate) fn previous_result(&self) -> Result<&RawValue, CniError> {
        let found = self.prev_result.as_deref().filter(|result| result.get().starts_with('{'));
        found.ok_or_else(|| {
            invalid(
                "there is no `prevResult`: list the plugin after the one that makes the interface".to_owned(),
            )
        })
    }

    /// The kubeconfig.
    pub(crate) fn kubeconfig(&self) -> Result<&PathBuf, CniError> {
        self.kubeconfig.as_ref().filter(|path| path.is_absolute()).ok_or_else(|| {
            invalid("`kubeconfig` must be the absolute path of a kubeconfig on this node".to_owned())
        })
    }
}

fn invalid(details: String) -> CniError {
    CniError::new(Code::InvalidConfiguration, "invalid network configuration", details)
}

/// Tests a name of a network or container, by the specification.
pub(crate) fn is_name(text: &str) -> bool {
    text.starts_with(|first: char| first.is_ascii_alphanumeric())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn code(text: &str, command: &str, since: &str) -> Result<(), Code> {
        NetworkConfig::parse(text)
            .and_then(|config| config.validate(command, since))
            .map_err(|error| error.code)
    }

    #[test]
    fn versions_and_names_are_checked() {
        for (text, since, expected) in [
            (r#"{"cniVersion":"0.3.1","name":"a"}"#, "0.3.1", Ok(())),
            (r#"{"cniVersion":"1.1.0","name":"a.b_c-1","unknown":{}}"#, "1.1.0", Ok(())),
            (r#"{"cniVersion":"0.3.1","name":"a"}"#, "0.4.0", Err(Code::IncompatibleVersion)),
            (r#"{"cniVersion":"1.0.0","name":"a"}"#, "1.1.0", Err(Code::IncompatibleVersion)),
            (r#"{"cniVersion":"0.2.0","name":"a"}"#, "0.3.1", Err(Code::IncompatibleVersion)),
            (r#"{"cniVersion":"2.0.0","name":"a"}"#, "0.3.1", Err(Code::IncompatibleVersion)),
            (r#"{"name":"a"}"#, "0.3.1", Err(Code::IncompatibleVersion)),
            (r#"{"cniVersion":"1.0.0"}"#, "0.3.1", Err(Code::InvalidConfiguration)),
            (r#"{"cniVersion":"1.0.0","name":"../a"}"#, "0.3.1", Err(Code::InvalidConfiguration)),
            (r#"{"cniVersion":"1.0.0","name":5}"#, "0.3.1", Err(Code::InvalidConfiguration)),
            (
                r#"{"cniVersion":"1.0.0","name":"a","excludeNamespaces":"b"}"#,
                "0.3.1",
                Err(Code::InvalidConfiguration),
            ),
            ("[]", "0.3.1", Err(Code::InvalidConfiguration)),
            ("{", "0.3.1", Err(Code::Undecodable)),
            ("", "0.3.1", Err(Code::Undecodable)),
        ] {
            assert_eq!(code(text, "X", since), expected, "{text}");
        }
    }

    #[test]
    fn the_previous_result_is_kept_byte_for_byte() {
        let text = r#"{"prevResult": {"b": 1.0e0,  "a":[ ]}}"#;
        let config = NetworkConfig::parse(text).expect("parsed");
        assert_eq!(config.previous_result().map(RawValue::get), Ok(r#"{"b": 1.0e0,  "a":[ ]}"#));
        for text in ["{}", r#"{"prevResult": null}"#, r#"{"prevResult": []}"#] {
            let config = NetworkConfig::parse(text).expect("parsed");
            assert_eq!(
                config.previous_result().map_err(|error| error.code).err(),
                Some(Code::InvalidConfiguration)
            );
        }
    }
}
