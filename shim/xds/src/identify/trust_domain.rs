//! The trust domain of identities in client certificates.

use std::fmt;
use std::str::FromStr;

/// The name of the domain in which identities are given out, as `cluster.local`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TrustDomain(pub(super) String);

impl FromStr for TrustDomain {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let valid = !text.is_empty()
            && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-._".contains(&b));
        if valid {
            Ok(Self(text.to_owned()))
        } else {
            Err("use lower-case letters, digits, `-`, `.` and `_`, as in `cluster.local`".to_owned())
        }
    }
}

impl fmt::Display for TrustDomain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
