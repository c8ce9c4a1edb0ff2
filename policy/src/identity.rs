use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::strict::Object;

/// A workload identity: a Kubernetes service account.
///
/// ```
/// # fn main() -> Result<(), egress_policy::IdentityError> {
/// let identity: egress_policy::Identity = "shop/cart".parse()?;
/// assert_eq!((identity.namespace(), identity.service_account()), ("shop", "cart"));
/// # Ok(())
/// # }
/// ```
///
/// Written `namespace/service-account`. Both parts are RFC 1123 names as Kubernetes accepts them
/// (a service account may contain dots, a namespace may not).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(try_from = "Object<WireIdentity>", into = "WireIdentity")]
#[cfg_attr(feature = "schema", schemars(with = "WireIdentity"))]
pub struct Identity {
    namespace: String,
    service_account: String,
}

/// The two parts as fields of a policy document.
#[derive(Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct WireIdentity {
    namespace: String,
    service_account: String,
}

/// A reason why a text is not an [`Identity`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IdentityError {
    /// There is no `/` between namespace and service account.
    #[error("`{0}` is not of the form `namespace/service-account`")]
    Form(String),
    /// A part is not a name that Kubernetes accepts.
    #[error("`{0}` is not a Kubernetes name: use lower-case letters, digits and `-`, at most {1} characters")]
    Name(String, usize),
}

impl Identity {
    /// Makes an identity of its two parts.
    ///
    /// # Errors
    /// When a part is not a name that Kubernetes accepts.
    pub fn new(namespace: &str, service_account: &str) -> Result<Self, IdentityError> {
        check(namespace, 63, false)?;
        check(service_account, 253, true)?;
        Ok(Self { namespace: namespace.to_owned(), service_account: service_account.to_owned() })
    }

    /// The namespace.
    #[must_use]
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// The service account's name.
    #[must_use]
    pub fn service_account(&self) -> &str {
        &self.service_account
    }
}

fn check(name: &str, max_length: usize, has_dots: bool) -> Result<(), IdentityError> {
    let ends_are_alphanumeric = |label: &str| {
        label.starts_with(|c: char| c.is_ascii_alphanumeric())
            && label.ends_with(|c: char| c.is_ascii_alphanumeric())
    };
    let label_is_valid = |label: &str| {
        ends_are_alphanumeric(label)
            && label.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
    };
    let valid = name.len() <= max_length
        && if has_dots { name.split('.').all(label_is_valid) } else { label_is_valid(name) };
    if valid { Ok(()) } else { Err(IdentityError::Name(name.to_owned(), max_length)) }
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.service_account)
    }
}

impl FromStr for Identity {
    type Err = IdentityError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (namespace, service_account) =
            text.split_once('/').ok_or_else(|| IdentityError::Form(text.to_owned()))?;
        Self::new(namespace, service_account)
    }
}

impl TryFrom<Object<WireIdentity>> for Identity {
    type Error = IdentityError;

    fn try_from(Object(wire): Object<WireIdentity>) -> Result<Self, Self::Error> {
        Self::new(&wire.namespace, &wire.service_account)
    }
}

impl From<Identity> for WireIdentity {
    fn from(identity: Identity) -> Self {
        Self { namespace: identity.namespace, service_account: identity.service_account }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_names_that_kubernetes_accepts() {
        for (text, valid) in [
            ("curl/curl", true),
            ("a-b/c.d-e", true),
            ("a.b/c", false),
            ("curl", false),
            ("/curl", false),
            ("curl/", false),
            ("Curl/curl", false),
            ("curl/-x", false),
            ("curl/x..y", false),
            ("curl/a/b", false),
        ] {
            assert_eq!(text.parse::<Identity>().is_ok(), valid, "{text}");
        }
    }

    #[test]
    fn display_and_parse_are_inverses() {
        let identity: Identity = "ns/sa".parse().expect("valid");
        assert_eq!(identity.to_string(), "ns/sa");
    }
}
