//! Host names and host patterns, each with one spelling: lower case, A-labels, no trailing dot.

use std::borrow::Borrow;
use std::fmt;
use std::net::Ipv4Addr;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// The longest name in text form (RFC 1035 §2.3.4: 255 octets on the wire).
const MAX_NAME_LENGTH: usize = 253;
/// The longest label (RFC 1035 §2.3.4).
const MAX_LABEL_LENGTH: usize = 63;

/// A DNS host name in normal form.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Host(Box<str>);

/// A pattern for names: one name, or every name below one.
///
/// ```
/// # fn main() -> Result<(), egress_policy::HostError> {
/// let pattern: egress_policy::HostPattern = "*.example.com".parse()?;
/// assert_eq!(pattern.to_string(), "*.example.com");
/// let error = "*.Example.com".parse::<egress_policy::HostPattern>().expect_err("one spelling only");
/// assert_eq!(error.to_string(), "`*.Example.com` is not in normal form: write `*.example.com`");
/// # Ok(())
/// # }
/// ```
///
/// `*.example.com` stands for any number of labels before `example.com`, and not for
/// `example.com` itself.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum HostPattern {
    /// This name and no other.
    Exact(Host),
    /// Every name that ends in a dot and this one.
    Below(Host),
}

/// A reason why a text is not a [`Host`] or a [`HostPattern`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum HostError {
    /// The text is empty.
    #[error("a host must not be empty")]
    Empty,
    /// The name is longer than DNS allows.
    #[error("a host has at most 253 characters")]
    TooLong,
    /// A label that is empty, too long, or begins or ends with a hyphen.
    #[error("label `{0}` must have 1 to 63 characters and must not begin or end with `-`")]
    Label(String),
    /// A character that no host name has.
    #[error(
        "`{0}` is not allowed in a host: use letters, digits, `-` and `_`, and punycode for other scripts"
    )]
    Character(char),
    /// An address, or a text that some parser takes for one.
    #[error("`{0}` is an address, not a host name: {advice}", advice = address_advice(.0))]
    Address(String),
    /// A host that is not in normal form.
    #[error("`{0}` is not in normal form: write `{1}`")]
    NotNormal(String, String),
    /// A wildcard that is not a whole first label.
    #[error("`{0}`: a wildcard is `*.` before at least one label, as in `*.example.com`")]
    Wildcard(String),
}

/// Advises how to list an address: `127.1` and `123` are addresses to some parsers, and not here.
fn address_advice(text: &str) -> String {
    if text.parse::<Ipv4Addr>().is_ok() {
        format!("list it in `ipAddresses`, as in `{text}/32`")
    } else {
        "list it in `ipAddresses` in its full form, as in `192.0.2.1/32`".to_owned()
    }
}

impl Host {
    /// Reads a host from the wire: any case, with or without a trailing dot.
    ///
    /// ```
    /// # fn main() -> Result<(), egress_policy::HostError> {
    /// assert_eq!(egress_policy::Host::canonical("API.Example.com.")?.as_str(), "api.example.com");
    /// assert!(egress_policy::Host::canonical("127.1").is_err());
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// When the text is not a host name, or is an address or looks like one.
    pub fn canonical(text: &str) -> Result<Self, HostError> {
        let name = text.strip_suffix('.').unwrap_or(text);
        if name.is_empty() {
            return Err(HostError::Empty);
        }
        if name.len() > MAX_NAME_LENGTH {
            return Err(HostError::TooLong);
        }
        for label in name.split('.') {
            check_label(label)?;
        }
        if looks_like_address(name) {
            return Err(HostError::Address(name.to_owned()));
        }
        Ok(Self(name.to_ascii_lowercase().into_boxed_str()))
    }

    /// The name in normal form.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The names above this one, nearest first: of `a.b.c`, `b.c` and `c`.
    pub(crate) fn ancestors(&self) -> impl Iterator<Item = &str> {
        std::iter::successors(parent(&self.0), |name| parent(name))
    }
}

fn parent(name: &str) -> Option<&str> {
    name.split_once('.').map(|(_, rest)| rest)
}

fn check_label(label: &str) -> Result<(), HostError> {
    if let Some(odd) = label.chars().find(|c| !(c.is_ascii_alphanumeric() || matches!(c, '-' | '_'))) {
        return Err(HostError::Character(odd));
    }
    if label.is_empty() || label.len() > MAX_LABEL_LENGTH || label.starts_with('-') || label.ends_with('-') {
        return Err(HostError::Label(label.to_owned()));
    }
    Ok(())
}

/// Returns whether some resolver would take this for an IPv4 address: `127.1`, `2130706433`, `0x7f.1` and
/// `0177.0.0.1` are addresses to `inet_aton` (RFC 6943 §3.1.1), and no top-level domain is numeric.
fn looks_like_address(name: &str) -> bool {
    let last = name.rsplit('.').next().unwrap_or(name);
    let is_hexadecimal = last
        .strip_prefix("0x")
        .or_else(|| last.strip_prefix("0X"))
        .is_some_and(|digits| digits.bytes().all(|b| b.is_ascii_hexdigit()));
    is_hexadecimal || last.bytes().all(|b| b.is_ascii_digit()) || name.parse::<Ipv4Addr>().is_ok()
}

// Tables keyed by `Host` are searched by a part of another host's text. `Hash` and `Eq` of `Host` are those of its
// text, as `Borrow` demands.
impl Borrow<str> for Host {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for Host {
    type Err = HostError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let host = Self::canonical(text)?;
        if host.as_str() == text {
            Ok(host)
        } else {
            Err(HostError::NotNormal(text.to_owned(), host.to_string()))
        }
    }
}

impl TryFrom<String> for Host {
    type Error = HostError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<Host> for String {
    fn from(host: Host) -> Self {
        host.0.into_string()
    }
}

impl fmt::Display for HostPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact(host) => host.fmt(f),
            Self::Below(host) => write!(f, "*.{host}"),
        }
    }
}

impl FromStr for HostPattern {
    type Err = HostError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.strip_prefix("*.") {
            Some(suffix) if !suffix.is_empty() && !suffix.contains('*') => {
                let host = Host::canonical(suffix)?;
                if host.as_str() == suffix {
                    Ok(Self::Below(host))
                } else {
                    Err(HostError::NotNormal(text.to_owned(), format!("*.{host}")))
                }
            }
            None if !text.contains('*') => text.parse().map(Self::Exact),
            Some(_) | None => Err(HostError::Wildcard(text.to_owned())),
        }
    }
}

impl TryFrom<String> for HostPattern {
    type Error = HostError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<HostPattern> for String {
    fn from(pattern: HostPattern) -> Self {
        pattern.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_on_the_wire_are_read_strictly() {
        for (text, expected) in [
            ("httpbin.org", Ok("httpbin.org")),
            ("HTTPBIN.Org", Ok("httpbin.org")),
            ("httpbin.org.", Ok("httpbin.org")),
            ("localhost", Ok("localhost")),
            ("xn--bcher-kva.example", Ok("xn--bcher-kva.example")),
            ("_sip._tcp.example", Ok("_sip._tcp.example")),
            ("1and1.com", Ok("1and1.com")),
            ("httpbin.org..", Err(HostError::Label(String::new()))),
            (".org", Err(HostError::Label(String::new()))),
            ("a..b", Err(HostError::Label(String::new()))),
            ("", Err(HostError::Empty)),
            (".", Err(HostError::Empty)),
            ("-a.org", Err(HostError::Label("-a".to_owned()))),
            ("a b.org", Err(HostError::Character(' '))),
            ("a:80", Err(HostError::Character(':'))),
            ("bücher.example", Err(HostError::Character('ü'))),
            ("a\0.org", Err(HostError::Character('\0'))),
            ("10.0.0.1", Err(HostError::Address("10.0.0.1".to_owned()))),
            ("127.1", Err(HostError::Address("127.1".to_owned()))),
            ("2130706433", Err(HostError::Address("2130706433".to_owned()))),
            ("0177.0.0.1", Err(HostError::Address("0177.0.0.1".to_owned()))),
            ("0x7f.0x1", Err(HostError::Address("0x7f.0x1".to_owned()))),
        ] {
            assert_eq!(Host::canonical(text).map(|h| h.to_string()), expected.map(str::to_owned), "{text:?}");
        }
        assert_eq!(Host::canonical(&"a".repeat(64)), Err(HostError::Label("a".repeat(64))));
        assert_eq!(Host::canonical(&"abc.".repeat(64)), Err(HostError::TooLong));
    }

    #[test]
    fn another_spelling_is_refused_with_the_normal_form() {
        let error = "HTTPBIN.org".parse::<Host>().expect_err("upper case");
        assert_eq!(error.to_string(), "`HTTPBIN.org` is not in normal form: write `httpbin.org`");
    }

    #[test]
    fn a_wildcard_is_a_whole_first_label() {
        for (text, valid) in [
            ("httpbin.org", true),
            ("*.httpbin.org", true),
            ("*.org", true),
            ("*", false),
            ("*.", false),
            ("**.a.org", false),
            ("*.*.org", false),
            ("a*.org", false),
            ("*a.org", false),
            ("a.*.org", false),
            ("*.HTTPBIN.org", false),
            ("*.10.0.0.1", false),
        ] {
            let parsed = text.parse::<HostPattern>();
            assert_eq!(parsed.is_ok(), valid, "{text}: {parsed:?}");
            if let Ok(pattern) = parsed {
                assert_eq!(pattern.to_string(), text);
            }
        }
    }

    #[test]
    fn ancestors_are_nearest_first() {
        let host = Host::canonical("a.b.c").expect("valid");
        assert_eq!(host.ancestors().collect::<Vec<_>>(), ["b.c", "c"]);
    }
}
