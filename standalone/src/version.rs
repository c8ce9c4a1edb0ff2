//! Versions of Envoy.

use std::fmt;
use std::str::FromStr;

/// A minor version of Envoy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct EnvoyVersion {
    /// The major version; always 1 so far.
    pub major: u16,
    /// The minor version.
    pub minor: u16,
}

/// The oldest version with everything that the listener needs.
pub const OLDEST: EnvoyVersion = EnvoyVersion { major: 1, minor: 39 };
/// The version that the tests and the demo use.
pub const CURRENT: EnvoyVersion = EnvoyVersion { major: 1, minor: 40 };

/// The error for a text that is not a supported version of Envoy.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EnvoyVersionError {
    /// The text is not a version.
    #[error("`{0}` is not an Envoy version: write it as `1.40` or `1.40.0`")]
    Form(String),
    /// The version lacks something that the listener needs.
    #[error("Envoy {0} is too old: the listener needs {OLDEST} or newer")]
    TooOld(EnvoyVersion),
}

impl FromStr for EnvoyVersion {
    type Err = EnvoyVersionError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let form = || EnvoyVersionError::Form(text.to_owned());
        let mut parts = text.strip_prefix('v').unwrap_or(text).split('.').map(str::parse);
        let (Some(Ok(major)), Some(Ok(minor))) = (parts.next(), parts.next()) else { return Err(form()) };
        if parts.next().is_some_and(|patch: Result<u16, _>| patch.is_err()) || parts.next().is_some() {
            return Err(form());
        }
        let version = Self { major, minor };
        if version < OLDEST { Err(EnvoyVersionError::TooOld(version)) } else { Ok(version) }
    }
}

impl fmt::Display for EnvoyVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_parsed() {
        for (text, expected) in [
            ("1.40", Ok("1.40")),
            ("1.40.0", Ok("1.40")),
            ("v1.39.2", Ok("1.39")),
            ("1.38.1", Err("Envoy 1.38 is too old: the listener needs 1.39 or newer")),
            ("latest", Err("`latest` is not an Envoy version: write it as `1.40` or `1.40.0`")),
            ("1.40.0.1", Err("`1.40.0.1` is not an Envoy version: write it as `1.40` or `1.40.0`")),
        ] {
            let found = text.parse::<EnvoyVersion>();
            assert_eq!(
                found.map(|v| v.to_string()).map_err(|e| e.to_string()),
                expected.map(str::to_owned).map_err(str::to_owned)
            );
        }
    }
}
