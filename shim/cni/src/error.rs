//! Errors as the CNI specification has them.

use serde_json::{Value, json};

/// Versions of the specification that the plugin speaks.
pub const SUPPORTED_VERSIONS: [&str; 4] = ["0.3.1", "0.4.0", "1.0.0", "1.1.0"];
/// The newest of them.
pub(crate) const NEWEST_VERSION: &str = "1.1.0";

/// An error code. Those below 100 are the specification's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Code {
    /// The version of the configuration is not supported.
    IncompatibleVersion,
    /// The container does not exist.
    UnknownContainer,
    /// An environment variable is missing or invalid.
    InvalidEnvironment,
    /// The configuration cannot be read.
    InputOutput,
    /// The configuration is not JSON.
    Undecodable,
    /// The configuration is invalid.
    InvalidConfiguration,
    /// A condition that passes.
    TryAgainLater,
    /// The plugin cannot serve ADD.
    NotAvailable,
    /// The rules cannot be installed or read.
    Rules,
    /// The rules are not the expected ones.
    Difference,
    /// The interception that the pod expects cannot be read.
    InvalidPod,
}

impl Code {
    const fn number(self) -> u32 {
        match self {
            Self::IncompatibleVersion => 1,
            Self::UnknownContainer => 3,
            Self::InvalidEnvironment => 4,
            Self::InputOutput => 5,
            Self::Undecodable => 6,
            Self::InvalidConfiguration => 7,
            Self::TryAgainLater => 11,
            Self::NotAvailable => 50,
            Self::Rules => 100,
            Self::Difference => 101,
            Self::InvalidPod => 102,
        }
    }
}

/// An error of the plugin.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}: {details}")]
pub(crate) struct CniError {
    pub(crate) code: Code,
    /// The short message.
    pub(crate) message: &'static str,
    /// The subject, the problem and the remedy.
    pub(crate) details: String,
}

impl CniError {
    pub(crate) fn new(code: Code, message: &'static str, details: impl Into<String>) -> Self {
        Self { code, message, details: details.into() }
    }

    /// The JSON for the runtime. Many runtimes show the message alone, so it has the details too.
    pub(crate) fn to_json(&self, version: &str) -> Value {
        json!({
            "cniVersion": version,
            "code": self.code.number(),
            "msg": format!("osm-egress: {self}"),
            "details": self.details,
        })
    }
}
